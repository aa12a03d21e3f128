//! Reads `tidegate-serve.yml`: limits, syntax, the schema, types, then what goes across keys.

use super::{FILE_NAME, Serve, check};
use crate::config::load::{Source, text_of};
use crate::config::schema;
use crate::error::{Error, Reason, Result};
use std::path::{Path, PathBuf};

/// A configuration that holds.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub serve: Serve,
    /// The file.
    pub path: PathBuf,
    /// Its folder: paths in it are relative to it.
    pub folder: PathBuf,
    source: Source,
}

impl Loaded {
    /// An error that points at these paths of the file.
    pub fn error(&self, reason: Reason, problems: Vec<(String, String, String)>) -> Error {
        self.source.error(reason, problems)
    }
}

/// Loads the file named by hand, or `tidegate-serve.yml` in the working directory.
pub fn load(named: Option<&Path>) -> Result<Loaded> {
    let path = named.unwrap_or(Path::new(FILE_NAME));
    if named.is_none() && !path.exists() {
        return Err(Error::new(Reason::ConfigMissing, format!("there is no {FILE_NAME} here"))
            .hint("name the file with --config; docs/serve.md has one to begin with"));
    }
    let text = text_of(path)?;
    parse(&text, path)
}

/// Parses a configuration.
pub fn parse(text: &str, path: &Path) -> Result<Loaded> {
    let (serve, source): (Serve, Source) = Source::read(text, &path.display().to_string(), &schema::strict::<Serve>())?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    let problems = check::check(&serve);
    if !problems.is_empty() {
        return Err(source.error(Reason::ConfigInvalid, problems));
    }
    Ok(Loaded { serve, path: path.to_owned(), folder, source })
}
