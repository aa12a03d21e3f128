//! `tidegate schema`: the JSON Schema of `tidegate.yml`, for editors.

use crate::config::schema;

/// The schema as text; a test keeps the committed copy equal to it.
pub fn text() -> String {
    format!("{:#}\n", schema::public())
}
