//! The git working directory, where there is one: what it is on, and whether one commit contains another.

use crate::event::is_full_sha;
use crate::tools::process;
use std::path::{Path, PathBuf};

/// How one commit relates to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancestry {
    /// They are the same commit.
    Same,
    /// The first contains the second: it is newer.
    Newer,
    /// The second contains the first: it is older.
    Older,
    /// Neither contains the other.
    Diverged,
}

/// A git working directory. Every answer is `None` when git, the repository or the object is not there.
#[derive(Clone, Debug)]
pub struct Checkout {
    folder: PathBuf,
}

impl Checkout {
    /// The working directory.
    pub fn here() -> Self {
        Self { folder: PathBuf::from(".") }
    }

    /// Another folder.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The commit that is checked out.
    pub fn head(&self) -> Option<String> {
        self.git(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).filter(|sha| is_full_sha(sha))
    }

    /// The branch that is checked out.
    pub fn branch(&self) -> Option<String> {
        self.git(&["symbolic-ref", "--quiet", "--short", "HEAD"])
    }

    /// The remote's default branch, as the clone recorded it.
    pub fn default_branch(&self) -> Option<String> {
        let full = self.git(&["symbolic-ref", "--quiet", "refs/remotes/origin/HEAD"])?;
        full.strip_prefix("refs/remotes/origin/").map(str::to_owned)
    }

    /// The commit of a tag; a tag object is followed.
    pub fn tag(&self, name: &str) -> Option<String> {
        if !is_plain(name) {
            return None;
        }
        self.git(&["rev-parse", "--verify", "--quiet", &format!("refs/tags/{name}^{{commit}}")]).filter(|sha| is_full_sha(sha))
    }

