//! Globs that people write. globset says what they mean; it panics where their regular expression cannot be compiled, so that
//! is done here, within limits.

use globset::GlobBuilder;
use regex::bytes::{Regex, RegexBuilder};

/// Longer ones nest deeper than a stack may be.
const LENGTH_LIMIT: usize = 1000;
/// What a compiled one may take, in bytes.
const SIZE_LIMIT: usize = 1024 * 1024;

/// A glob.
#[derive(Clone, Debug)]
pub struct Glob(Regex);

impl Glob {
    /// One in which `*` and `?` stay within a folder, and `**` does not; or why there is none.
    pub fn of_paths(pattern: &str) -> Result<Self, String> {
        Self::new(pattern, GlobBuilder::new(pattern).literal_separator(true))
    }

    /// One in which `*` stands for anything.
    pub fn of_text(pattern: &str) -> Result<Self, String> {
        Self::new(pattern, &GlobBuilder::new(pattern))
    }

    fn new(pattern: &str, builder: &GlobBuilder<'_>) -> Result<Self, String> {
        if pattern.len() > LENGTH_LIMIT {
            return Err(format!("it is longer than {LENGTH_LIMIT} bytes"));
        }
        let glob = builder.build().map_err(|error| error.kind().to_string())?;
        let mut regex = RegexBuilder::new(glob.regex());
        let built = regex.dot_matches_new_line(true).size_limit(SIZE_LIMIT).build();
        built.map(Self).map_err(|_too_large| "it has too many alternatives in each other".to_owned())
    }

    /// Whether a text fits.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_say() {
        let of_paths = |pattern: &str, text: &str| Glob::of_paths(pattern).unwrap().is_match(text);
        assert!(of_paths("ui/**", "ui/a/b") && of_paths("**/*.md", "a/b.md") && of_paths("v[0-9]{.x,}", "v1.x"));
        assert!(!of_paths("ui/*", "ui/a/b") && !of_paths("hotfix/?", "hotfix/"));
        assert!(of_paths("*", "a\nb") && of_paths("é*", "éa"));
        assert!(Glob::of_text("rel*").unwrap().is_match("release/1/2"));
    }

    /// globset would panic on the first, and overflow the stack on the second.
    #[test]
    fn what_cannot_be_compiled_is_refused() {
        let nested = |depth: usize| format!("{}{}", "{a,".repeat(depth), "}".repeat(depth));
        assert!(Glob::of_paths(&nested(240)).is_err_and(|why| why.contains("alternatives")));
        assert!(Glob::of_text(&nested(100_000)).is_err_and(|why| why.contains("longer")));
        assert!(Glob::of_text("[").is_err() && Glob::of_text("{a").is_err());
    }
}
