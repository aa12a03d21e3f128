//! Placeholders such as `{version}` in configuration texts. No scripting: names in, text out.

use serde_json::Value;
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

fn is_known(name: &str) -> bool {
    NAMES.contains(&name) || ["var.", "image.", "digest."].iter().any(|prefix| name.starts_with(prefix))
}

/// Every text in a JSON value.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(map) => map.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// Values for placeholders.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<String, String>);

/// Without what differs from run to run of the same delivery: a plan's hash is made of it.
impl serde::Serialize for Values {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(name, _)| !matches!(name.as_str(), "actor" | "run_url")))
    }
}

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

    /// Only the values that these texts use.
    pub fn used_by<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let used: Vec<String> = texts.into_iter().flat_map(names).collect();
        Self(self.0.iter().filter(|(name, _)| used.contains(name)).map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Fills every text of a JSON value; keys stay as they are.
    pub fn fill_json(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => Value::String(self.fill(text)?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.fill_json(item)).collect::<Result<_, _>>()?),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, item)| Ok((key.clone(), self.fill_json(item)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    /// Fills every text of a file's content by `fill_known`; keys stay as they are. Misspelt names go to `odd`.
    pub fn fill_known_json(&self, value: &Value, odd: &mut dyn FnMut(String)) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => {
                let (filled, names) = self.fill_known(text)?;
                names.into_iter().for_each(&mut *odd);
                Value::String(filled)
            }
            Value::Array(items) => Value::Array(items.iter().map(|item| self.fill_known_json(item, odd)).collect::<Result<_, _>>()?),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, item)| Ok((key.clone(), self.fill_known_json(item, odd)?)));
                Value::Object(filled.collect::<Result<_, String>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    /// Fills a text in which other braces are the text's own business, as in a manifest: only `{name}` of a known name is a
    /// placeholder, and `{{name}}` writes it literally. Gives the names that look like a misspelt placeholder.
    pub fn fill_known(&self, text: &str) -> Result<(String, Vec<String>), String> {
        let (mut filled, mut odd, mut rest) = (String::new(), Vec::new(), text);
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            filled.push_str(before);
            let braces = from.bytes().take(3).take_while(|byte| *byte == b'{').count();
            let doubled = braces == 2;
            let inner = from.get(braces..).unwrap_or_default();
            let name: String = inner.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')).collect();
            let closed = inner.get(name.len()..).is_some_and(|after| after.starts_with(if doubled { "}}" } else { "}" }));
            let width = name.len() + if doubled { 4 } else { 2 };
            match (closed && braces <= 2 && !name.is_empty(), doubled, is_known(&name)) {
                (true, true, true) => filled.push_str(&format!("{{{name}}}")),
                (true, false, true) => {
                    filled.push_str(self.0.get(&name).ok_or_else(|| format!("{{{name}}} has no value in this run"))?);
                }
                (true, false, false) => {
                    filled.push_str(&format!("{{{name}}}"));
                    odd.push(name);
                }
                _other => {
                    filled.push('{');
                    rest = from.get(1..).unwrap_or_default();
                    continue;
                }
            }
            rest = from.get(width..).unwrap_or_default();
        }
        filled.push_str(rest);
        Ok((filled, odd))
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
    fn in_manifests_only_known_names_are_placeholders() {
        let mut values = Values::default();
        values.set("pr", Some("15".into()));
        let fill = |text: &str| values.fill_known(text).map(|(text, _)| text);
        assert_eq!(
            fill("pr-{pr}.{x} {{pr}} {a: {b: 1}} {{ .Values.pr }} ${X} {}{").unwrap(),
            "pr-15.{x} {pr} {a: {b: 1}} {{ .Values.pr }} ${X} {}{"
        );
        assert_eq!(values.fill_known("{versoin}").unwrap().1, ["versoin"]);
        assert_eq!(fill("{tag}").unwrap_err(), "{tag} has no value in this run");
        assert_eq!(fill("{{{pr}}}").unwrap(), "{{pr}}");
    }

    #[test]
    fn a_value_is_never_read_as_a_placeholder() {
        let mut values = Values::default();
        values.set("branch", Some("{sha}".into()));
        assert_eq!(values.fill("{branch}").unwrap(), "{sha}");
    }
}
