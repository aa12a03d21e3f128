//! YAML as a tree in which every node knows its place, within limits that stop hostile files early.

use super::problem::{Place, Problem};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_yaml::Value;
use std::collections::BTreeMap;

/// The largest file that is read, in bytes.
pub const SIZE_LIMIT: usize = 1024 * 1024;
const DEPTH_LIMIT: usize = 64;
const NODE_LIMIT: usize = 10_000;

/// A node and its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub kind: NodeKind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// A scalar; `plain` when it was written without quotes, so that 1.10 may be a number.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and its place.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub place: Place,
}

/// Reads one YAML document. Errors carry the place at which reading had to stop.
pub fn read(text: &str) -> Result<Node, Problem> {
    let start = Place { line: 1, column: 1 };
    if text.len() > SIZE_LIMIT {
        let message = format!("the file is {} bytes long; at most {SIZE_LIMIT} are read", text.len());
        return Err(problem(start, message, "move generated parts out of it"));
    }
    let mut reader = Reader { events: Parser::new_from_str(text), nodes: 0, anchors: Vec::new() };
    reader.document()
}

/// How many values a text of YAML stands for, aliases counted, or no number when it is more than a limit. What is no YAML is left
/// to its reader.
pub fn weight(text: &str, limit: usize) -> Option<usize> {
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    // What is open: its anchor, and what is in it so far.
    let mut open: Vec<(usize, usize)> = vec![(0, 0)];
    for event in Parser::new_from_str(text) {
        let Ok((event, _)) = event else { break };
        let size = match event {
            Event::Scalar(_, _, anchor, _) => {
                sizes.insert(anchor, 1);
                1
            }
            Event::Alias(id) => sizes.get(&id).copied().unwrap_or(1),
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                open.push((anchor, 1));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (anchor, size) = open.pop().unwrap_or_default();
                sizes.insert(anchor, size);
                size
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => continue,
        };
        let (_, within) = open.last_mut()?;
        *within = within.saturating_add(size);
        if *within > limit {
            return None;
        }
    }
    Some(open.first().map_or(0, |(_, size)| *size))
}

fn problem(place: Place, message: impl Into<String>, hint: &str) -> Problem {
    Problem { place, path: String::new(), message: message.into(), hint: hint.to_owned() }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    nodes: usize,
    anchors: Vec<(usize, Node, usize)>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Problem> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = error.marker();
                let at = Place { line: at.line(), column: at.col() + 1 };
                Err(problem(at, format!("this is not YAML: {}", error.info()), "look at the indentation and quotes here"))
            }
            None => Err(problem(Place { line: 1, column: 1 }, "the file ends too early", "")),
        }
    }

    fn document(&mut self) -> Result<Node, Problem> {
        let mut root: Option<Node> = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd => {
                    if root.is_some() {
                        return Err(problem(place(&span), "a second document starts here", "keep one document: remove the ---"));
                    }
                    root = Some(self.node(event, span, 0)?);
                }
            }
        }
        root.ok_or_else(|| problem(Place { line: 1, column: 1 }, "the file is empty", "`tidegate schema` prints what it may hold"))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Problem> {
        let at = place(&span);
        self.count(1, at)?;
        if depth > DEPTH_LIMIT {
            return Err(problem(at, format!("nested deeper than {DEPTH_LIMIT} levels"), "flatten this part"));
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                (NodeKind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                (self.map(depth)?, anchor)
            }
            Event::Alias(id) => return self.alias(id, at),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(problem(at, "this is not YAML: something is missing here", "")),
        };
        let node = Node { place: at, kind };
        if anchor > 0 {
            let size = size(&node);
            self.anchors.push((anchor, node.clone(), size));
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, at: Place) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODE_LIMIT {
            return Err(problem(at, format!("more than {NODE_LIMIT} values, aliases counted"), "write less with aliases"));
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, at: Place) -> Result<Node, Problem> {
        let found = self.anchors.iter().find(|(anchor, _, _)| *anchor == id).map(|(_, node, size)| (node.clone(), *size));
        let (node, size) = found.ok_or_else(|| problem(at, "an alias to an anchor that is not finished yet", "write the value out"))?;
        self.count(size, at)?;
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<NodeKind, Problem> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(NodeKind::List(items));
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<NodeKind, Problem> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(NodeKind::Map(entries));
            }
            let key = self.node(event, span, depth + 1)?;
            let NodeKind::Scalar { text: name, .. } = key.kind else {
                return Err(problem(key.place, "a key must be a plain word", "quote it"));
            };
            if entries.iter().any(|(other, _)| other.name == name) {
                return Err(problem(key.place, format!("the key {name:?} stands here twice"), "remove one of them"));
            }
            if name == "<<" {
                return Err(problem(
                    key.place,
                    "merge keys (<<) are not supported",
                    "write the keys out, or use an alias for the whole value",
                ));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push((Key { name, place: key.place }, value));
        }
    }
}

fn no_tag(tagged: bool, at: Place) -> Result<(), Problem> {
    if tagged {
        return Err(problem(at, "YAML tags (!…) are not supported", "write the plain value"));
    }
    Ok(())
}

fn size(node: &Node) -> usize {
    match &node.kind {
        NodeKind::Scalar { .. } => 1,
        NodeKind::List(items) => items.iter().map(size).sum::<usize>() + 1,
        NodeKind::Map(entries) => entries.iter().map(|(_, value)| size(value) + 1).sum::<usize>() + 1,
    }
}

impl Node {
    /// The value of a scalar as YAML 1.2 reads it: quoted text is text, plain text may be null, a boolean or a number.
    pub fn scalar(&self) -> Option<Value> {
        let NodeKind::Scalar { text, plain } = &self.kind else { return None };
        if !plain {
            return Some(Value::String(text.clone()));
        }
        Some(match text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            number => match (number.parse::<i64>(), number.parse::<f64>()) {
                (Ok(whole), _) => Value::Number(whole.into()),
                (Err(_), Ok(real)) if number.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
                    Value::Number(real.into())
                }
                _other => Value::String(number.to_owned()),
            },
        })
    }

    /// The node as a plain value, without keys that start with `x-`.
    pub fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar { .. } => self.scalar().unwrap_or(Value::Null),
            NodeKind::List(items) => Value::Sequence(items.iter().map(Node::value).collect()),
            NodeKind::Map(entries) => {
                let own = entries.iter().filter(|(key, _)| !key.name.starts_with("x-"));
                Value::Mapping(own.map(|(key, value)| (Value::String(key.name.clone()), value.value())).collect())
            }
        }
    }

    /// The key and the value under a key of a mapping.
    pub fn entry(&self, name: &str) -> Option<(&Key, &Node)> {
        let NodeKind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(key, value)| (key, value))
    }

    /// The place of a path such as environments.dev.deploy[0].kubernetes, or of the nearest part of it that exists.
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for part in path.split(['.', '[']).map(|part| part.trim_end_matches(']')) {
            let next = match &node.kind {
                NodeKind::List(items) => part.parse::<usize>().ok().and_then(|n| items.get(n)).map(|item| (item.place, item)),
                NodeKind::Map(_) => node.entry(part).map(|(key, value)| (key.place, value)),
                NodeKind::Scalar { .. } => None,
            };
            let Some((at, found)) = next else { break };
            (place, node) = (at, found);
        }
        place
    }
}
