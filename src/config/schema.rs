//! The JSON Schema of `tidegate.yml` (draft-07), generated from the types.

use super::Config;
use serde_json::{Value, json};

/// The schema that the tool itself checks with: unknown keys are refused.
pub fn strict<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft07();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The schema for editors: the same, and keys that start with `x-` are allowed everywhere.
pub fn public() -> Value {
    published::<Config>("https://tidegate.dev/schema/v1.json")
}

/// The schema of a file for editors, under its address.
pub fn published<T: schemars::JsonSchema>(address: &str) -> Value {
    let mut schema = strict::<T>();
    allow_extensions(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("$id".into(), json!(address));
    }
    schema
}

fn allow_extensions(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("additionalProperties") == Some(&Value::Bool(false)) {
                map.insert("patternProperties".into(), json!({"^x-": {}}));
            }
            map.values_mut().for_each(allow_extensions);
        }
        Value::Array(items) => items.iter_mut().for_each(allow_extensions),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
