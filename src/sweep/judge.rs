//! Which previews go: those of closed pull requests, those that are too old, and the oldest of too many. Pure.

use crate::context::SweepCause;
use jiff::Timestamp;
use std::time::Duration;

/// A preview that was seen, in the records or at a target.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The environment's key in tidegate.yml.
    pub environment: String,
    /// Its own name.
    pub name: String,
    /// Its pull request.
    pub number: u64,
    /// How people write that.
    pub pull_request: String,
    /// Whether that is open, if the forge says so.
    pub is_open: Option<bool>,
    /// When it was changed last, as far as that is written.
    pub since: Option<Timestamp>,
    /// The key of its newest record.
    pub newest: Option<String>,
    /// What targets have of it: the target's place among those of the environment, and an app or namespace.
    pub found: Vec<(usize, String)>,
}

/// What `ttl` and `max` say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// How long a preview lives after its last change.
    pub ttl: Option<Duration>,
    /// How many may live at once.
    pub max: Option<u32>,
}

/// The pull request that this run is about.
#[derive(Clone, Copy, Debug)]
pub struct Coming {
    /// Its number.
    pub number: u64,
    /// Whether it gets a preview now, rather than loses one.
    pub makes: bool,
}

/// What becomes of a preview, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep(String),
    /// It goes.
    Remove(SweepCause, String),
}

/// Judges the previews of one environment. `coming`: the pull request that is about to be delivered; it counts as the
/// youngest, and stays.
pub fn judge(previews: &[Preview], limits: Limits, now: Timestamp, coming: Option<Coming>) -> Vec<Fate> {
    let (makes, coming) = (coming.is_some_and(|coming| coming.makes), coming.map(|coming| coming.number));
    let mut fates: Vec<Fate> = previews.iter().map(|preview| alone(preview, limits.ttl, now, coming)).collect();
    let Some(max) = limits.max.and_then(|max| usize::try_from(max).ok()) else { return fates };
    let is_new = makes && coming.is_some_and(|number| previews.iter().all(|preview| preview.number != number));
    let living = fates.iter().filter(|fate| matches!(fate, Fate::Keep(_))).count() + usize::from(is_new);
    let mut surplus = living.saturating_sub(max);
    let mut by_age: Vec<(usize, &Preview)> = previews.iter().enumerate().collect();
    by_age.sort_by_key(|(_, preview)| preview.since);
    for (index, preview) in by_age {
        let may_go = preview.is_open == Some(true) && preview.since.is_some() && coming != Some(preview.number);
        let Some(fate) = fates.get_mut(index).filter(|fate| surplus > 0 && may_go && matches!(fate, Fate::Keep(_))) else { continue };
        let why =
            format!("{} is open, but it is the oldest of {living} previews, and {max} may live at once (`max`)", preview.pull_request);
        *fate = Fate::Remove(SweepCause::Surplus(preview.newest.clone()), why);
        surplus -= 1;
    }
    fates
}

/// Without looking at the others.
fn alone(preview: &Preview, ttl: Option<Duration>, now: Timestamp, coming: Option<u64>) -> Fate {
    let name = &preview.pull_request;
    if coming == Some(preview.number) {
        return Fate::Keep("this run is about it".into());
    }
    match preview.is_open {
        None => return Fate::Keep(format!("whether {name} is open cannot be said")),
        Some(false) => return Fate::Remove(SweepCause::Closed, format!("{name} is closed")),
        Some(true) => {}
    }
    let Some(ttl) = ttl else { return Fate::Keep(format!("{name} is open")) };
    let Some(since) = preview.since else { return Fate::Keep(format!("{name} is open, and when it was changed last is not written")) };
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if age <= ttl {
        return Fate::Keep(format!("{name} is open, and it was changed {} ago", spoken(age)));
    }
    let why = format!("{name} is open, but its preview was last changed {} ago, and previews live {} (`ttl`)", spoken(age), spoken(ttl));
    Fate::Remove(SweepCause::Surplus(preview.newest.clone()), why)
}

/// One unit is enough.
fn spoken(length: Duration) -> String {
    match length.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn preview(number: u64, days: Option<i64>, is_open: Option<bool>) -> Preview {
        let since = days.map(|days| Timestamp::from_second(1_000 * DAY - days * DAY).unwrap());
        Preview {
            environment: "preview".into(),
            name: format!("demo-pr-{number}"),
            number,
            pull_request: format!("pull request #{number}"),
            is_open,
            since,
            newest: Some(format!("key-{number}")),
            found: Vec::new(),
        }
    }

    fn gone(previews: &[Preview], limits: Limits, coming: Option<u64>) -> Vec<u64> {
        gone_as(previews, limits, coming.map(|number| Coming { number, makes: true }))
    }

    fn gone_as(previews: &[Preview], limits: Limits, coming: Option<Coming>) -> Vec<u64> {
        let fates = judge(previews, limits, Timestamp::from_second(1_000 * DAY).unwrap(), coming);
        let pairs = previews.iter().zip(fates);
        pairs.filter(|(_, fate)| matches!(fate, Fate::Remove(..))).map(|(preview, _)| preview.number).collect()
    }

    #[test]
    fn only_what_is_closed_for_certain_goes() {
        let all = [preview(1, Some(900), Some(true)), preview(2, Some(0), Some(false)), preview(3, Some(900), None)];
        assert_eq!(gone(&all, Limits::default(), None), [2]);
    }

    #[test]
    fn old_ones_go_when_their_age_is_known_and_whose_they_are() {
        let limits = Limits { ttl: Some(Duration::from_secs(7 * 86_400)), max: None };
        let all = [
            preview(1, Some(8), Some(true)),
            preview(2, Some(7), Some(true)),
            preview(3, None, Some(true)),
            preview(4, Some(30), None),
            preview(5, Some(30), Some(true)),
        ];
        assert_eq!(gone(&all, limits, None), [1, 5]);
        assert_eq!(gone(&all, limits, Some(5)), [1], "the one that is about to be delivered is not old");
    }

    #[test]
    fn the_oldest_of_too_many_go_and_those_that_go_anyway_do_not_count() {
        let limits = |max| Limits { ttl: None, max: Some(max) };
        let all = [
            preview(1, Some(3), Some(true)),
            preview(2, Some(9), Some(true)),
            preview(3, Some(1), Some(false)),
            preview(4, Some(5), Some(true)),
        ];
        assert_eq!(gone(&all, limits(3), None), [3]);
        assert_eq!(gone(&all, limits(2), None), [2, 3]);
        assert_eq!(gone(&all, limits(1), None), [2, 3, 4]);
        // One more is coming, and makes itself room; one that is there already needs none.
        assert_eq!(gone(&all, limits(3), Some(9)), [2, 3]);
        assert_eq!(gone(&all, limits(3), Some(2)), [3]);
        assert_eq!(gone(&all, limits(2), Some(2)), [3, 4], "the oldest that is not the one that is coming");
        assert_eq!(gone_as(&all, limits(3), Some(Coming { number: 9, makes: false })), [3], "a closed one needs no room");
        let uncertain = [preview(1, Some(9), None), preview(2, Some(1), Some(true)), preview(3, None, Some(true))];
        assert_eq!(gone(&uncertain, limits(1), None), [2], "what nobody is certain about takes room, and stays");
    }
}
