//! Which backups are kept.

use super::bucket::Listed;
use crate::config::Keep;

/// Those that go: what neither rule keeps. The newest never goes. Times are those of their names, counted back
/// from the newest one's.
pub fn surplus(family: &[Listed], keep: Keep) -> Vec<&Listed> {
    let mut sorted: Vec<&Listed> = family.iter().collect();
    sorted.sort_by(|one, other| (other.made, other.modified, &other.key).cmp(&(one.made, one.modified, &one.key)));
    let now = sorted.first().map_or(0, |newest| newest.made);
    let is_kept = |(index, backup): (usize, &&Listed)| {
        let by_number = keep.last.is_some_and(|last| index < last as usize);
        let by_age = keep.days.is_some_and(|days| now - backup.made <= i64::from(days) * 86_400);
        index == 0 || by_number || by_age || (keep.last.is_none() && keep.days.is_none())
    };
    sorted.iter().enumerate().filter(|(index, backup)| !is_kept((*index, backup))).map(|(_, backup)| *backup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn gone(ages: &[i64], last: Option<u32>, days: Option<u32>) -> Vec<String> {
        let now = 20_000 * DAY;
        let family: Vec<Listed> =
            ages.iter().map(|age| Listed { key: age.to_string(), bytes: 1, modified: now, made: now - age * DAY }).collect();
        let mut gone: Vec<String> = surplus(&family, Keep { last, days }).into_iter().map(|listed| listed.key.clone()).collect();
        gone.sort();
        gone
    }

    #[test]
    fn either_rule_keeps_and_the_newest_stays() {
        assert_eq!(gone(&[0, 1, 2, 3], Some(2), None), ["2", "3"]);
        assert_eq!(gone(&[0, 1, 40, 100], None, Some(30)), ["100", "40"]);
        assert_eq!(gone(&[0, 1, 40, 100], Some(3), Some(30)), ["100"]);
        // A place that was not deployed to for a year: its one good backup is not thrown away for its age.
        assert_eq!(gone(&[365], None, Some(30)), Vec::<String>::new());
        assert_eq!(gone(&[365, 366], Some(1), Some(30)), Vec::<String>::new(), "ages count from the newest");
        assert_eq!(gone(&[365, 400], Some(1), Some(30)), ["400"]);
        assert_eq!(gone(&[0, 1], None, None), Vec::<String>::new());
    }
}
