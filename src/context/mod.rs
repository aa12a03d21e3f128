//! Event + rules + facts → every question answered: which environment, which version, of which commit. Pure.

use crate::config::{Config, HotfixRule, Loaded, When, tag_pattern};
use crate::error::{Error, Reason, Result};
use crate::event::directives::Directive;
use crate::event::{Event, Kind, short};
use crate::gates::Override;
use crate::occasion::{Occasion, Stop, occasion, skip};
use crate::state::records::Left;
use crate::variables::Variables;
use crate::version::Version;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

mod by_hand;
mod claims;
mod freeze;

pub use by_hand::{Back, Fix, Sweep, SweepCause, unknown_environment};

pub use freeze::frozen;

pub(crate) use claims::glob;

use by_hand::{hot_fix, manual, rollback, swept};
use claims::claims;
use freeze::unless_frozen;

/// What is asked for: what the event says, or one thing by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Whatever the event leads to.
    Event,
    /// A merge to the default branch.
    Merge,
    /// A release.
    Release,
    /// A pull request was opened or changed.
    PrOpened,
    /// A pull request was closed.
    PrClosed,
    /// This version on this environment.
    Deploy {
        /// The environment's key.
        environment: String,
        /// The version as it was said.
        version: String,
    },
    /// Back to what ran before on this environment.
    Rollback {
        /// The environment's key.
        environment: String,
        /// The version to go back to; the last good one when not given.
        to: Option<String>,
    },
    /// A fix of a released version, from a branch beside the default one.
    Hotfix {
        /// The version that the fix gets.
        version: String,
        /// The environment's key; that of the configuration when not given.
        to: Option<String>,
        /// Whether a pull request brings it to the default branch.
        back_merge: bool,
    },
    /// Away with a preview that has had its time.
    Sweep(Box<Sweep>),
}

/// What was read from outside because the event does not hold it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Whether the released commit is on the default branch.
    pub on_default_branch: Option<bool>,
    /// The commit of a version that was named by hand.
    pub version_commit: Option<String>,
    /// Whether that version is a tag; a branch or a piece of a commit id otherwise.
    pub version_is_tag: bool,
    /// The time.
    pub now: Timestamp,
    /// Gates that a person lifts.
    pub lifted: Override,
    /// Where a rollback leads.
    pub back: Option<Back>,
    /// The hot fix that was asked for, or that a release beside the default branch is; or why that is none.
    pub fix: Option<std::result::Result<Fix, String>>,
    /// Directives that count.
    pub directives: Vec<Directive>,
    /// What a person should know of those that do not.
    pub notes: Vec<String>,
    /// What was taken for granted without asking.
    pub assumed: Vec<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Deploy a version.
    Deploy,
    /// Remove a preview.
    Remove,
    /// Nothing, and that is fine.
    Skip,
    /// Nothing, because it must not be done.
    Refuse,
}

/// Whether the environment claims this tag by a pattern of its own: then it need not be on the default branch.
pub fn is_claimed_by_pattern(config: &Config, decision: &Decision, tag: &str) -> bool {
    let rules = decision.environment.as_ref().and_then(|name| config.environments.get(name));
    let whens = rules.iter().flat_map(|rules| rules.when.as_slice());
    whens.into_iter().any(|when| matches!(when, When::Tag(rule) if tag_fits(&rule.tag, tag)))
}

fn tag_fits(pattern: &str, tag: &str) -> bool {
    tag_pattern(pattern).is_ok_and(|regex| regex.is_match(tag))
}

/// Whether and why an environment claims the event.
#[derive(Clone, Debug, Serialize)]
pub struct Ruling {
    /// The environment's key.
    pub environment: String,
    /// Whether it claims the event.
    pub matched: bool,
    /// Why, or why not.
    pub why: String,
}

/// The answer to "what now?".
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do.
    pub outcome: Outcome,
    /// The reason code.
    pub reason: Reason,
    /// The environment's key.
    pub environment: Option<String>,
    /// The version.
    pub version: Option<Version>,
    /// The commit that the version is of.
    pub commit: Option<String>,
    /// Why, for a person.
    pub sentence: String,
    /// Every environment with its answer.
    pub rulings: Vec<Ruling>,
    /// Whether a person or program named environment and version: then the branch at hand says nothing.
    pub by_hand: bool,
    /// The very images to deploy, by key, where records name them.
    pub pinned: BTreeMap<String, String>,
    /// What a rollback goes back from.
    pub left: Option<Left>,
    /// The hot fix that is delivered.
    pub fix: Option<Fix>,
    /// Gates that a person lifts.
    pub overrides: Override,
    /// Those of them that were closed, with the reason.
    pub lifted: Vec<String>,
}

impl Decision {
    /// An answer that is about no environment.
    pub fn none(outcome: Outcome, reason: Reason, sentence: String) -> Self {
        stopped(Stop { outcome, reason, sentence }, Vec::new())
    }
}

