//! ULIDs: ids that sort by the time at which they were made. <https://github.com/ulid/spec>

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The last one, so that two of one millisecond sort as they were made.
static LAST: Mutex<u128> = Mutex::new(0);

/// A new id of 26 characters.
pub fn ulid() -> String {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis());
    let mut chance = [0_u8; 10];
    // Without chance ids still differ: each is higher than the last.
    let _without = aws_lc_rs::rand::fill(&mut chance);
    let chance = chance.iter().fold(0_u128, |value, byte| (value << 8) | u128::from(*byte));
    let fresh = (millis << 80) | chance;
    let Ok(mut last) = LAST.lock() else { return encode(fresh) };
    *last = if fresh >> 80 > *last >> 80 { fresh } else { last.wrapping_add(1) };
    encode(*last)
}

fn encode(value: u128) -> String {
    let digit = |at: u32| usize::try_from((value >> (5 * at)) & 31).ok().and_then(|digit| CROCKFORD.get(digit)).copied();
    (0..26).rev().filter_map(digit).map(char::from).collect()
}

/// Whether it may be an id of a job.
pub fn is_ulid(text: &str) -> bool {
    text.len() == 26 && text.bytes().all(|byte| CROCKFORD.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_they_were_made_and_begin_with_their_time() {
        let ids: Vec<String> = (0..2000).map(|_| ulid()).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(ids.iter().all(|id| is_ulid(id)));
        // The example of the specification, and the time that it says.
        assert!(encode(1_469_922_850_259 << 80).starts_with("01ARZ3NDEK"), "as 01ARZ3NDEKTSV4RRFFQ69G5FAV there");
    }
}