    /// The names of the tags that begin so.
    pub fn tags_like(&self, beginning: &str) -> Vec<String> {
        let found =
            is_plain(beginning).then(|| self.git(&["for-each-ref", "--format=%(refname:strip=2)", &format!("refs/tags/{beginning}*")]));
        found.flatten().unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The branches that end with this commit, as last fetched; local ones where there is no remote.
    pub fn branches_at(&self, sha: &str) -> Vec<String> {
        let list = |folder: &str, strip: u8| {
            let format = format!("--format=%(refname:strip={strip})");
            self.git(&["for-each-ref", &format, &format!("--points-at={sha}"), &format!("refs/{folder}/")])
        };
        let found = is_full_sha(sha).then(|| if self.has_remote() { list("remotes/origin", 3) } else { list("heads", 2) });
        found.flatten().unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The commit that a tag, branch or commit id names.
    pub fn resolve(&self, name: &str) -> Option<String> {
        if !is_plain(name) {
            return None;
        }
        let commit = || self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")]);
        self.tag(name).or_else(commit).filter(|sha| is_full_sha(sha))
    }

    /// The commit's time in seconds since 1970: what `created` says in an image, so that it never varies.
    pub fn commit_time(&self, sha: &str) -> Option<i64> {
        if !is_full_sha(sha) {
            return None;
        }
        self.git(&["show", "--no-patch", "--format=%ct", sha])?.lines().last()?.parse().ok()
    }

    /// Every file of a commit: mode, kind and object, and its path from the root of the repository.
    pub fn files(&self, commit: &str) -> Option<Vec<(String, String)>> {
        if !is_full_sha(commit) {
            return None;
        }
        let listed = self.git(&["ls-tree", "-r", "-z", "--full-tree", commit])?;
        let file = |line: &str| line.split_once('\t').map(|(entry, path)| (entry.to_owned(), path.to_owned()));
        Some(listed.split('\0').filter_map(file).collect())
    }

    /// This folder, from the root of the repository; empty at the root.
    pub fn prefix(&self) -> Option<String> {
        self.git(&["rev-parse", "--show-prefix"])
    }

    /// Whether the clone lacks a part of the history.
    pub fn is_shallow(&self) -> bool {
        self.git(&["rev-parse", "--is-shallow-repository"]).is_some_and(|answer| answer == "true")
    }

    /// Whether files were changed and not committed.
    pub fn is_dirty(&self) -> bool {
        self.git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty())
    }

    /// The first thing in a folder that is not as git has it; what git ignores does not count.
    pub fn first_change(&self, folder: &str) -> Option<String> {
        let status = self.git(&["status", "--porcelain", "--untracked-files=normal", "--", folder])?;
        status.lines().next().and_then(|line| Some(line.trim().split_once(' ')?.1.trim().to_owned()))
    }

    /// How `one` relates to `other`. A shallow clone cannot say that a commit does *not* contain another.
    pub fn ancestry(&self, one: &str, other: &str) -> Option<Ancestry> {
        if one == other {
            return Some(Ancestry::Same);
        }
        if !is_full_sha(one) || !is_full_sha(other) || self.git(&["rev-parse", "--is-shallow-repository"])? != "false" {
            return None;
        }
        for sha in [one, other] {
            self.git(&["cat-file", "-e", &format!("{sha}^{{commit}}")])?;
        }
        let contains = |new: &str, old: &str| self.git(&["merge-base", "--is-ancestor", old, new]).is_some();
        Some(match (contains(one, other), contains(other, one)) {
            (true, _) => Ancestry::Newer,
            (false, true) => Ancestry::Older,
            (false, false) => Ancestry::Diverged,
        })
    }

    /// Fetches more of the history of a shallow clone: so many commits, or all of it. Whether that went well.
    pub fn deepen(&self, commits: Option<u32>, branch: Option<&str>) -> bool {
        let depth = commits.map_or("--unshallow".to_owned(), |commits| format!("--deepen={commits}"));
        let refspec = branch.filter(|branch| is_plain(branch)).map(|branch| format!("+refs/heads/{branch}:refs/remotes/origin/{branch}"));
        // A server that has gone silent is not waited for.
        let mut args =
            vec!["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30", "fetch", "--quiet", "--no-tags", &depth, "origin"];
        args.extend(refspec.as_deref());
        self.git(&args).is_some()
    }

    /// Whether `tip` contains a commit. A shallow clone says yes where it sees it, and never no.
    pub fn contains(&self, tip: &str, commit: &str) -> Option<bool> {
        if !is_full_sha(tip) || !is_full_sha(commit) {
            return None;
        }
        for sha in [tip, commit] {
            self.git(&["cat-file", "-e", &format!("{sha}^{{commit}}")])?;
        }
        let seen = self.git(&["merge-base", "--is-ancestor", commit, tip]).is_some();
        if seen { Some(true) } else { (!self.is_shallow()).then_some(false) }
    }

    /// The tip of a branch: the remote's as last fetched, or the local one where there is no remote.
    pub fn tip(&self, branch: &str) -> Option<String> {
        let tip = |folder: &str| self.git(&["rev-parse", "--verify", "--quiet", &format!("refs/{folder}/{branch}^{{commit}}")]);
        if self.has_remote() { tip("remotes/origin") } else { tip("heads") }
    }

    fn has_remote(&self) -> bool {
        self.git(&["remote"]).is_some_and(|names| !names.is_empty())
    }

    /// Whether there is a local branch of this name.
    pub fn has_branch(&self, name: &str) -> bool {
        self.git(&["rev-parse", "--verify", "--quiet", &format!("refs/heads/{name}")]).is_some()
    }

    /// owner/name (or group/subgroup/name), when the remote is on this host.
    pub fn forge_repository(&self, wanted: &str) -> Option<String> {
        let (host, path) = self.remote()?;
        (Some(host.as_str()) == wanted.split(':').next() && path.contains('/')).then_some(path)
    }

    /// The folder at whose root git has it.
    pub fn root(&self) -> Option<PathBuf> {
        std::fs::canonicalize(self.git(&["rev-parse", "--show-toplevel"])?).ok()
    }

    /// Host and path of the remote.
    pub fn remote(&self) -> Option<(String, String)> {
        let url = self.git(&["remote", "get-url", "origin"])?;
        let (host, path) = match url.split_once("://") {
            Some((_, rest)) => rest.split_once('/')?,
            None => url.split_once(':')?,
        };
        let host = host.rsplit('@').next()?.split(':').next()?;
        Some((host.to_owned(), path.trim_matches('/').trim_end_matches(".git").to_owned()))
    }

    /// Git with the ownership check answered for this call only: in a container the workspace belongs to another user.
    fn git(&self, args: &[&str]) -> Option<String> {
        let folder = std::fs::canonicalize(&self.folder).ok()?;
        // Reading must not write: `git status` would refresh the index beside another image's context being packed.
        let mut all = vec!["--no-optional-locks"];
        all.extend(GIT_SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        all.extend(args);
        process::read("git", &all, &folder)
    }
}

/// Whether a path, links followed, is in the repository of this folder, or in the folder where there is none.
pub fn is_inside(folder: &Path, name: &str) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let root = folder.ancestors().find(|parent| parent.join(".git").exists()).unwrap_or(&folder);
    folder.join(name).canonicalize().is_ok_and(|path| path.starts_with(root))
}

/// The text of a file that the configuration names; or why it is not read. Links lead nobody to other files of the machine.
pub fn read_named(folder: &Path, name: &str, limit: u64) -> std::result::Result<String, String> {
    let path = folder.join(name);
    let about = std::fs::metadata(&path).map_err(|error| error.to_string())?;
    if !is_inside(folder, name) {
        return Err("it lies outside of the repository".into());
    }
    if !about.is_file() || about.len() > limit {
        return Err(format!("it is no file of at most {limit} bytes"));
    }
    std::fs::read_to_string(&path).map_err(|error| error.to_string())
}

/// No program is started by what stands in a checkout: a monitor, a hook, a remote that is a command, a checker of signatures, or a
/// committed folder that looks like a repository with filters of its own.
const GIT_SETTINGS: [&str; 6] = [
    "safe.directory=*",
    "safe.bareRepository=explicit",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "protocol.ext.allow=never",
    "log.showSignature=false",
];

/// Whether git reads this as a name and nothing more: no option, range or revision syntax.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && !name.contains("..") && !name.contains(['@', '^', '~', ':', ' '])
}
