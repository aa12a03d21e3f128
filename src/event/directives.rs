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
    /// Anything else in these brackets.
    Unknown(String),
}

impl std::fmt::Display for Directive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skip => f.write_str("[tidegate skip]"),
            Self::NoPreview => f.write_str("[tidegate preview=off]"),
            Self::Preview => f.write_str("[tidegate preview=on]"),
            Self::Set(name, value) => write!(f, "[tidegate set {name}={value}]"),
            Self::Unknown(text) => write!(f, "[tidegate {text}]"),
        }
    }
}

/// How many directives of one text are read.
const MOST: usize = 20;

#[allow(clippy::expect_used)] // constant
static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[tidegate ([^\[\]\r\n]{1,200})\]").expect("a pattern"));
/// Comments of a template, fenced and quoted text, and code: there directives are only talked about.
#[allow(clippy::expect_used)] // constant
static TALK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s)<!--.*?(-->|\z)|```.*?(```|\z)|~~~.*?(~~~|\z)|(?i:<blockquote.*?(</blockquote>|\z))|(?i:<pre.*?(</pre>|\z))|(?i:<code.*?(</code>|\z))|`[^`\n]*`|(?m:^[ \t]*>.*$)").expect("a pattern")
});

/// Every directive of a text, in its order.
pub fn parse(text: &str) -> Vec<Directive> {
    let meant = TALK.replace_all(text, " ");
    let found = DIRECTIVE.captures_iter(&meant).filter_map(|found| Some(directive(found.get(1)?.as_str().trim())));
    found.take(MOST).collect()
}

fn directive(text: &str) -> Directive {
    match text {
        "skip" => Directive::Skip,
        "preview=off" => Directive::NoPreview,
        "preview=on" => Directive::Preview,
        _longer => match text.strip_prefix("set ").and_then(|pair| pair.split_once('=')) {
            Some((name, value)) => Directive::Set(name.trim().to_owned(), value.trim().to_owned()),
            None => Directive::Unknown(text.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_what_is_meant_and_not_what_is_talked_about() {
        let text = "Fix it [tidegate skip]\n\n> [tidegate preview=off]\n`[tidegate preview=on]`\n<!-- [tidegate skip] -->\n```\n[tidegate skip]\n```\n[tidegate set mode = fast ] [tidegate skp]";
        let meant = [Directive::Skip, Directive::Set("mode".into(), "fast".into()), Directive::Unknown("skp".into())];
        assert_eq!(parse(text), meant);
        for none in [
            "",
            "[tidegate]",
            "[ tidegate skip]",
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
    fn long_texts_end() {
        assert_eq!(parse(&"[tidegate skip]".repeat(1000)).len(), MOST);
        assert_eq!(parse(&"`".repeat(100_000)), []);
    }
}
