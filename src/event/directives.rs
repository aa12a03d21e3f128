//! What people write to tidegate in a commit message or a pull request: `[tidegate skip]`, `[tidegate preview=off]`.

use regex::Regex;
use std::sync::LazyLock;

/// Something that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    /// `[tidegate skip]`: nothing is delivered for this.
    Skip,
    /// `[tidegate preview=off]`: this pull request gets no preview.
    NoPreview,
    /// `[tidegate preview=on]`: it gets one although it is a draft or lacks a label.
    Preview,
    /// `[tidegate set NAME=VALUE]`: a variable of its preview.
    Set(String, String),
    /// Anything else that looks like one, as it is written.
    Unknown(String),
}

impl std::fmt::Display for Directive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skip => f.write_str("[tidegate skip]"),
            Self::NoPreview => f.write_str("[tidegate preview=off]"),
            Self::Preview => f.write_str("[tidegate preview=on]"),
            Self::Set(name, value) => write!(f, "[tidegate set {name}={value}]"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}

/// How many directives of one text are read.
const MOST: usize = 20;

#[allow(clippy::expect_used)] // constant
static DIRECTIVE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i)\[\s*(?:tidegate[ :_-][^\[\]\r\n]{1,200}|skip[ :_-]?tidegate)\s*\]").expect("a pattern"));
/// Comments of a template, fenced and quoted text, and code: there directives are only talked about.
#[allow(clippy::expect_used)] // constant
static TALK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)<!--.*?(-->|\z)|```.*?(```|\z)|~~~.*?(~~~|\z)|(?i:<blockquote(\s[^>]*)?>.*?(</blockquote>|\z))|(?i:<pre(\s[^>]*)?>.*?(</pre>|\z))|(?i:<code(\s[^>]*)?>.*?(</code>|\z))|`[^`\n]*`|(?m-s:^[ \t]*>.*$)").expect("a pattern")
});

/// Every directive of a text, in its order.
pub fn parse(text: &str) -> Vec<Directive> {
    let meant = TALK.replace_all(text, " ");
    DIRECTIVE.find_iter(&meant).map(|found| directive(found.as_str())).take(MOST).collect()
}

/// What is written in brackets; exactly so, or it is a slip.
fn directive(written: &str) -> Directive {
    let slip = || Directive::Unknown(written.to_owned());
    let Some(text) = written.strip_prefix("[tidegate ").and_then(|rest| rest.strip_suffix(']')) else { return slip() };
    match text.trim() {
        "skip" => Directive::Skip,
        "preview=off" => Directive::NoPreview,
        "preview=on" => Directive::Preview,
        longer => match longer.strip_prefix("set ").and_then(|pair| pair.split_once('=')) {
            Some((name, value)) => Directive::Set(name.trim().to_owned(), value.trim().to_owned()),
            None => slip(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_what_is_meant_and_not_what_is_talked_about() {
        let text = "Fix it [tidegate skip]\n\n> [tidegate preview=off]\n`[tidegate preview=on]`\n<!-- [tidegate skip] -->\n```\n[tidegate skip]\n```\n[tidegate set mode = fast ] [tidegate skp]";
        let meant = [Directive::Skip, Directive::Set("mode".into(), "fast".into()), Directive::Unknown("[tidegate skp]".into())];
        assert_eq!(parse(text), meant);
        assert_eq!(parse("Handle Option<Preview>, <prefix> and <codec> [tidegate skip]"), [Directive::Skip]);
        for none in [
            "",
            "[tidegate]",
            "[tidegate \nskip]",
            "tidegate skip",
            "<!-- [tidegate skip]",
            "<BLOCKQUOTE>[tidegate skip]</BLOCKQUOTE>",
            "<pre>[tidegate skip]",
            "~~~\n[tidegate skip]",
        ] {
            assert_eq!(parse(none), [], "{none}");
        }
    }

    #[test]
    fn what_looks_like_one_is_told() {
        for slip in ["[Tidegate Skip]", "[tidegate: skip]", "[tidegate-skip]", "[skip tidegate]", "[tidegate Skip]"] {
            assert_eq!(parse(slip), [Directive::Unknown(slip.to_owned())], "{slip}");
        }
    }

    #[test]
    fn long_texts_end() {
        assert_eq!(parse(&"[tidegate skip]".repeat(1000)).len(), MOST);
        assert_eq!(parse(&"`".repeat(100_000)), []);
    }
}
