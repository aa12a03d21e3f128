//! What a person asks for by name: a version on an environment, or the way back. Pure.

use super::{Decision, Facts, Outcome, Ruling, is_alias, not_asked, stopped};
use crate::config::{Config, HotfixRule};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, Kind, short};
use crate::gates;
use crate::occasion::skip;
use crate::state::records::{Left, Record};
use crate::version::Version;

/// Where a rollback leads, by the records of the environment.
#[derive(Clone, Debug)]
pub struct Back {
    /// The delivery it goes back to.
    pub to: Record,
    /// The key of the record of what runs, or may run.
    pub live: String,
    /// What it goes back from.
    pub left: Left,
    /// A delivery in between after which older versions cannot live with the database, if there was one.
    pub migrated: Option<String>,
}

/// A fix of a released version, from a branch beside the default one.
#[derive(Clone, Debug)]
pub struct Fix {
    /// The branch.
    pub branch: String,
    /// Its commit.
    pub tip: String,
    /// The tag of the fix.
    pub tag: String,
    /// The version of the fix.
    pub version: Version,
    /// The tag of the release that it fixes.
    pub fixes: String,
    /// Whether the default branch has it, if that can be said.
    pub on_default: Option<bool>,
}

impl Fix {
    /// What it is, for a person.
    pub fn sentence(&self) -> String {
        let there = match self.on_default {
            Some(true) => "; the default branch has it",
            Some(false) => "; the default branch does not have it yet",
            None => "",
        };
        format!("a hot fix of {} from {}{there}", self.fixes, self.branch)
    }
}

/// A preview that is to go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The environment's key.
    pub environment: String,
    /// Its pull request.
    pub number: u64,
    /// What holds when it goes; looked at once more under its lease.
    pub cause: SweepCause,
    /// Why, for a person.
    pub why: String,
    /// What targets have of it by their own marks: the target's place among those of the environment, and an app or namespace.
    pub found: Vec<(usize, String)>,
}

/// Why a preview goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepCause {
    /// Its pull request is closed.
    Closed,
    /// It is too old, or one too many, and this is the key of the newest record of it.
    Surplus(Option<String>),
}

/// A preview goes although no event says so.
pub(super) fn swept(config: &Config, sweep: &Sweep) -> Decision {
    let mut decision = named(config, &sweep.environment, &sweep.why, &Facts::default());
    (decision.outcome, decision.by_hand) = (Outcome::Remove, false);
    decision
}

/// A hot fix that was asked for: it goes where the lane leads, and no further.
pub(super) fn hot_fix(config: &Config, to: Option<&str>, facts: &Facts) -> Result<Decision> {
    let lane = match &config.hotfix {
        Some(HotfixRule::Lane(lane)) => Some(lane.to.as_str()),
        Some(HotfixRule::Word(_)) => {
            let sentence = "`hotfix: forbid`: nothing is released beside the default branch here";
            return Err(Error::new(Reason::GateHotfix, sentence).hint("merge the fix, and release it from there"));
        }
        None => None,
    };
    let environment = to.or(lane).ok_or_else(|| {
        Error::new(Reason::InputEnvironment, "it is not said where a hot fix goes")
            .hint("add `hotfix: {branches: [\"hotfix/*\"], to: staging}` to tidegate.yml, or name it with --to")
    })?;
    let rules = config.environments.get(environment).ok_or_else(|| unknown_environment(config, environment))?;
    if rules.is_preview() {
        return Err(Error::new(Reason::InputEnvironment, format!("{environment} is made by pull requests, not by hand"))
            .hint("name an environment that stays"));
    }
    let mut decision = named(config, environment, "a hot fix", facts);
    if let Some(Ok(fix)) = &facts.fix {
        decision.sentence = fix.sentence();
        decision.version = Some(fix.version.clone());
        decision.commit = Some(fix.tip.clone());
        decision.fix = Some(fix.clone());
    }
    Ok(decision)
}

/// A decision about an environment that somebody named.
fn named(config: &Config, environment: &str, why: &str, facts: &Facts) -> Decision {
    let rulings = config.environments.keys().map(|name| {
        let matched = name == environment;
        let why = if matched { why.to_owned() } else { format!("{environment} was asked for") };
        Ruling { environment: name.clone(), matched, why }
    });
    Decision {
        outcome: Outcome::Deploy,
        environment: Some(environment.to_owned()),
        by_hand: true,
        overrides: facts.lifted.clone(),
        ..stopped(skip(Reason::Planned, why), rulings.collect())
    }
}

