//! What makes a version a hot fix: the release that it fixes, by number and by ancestry, and the branch that holds it.

use super::{Checkout, Forge};
use crate::checkout::Ancestry;
use crate::config::{Config, Hotfix, HotfixRule};
use crate::context::{Fix, glob};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, short};
use crate::version::Version;
use std::cmp::Ordering;

/// Where facts come from.
pub struct Sources<'a> {
    pub config: &'a Config,
    pub checkout: &'a Checkout,
    pub forge: &'a Forge,
}

/// A hot fix that was asked for by name: a version for what a branch has.
pub async fn named(event: &mut Event, version: &str, sources: &Sources<'_>) -> Result<Fix> {
    let Sources { config, checkout, forge } = sources;
    let branch = event.branch.clone().ok_or_else(|| {
        Error::new(Reason::InputEvent, "the branch of the hot fix is not named").hint("tidegate hotfix 1.4.3 --branch hotfix/1.4.3")
    })?;
    if event.default_branch.as_ref() == Some(&branch) {
        return Err(refused(format!("{branch} is the default branch"), "release from it as always; a hot fix is beside it"));
    }
    if let Some(lane) = lane(config).filter(|lane| !lane.branches.is_empty() && !lane.branches.iter().any(|pattern| glob(pattern, &branch)))
    {
        let hint = format!("`hotfix.branches` takes {}", lane.branches.join(", "));
        return Err(refused(format!("{branch} is no branch for hot fixes"), &hint));
    }
    let tip = match forge.commit_of_ref(&format!("heads/{branch}")).await? {
        Some(tip) => Some(tip),
        None => checkout.tip(&branch).or_else(|| checkout.resolve(&branch)),
    };
    let tip = tip.ok_or_else(|| {
        Error::new(Reason::InputEvent, format!("there is no branch {branch}: neither git nor the forge knows it")).hint("push it first")
    })?;
    event.set_sha(Some(tip.clone()));
    let said = config.bare_tag(version.trim()).unwrap_or(version.trim());
    let version = Version::parse(said)?;
    let mut fix = judge(sources, &version, &tip, &branch).await?;
    if let Some((tag, there)) = sources.tag_of(&version).await? {
        if there != tip {
            let sentence = format!("{tag} is released already, from {}, and {branch} is at {}", short(&there), short(&tip));
            return Err(Error::new(Reason::TagMoved, sentence).hint("versions do not change: take the next number"));
        }
        fix.tag = tag;
    }
    fix.on_default = sources.is_on_default(event, &tip).await?;
    Ok(fix)
}

/// A release beside the default branch: the hot fix that it is, or why it is none.
pub async fn released(event: &Event, tag: &str, sources: &Sources<'_>) -> Result<std::result::Result<Fix, String>> {
    let Sources { config, checkout, forge } = sources;
    let Some(HotfixRule::Lane(lane)) = &config.hotfix else {
        return Ok(Err(match &config.hotfix {
            Some(_forbidden) => "`hotfix: forbid`: fixes come by the default branch here".to_owned(),
            None => format!("a hot fix is deployed by hand: tidegate deploy ENVIRONMENT {tag}"),
        }));
    };
    let Some(sha) = event.sha.as_deref() else { return Ok(Err("its commit is not known".into())) };
    let version = Version::parse(config.bare_tag(tag).unwrap_or(tag))?;
    let fits = |branch: &String| lane.branches.is_empty() || lane.branches.iter().any(|pattern| glob(pattern, branch));
    let mut branch = None;
    // The release's target is a hint: it may be another branch than the one that holds the tag.
    if let Some(target) = event.more.target_hint.clone().filter(|target| !crate::event::is_full_sha(target)).filter(fits)
        && matches!(forge.compare(&target, sha).await?, Some(Ancestry::Same | Ancestry::Older))
    {
        branch = Some(target);
    }
    if branch.is_none() {
        let by_forge = match forge.branches_of(sha).await {
            Err(error) if error.reason == Reason::AuthDenied => Vec::new(), // the job's own token may not ask everywhere
            found => found?,
        };
        branch = by_forge.into_iter().chain(checkout.branches_at(sha)).find(fits);
    }
    let Some(branch) = branch else {
        let takes = if lane.branches.is_empty() { "any branch".to_owned() } else { lane.branches.join(", ") };
        return Ok(Err(format!("no branch for hot fixes ({takes}) holds it; by hand: tidegate deploy ENVIRONMENT {tag}")));
    };
    let fix = judge(sources, &version, sha, &branch).await?;
    Ok(Ok(Fix { tag: tag.to_owned(), on_default: Some(false), ..fix }))
}

