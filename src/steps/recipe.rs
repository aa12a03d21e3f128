//! What an image is made from, as a hash: of a commit, or of the files that `paths` names, and of how it is built.

use super::image::Job;
use crate::checkout::{Checkout, is_inside};
use crate::error::{Error, Reason, Result};
use crate::tools::glob::Glob;
use crate::version::hex;
use sha2::{Digest, Sha256};
use std::path::{Component, Path, PathBuf};

/// A build with its Dockerfile chosen and its identity known.
pub struct Recipe {
    /// The Dockerfile inside the context.
    pub dockerfile: String,
    /// The context folder.
    pub context: PathBuf,
    /// The identity: a hash of commit or files, Dockerfile, context path, args, target and platforms.
    pub hash: String,
    /// What it is the identity of.
    pub of: Of,
    /// Globs of `paths` that name no file of the commit.
    pub idle: Vec<String>,
}

/// What a recipe is the identity of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A commit: another commit is another image.
    Commit,
    /// The files that `paths` names: a commit that changes none of them is the same image.
    Files,
    /// No file: what `paths` says is a mistake, or was said for other commits than this one.
    Nothing,
    /// The files would count, and git does not have the commit here: what its version stands for is taken as it is.
    Unknown,
}

impl Recipe {
    /// Chooses the Dockerfile and computes the identity.
    pub fn of(job: &Job<'_>) -> Result<Self> {
        let build = &job.image.build;
        let context = job.folder.join(&build.image.context);
        if context.exists() && !is_inside(job.folder, &build.image.context) {
            let sentence = format!("image {}: the context {} lies outside of the repository", job.image.name, build.image.context);
            return Err(Error::new(Reason::ConfigInvalid, sentence).hint("a context is a folder of the checkout, and no link out of it"));
        }
        let exists = |file: &&String| context.join(file).is_file();
        let dockerfile = build.dockerfiles.iter().find(exists).or(build.dockerfiles.last()).cloned().unwrap_or_default();
        let mut identity = serde_json::json!({
            "commit": build.commit,
            "dockerfile": dockerfile,
            "context": build.image.context,
            "args": build.args,
            "target": build.image.target,
            "platforms": build.image.platforms,
        });
        let mut idle = Vec::new();
        let of = if build.image.paths.is_empty() {
            Of::Commit
        } else if let Some(found) = files(job, &dockerfile)? {
            crate::targets::set(&mut identity, &["commit"], serde_json::Value::Null);
            crate::targets::set(&mut identity, &["files"], found.hash.into());
            idle = found.idle;
            if found.is_empty { Of::Nothing } else { Of::Files }
        } else {
            Of::Unknown
        };
        let hash = hex(&Sha256::digest(identity.to_string().as_bytes())).chars().take(32).collect();
        Ok(Self { dockerfile, context, hash, of, idle })
    }

    /// The tag under which the image that was made from these files is found again.
    pub fn tag(&self) -> Option<String> {
        (self.of == Of::Files).then(|| format!("{TAG}{}", self.hash.chars().take(16).collect::<String>()))
    }
}

/// What tags of recipes begin with.
pub const TAG: &str = "recipe-";

/// The files that `paths` names in a commit.
struct Files {
    hash: String,
    is_empty: bool,
    idle: Vec<String>,
}

/// A hash of the files that `paths` names in the commit that is built; nothing when git does not have it here.
fn files(job: &Job<'_>, dockerfile: &str) -> Result<Option<Files>> {
    let build = &job.image.build;
    let checkout = Checkout::at(job.folder);
    // Of a pull request either its test merge is checked out, or its head.
    let listed = [&build.checked_out, &build.commit].into_iter().flatten().find_map(|commit| checkout.files(commit));
    let Some((files, prefix)) = listed.zip(checkout.prefix()) else { return Ok(None) };
    let own = format!("{dockerfile}.dockerignore"); // it goes before the other one
    let always = [dockerfile, ".dockerignore", own.as_str()].map(|file| plain(&Path::new(&prefix).join(&build.image.context).join(file)));
    let globs = Globs::of(&build.image.paths)?;
    let mut hasher = Sha256::new();
    let mut is_empty = true;
    for (entry, path) in &files {
        let named = globs.take(path) || (is_submodule(entry) && globs.take(&format!("{path}/inside")));
        if named || always.contains(path) {
            hasher.update(format!("{entry} {path}\0"));
        }
        is_empty &= !named;
    }
    let idle = globs.idle(&build.image.paths, files.iter().map(|(_, path)| path.as_str()));
    Ok(Some(Files { hash: hex(&hasher.finalize()), is_empty, idle }))
}

/// A submodule is one entry, its commit; globs name what is inside.
fn is_submodule(entry: &str) -> bool {
    entry.starts_with("160000 ")
}

/// Without `.` and `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => _ = parts.pop(),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

/// Globs in order: the last one that fits decides, and one that begins with ! takes out.
struct Globs(Vec<(bool, Glob)>);

impl Globs {
    fn of(texts: &[String]) -> Result<Self> {
        let glob = |text: &String| {
            let (takes, pattern) = text.strip_prefix('!').map_or((true, text.as_str()), |rest| (false, rest));
            let no_glob = |why| Error::new(Reason::ConfigInvalid, format!("`paths`: {text:?} is no glob: {why}"));
            Ok((takes, Glob::of_paths(pattern).map_err(no_glob)?))
        };
        texts.iter().map(glob).collect::<Result<_>>().map(Self)
    }

    /// Those that name nothing.
    fn idle<'a>(&self, texts: &[String], paths: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
        let fits = |glob: &Glob| paths.clone().any(|path| glob.is_match(path) || glob.is_match(&format!("{path}/inside")));
        let pairs = texts.iter().zip(&self.0);
        pairs.filter(|(_, (takes, glob))| *takes && !fits(glob)).map(|(text, _)| text.clone()).collect()
    }

    fn take(&self, path: &str) -> bool {
        self.0.iter().rev().find(|(_, glob)| glob.is_match(path)).is_some_and(|(takes, _)| *takes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_glob_that_fits_decides() {
        let globs = Globs::of(&["ui/**".into(), "!ui/docs/**".into(), "ui/docs/api.md".into(), "*.lock".into()]).unwrap();
        let taken: Vec<&str> = ["ui/a.js", "ui/x/b.js", "ui/docs/c.md", "ui/docs/api.md", "yarn.lock", "x/yarn.lock", "api/ui/a.js"]
            .into_iter()
            .filter(|path| globs.take(path))
            .collect();
        assert_eq!(taken, ["ui/a.js", "ui/x/b.js", "ui/docs/api.md", "yarn.lock"]);
    }

    #[test]
    fn paths_lose_their_detours() {
        assert_eq!(plain(Path::new("services/api/./../ui/Dockerfile")), "services/ui/Dockerfile");
        assert_eq!(plain(Path::new("./Dockerfile")), "Dockerfile");
    }
}
