//! Checks a YAML tree against the JSON Schema of the types, so that all mistakes come out at once, each with its place.

use super::problem::{Place, Problem, did_you_mean};
use super::tree::{Key, Node, NodeKind};
use serde_json::{Map, Value};

/// Every way in which the tree does not fit the schema.
pub fn check(root: &Node, schema: &Value) -> Vec<Problem> {
    let mut walker = Walker { schema, problems: Vec::new() };
    walker.node(root, schema, "");
    walker.problems
}

struct Walker<'a> {
    schema: &'a Value,
    problems: Vec<Problem>,
}

impl<'a> Walker<'a> {
    fn report(&mut self, place: Place, path: &str, message: String, hint: String) {
        self.problems.push(Problem { place, path: path.to_owned(), message, hint });
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
        // A reference with a description of its own is written as `allOf: [reference]`.
        let only = schema.get("allOf").and_then(Value::as_array).filter(|all| all.len() == 1).and_then(|all| all.first());
        let target = target.and_then(|pointer| self.schema.pointer(pointer)).or(only);
        target.map_or(schema, |found| self.resolve(found))
    }

    /// The alternatives of a schema: itself, or what its `anyOf`/`oneOf` lead to, flattened.
    fn alternatives(&self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        let choices = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
        match choices {
            Some(choices) => choices.iter().flat_map(|choice| self.alternatives(choice)).collect(),
            None => vec![schema],
        }
    }

    fn node(&mut self, node: &Node, schema: &'a Value, path: &str) {
        let alternatives = self.alternatives(schema);
        let fitting: Vec<&'a Value> = alternatives.iter().copied().filter(|schema| shape_fits(node, schema)).collect();
        match &node.kind {
            _all if fitting.is_empty() => self.wrong_shape(node, &alternatives, path),
            NodeKind::Scalar { .. } => self.scalar(node, &fitting, path),
            NodeKind::List(items) => {
                let Some(schema) = fitting.first() else { return };
                if items.is_empty() && schema.get("minItems").and_then(Value::as_u64) > Some(0) {
                    self.report(node.place, path, "the list is empty".into(), "name at least one".into());
                }
                let Some(item_schema) = schema.get("items") else { return };
                for (index, item) in items.iter().enumerate() {
                    self.node(item, item_schema, &format!("{path}[{index}]"));
                }
            }
            NodeKind::Map(entries) => self.map(node, entries, &fitting, path),
        }
    }

