//! Changes one value in a YAML text and nothing else: comments, order and quoting stay.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

const DEPTH_LIMIT: usize = 64;
const NODE_LIMIT: usize = 200_000;

/// The way to a value, as images[name=ui].newTag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    /// The item of a list whose key has this value.
    Where(String, String),
}

impl Path {
    /// Parses a path: keys with dots between, [0], [key=value], and ["a.b"] for keys with dots.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is not the path of a key: {why}");
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let (inside, after) = inner.split_once(']').ok_or_else(|| wrong("a [ is not closed"))?;
                let bare = inside.trim_matches(['"', '\'']);
                steps.push(match (inside.parse(), inside.split_once('=')) {
                    (Ok(index), _) => Step::Index(index),
                    (Err(_), Some((key, value))) if bare == inside => Step::Where(key.trim().to_owned(), value.trim().to_owned()),
                    (Err(_), _) if bare != inside && !bare.is_empty() => Step::Key(bare.to_owned()),
                    (Err(_), _) => return Err(wrong("in [ ] stands a number, key=value, or a key in quotes")),
                });
                rest = after.strip_prefix('.').filter(|after| !after.is_empty()).unwrap_or(after);
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                if key.is_empty() {
                    return Err(wrong("a key is empty"));
                }
                steps.push(Step::Key(key.to_owned()));
                rest = match after.strip_prefix('.') {
                    Some("") => return Err(wrong("it ends with a dot")),
                    Some(after) => after,
                    None => after,
                };
            }
        }
        if steps.is_empty() {
            return Err(wrong("it is empty"));
        }
        Ok(Self { text: text.to_owned(), steps })
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