/// Decides. An `Err` is a mistake of the user; everything else is an answer.
pub fn decide(event: &Event, loaded: &Loaded, request: &Request, variables: &Variables, facts: &Facts) -> Result<Decision> {
    let config = &loaded.config;
    if let Request::Sweep(sweep) = request {
        return Ok(swept(config, sweep));
    }
    let mut occasion = match occasion(event, request, &config.trust) {
        Ok(occasion) => occasion,
        Err(stop) => return Ok(stopped(stop, not_asked(config))),
    };
    if let Some(stop) = directed(&mut occasion, &facts.directives) {
        return Ok(stopped(stop, not_asked(config)));
    }
    check_named(event, config, &occasion)?;
    let programs = matches!(event.kind, Kind::RepositoryDispatch | Kind::Deployment) && *request == Request::Event;
    if !facts.lifted.gates.is_empty() && programs {
        let sentence = "--override is for people, and here a program decides";
        return Err(Error::new(Reason::InputInvalid, sentence).hint("tidegate deploy ENV VERSION --override GATE --reason TEXT"));
    }
    if let Occasion::Manual { environment, version } = &occasion {
        return manual(event, config, environment, version.as_deref(), facts)
            .map(|decision| unless_frozen(decision, event, config, (&occasion, facts)));
    }
    if let Occasion::Rollback { environment } = &occasion {
        return rollback(config, environment, facts);
    }
    if let Occasion::Hotfix { to } = &occasion {
        return hot_fix(config, to.as_deref(), facts).map(|decision| unless_frozen(decision, event, config, (&occasion, facts)));
    }
    if !facts.lifted.gates.is_empty() {
        let sentence = "--override is for what is deployed by hand, and here an event decides";
        return Err(Error::new(Reason::InputInvalid, sentence).hint("tidegate deploy ENV VERSION --override GATE --reason TEXT"));
    }
    let asked = config.environments.iter().map(|(name, rules)| {
        let answer = claims((config, rules), &occasion, event, variables);
        let (matched, why) = match &answer {
            Ok(why) => (true, why.clone()),
            Err(stop) => (false, stop.sentence.clone()),
        };
        (Ruling { environment: name.clone(), matched, why }, answer)
    });
    let (rulings, answers): (Vec<Ruling>, Vec<_>) = asked.unzip();
    let matched: Vec<&Ruling> = rulings.iter().filter(|ruling| ruling.matched).collect();
    match matched.as_slice() {
        [] => Ok(stopped(nearest(answers, &occasion), rulings)),
        [one] => {
            let environment = one.environment.clone();
            settle((event, config), &occasion, environment, facts, rulings)
                .map(|decision| unless_frozen(decision, event, config, (&occasion, facts)))
        }
        several => {
            let problem = |ruling: &&Ruling| {
                let path = format!("environments.{}.when", ruling.environment);
                (path, format!("claims this event: {}", ruling.why), "narrow one of them; an event leads to one environment".to_owned())
            };
            Err(loaded.error(Reason::ConfigOverlap, several.iter().map(problem).collect()))
        }
    }
}

/// What people wrote into the commit message or the pull request.
fn directed(occasion: &mut Occasion, directives: &[Directive]) -> Option<Stop> {
    for directive in directives {
        let said = |what: &str| Some(skip(Reason::EventDirective, format!("{directive} is written in {what}")));
        match (directive, &mut *occasion) {
            (Directive::Skip, Occasion::Push { .. }) => return said("the commit message"),
            (Directive::Skip | Directive::NoPreview, Occasion::PullRequest { open: true, .. }) => return said("the pull request"),
            (Directive::Preview, Occasion::PullRequest { wished, .. }) => *wished = true,
            (Directive::Skip | Directive::NoPreview | Directive::Preview | Directive::Set(..) | Directive::Unknown(_), _) => {}
        }
    }
    None
}

/// The version that was named for what a branch has must not be taken for a release, an alias or another commit.
fn check_named(event: &Event, config: &Config, occasion: &Occasion) -> Result<()> {
    let Some(named) = &event.more.named else { return Ok(()) };
    let refused = |sentence: String, hint: &str| Err(Error::new(Reason::InputVersion, sentence).hint(hint));
    if !matches!(occasion, Occasion::Push { .. }) {
        return refused(format!("--as {named} names the version of a branch, and this event is about something else"), "leave it out");
    }
    let is_hex = (7..=40).contains(&named.len()) && named.chars().all(|c| c.is_ascii_hexdigit());
    let hint = "name the branch and the number of the run, as --as=main.42";
    if is_alias(config, named) {
        return refused(format!("--as {named}: that is an alias that moves, not a version"), hint);
    }
    if Version::parse(named)?.is_semver() {
        return refused(format!("--as {named}: that is the version of a release"), hint);
    }
    match is_hex && !event.sha.as_deref().is_some_and(|sha| sha.starts_with(named.as_str())) {
        true => refused(format!("--as {named}: that stands for another commit"), hint),
        false => Ok(()),
    }
}