/// Whether the number follows the release that it fixes, and the commit descends from it.
async fn judge(sources: &Sources<'_>, version: &Version, tip: &str, branch: &str) -> Result<Fix> {
    let (major, minor, patch) =
        version.numbers().ok_or_else(|| refused(format!("{version} is not a SemVer version"), "a hot fix of 1.4.2 is 1.4.3"))?;
    let mut released: Vec<(Version, String)> = Vec::new();
    for tag in sources.series(&format!("{major}.{minor}.")).await? {
        let parsed = sources.config.bare_tag(&tag).and_then(|bare| Version::parse(bare).ok());
        let older = |other: &Version| !other.is_prerelease() && other.order(version) == Some(Ordering::Less);
        released.extend(parsed.filter(|other| other.numbers().is_some() && older(other)).map(|other| (other, tag)));
    }
    released.sort_by(|a, b| a.0.order(&b.0).unwrap_or(Ordering::Equal));
    let Some((fixed, tag)) = released.pop() else {
        let hint = format!(
            "a hot fix follows the release that it fixes: {major}.{minor}.{patch} is of the series {major}.{minor}, of which nothing older is released"
        );
        return Err(refused(format!("there is no release before {version} that it could fix"), &hint));
    };
    let next = fixed.numbers().map_or(0, |(_, _, patch)| patch + 1);
    if patch != next {
        return Err(refused(format!("{version} does not follow {fixed}"), &format!("the next one is {major}.{minor}.{next}")));
    }
    let base = sources.commit_of(&tag).await?;
    let base = base.ok_or_else(|| refused(format!("the commit of {tag} is not known"), "is the tag still there?"))?;
    match sources.relation(&base, tip).await? {
        Some(Ancestry::Newer) => {}
        Some(Ancestry::Same) => return Err(refused(format!("{branch} is {tag} itself: it fixes nothing"), "commit the fix, and push it")),
        Some(Ancestry::Older | Ancestry::Diverged) => {
            let hint = format!("start it there: git switch -c {branch} {tag}");
            return Err(refused(format!("{branch} does not descend from {tag}, which {version} would fix"), &hint));
        }
        None => {
            return Err(refused(
                format!("it cannot be said whether {branch} descends from {tag}"),
                "the whole history would tell (`fetch-depth: 0`; on GitLab `GIT_DEPTH: 0`), or a token that may compare (contents: read; GITLAB_TOKEN)",
            ));
        }
    }
    let v = if tag.trim_end_matches(fixed.as_str()).ends_with(['v', 'V']) { "v" } else { "" };
    let tag_of_fix = format!("{}{v}{version}", sources.config.tag_prefix);
    Ok(Fix { branch: branch.to_owned(), tip: tip.to_owned(), tag: tag_of_fix, version: version.clone(), fixes: tag, on_default: None })
}

impl Sources<'_> {
    /// The tags of a series, by either spelling.
    async fn series(&self, series: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for v in ["v", ""] {
            let beginning = format!("{}{v}{series}", self.config.tag_prefix);
            let known = self.checkout.tags_like(&beginning);
            match self.forge.tags_like(&beginning).await {
                Err(error) if error.reason == Reason::AuthDenied && !known.is_empty() => {} // what git has must do
                asked => found.extend(asked?),
            }
            found.extend(known);
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The tag of a version, if it is released, and its commit.
    async fn tag_of(&self, version: &Version) -> Result<Option<(String, String)>> {
        for tag in [format!("{}v{version}", self.config.tag_prefix), format!("{}{version}", self.config.tag_prefix)] {
            if let Some(commit) = self.commit_of(&tag).await? {
                return Ok(Some((tag, commit)));
            }
        }
        Ok(None)
    }

    async fn commit_of(&self, tag: &str) -> Result<Option<String>> {
        match self.forge.tag(tag).await? {
            Some(commit) => Ok(Some(commit)),
            None => Ok(self.checkout.tag(tag)),
        }
    }

    async fn relation(&self, base: &str, head: &str) -> Result<Option<Ancestry>> {
        match self.checkout.ancestry(head, base) {
            Some(relation) => Ok(Some(relation)),
            None => match self.forge.compare(base, head).await? {
                Some(relation) => Ok(Some(relation)),
                None => {
                    let (base, head) = (base.to_owned(), head.to_owned());
                    let related = move |git: &Checkout| match git.contains(&head, &base)? {
                        true => Some(Ancestry::Newer), // that both are the same was answered above
                        false => git.ancestry(&head, &base),
                    };
                    Ok(super::deepened(self.checkout, None, related).await)
                }
            },
        }
    }

    /// Whether the default branch has the fix.
    async fn is_on_default(&self, event: &Event, tip: &str) -> Result<Option<bool>> {
        let Some(default) = &event.default_branch else { return Ok(None) };
        let relation = match self.forge.compare(default, tip).await? {
            Some(relation) => Some(relation),
            None => self.checkout.tip(default).and_then(|default| self.checkout.ancestry(tip, &default)),
        };
        Ok(relation.map(|relation| matches!(relation, Ancestry::Same | Ancestry::Older)))
    }
}

/// The lane, where there is one. That hot fixes are forbidden is decided before anything is asked.
fn lane(config: &Config) -> Option<&Hotfix> {
    match &config.hotfix {
        Some(HotfixRule::Lane(lane)) => Some(lane),
        Some(HotfixRule::Word(_)) | None => None,
    }
}

fn refused(sentence: String, hint: &str) -> Error {
    Error::new(Reason::GateHotfix, sentence).hint(hint)
}