enum Node {
    Scalar {
        text: String,
        style: ScalarStyle,
        from: usize,
        to: usize,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// An alias stands for a value elsewhere.
    Alias,
}

/// A value as it stands in the text.
struct Found {
    text: String,
    style: ScalarStyle,
    /// In bytes.
    from: usize,
    to: usize,
}

/// The value at a path.
pub fn read(text: &str, path: &Path) -> Result<String, String> {
    find(text, path).map(|found| found.text)
}

/// The text with another value at the path.
pub fn write(text: &str, path: &Path, value: &str) -> Result<String, String> {
    let found = find(text, path)?;
    if found.text == value {
        return Ok(text.to_owned());
    }
    let written = match found.style {
        ScalarStyle::Plain if is_plain_text(value) => value.to_owned(),
        ScalarStyle::Plain | ScalarStyle::DoubleQuoted => serde_json::to_string(value).unwrap_or_default(),
        ScalarStyle::SingleQuoted if value.chars().any(char::is_control) => return Err(format!("{path}: the new value has several lines")),
        ScalarStyle::SingleQuoted => format!("'{}'", value.replace('\'', "''")),
        ScalarStyle::Literal | ScalarStyle::Folded => return Err(format!("{path} is a block of text, not a value on one line")),
    };
    let (before, after) = (text.get(..found.from).unwrap_or_default(), text.get(found.to..).unwrap_or_default());
    let edited = format!("{before}{written}{after}");
    match read(&edited, path) {
        Ok(now) if now == value => Ok(edited),
        _other => Err(format!("{path} cannot be changed without changing the file around it")),
    }
}

/// Whether this stays text without quotes: 1.10 would become a number.
fn is_plain_text(value: &str) -> bool {
    let alone = serde_yaml::from_str::<serde_yaml::Value>(value).is_ok_and(|parsed| parsed.as_str() == Some(value));
    // In a flow mapping commas and brackets end a value; YAML 1.1 readers know more words and numbers than 1.2.
    let odd = |c: char| matches!(c, ',' | '[' | ']' | '{' | '}' | '#' | ':' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`');
    let is_word = matches!(value.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "~");
    let is_number = value.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '+' | 'e' | 'E'));
    let image = value.contains("@sha256:") || value.contains(':');
    alone && !is_word && !is_number && (image && plain_reference(value) || !value.chars().any(odd))
}

/// An image reference needs no quotes although it has colons.
fn plain_reference(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':' | '@'))
        && !value.ends_with(':')
        && value.chars().next().is_some_and(|c| c.is_ascii_alphabetic())
}

fn find(text: &str, path: &Path) -> Result<Found, String> {
    let documents = Reader::documents(text)?;
    let mut found = documents.iter().filter_map(|document| follow(document, &path.steps));
    let node = found.next().ok_or_else(|| format!("there is no key {path}"))?;
    if found.next().is_some() {
        return Err(format!("{path} is in more than one document of the file"));
    }
    match node {
        Node::Scalar { text, style, from, to } => Ok(Found { text: text.clone(), style: *style, from: *from, to: *to }),
        Node::List(_) | Node::Map(_) => Err(format!("{path} is not a single value")),
        Node::Alias => Err(format!("{path} is an alias (*) of a value elsewhere: change that")),
    }
}

fn follow<'n>(node: &'n Node, steps: &[Step]) -> Option<&'n Node> {
    let Some((step, rest)) = steps.split_first() else { return Some(node) };
    let next = match (step, node) {
        (Step::Key(key), Node::Map(entries)) => entries.iter().find(|(name, _)| name == key).map(|(_, value)| value),
        (Step::Index(index), Node::List(items)) => items.get(*index),
        (Step::Where(key, wanted), Node::List(items)) => items.iter().find(|item| {
            let Node::Map(entries) = item else { return false };
            entries.iter().any(|(name, value)| name == key && matches!(value, Node::Scalar { text, .. } if text == wanted))
        }),
        (Step::Key(_), Node::List(_) | Node::Scalar { .. } | Node::Alias)
        | (Step::Index(_) | Step::Where(..), Node::Map(_) | Node::Scalar { .. } | Node::Alias) => None,
    };
    follow(next?, rest)
}

/// The length of a quoted text with its quotes: the parser's own span reaches to the end of the line.
fn quoted_length(text: &str, style: ScalarStyle) -> Option<usize> {
    let mut rest = text.char_indices().skip(1).peekable();
    match style {
        ScalarStyle::DoubleQuoted => {
            while let Some((at, c)) = rest.next() {
                match c {
                    '\\' => drop(rest.next()),
                    '"' => return Some(at + 1),
                    _other => {}
                }
            }
            None
        }
        ScalarStyle::SingleQuoted => {
            while let Some((at, c)) = rest.next() {
                if c == '\'' && rest.next_if(|(_, next)| *next == '\'').is_none() {
                    return Some(at + 1);
                }
            }
            None
        }
        ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => None,
    }
}

struct Reader<'a> {
    text: &'a str,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Where each character begins, in bytes: the parser counts characters.
    offsets: Vec<usize>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn documents(text: &'a str) -> Result<Vec<Node>, String> {
        let offsets = text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).collect();
        let mut reader = Reader { text, events: Parser::new_from_str(text), offsets, nodes: 0 };
        let mut documents = Vec::new();
        loop {
            let (event, span) = reader.next()?;
            match event {
                Event::StreamEnd => return Ok(documents),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => documents.push(reader.node(event, span, 0)?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(format!("this is not YAML: {} (line {})", error.info(), error.marker().line())),
            None => Err("the file ends too early".into()),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm)] // what cannot begin a node is an error, whatever it is
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, String> {
        self.nodes += 1;
        if depth > DEPTH_LIMIT || self.nodes > NODE_LIMIT {
            return Err("the file is too large or nested too deep".into());
        }
        match event {
            Event::Scalar(text, style, _, _) => {
                let at = |index: usize| self.offsets.get(index).copied().unwrap_or_default();
                let (from, to) = (at(span.start.index()), at(span.end.index()));
                let to = self.text.get(from..).and_then(|rest| quoted_length(rest, style)).map_or(to, |length| from + length);
                Ok(Node::Scalar { text: text.into_owned(), style, from, to })
            }
            Event::Alias(_) => Ok(Node::Alias),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(items)),
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => return Ok(Node::Map(entries)),
                        (event, span) => self.node(event, span, depth + 1)?,
                    };
                    let (event, span) = self.next()?;
                    let value = self.node(event, span, depth + 1)?;
                    if let Node::Scalar { text, .. } = key {
                        entries.push((text, value));
                    }
                }
            }
            _other => Err("this is not YAML that can be edited".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, path: &str, value: &str) -> Result<String, String> {
        write(text, &Path::parse(path)?, value)
    }

    #[test]
    fn one_value_changes_and_nothing_else() {
        let text = "# ümläut\nui:\n  image: {repository: a, tag: \"1.9\"} # keep\n  old: '1.9'\n\nimages:\n  - name: api\n    newTag: v1 # x\n  - name: ui\n    newTag: 1.9   # number\n";
        assert_eq!(edited(text, "ui.image.tag", "1.10").unwrap(), text.replace("tag: \"1.9\"", "tag: \"1.10\""));
        assert_eq!(edited(text, "ui.old", "it's").unwrap(), text.replace("'1.9'", "'it''s'"));
        assert_eq!(edited(text, "images[name=ui].newTag", "1.10").unwrap(), text.replace("newTag: 1.9   #", "newTag: \"1.10\"   #"));
        assert_eq!(edited(text, "images[0].newTag", "v2").unwrap(), text.replace("newTag: v1 #", "newTag: v2 #"));
        assert_eq!(edited(text, "ui.image.tag", "1.9").unwrap(), text);
        for (before, after) in
            [("a: \"x\\\"y\"   # keep\nb: 1\n", "a: \"z\"   # keep\nb: 1\n"), ("a: 'it''s'   # keep\n", "a: 'z'   # keep\n")]
        {
            assert_eq!(edited(before, "a", "z").unwrap(), after);
        }
    }

    #[test]
    fn values_that_would_change_their_type_get_quotes() {
        for (value, written) in
            [("no", "\"no\""), ("2023.06", "\"2023.06\""), ("1e5", "\"1e5\""), ("a, b", "\"a, b\""), ("abc1234", "abc1234")]
        {
            assert_eq!(edited("a: x\n", "a", value).unwrap(), format!("a: {written}\n"), "{value}");
        }
        let reference = format!("ghcr.io/acme/web:1.10@sha256:{}", "a".repeat(64));
        assert_eq!(edited("a: {b: x}\n", "a.b", &reference).unwrap(), format!("a: {{b: {reference}}}\n"));
    }

    #[test]
    fn several_documents_are_one_file() {
        let text = "kind: A\n---\nkind: B\nspec:\n  containers:\n    - name: web\n      image: \"x:1\"\n";
        assert!(edited(text, "spec.containers[name=web].image", "x:2").unwrap().contains("image: \"x:2\""));
        assert!(edited(text, "kind", "C").unwrap_err().contains("more than one document"));
        assert_eq!(edited(text, "spec.image", "x").unwrap_err(), "there is no key spec.image");
        assert!(edited("a: |\n  text\n", "a", "x").unwrap_err().contains("block of text"));
        assert!(edited("a: &x b\nc: *x\n", "c", "x").unwrap_err().contains("alias"));
    }

    #[test]
    fn paths_say_what_is_wrong_with_them() {
        assert_eq!(Path::parse("a[\"b.c\"].d").unwrap().steps, [Step::Key("a".into()), Step::Key("b.c".into()), Step::Key("d".into())]);
        for wrong in ["", "a.", ".a", "a[", "a[]", "a..b", "a[x]"] {
            assert!(Path::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