/// A deploy by hand: the environment must exist; the version may be a tag, a version or a commit.
pub(super) fn manual(event: &Event, config: &Config, environment: &str, version: Option<&str>, facts: &Facts) -> Result<Decision> {
    let rules = match config.environments.get(environment) {
        Some(rules) => rules,
        // Other programs record deployments as well; only a name of ours is a request.
        None if event.kind == Kind::Deployment => {
            let sentence = format!("the deployment is to {environment:?}, which is not in tidegate.yml");
            return Ok(stopped(skip(Reason::EventIgnored, sentence), not_asked(config)));
        }
        None => return Err(unknown_environment(config, environment)),
    };
    let from_ref = version.is_none_or(|said| said.trim().is_empty());
    let said = match (version.map(str::trim).filter(|said| !said.is_empty()), &event.tag, &event.sha) {
        (Some(said), _, _) => said.to_owned(),
        (None, Some(tag), _) => tag.clone(),
        (None, None, Some(sha)) => sha.clone(),
        (None, None, None) => {
            return Err(Error::new(Reason::InputVersion, format!("no version is named for {environment}"))
                .hint("name a tag or a commit, as `tidegate deploy production 1.4.2`"));
        }
    };
    let full = crate::event::is_full_sha(&said).then(|| said.to_ascii_lowercase());
    // A commit, or a branch, which stands for its present commit: the version is the commit's short form.
    let by_commit = full.clone().or_else(|| facts.version_commit.clone().filter(|_| !facts.version_is_tag));
    let bare = config.bare_tag(&said).unwrap_or(&said).to_owned();
    let version = Version::parse(&by_commit.as_deref().map_or(bare, short))?;
    let of_ref = || event.sha.clone().filter(|_| from_ref);
    let commit = full.or_else(|| facts.version_commit.clone()).or_else(of_ref);
    if is_alias(config, version.as_str()) {
        return Err(Error::new(Reason::InputVersion, format!("{version} is an alias that moves, not a version"))
            .hint("name the version that it stands for now: tidegate deploys what it can name again tomorrow"));
    }
    if rules.is_preview() {
        return Err(Error::new(Reason::InputEnvironment, format!("{environment} is made by pull requests, not by hand"))
            .hint("push to the pull request, or deploy to another environment"));
    }
    Ok(Decision { version: Some(version), commit, ..named(config, environment, "asked for by hand", facts) })
}

/// Back to what ran before: the records say which images that was.
pub(super) fn rollback(config: &Config, environment: &str, facts: &Facts) -> Result<Decision> {
    let rules = config.environments.get(environment).ok_or_else(|| unknown_environment(config, environment))?;
    if rules.is_preview() {
        return Err(Error::new(
            Reason::InputEnvironment,
            format!("{environment} is made by pull requests: it has no version to go back to"),
        )
        .hint("push to the pull request"));
    }
    let mut decision = named(config, environment, "back to the last good version", facts);
    let Some(Back { to, left, migrated, .. }) = &facts.back else { return Ok(decision) };
    let at = to.ended.as_ref().map(|ended| ended.at.chars().take(10).collect::<String>()).unwrap_or_default();
    decision.sentence = format!("back from {}; {} was delivered by {} on {at}", left.version, to.version, to.who);
    decision.left = Some(left.clone());
    decision.version = Some(Version::parse(&to.version)?);
    decision.commit.clone_from(&to.commit);
    decision.pinned = to.images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect();
    if let Some(by) = migrated {
        let sentence = format!(
            "{by} migrated the database of {environment} since {} was delivered, and not in a way that {} can live with (`backward-compatible: false`)",
            to.version, to.version
        );
        if !facts.lifted.lifts(gates::Gate::Migration) {
            let hint = "repair it with a new version, or restore the database first (tidegate backup ENV --list, tidegate restore ENV --backup …); if the database fits all the same: --override migration --reason TEXT";
            return Err(Error::new(Reason::GateMigration, sentence).hint(hint));
        }
        decision.lifted.push(format!("migration ({by}): {}", facts.lifted.reason));
    }
    Ok(decision)
}

/// The error for an environment that is not in the file.
pub fn unknown_environment(config: &Config, name: &str) -> Error {
    let known: Vec<&str> = config.environments.keys().map(String::as_str).collect();
    let near = crate::config::problem::did_you_mean(name, known.iter().copied());
    let hint = match (near, known.is_empty()) {
        (Some(near), _) => format!("did you mean {near:?}? known: {}", known.join(", ")),
        (None, false) => format!("known: {}", known.join(", ")),
        (None, true) => "tidegate.yml declares no environments".to_owned(),
    };
    Error::new(Reason::InputEnvironment, format!("there is no environment {name:?} in tidegate.yml")).hint(hint)
}
