//! Versions are strings: what people say, what images are tagged with, and how they are ordered.

use crate::error::{Error, Reason, Result};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;

/// The longest image tag a registry takes.
pub const TAG_LIMIT: usize = 128;

/// A version as people say it, without a leading `v`. `1.10` never becomes a number.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Version {
    text: String,
    #[serde(skip)]
    semver: Option<semver::Version>,
}

impl Version {
    /// Parses what a person or a tag says: one leading `v` is stripped, and the rest must be usable as an image tag.
    pub fn parse(said: &str) -> Result<Self> {
        let text = said.strip_prefix(['v', 'V']).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let text = text.unwrap_or(said);
        check_image_tag(text, said)?;
        Ok(Self { text: text.to_owned(), semver: semver::Version::parse(text).ok() })
    }

    /// The version as a string.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is SemVer, so that it can be a release.
    pub fn is_semver(&self) -> bool {
        self.semver.is_some()
    }

    /// Major, minor and patch, where this is SemVer.
    pub fn numbers(&self) -> Option<(u64, u64, u64)> {
        self.semver.as_ref().map(|version| (version.major, version.minor, version.patch))
    }

    /// Whether SemVer calls this a pre-release.
    pub fn is_prerelease(&self) -> bool {
        self.semver.as_ref().is_some_and(|version| !version.pre.is_empty())
    }

    /// SemVer order, when both are SemVer; other versions have no order of their own.
    pub fn order(&self, other: &Self) -> Option<Ordering> {
        Some(self.semver.as_ref()?.cmp_precedence(other.semver.as_ref()?))
    }

    /// The aliases `1` and `1.4` of `1.4.2`: the ones among `names` that belong to this version, or any other name.
    pub fn claims_alias(&self, alias: &str) -> bool {
        let looks_like_series = alias.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        let of_series =
            |version: &semver::Version| alias == version.major.to_string() || alias == format!("{}.{}", version.major, version.minor);
        !looks_like_series || self.semver.as_ref().is_some_and(of_series)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Checks the grammar of image tags, `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>
pub fn check_image_tag(text: &str, said: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > TAG_LIMIT {
        format!("it is {} characters long; image tags have at most {TAG_LIMIT}", text.len())
    } else if let Some(bad) = text.chars().find(|c| !fine(*c)) {
        format!("{bad:?} is not allowed in an image tag")
    } else if text.starts_with(['.', '-']) {
        "it starts with a dot or a dash".to_owned()
    } else {
        return Ok(());
    };
    let hint = if text.contains('+') {
        "SemVer build metadata (+…) cannot be an image tag: leave it out of the release tag"
    } else {
        "a version uses letters, digits, dots, dashes and underscores, as 1.4.2 or 366701f"
    };
    Err(Error::new(Reason::InputVersion, format!("{said:?} cannot be a version: {reason}")).hint(hint))
}

/// A name made safe for images, hosts and labels: lower case, dashes for everything else, at most `limit` bytes.
/// Never empty. Whenever something was changed or cut, a hash is added, so that two names never become one.
pub fn slug(name: &str, limit: usize) -> String {
    let mut clean = String::new();
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => clean.push(c),
            _other if !clean.is_empty() && !clean.ends_with('-') => clean.push('-'),
            _other => {}
        }
    }
    let clean = clean.trim_end_matches('-');
    if clean == name && (1..=limit).contains(&clean.len()) {
        return clean.to_owned();
    }
    let hash: String = hex(&Sha256::digest(name.as_bytes())).chars().take(8).collect();
    let room = limit.saturating_sub(hash.len() + 1);
    let head: String = clean.chars().take(room).collect();
    let head = head.trim_end_matches('-');
    if head.is_empty() { hash } else { format!("{head}-{hash}") }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_stay_strings_and_lose_one_v() {
        for (said, text) in [("v1.10", "1.10"), ("1.10", "1.10"), ("V2.0.0", "2.0.0"), ("vulcan", "vulcan"), ("2024.06.01", "2024.06.01")] {
            assert_eq!(Version::parse(said).unwrap().as_str(), text);
        }
    }

    #[test]
    fn hostile_versions_are_refused() {
        for said in ["", "../../prod", "v1.0.0\n", "1.0.0+7", "-rf", ".hidden", "ünïcode", "а1", "a b", &"1".repeat(129)] {
            assert_eq!(Version::parse(said).unwrap_err().reason, Reason::InputVersion, "{said:?}");
        }
    }

    #[test]
    fn semver_orders_by_precedence_and_others_do_not() {
        let parse = |text| Version::parse(text).unwrap();
        assert_eq!(parse("1.10.0").order(&parse("1.9.0")), Some(Ordering::Greater));
        assert_eq!(parse("1.0.0-rc.1").order(&parse("1.0.0")), Some(Ordering::Less));
        assert_eq!(parse("1.10").order(&parse("1.9.0")), None);
        assert!(parse("v1.0.0-rc.1").is_prerelease() && !parse("1.0").is_semver());
    }

    #[test]
    fn aliases_belong_to_their_series() {
        let version = Version::parse("1.4.2").unwrap();
        assert!(version.claims_alias("1") && version.claims_alias("1.4") && version.claims_alias("latest"));
        assert!(!version.claims_alias("2") && !version.claims_alias("1.5"));
        let commit = Version::parse("366701f").unwrap();
        assert!(commit.claims_alias("latest") && !commit.claims_alias("1"), "a commit is of no series");
    }

    #[test]
    fn slugs_are_distinct_and_fit() {
        let names = ["feat/x", "feat-x", "feat_x", "Feat/X", "🚀", "-", "a"];
        let slugs: std::collections::BTreeSet<_> = names.iter().map(|name| slug(name, 63)).collect();
        assert_eq!(slugs.len(), names.len(), "{slugs:?}");
        assert_eq!(slug("feat-x", 63), "feat-x");
        assert!(slug(&"long/".repeat(40), 30).len() <= 30);
    }
}
