//! Where versions run. All targets share one life: read what runs now, start, watch until settled, verify by identity.

pub mod kubernetes;

use crate::error::Verdict;

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
