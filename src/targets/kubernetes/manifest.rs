//! Manifests as files: globs, several documents in a file, placeholders in their texts.

use crate::checkout::is_inside;
use crate::config::problem::did_you_mean;
use crate::config::template::{NAMES, Values};
use crate::config::tree;
use crate::error::{Error, Reason, Result};
use crate::tools::glob::Glob;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// How many values a file may stand for; the largest definitions of custom resources have a tenth of it.
const VALUE_LIMIT: usize = 300_000;
/// The largest file, and how many objects a target may have.
const FILE_LIMIT: u64 = 3 * 1024 * 1024;
const OBJECT_LIMIT: usize = 1000;
/// The order in which kinds are made, as others of the field have it; workloads come after all that they use.
const FIRST: [&str; 16] = [
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "ResourceQuota",
    "LimitRange",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Secret",
    "ConfigMap",
    "Service",
];
const LAST: [&str; 5] = ["DaemonSet", "Deployment", "StatefulSet", "Job", "CronJob"];

/// One object of one file.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The file, as the user knows it.
    pub file: String,
    /// The object, with its placeholders filled.
    pub value: Value,
}

impl Manifest {
    /// A text of the object.
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// kind/name, for people.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.text("/kind").to_lowercase(), self.text("/metadata/name"))
    }

    /// Group and version.
    pub fn group_version(&self) -> (&str, &str) {
        let api = self.text("/apiVersion");
        api.split_once('/').unwrap_or(("", api))
    }

    fn order(&self) -> usize {
        let kind = self.text("/kind");
        let first = FIRST.iter().position(|known| *known == kind);
        let last = LAST.iter().position(|known| *known == kind).map(|at| FIRST.len() + 1 + at);
        first.or(last).unwrap_or(FIRST.len())
    }
}

/// Every object of these globs, in the order in which they are made. `odd` hears what looks like a misspelt placeholder.
pub fn load(folder: &Path, globs: &[String], values: &Values, odd: &mut dyn FnMut(String)) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for (path, file) in files(folder, globs)? {
        for document in documents(&path, &file)? {
            let value = values.fill_known_json(&document, &mut |name| odd(hint(&file, &name))).map_err(|why| wrong(&file, why))?;
            flatten(value, &file, &mut manifests)?;
        }
    }
    if manifests.len() > OBJECT_LIMIT {
        return Err(wrong(&globs.join(", "), format!("there are {} objects; at most {OBJECT_LIMIT} are applied", manifests.len())));
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    for manifest in &manifests {
        let id = (manifest.text("/apiVersion").to_owned() + manifest.text("/metadata/namespace"), manifest.shown());
        if seen.contains(&id) {
            return Err(wrong(&manifest.file, format!("{} is there twice", manifest.shown())));
        }
        seen.push(id);
    }
    manifests.sort_by_key(Manifest::order);
    Ok(manifests)
}

fn wrong(file: &str, why: impl std::fmt::Display) -> Error {
    Error::new(Reason::ConfigInvalid, format!("{file}: {why}"))
}

fn hint(file: &str, name: &str) -> String {
    let near = did_you_mean(name, NAMES.iter().copied()).map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
    format!("{file}: {{{name}}} is no placeholder and stays as it is{near}")
}

/// The files of all globs, each once, sorted.
fn files(folder: &Path, globs: &[String]) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for glob in globs {
        let matcher = Glob::of_paths(glob).map_err(|why| wrong(glob, format!("this is not a glob: {why}")))?;
        let steady: PathBuf =
            Path::new(glob).components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{'])).collect();
        let mut names = Vec::new();
        let start = folder.join(&steady);
        match start.is_file() {
            true => names.push(steady.to_string_lossy().into_owned()),
            false => walk(folder, &steady, &mut names, 0),
        }
        names.retain(|name| matcher.is_match(name) || *name == *glob);
        if let Some(outside) = names.iter().find(|name| !is_inside(folder, name)) {
            return Err(
                wrong(outside, "it lies outside of the repository").hint("copy it into the repository: links are not followed out of it")
            );
        }
        if names.is_empty() {
            return Err(wrong(glob, "no file matches").hint("globs are relative to tidegate.yml, as k8s/preview/*.yaml"));
        }
        found.extend(names);
    }
    found.sort();
    found.dedup();
    Ok(found.into_iter().map(|name| (folder.join(&name), name)).collect())
}

fn walk(folder: &Path, inside: &Path, names: &mut Vec<String>, depth: usize) {
    let Ok(entries) = std::fs::read_dir(folder.join(inside)) else { return };
    for entry in entries.flatten() {
        let path = inside.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 16 => walk(folder, &path, names, depth + 1),
            Ok(kind) if kind.is_file() => names.push(path.to_string_lossy().into_owned()),
            Ok(_) | Err(_) => {} // a link may lead out of the repository
        }
    }
}

