//! Never backwards by accident: whether what is about to be switched is newer than what runs.
//!
//! Ancestry decides first, then version numbers, then the order of runs. A person may go back; an automatic run may not.

use crate::checkout::{Ancestry, Checkout};
use crate::context::Outcome;
use crate::delivery::Prepared;
use crate::error::{Error, Reason, Result};
use crate::event::Kind;
use crate::state::records::Record;
use crate::version::Version;
use std::cmp::Ordering;

/// How the version at hand relates to what runs.
enum Standing {
    Forward,
    /// Why it is not.
    Backward(String),
    Unknown,
}

/// Judges by the newest record. Goes on with or without a notice, or says by what it is superseded.
pub async fn judge(prepared: &Prepared, history: &[Record]) -> Result<Option<String>> {
    if prepared.plan.outcome == Outcome::Remove {
        return Ok(None); // what is over is over, whichever of its commits runs
    }
    let Some(live) = history.iter().find(|record| record.may_run()) else { return Ok(None) };
    let ours = prepared.plan.version.clone().unwrap_or_default();
    let by_hand = prepared.decision.by_hand;
    match (standing(prepared, live).await?, by_hand) {
        (Standing::Forward, _) | (Standing::Unknown, true) => Ok(None),
        (Standing::Backward(why), true) => Ok(Some(format!("{ours} {why}; it was asked for by hand, so it is deployed"))),
        (Standing::Backward(why), false) => {
            let by = match &live.run {
                Some(run) => format!("run {} ({}) put that there: {}", run.id, live.who, run.url.as_deref().unwrap_or("no log")),
                None => format!("{} put that there", live.who),
            };
            Err(Error::new(Reason::Superseded, format!("{ours} {why}; {by}")))
        }
        (Standing::Unknown, false) => {
            let sentence =
                format!("it cannot be said whether {ours} is newer than {}, which runs on {}", live.version, prepared.key.environment());
            Err(Error::new(Reason::OrderUnknown, sentence).hint(format!(
                "neither git nor the forge knows both commits: was history rewritten? By hand it is possible: tidegate deploy {} {ours}",
                live.environment
            )))
        }
    }
}

async fn standing(prepared: &Prepared, live: &Record) -> Result<Standing> {
    let theirs = format!("{}, which runs on {}", live.version, prepared.key.environment());
    let versions = by_version(prepared, live);
    let (Some(ours), Some(there)) = (&prepared.plan.commit, &live.commit) else {
        return Ok(match versions {
            Some(Ordering::Less) => Standing::Backward(format!("is a lower version than {theirs}")),
            Some(Ordering::Equal | Ordering::Greater) => Standing::Forward,
            None => by_run(prepared, live, &theirs),
        });
    };
    if ours == there {
        return Ok(match versions {
            Some(Ordering::Less) => Standing::Backward(format!("is a lower version of the same commit than {theirs}")),
            Some(Ordering::Equal | Ordering::Greater) => Standing::Forward,
            None => of_same_commit(prepared, live, &theirs),
        });
    }
    let by_git = Checkout::at(&prepared.loaded.folder).ancestry(ours, there);
    let relation = match by_git {
        Some(relation) => Some(relation),
        None => prepared.forge.compare(there, ours).await?,
    };
    Ok(match relation {
        Some(Ancestry::Newer | Ancestry::Same) => Standing::Forward,
        Some(Ancestry::Older) => Standing::Backward(format!("is older than {theirs}")),
        Some(Ancestry::Diverged) => match versions {
            Some(Ordering::Greater | Ordering::Equal) => Standing::Forward,
            Some(Ordering::Less) => Standing::Backward(format!("is a lower version than {theirs}")),
            None if is_tip(prepared, ours).await? => Standing::Forward, // the branch was force-pushed: its tip counts as newer
            None => Standing::Backward(format!("is on another line than {theirs}, and not the tip of its branch any more")),
        },
        None if is_tip(prepared, ours).await? => Standing::Forward,
        None => by_run(prepared, live, &theirs),
    })
}

/// Release numbers, where both are.
fn by_version(prepared: &Prepared, live: &Record) -> Option<Ordering> {
    let parse = |text: &str| Version::parse(text).ok().filter(Version::is_semver);
    parse(prepared.plan.version.as_deref()?)?.order(&parse(&live.version)?)
}

/// Versions of one commit by other names than numbers: as main.41 and main.42, or as one of a merge and one of another pipeline.
fn of_same_commit(prepared: &Prepared, live: &Record, theirs: &str) -> Standing {
    let ours = prepared.plan.version.as_deref().unwrap_or_default();
    let counted = |text: &str| text.rsplit_once('.').and_then(|(name, number)| Some((name.to_owned(), number.parse::<u64>().ok()?)));
    match (counted(ours), counted(&live.version)) {
        _same if ours == live.version => Standing::Forward,
        (Some((name, ours)), Some((there_name, there))) if name == there_name => match ours < there {
            true => Standing::Backward(format!("was begun before {theirs}")),
            false => Standing::Forward,
        },
        (_, _) => match by_run(prepared, live, theirs) {
            Standing::Backward(why) => Standing::Backward(why),
            Standing::Forward | Standing::Unknown => Standing::Forward,
        },
    }
}

/// The branch that the event is about still ends with this commit.
async fn is_tip(prepared: &Prepared, commit: &str) -> Result<bool> {
    let event = &prepared.event;
    let branch = if matches!(event.kind, Kind::PullRequest | Kind::MergeRequest) || event.pr.is_some() {
        event.head_ref.as_ref()
    } else {
        event.branch.as_ref()
    };
    let Some(branch) = branch else { return Ok(false) };
    let tip = prepared.forge.commit_of_ref(&format!("heads/{branch}")).await?;
    Ok(tip.as_deref() == Some(commit))
}

/// Runs of one repository on GitHub have rising ids; trying one again keeps its id. GitLab gives a job that is tried
/// again a new one, so ids say nothing there.
fn by_run(prepared: &Prepared, live: &Record, theirs: &str) -> Standing {
    if prepared.event.more.gitlab.is_some() {
        return Standing::Unknown;
    }
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<u64>().ok());
    let ours = number(prepared.event.more.run.id.as_ref());
    let there = number(live.run.as_ref().map(|run| &run.id));
    match ours.zip(there).map(|(ours, there)| ours.cmp(&there)) {
        Some(Ordering::Less) => Standing::Backward(format!("comes from an earlier run than {theirs}")),
        Some(Ordering::Equal | Ordering::Greater) => Standing::Forward,
        None => Standing::Unknown,
    }
}