    fn wrong_shape(&mut self, node: &Node, alternatives: &[&'a Value], path: &str) {
        let wanted: Vec<String> = alternatives.iter().filter_map(|schema| describe(schema)).collect();
        let (found, hint) = match (&node.kind, node.scalar()) {
            (NodeKind::Scalar { text, plain: true }, Some(value))
                if !value.is_string() && !value.is_null() && accepts(alternatives, "string") =>
            {
                let is_time =
                    alternatives.iter().any(|schema| schema.get("pattern").and_then(Value::as_str).is_some_and(|p| p.contains("ms|s|m|h")));
                let hint =
                    if is_time { format!("write it with a unit: {text}s or {text}m") } else { format!("write it in quotes: \"{text}\"") };
                (format!("{text} (a {})", if value.is_bool() { "boolean" } else { "number" }), hint)
            }
            (NodeKind::Scalar { text, .. }, Some(value)) if !value.is_null() => (format!("{text:?}"), String::new()),
            (NodeKind::Scalar { .. }, _) => ("nothing".into(), "write a value, or remove the key".into()),
            (NodeKind::List(_), _) => ("a list".into(), String::new()),
            (NodeKind::Map(_), _) => ("a mapping".into(), String::new()),
        };
        self.report(node.place, path, format!("expected {}, found {found}", list(&wanted)), hint);
    }

    fn scalar(&mut self, node: &Node, fitting: &[&'a Value], path: &str) {
        let Some(value) = node.scalar() else { return };
        let value = serde_json::to_value(&value).unwrap_or(Value::Null);
        let complaints: Vec<Option<(String, String)>> = fitting.iter().map(|schema| complaint(&value, schema)).collect();
        if complaints.iter().any(Option::is_none) {
            return;
        }
        let words: Vec<&str> = fitting.iter().flat_map(|schema| choices(schema)).collect();
        let (message, hint) = match (&value, words.is_empty()) {
            (Value::String(text), false) => {
                let hint = did_you_mean(text, words.iter().copied()).map(|word| format!("did you mean {word:?}?"));
                let names: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
                (format!("{text:?} is not known here"), hint.unwrap_or_else(|| format!("write {}", list(&names))))
            }
            _other => complaints.into_iter().flatten().next().unwrap_or_default(),
        };
        self.report(node.place, path, message, hint);
    }

    fn map(&mut self, node: &Node, entries: &[(Key, Node)], fitting: &[&'a Value], path: &str) {
        let own: Vec<&(Key, Node)> = entries.iter().filter(|(key, _)| !key.name.starts_with("x-")).collect();
        let known =
            |schema: &&'a Value| own.iter().filter(|(key, _)| properties(schema).is_some_and(|p| p.contains_key(&key.name))).count();
        let Some(schema) = fitting.iter().copied().rev().max_by_key(known) else { return };
        let mut meant: Vec<&str> = Vec::new();
        let all_names = || fitting.iter().filter_map(|schema| properties(schema)).flat_map(|p| p.keys()).map(String::as_str);
        for (key, value) in &own {
            let child = join(path, &key.name);
            let property = properties(schema).and_then(|p| p.get(&key.name));
            match (property, schema.get("additionalProperties")) {
                (Some(property), _) => self.node(value, property, &child),
                (None, Some(Value::Object(_))) => {
                    if let Some(rest) = schema.get("additionalProperties") {
                        self.node(value, rest, &child);
                    }
                }
                (None, Some(Value::Bool(false))) => {
                    let hint = match did_you_mean(&key.name, all_names()) {
                        Some(name) => {
                            meant.push(name);
                            format!("did you mean {name:?}?")
                        }
                        None => format!("known here: {}", all_names().collect::<Vec<_>>().join(", ")),
                    };
                    self.report(key.place, path, format!("unknown key {:?}", key.name), hint);
                }
                (None, _) => {}
            }
        }
        self.required(node, &own, schema, (path, &meant));
    }

    fn required(&mut self, node: &Node, own: &[&(Key, Node)], schema: &'a Value, (path, meant): (&str, &[&str])) {
        let names = schema.get("required").and_then(Value::as_array);
        let one_of_many = properties(schema).is_some_and(|p| p.len() == 1);
        for name in names.into_iter().flatten().filter_map(Value::as_str) {
            // For a choice such as `kubernetes:`/`swarm:` the unknown key was reported already.
            // Neither for a key that was only misspelt.
            if own.iter().all(|(key, _)| key.name != name)
                && !meant.contains(&name)
                && !(one_of_many && !own.is_empty() && !path.is_empty())
            {
                self.report(node.place, path, format!("{name:?} is missing"), format!("add `{name}: …` here"));
            }
        }
        let single = schema.get("maxProperties").is_none() && one_of_many && own.len() > 1 && !path.is_empty();
        if single
            && schema.get("additionalProperties") == Some(&Value::Bool(false))
            && let Some((key, _)) = own.get(1)
        {
            self.report(
                key.place,
                path,
                format!("only one key belongs here, and {:?} is one more", key.name),
                "start a new list item (-) for it".into(),
            );
        }
    }
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _other => Vec::new(),
    }
}

fn accepts(alternatives: &[&Value], kind: &str) -> bool {
    alternatives.iter().any(|schema| types(schema).contains(&kind))
}

fn shape_fits(node: &Node, schema: &Value) -> bool {
    let types = types(schema);
    if types.is_empty() {
        return schema.get("const").is_none() || node.scalar().is_some_and(|value| value.is_string());
    }
    let is = |kind: &str| types.contains(&kind);
    match (&node.kind, node.scalar()) {
        (NodeKind::List(_), _) => is("array"),
        (NodeKind::Map(_), _) => is("object"),
        (NodeKind::Scalar { .. }, Some(serde_yaml::Value::Null) | None) => is("null"),
        (NodeKind::Scalar { .. }, Some(serde_yaml::Value::Bool(_))) => is("boolean"),
        (NodeKind::Scalar { .. }, Some(serde_yaml::Value::Number(number))) => is("number") || (is("integer") && !number.is_f64()),
        (NodeKind::Scalar { .. }, Some(_)) => is("string"),
    }
}

fn choices(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

/// What is wrong with a scalar of the right type, and what to write.
fn complaint(value: &Value, schema: &Value) -> Option<(String, String)> {
    let hint = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        return (!allowed.contains(value)).then(|| (format!("{value} is not known here"), hint));
    }
    if let Some(only) = schema.get("const") {
        return (only != value).then(|| (format!("{value} is not known here"), format!("write {only}")));
    }
    if let (Some(pattern), Some(text)) = (schema.get("pattern").and_then(Value::as_str), value.as_str()) {
        let fits = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
        return (!fits).then(|| (format!("{text:?} is not usable here"), hint));
    }
    let number = value.as_f64()?;
    let low = schema.get("minimum").and_then(Value::as_f64).unwrap_or(f64::MIN);
    let high = schema.get("maximum").and_then(Value::as_f64).unwrap_or(f64::MAX);
    (number < low || number > high).then(|| match (low == high, high == f64::MAX) {
        (true, _) => (format!("{value} is not usable here"), format!("write {low}")),
        (false, true) => (format!("{value} is too small"), format!("write {low} or more")),
        (false, false) => (format!("{value} is out of range"), format!("write a number from {low} to {high}")),
    })
}

fn describe(schema: &Value) -> Option<String> {
    let words = choices(schema);
    if !words.is_empty() {
        return Some(words.join(" or "));
    }
    types(schema).into_iter().find(|kind| *kind != "null").map(|kind| match kind {
        "string" => "text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        _object => match properties(schema) {
            Some(known) if !known.is_empty() => format!("a mapping with {}", known.keys().take(4).cloned().collect::<Vec<_>>().join(", ")),
            _free => "a mapping".to_owned(),
        },
    })
}

fn list(words: &[String]) -> String {
    match words {
        [] => "something else".into(),
        [one] => one.clone(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}