fn documents(path: &Path, file: &str) -> Result<Vec<Value>> {
    let length = std::fs::metadata(path).map_err(|error| wrong(file, format!("it cannot be read: {error}")))?.len();
    if length > FILE_LIMIT {
        return Err(wrong(file, format!("it is {length} bytes long; at most {FILE_LIMIT} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(file, format!("it cannot be read: {error}")))?;
    documents_of(&text, file)
}

/// The documents of a file's text.
pub(crate) fn documents_of(text: &str, file: &str) -> Result<Vec<Value>> {
    if tree::weight(text, VALUE_LIMIT).is_none() {
        return Err(wrong(file, format!("it has more than {VALUE_LIMIT} values, aliases counted")));
    }
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| wrong(file, format!("this is not YAML: {error}")))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// A `List` stands for its items.
pub(crate) fn flatten(value: Value, file: &str, into: &mut Vec<Manifest>) -> Result<()> {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    if let (true, Some(items)) = (is_list, value.get("items").and_then(Value::as_array)) {
        for item in items.clone() {
            flatten(item, file, into)?;
        }
        return Ok(());
    }
    let manifest = Manifest { file: file.to_owned(), value };
    for (pointer, what) in [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")] {
        if manifest.text(pointer).is_empty() {
            return Err(
                wrong(file, format!("an object has no {what}")).hint("every document of a manifest has apiVersion, kind and metadata.name")
            );
        }
    }
    into.push(manifest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(files: &[(&str, &str)], globs: &[&str]) -> Result<Vec<Manifest>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut values = Values::default();
        values.set("pr", Some("12".into()));
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        load(folder.path(), &globs, &values, &mut |_| {})
    }

    #[test]
    fn documents_are_filled_and_ordered() {
        let web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"c-{pr}\"}\ndata: {x: '{\"a\": {pr}}'}\n---\n";
        let manifests = loaded(&[("k8s/a/web.yaml", web), ("k8s/x.txt", "no")], &["k8s/**/*.yaml", "k8s/a/web.yaml"]).unwrap();
        let shown: Vec<String> = manifests.iter().map(Manifest::shown).collect();
        assert_eq!(shown, ["configmap/c-12", "deployment/web"]);
        assert_eq!(manifests[0].text("/data/x"), r#"{"a": 12}"#);
    }

    #[test]
    fn what_cannot_be_applied_is_refused_with_its_file() {
        for (text, why) in [
            ("kind: A\nmetadata: {name: x}\n", "no apiVersion"),
            ("a: [\n", "this is not YAML"),
            ("apiVersion: v1\nkind: A\nmetadata: {name: \"{tag}\"}\n", "{tag} has no value in this run"),
            ("apiVersion: v1\nkind: A\nmetadata: {name: x}\n---\napiVersion: v1\nkind: A\nmetadata: {name: x}\n", "a/x is there twice"),
        ] {
            let error = loaded(&[("m.yaml", text)], &["m.yaml"]).unwrap_err();
            assert!(error.sentence.starts_with("m.yaml: ") && error.sentence.contains(why), "{}", error.sentence);
        }
        assert!(loaded(&[], &["k8s/*.yaml"]).unwrap_err().sentence.contains("no file matches"));
    }

    /// A file that is a link, a folder that is one, and a way up.
    #[test]
    fn links_and_ways_out_of_the_repository_are_refused() {
        let (outside, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = "apiVersion: v1\nkind: A\nmetadata: {name: x}\n";
        std::fs::write(outside.path().join("secret.yaml"), text).unwrap();
        std::fs::create_dir(folder.path().join("k8s")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret.yaml"), folder.path().join("k8s/link.yaml")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("linked")).unwrap();
        let up = format!("../{}/secret.yaml", outside.path().file_name().unwrap().to_string_lossy());
        for glob in ["k8s/link.yaml", "linked/secret.yaml", "linked/*.yaml", up.as_str()] {
            let error = load(folder.path(), &[glob.to_owned()], &Values::default(), &mut |_| {}).unwrap_err();
            assert!(error.sentence.contains("outside of the repository"), "{glob}: {}", error.sentence);
        }
        assert!(
            load(folder.path(), &["k8s/*.yaml".into()], &Values::default(), &mut |_| {}).unwrap_err().sentence.contains("no file matches")
        );
        // What lies elsewhere in the same repository is no way out.
        std::fs::create_dir_all(folder.path().join("services/api")).unwrap();
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        std::fs::write(folder.path().join("k8s/web.yaml"), text).unwrap();
        let found = load(&folder.path().join("services/api"), &["../../k8s/web.yaml".into()], &Values::default(), &mut |_| {});
        assert_eq!(found.unwrap().len(), 1);
    }

    /// Small to read, large to make.
    #[test]
    fn aliases_do_not_explode() {
        let list = |n: usize, what: &str| vec![what; n].join(",");
        let bomb = format!("a: &a [{}]\nb: [{}]\n", list(8000, "1"), list(8000, "*a"));
        assert!(documents_of(&bomb, "k.yaml").unwrap_err().sentence.contains("aliases counted"));
        let nested = (1..12).fold("x0: &x0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned(), |text, n| {
            format!("{text}x{n}: &x{n} [{}]\n", list(10, &format!("*x{}", n - 1)))
        });
        assert!(documents_of(&nested, "k.yaml").unwrap_err().sentence.contains("aliases counted"));
        let fine = "a: &a {x: 1}\nb: *a\n---\nc: [1, 2]\n";
        assert_eq!((documents_of(fine, "k.yaml").unwrap().len(), tree::weight(fine, 100)), (2, Some(14)));
    }
}
