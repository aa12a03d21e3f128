//! The process environment as a value: read once here, passed on, so that a rehearsal or a test can have its own.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Environment variables. An empty variable counts as not given: CI systems set many to the empty string.
#[derive(Clone, Debug, Default)]
pub struct Vars(BTreeMap<String, String>);

impl Vars {
    /// The environment of this process. Names or values that are not UTF-8 are left out: no contract of ours uses them.
    #[allow(clippy::disallowed_methods)]
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os();
        Self(pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect())
    }

    /// The value, if there is one and it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether the variable is exactly `true`, as CI systems mark themselves.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// All variables whose name starts with the prefix.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let found = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        found.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A copy with one variable changed.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

/// What a program that reads local state needs to know of our environment: where things are, how to reach a network, and
/// its own settings. Not the secrets of the job.
#[allow(clippy::disallowed_methods)]
pub fn for_plain_programs() -> impl Iterator<Item = (OsString, OsString)> {
    const NAMES: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "SSH_AUTH_SOCK", "SSL_CERT_FILE"];
    const BEGINNINGS: [&str; 4] = ["GIT_", "LC_", "LANG", "XDG_"];
    // The checkout is the folder that is said, not one that a variable names.
    const ELSEWHERE: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"];
    let needed = |name: &str| {
        let is_known = NAMES.contains(&name) || BEGINNINGS.iter().any(|start| name.starts_with(start));
        !ELSEWHERE.contains(&name) && (is_known || name.to_lowercase().ends_with("_proxy"))
    };
    std::env::vars_os().filter(move |(name, _)| name.to_str().is_some_and(needed))
}

impl<const N: usize> From<[(&str, &str); N]> for Vars {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

impl FromIterator<(String, String)> for Vars {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}
