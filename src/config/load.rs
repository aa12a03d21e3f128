//! Reads `tidegate.yml`: limits, syntax, the schema, types, then the rules that go across keys.

use super::problem::{self, Problem};
use super::tree::{self, Node};
use super::{Config, FILE_NAME, check, schema, walk};
use crate::checkout::is_inside;
use crate::error::{Error, Reason, Result};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A configuration that holds, with what is needed to point at its lines.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file's name as the user knows it.
    pub file: String,
    /// The folder that paths in it are relative to.
    pub folder: PathBuf,
    source: Source,
}

impl Loaded {
    /// An error that points at these paths of the file.
    pub fn error(&self, reason: Reason, problems: Vec<(String, String, String)>) -> Error {
        self.source.error(reason, problems)
    }
}

/// The text of a YAML file, and where in it everything stands.
#[derive(Clone, Debug)]
pub struct Source {
    file: String,
    text: String,
    tree: Node,
}

impl Source {
    /// Reads a text that has to fit this schema, as the type that the schema was made from.
    pub fn read<T: DeserializeOwned>(text: &str, file: &str, schema: &serde_json::Value) -> Result<(T, Self)> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let fail = |problems: Vec<Problem>| problem::error(file, text, problems, Reason::ConfigInvalid);
        let tree = tree::read(text).map_err(|problem| fail(vec![problem]))?;
        let problems = walk::check(&tree, schema);
        if !problems.is_empty() {
            return Err(fail(problems));
        }
        let typed = serde_yaml::with::singleton_map_recursive::deserialize(tree.value());
        let value: T = typed.map_err(|error: serde_yaml::Error| {
            let place = tree.place;
            fail(vec![Problem { place, path: String::new(), message: error.to_string(), hint: String::new() }])
        })?;
        Ok((value, Self { file: file.to_owned(), text: text.to_owned(), tree }))
    }

    /// An error that points at these paths of the file.
    pub fn error(&self, reason: Reason, problems: Vec<(String, String, String)>) -> Error {
        let placed = problems.into_iter().map(|(path, message, hint)| Problem { place: self.tree.place_of(&path), path, message, hint });
        problem::error(&self.file, &self.text, placed.collect(), reason)
    }
}

/// Loads the file named by hand, or `tidegate.yml` in the working directory or a folder above it, up to the repository's root.
pub fn load(named: Option<&Path>) -> Result<Loaded> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => find()?,
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A link in a checkout would show another file of this machine, line by line, as what is wrong with it.
    if named.is_none() && !is_inside(folder, FILE_NAME) {
        let sentence = format!("{} is a link out of the repository", path.display());
        return Err(Error::new(Reason::ConfigInvalid, sentence).hint("commit the file itself, or name it with --config"));
    }
    let text = text_of(&path)?;
    parse(&text, &path.display().to_string(), folder)
}

/// The text of a configuration file, within its limits.
pub fn text_of(path: &Path) -> Result<String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| {
        let hint = "name the file with --config, or run tidegate in the repository's root";
        Error::new(Reason::ConfigMissing, format!("{shown} cannot be read: {error}")).hint(hint)
    };
    let length = std::fs::metadata(path).map_err(cannot)?.len();
    if length > tree::SIZE_LIMIT as u64 {
        let sentence = format!("{shown} is {length} bytes long; at most {} are read", tree::SIZE_LIMIT);
        return Err(Error::new(Reason::ConfigInvalid, sentence));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    String::from_utf8(bytes)
        .map_err(|_utf8| Error::new(Reason::ConfigInvalid, format!("{shown} is not UTF-8 text")).hint("save it as UTF-8"))
}

/// Parses a configuration; `file` is its name in messages.
pub fn parse(text: &str, file: &str, folder: &Path) -> Result<Loaded> {
    let (config, source): (Config, Source) = Source::read(text, file, &schema::strict::<Config>())?;
    let problems = check::check(&config, &source.tree);
    if !problems.is_empty() {
        return Err(problem::error(file, &source.text, problems, Reason::ConfigInvalid));
    }
    Ok(Loaded { config, file: file.to_owned(), folder: folder.to_owned(), source })
}

fn find() -> Result<PathBuf> {
    let here = std::env::current_dir().unwrap_or_else(|_gone| PathBuf::from("."));
    for folder in here.ancestors() {
        let path = folder.join(FILE_NAME);
        if path.is_file() {
            return Ok(if folder == here { PathBuf::from(FILE_NAME) } else { path });
        }
        if folder.join(".git").exists() {
            break;
        }
    }
    Err(Error::new(Reason::ConfigMissing, format!("there is no {FILE_NAME} in {} or above it", here.display()))
        .hint("in a workflow, check the repository out first; or name the file with --config"))
}