/// Whether a text is a tag that moves.
fn is_alias(config: &Config, text: &str) -> bool {
    let aliases = config.environments.values().flat_map(|rules| rules.tags.iter().map(String::as_str));
    let kept = config
        .environments
        .keys()
        .any(|name| text.strip_prefix(&crate::plan::kept_tag(name)).is_some_and(|rest| matches!(rest, "" | "-prev")));
    kept || aliases.chain(["latest", crate::registry::store::CACHE_TAG]).any(|alias| alias == text)
}

fn not_asked(config: &Config) -> Vec<Ruling> {
    let why = "not asked: the event itself decides".to_owned();
    config.environments.keys().map(|name| Ruling { environment: name.clone(), matched: false, why: why.clone() }).collect()
}

fn stopped(stop: Stop, rulings: Vec<Ruling>) -> Decision {
    let Stop { outcome, reason, sentence } = stop;
    Decision {
        outcome,
        reason,
        environment: None,
        version: None,
        commit: None,
        sentence,
        rulings,
        by_hand: false,
        pinned: BTreeMap::new(),
        left: None,
        fix: None,
        overrides: Override::default(),
        lifted: Vec::new(),
    }
}

/// Of the environments that said no, the one whose "no" was the most specific gives the reason.
fn nearest(answers: Vec<std::result::Result<String, Stop>>, occasion: &Occasion) -> Stop {
    let mut stops: Vec<Stop> = answers.into_iter().filter_map(std::result::Result::err).collect();
    stops.retain(|stop| stop.reason != Reason::EventIgnored);
    stops.into_iter().next().unwrap_or_else(|| {
        let what = match occasion {
            Occasion::Push { branch, .. } => format!("a push to {branch}"),
            Occasion::Tag { tag, .. } => format!("the tag {tag}"),
            Occasion::PullRequest { .. } => "pull requests".to_owned(),
            Occasion::Manual { environment, .. } | Occasion::Rollback { environment } => format!("a deploy to {environment}"),
            Occasion::Hotfix { .. } => "a hot fix".to_owned(),
        };
        skip(Reason::EventIgnored, format!("no environment in tidegate.yml claims {what}"))
    })
}

/// Where a hot fix goes.
struct Lane {
    to: String,
    fix: Fix,
}

/// A release beside the default branch is a hot fix, or nothing happens.
fn off_default(event: &Event, config: &Config, tag: &str, facts: &Facts) -> std::result::Result<Lane, Stop> {
    let branch = event.default_branch.as_deref().unwrap_or("the default branch");
    let no = |why: &str| skip(Reason::EventOffDefault, format!("{tag} is not on {branch}; {why}"));
    match (&config.hotfix, &facts.fix) {
        (Some(HotfixRule::Lane(lane)), Some(Ok(fix))) => Ok(Lane { to: lane.to.clone(), fix: fix.clone() }),
        (_, Some(Err(why))) => Err(no(why)),
        (Some(HotfixRule::Lane(_)), None) => {
            Err(no("whether it is a hot fix is asked by `plan` and `run`, which look at its branch and history"))
        }
        (_, Some(Ok(_)) | None) => Err(no(&format!("a hot fix is deployed by hand: tidegate deploy ENVIRONMENT {tag}"))),
    }
}

/// One environment claims the event: its version and commit.
fn settle(
    (event, config): (&Event, &Config),
    occasion: &Occasion,
    environment: String,
    facts: &Facts,
    rulings: Vec<Ruling>,
) -> Result<Decision> {
    let why = rulings.iter().find(|ruling| ruling.matched).map(|ruling| ruling.why.clone()).unwrap_or_default();
    let mut decision = Decision {
        outcome: Outcome::Deploy,
        environment: Some(environment),
        commit: event.sha.clone(),
        ..stopped(skip(Reason::Planned, why), rulings)
    };
    if matches!(occasion, Occasion::PullRequest { open: false, .. }) {
        decision.outcome = Outcome::Remove;
        return Ok(decision);
    }
    if let Occasion::Tag { tag, .. } = occasion {
        if facts.on_default_branch == Some(false) {
            match off_default(event, config, tag, facts) {
                Ok(fix) => {
                    decision.environment = Some(fix.to);
                    decision.sentence = fix.fix.sentence();
                    decision.fix = Some(fix.fix);
                }
                Err(stop) => return Ok(stopped(stop, decision.rulings)),
            }
        }
        decision.version = Some(Version::parse(config.bare_tag(tag).unwrap_or(tag))?);
    }
    let commit = event.sha.as_deref().ok_or_else(|| {
        let said = match &event.tag {
            Some(tag) => format!("the commit of {tag} is not known"),
            None => "the commit is not known".to_owned(),
        };
        Error::new(Reason::InputEvent, said).hint("name it with --sha, or run inside a git checkout that has it")
    })?;
    if let Occasion::Push { .. } = occasion {
        decision.version = Some(Version::parse(event.more.named.as_deref().unwrap_or(&short(commit)))?);
    }
    if let Occasion::PullRequest { .. } = occasion {
        let kind = if event.more.gitlab.is_some() { "mr" } else { "pr" };
        decision.version = Some(Version::parse(&format!("{kind}-{}-{}", event.pr.unwrap_or_default(), short(commit)))?);
    }
    Ok(decision)
}
