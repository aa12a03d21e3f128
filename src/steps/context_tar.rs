//! The build context as a tar stream, filtered by `.dockerignore`, in a fixed order and with fixed times.
//!
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

use crate::checkout::is_inside;
use crate::error::{Error, Reason, Result};
use crate::tools::glob::Glob;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The longest file of rules that is read, in bytes.
const IGNORE_LIMIT: u64 = 1024 * 1024;

/// A rule of `.dockerignore`.
struct Rule {
    glob: Glob,
    keep: bool,
}

/// What is left out.
pub struct Ignore(Vec<Rule>);

impl Ignore {
    /// Reads `<Dockerfile>.dockerignore`, or else `.dockerignore`.
    pub fn read(context: &Path, dockerfile: &str) -> Result<Self> {
        let own = format!("{dockerfile}.dockerignore");
        let name = if context.join(&own).is_file() { own } else { ".dockerignore".to_owned() };
        let path = context.join(&name);
        let about = std::fs::metadata(&path);
        if about.is_ok() && !is_inside(context, &name) {
            return Err(Error::new(Reason::ConfigInvalid, format!("{} is a link out of the repository", path.display())));
        }
        if about.as_ref().is_ok_and(|about| !about.is_file() || about.len() > IGNORE_LIMIT) {
            let sentence = format!("{} is no file of at most {IGNORE_LIMIT} bytes", path.display());
            return Err(Error::new(Reason::ConfigInvalid, sentence));
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|why| Error::new(Reason::ConfigInvalid, format!("{}: {why}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self(Vec::new())),
            Err(error) => Err(Error::new(Reason::ConfigInvalid, format!("{} cannot be read: {error}", path.display()))),
        }
    }

    /// Parses the rules: anchored at the context, `!` keeps, the last match wins.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rule = |line: &str| {
            let (keep, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            Glob::of_paths(pattern).map(|glob| Rule { glob, keep }).map_err(|why| format!("{pattern:?}: {why}"))
        };
        lines.filter(|line| *line != "." && *line != "/").map(rule).collect::<std::result::Result<_, _>>().map(Self)
    }

    /// Whether a path (relative, with `/`) is left out. A rule for a folder holds for what is in it.
    pub fn leaves_out(&self, path: &str) -> bool {
        let parents = || Path::new(path).ancestors().filter(|part| !part.as_os_str().is_empty());
        self.0.iter().rev().find(|rule| parents().any(|part| rule.glob.is_match(&part.to_string_lossy()))).is_some_and(|rule| !rule.keep)
    }

    fn keeps_anything(&self) -> bool {
        self.0.iter().any(|rule| rule.keep)
    }
}

/// Packs the context into an unnamed temporary file, ready to be read from its start. Blocking.
pub fn pack(context: &Path, dockerfile: &str, time: u64) -> Result<File> {
    let failed = |error: std::io::Error| {
        Error::new(Reason::BuildFailed, format!("the build context {} cannot be packed: {error}", context.display()))
    };
    let ignore = Ignore::read(context, dockerfile)?;
    let mut paths = Vec::new();
    collect(context, Path::new(""), &ignore, &mut paths).map_err(failed)?;
    for always in [dockerfile, ".dockerignore"] {
        let path = PathBuf::from(always);
        if context.join(&path).is_file() && !paths.contains(&path) {
            paths.push(path); // the builder needs them even when they are left out of COPY
        }
    }
    paths.sort();
    let mut builder = tar::Builder::new(tempfile::tempfile().map_err(failed)?);
    builder.follow_symlinks(false);
    for path in &paths {
        append(&mut builder, context, path, time).map_err(failed)?;
    }
    let mut file = builder.into_inner().map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(file)
}

fn collect(context: &Path, folder: &Path, ignore: &Ignore, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(context.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let kind = entry.file_type()?;
        let left_out = path.to_str().is_none_or(|text| ignore.leaves_out(text));
        if kind.is_dir() && (!left_out || ignore.keeps_anything()) {
            collect(context, &path, ignore, paths)?;
        }
        if !left_out && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            paths.push(path);
        }
    }
    Ok(())
}

fn append(builder: &mut tar::Builder<File>, context: &Path, path: &Path, time: u64) -> std::io::Result<()> {
    let full = context.join(path);
    let metadata = full.symlink_metadata()?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(&metadata, tar::HeaderMode::Deterministic);
    header.set_mtime(time); // checkouts have random times: fixed ones make layers repeatable
    if metadata.is_symlink() {
        let target = std::fs::read_link(&full)?;
        header.set_size(0);
        return builder.append_link(&mut header, path, target);
    }
    if metadata.is_dir() {
        header.set_size(0);
        return builder.append_data(&mut header, path, std::io::empty());
    }
    let mut file = File::open(&full)?;
    header.set_size(metadata.len());
    builder.append_data(&mut header, path, &mut file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_anchored_and_the_last_one_wins() {
        let ignore = Ignore::parse("# comment\nnode_modules\n**/*.log\n*.md\n!README.md\n/target/\n").unwrap();
        for out in ["node_modules", "node_modules/a/b.js", "a/b/c.log", "x.log", "CHANGES.md", "target/debug"] {
            assert!(ignore.leaves_out(out), "{out}");
        }
        for kept in ["web/node_modules/a", "README.md", "docs/x.md", "src/main.rs"] {
            assert!(!ignore.leaves_out(kept), "{kept}");
        }
    }

    #[test]
    fn a_context_packs_the_same_way_twice() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in
            [("Dockerfile", "FROM scratch"), ("b/x", "1"), ("a", "2"), ("skip.log", "3"), (".dockerignore", "*.log\nDockerfile\n")]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let names = || -> Vec<String> {
            let mut archive = tar::Archive::new(pack(folder.path(), "Dockerfile", 7).unwrap());
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
        };
        assert_eq!(names(), [".dockerignore", "Dockerfile", "a", "b", "b/x"]);
        assert_eq!(names(), names());
    }
}
