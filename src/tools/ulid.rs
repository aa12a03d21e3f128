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

/// The id of this time, in milliseconds since 1970, with this in place of chance.
pub fn at(millis: u128, chance: u128) -> String {
    encode((millis << 80) | chance)
}

fn encode(value: u128) -> String {
    let digit = |at: u32| usize::try_from((value >> (5 * at)) & 31).ok().and_then(|digit| CROCKFORD.get(digit)).copied();
    (0..26).rev().filter_map(digit).map(char::from).collect()
}

/// When it was made, in milliseconds since 1970, if a text is one in digits of either case.
pub fn millis(id: &str) -> Option<i64> {
    let digit = |byte: u8| CROCKFORD.iter().position(|known| *known == byte.to_ascii_uppercase()).and_then(|at| i64::try_from(at).ok());
    let digits = id.bytes().map(digit).collect::<Option<Vec<i64>>>().filter(|digits| digits.len() == 26)?;
    Some(digits.into_iter().take(10).fold(0, |sum, digit| sum * 32 + digit))
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
        assert!(at(1_469_922_850_259, 0).starts_with("01ARZ3NDEK"), "as 01ARZ3NDEKTSV4RRFFQ69G5FAV there");
    }

    /// The example of the specification, and what is none.
    #[test]
    fn a_ulid_says_when_it_was_made() {
        assert_eq!(millis("01ARZ3NDEKTSV4RRFFQ69G5FAV"), Some(1_469_922_850_259));
        assert_eq!(millis("01arz3ndektsv4rrffq69g5fav"), Some(1_469_922_850_259));
        for none in ["", "42", "01ARZ3NDEKTSV4RRFFQ69G5FA", "01ARZ3NDEKTSV4RRFFQ69G5FAU", "01ARZ3NDEKTSV4RRFFQ69G5Fä", "ääääääääääääa"]
        {
            assert_eq!(millis(none), None, "{none}");
        }
    }
}
