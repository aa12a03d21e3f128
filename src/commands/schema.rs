//! `tidegate schema`: the JSON Schemas of `tidegate.yml` and `tidegate-serve.yml`, for editors.

use crate::cli::SchemaOf;
use crate::config::schema;
use crate::serve::config::{SCHEMA_ADDRESS, Serve};

/// A schema as text; a test keeps the committed copies equal to them.
pub fn text(of: SchemaOf) -> String {
    let schema = match of {
        SchemaOf::Config => schema::public(),
        SchemaOf::Serve => schema::published::<Serve>(SCHEMA_ADDRESS),
    };
    format!("{schema:#}\n")
}
