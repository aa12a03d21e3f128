//! Placeholders such as `{version}` in configuration texts. No scripting: names in, text out.

use std::collections::BTreeMap;

/// A placeholder text, split into literal parts and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// The name between braces.
    Name(String),
}

/// Names that every text may use; `var.NAME`, `image.NAME` and `digest.NAME` come on top.
pub const NAMES: &[&str] =
    &["project", "environment", "version", "tag", "sha", "short_sha", "branch", "branch_slug", "pr", "actor", "run_url"];

/// Splits a text at its placeholders; `{{` and `}}` are literal braces.
pub fn split(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.peek() == Some(&c) => {
                rest.next();
                literal.push(c);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) => name.push(c),
                        None => return Err("a { is not closed".into()),
                    }
                }
                parts.push(Part::Text(std::mem::take(&mut literal)));
                parts.push(Part::Name(name));
            }
            '}' => return Err("a } has no {".into()),
            _other => literal.push(c),
        }
    }
    parts.push(Part::Text(literal));
    Ok(parts)
}

/// The names that a text uses.
pub fn names(text: &str) -> Vec<String> {
    let named = |part: Part| match part {
        Part::Name(name) => Some(name),
        Part::Text(_) => None,
    };
    split(text).unwrap_or_default().into_iter().filter_map(named).collect()
}

/// Values for placeholders.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// Adds a value; `None` leaves the name unset.
    pub fn set(&mut self, name: impl Into<String>, value: Option<String>) {
        if let Some(value) = value {
            self.0.insert(name.into(), value);
        }
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Fills a text. The error names the placeholder that has no value in this run.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        for part in split(text)? {
            match part {
                Part::Text(literal) => filled.push_str(&literal),
                Part::Name(name) => match self.0.get(&name) {
                    Some(value) => filled.push_str(value),
                    None => return Err(format!("{{{name}}} has no value in this run")),
                },
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_names_and_keeps_literal_braces() {
        let mut values = Values::default();
        values.set("pr", Some("15".into()));
        assert_eq!(values.fill("{{x}}-pr-{pr}").unwrap(), "{x}-pr-15");
        assert_eq!(values.fill("{tag}").unwrap_err(), "{tag} has no value in this run");
        assert_eq!(values.fill("a{pr").unwrap_err(), "a { is not closed");
        assert_eq!(values.fill("{pr}-{pr").unwrap_err(), "a { is not closed");
        assert_eq!(values.fill("a}b").unwrap_err(), "a } has no {");
    }

    #[test]
    fn a_value_is_never_read_as_a_placeholder() {
        let mut values = Values::default();
        values.set("branch", Some("{sha}".into()));
        assert_eq!(values.fill("{branch}").unwrap(), "{sha}");
    }
}
