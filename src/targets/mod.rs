//! Where versions run. All targets share one life: read what runs now, start, watch until settled, verify by identity.

pub mod kubernetes;

use crate::error::Verdict;

/// The number of the lease under which a target is changed. A target that can hold it takes no change under a lower one.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The store and the lease: numbers of other leases say nothing.
    pub place: String,
    /// Higher than that of every lease before.
    pub number: u64,
}

impl Fence {
    /// Whether what a target holds is of a later lease than ours.
    pub fn is_behind(&self, held: &str) -> bool {
        let later = |(place, number): (&str, &str)| place == self.place && number.parse().is_ok_and(|number: u64| number > self.number);
        held.rsplit_once('#').is_some_and(later)
    }
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.place, self.number)
    }
}

/// What became of a target.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What is true now.
    pub verdict: Verdict,
    /// One sentence that names what was identified.
    pub detail: String,
    /// Where it can be seen.
    pub url: Option<String>,
}
