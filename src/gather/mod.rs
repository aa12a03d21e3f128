//! Reads what a decision needs from outside and the event does not hold. The only stage before `run` that may connect.

use crate::checkout::{Ancestry, Checkout};
use crate::config::Config;
use crate::context::{Facts, Request};
use crate::delivery::Asked;
use crate::error::{Error, Reason, Result};
use crate::event::{Event, Kind};
use crate::forge::Forge;

mod back;
mod directives;
mod hotfix;

pub use back::{back, named};
pub use directives::of_name;

use directives::Told;
use hotfix::Sources;

/// What `explain` takes for granted instead of asking: it opens no connection.
pub fn assume(event: &Event, asked: &Asked, config: &Config) -> Facts {
    let (request, mut facts) = (&asked.request, known(asked));
    if *request == Request::Event {
        let Told { taken, left, assumed } = directives::assumed(event, config);
        (facts.directives, facts.notes) = (taken, left);
        facts.assumed.extend(assumed);
    }
    if let Some(tag) = released_tag(event, request) {
        let default = event.default_branch.as_deref();
        let hint = event.more.target_hint.as_deref();
        // The hint counts only when it names another branch; a commit or nothing says nothing.
        let elsewhere = hint.is_some_and(|target| Some(target) != default && !crate::event::is_full_sha(target));
        facts.on_default_branch = Some(!elsewhere);
        let branch = default.unwrap_or("the default branch");
        facts.assumed.push(match elsewhere {
            true => format!("{tag} is not on {branch}: the release's target is {}", hint.unwrap_or_default()),
            false => format!("{tag} is on {branch}"),
        });
    }
    if let Some(version) = named_version(event, request) {
        facts.assumed.push(format!("the version {version} exists"));
    }
    facts
}

/// What is known without asking.
fn known(asked: &Asked) -> Facts {
    Facts { now: jiff::Timestamp::now(), lifted: asked.lifted.clone(), ..Facts::default() }
}

/// Asks git first, then the forge, and only what this event needs.
/// `ancestry`: whether a tag has to be on the default branch.
pub async fn gather(
    event: &mut Event,
    asked: &Asked,
    (config, checkout, forge): (&Config, &Checkout, &Forge),
    ancestry: bool,
) -> Result<Facts> {
    let (request, mut facts) = (&asked.request, known(asked));
    if event.default_branch.is_none() {
        event.default_branch = forge.default_branch().await?;
        event.settle_default_branch();
    }
    if event.sha.is_none()
        && (event.kind == Kind::Release || *request != Request::Event)
        && let Some(name) = event.tag.clone().or_else(|| event.branch.clone())
    {
        let commit = match checkout.resolve(&name) {
            Some(commit) => Some(commit),
            None => forge.commit_of(&name).await?,
        };
        event.set_sha(commit);
    }
    if event.kind == Kind::RepositoryDispatch {
        let full = event.more.inputs.get("version").filter(|version| crate::event::is_full_sha(version));
        for sha in event.more.inputs.get("sha").into_iter().chain(full) {
            reachable(sha, event.default_branch.as_deref(), forge).await?;
        }
    }
    // Who may write deployments need not be one who may merge.
    if event.kind == Kind::Deployment
        && event.more.deployment_environment.is_some()
        && event.tag.is_none()
        && let Some(sha) = &event.sha
    {
        reachable(sha, event.default_branch.as_deref(), forge).await?;
    }
    if *request == Request::Event {
        let Told { taken, left, .. } = directives::told(event, config, forge).await?;
        (facts.directives, facts.notes) = (taken, left);
    }
    if let Some(tag) = released_tag(event, request).filter(|_| *request == Request::Event) {
        event.more.draft |= forge.is_upcoming(&tag).await?;
    }
    if let Some(tag) = released_tag(event, request).filter(|_| ancestry) {
        let on_default = on_default_branch(event, &tag, checkout, forge).await?;
        facts.on_default_branch = Some(on_default);
        if !on_default {
            facts.fix = Some(hotfix::released(event, &tag, &Sources { config, checkout, forge }).await?);
        }
    }
    if let Request::Hotfix { version, .. } = request {
        facts.fix = Some(Ok(hotfix::named(event, version, &Sources { config, checkout, forge }).await?));
    }
    if let Some(version) = named_version(event, request) {
        (facts.version_commit, facts.version_is_tag) = version_commit(config, &version, checkout, forge).await?;
        if let (Kind::RepositoryDispatch | Kind::Deployment, false, Some(commit)) =
            (event.kind, facts.version_is_tag, &facts.version_commit)
        {
            reachable(commit, event.default_branch.as_deref(), forge).await?;
        }
    }
    Ok(facts)
}

/// A commit that a program names must be on the default branch: anybody's fork can make commits visible here.
async fn reachable(sha: &str, default: Option<&str>, forge: &Forge) -> Result<()> {
    let default =
        default.ok_or_else(|| Error::new(Reason::InputEvent, "the default branch is not known, so a commit cannot be trusted"))?;
    match forge.compare(default, sha).await? {
        Some(Ancestry::Same | Ancestry::Older) => Ok(()),
        Some(Ancestry::Newer | Ancestry::Diverged) | None => {
            Err(Error::new(Reason::InputVersion, format!("the commit {sha} that was asked for is not on {default}"))
                .hint("ask for the commit of a merge, or for a version that has a tag"))
        }
    }
}

fn released_tag(event: &Event, request: &Request) -> Option<String> {
    let by_event = *request == Request::Event && matches!(event.kind, Kind::Release | Kind::PushTag);
    let released = by_event || *request == Request::Release;
    event.tag.clone().filter(|_| released && event.more.moved_from.is_none())
}

fn named_version(event: &Event, request: &Request) -> Option<String> {
    let said = match request {
        Request::Deploy { version, .. } => Some(version.clone()),
        Request::Event => event.more.inputs.get("version").cloned(),
        Request::Merge
        | Request::Release
        | Request::PrOpened
        | Request::PrClosed
        | Request::Rollback { .. }
        | Request::Hotfix { .. }
        | Request::Sweep(_) => None,
    };
    said.map(|version| version.trim().to_owned()).filter(|version| !version.is_empty() && !crate::event::is_full_sha(version))
}

async fn on_default_branch(event: &Event, tag: &str, checkout: &Checkout, forge: &Forge) -> Result<bool> {
    let unknown = |why: &str| {
        Error::new(Reason::InputEvent, format!("it cannot be said whether {tag} is on the default branch: {why}")).hint(
            "give the step a token (`token: ${{ github.token }}`, contents: read) or check out with `fetch-depth: 0`; or deploy by hand",
        )
    };
    let sha = event.sha.as_deref().ok_or_else(|| {
        Error::new(Reason::InputVersion, format!("there is no tag {tag}: neither git nor the forge knows it"))
            .hint("look at its spelling; push the tag first")
    })?;
    let default = event.default_branch.as_deref();
    let default = default.ok_or_else(|| unknown("the default branch is not known").hint("name it with --default-branch"))?;
    // The clone may be older than the branch: its "yes" counts, its "no" is asked again.
    let by_git = checkout.tip(default).and_then(|tip| checkout.ancestry(sha, &tip));
    let answer = match by_git {
        Some(Ancestry::Same | Ancestry::Older) => by_git,
        Some(_) | None => forge.compare(default, sha).await?.or(by_git),
    };
    // Where nobody can be asked, git fetches what it needs.
    if answer.is_none() {
        let (commit, branch) = (sha.to_owned(), default.to_owned());
        let contained = deepened(checkout, Some(default), move |git| git.contains(&git.tip(&branch)?, &commit)).await;
        if let Some(contained) = contained {
            return Ok(contained);
        }
    }
    match answer.ok_or_else(|| unknown("neither git nor the forge knows both"))? {
        Ancestry::Same | Ancestry::Older => Ok(true),
        Ancestry::Newer | Ancestry::Diverged => Ok(false),
    }
}

/// How far a shallow clone is deepened, step by step; at last to the beginning.
const STEPS: [Option<u32>; 4] = [Some(50), Some(500), Some(5000), None];
/// How long that may take in all.
const DEEPENING: std::time::Duration = std::time::Duration::from_secs(300);

/// The answer that git gives once it has enough of the history: no more of it is fetched than it takes.
async fn deepened<T: Send + 'static>(
    checkout: &Checkout,
    branch: Option<&str>,
    answer: impl Fn(&Checkout) -> Option<T> + Send + 'static,
) -> Option<T> {
    let (git, branch) = (checkout.clone(), branch.map(str::to_owned));
    let asked = tokio::task::spawn_blocking(move || {
        let mut known = answer(&git);
        for step in STEPS {
            if known.is_some() || !git.is_shallow() || !git.deepen(step, branch.as_deref()) {
                break;
            }
            known = answer(&git);
        }
        known
    });
    tokio::time::timeout(DEEPENING, asked).await.ok()?.ok()?
}

/// The exact tag first, then the other spelling (`v1.2.3` and `1.2.3` are one version), then a branch or commit.
async fn version_commit(config: &Config, version: &str, checkout: &Checkout, forge: &Forge) -> Result<(Option<String>, bool)> {
    let (prefix, bare) = (&config.tag_prefix, config.bare_tag(version).unwrap_or(version));
    let other = match bare.strip_prefix('v') {
        Some(number) => format!("{prefix}{number}"),
        None => format!("{prefix}v{bare}"),
    };
    let exact = format!("{prefix}{bare}");
    if let Some(commit) = checkout.tag(&exact).or_else(|| checkout.tag(&other)) {
        return Ok((Some(commit), true));
    }
    for name in [&exact, &other] {
        if let Some(commit) = forge.tag(name).await? {
            return Ok((Some(commit), true));
        }
    }
    // A tag without the prefix is another project's, and stands for nothing here.
    if !prefix.is_empty() && (checkout.tag(version).is_some() || forge.tag(version).await?.is_some()) {
        return Err(Error::new(
            Reason::InputVersion,
            format!("{version} is a tag of something else: those of this project begin with {prefix}"),
        )
        .hint(format!("there is neither {exact} nor {other}")));
    }
    let named = match checkout.resolve(version) {
        Some(commit) => Some(commit),
        None => forge.commit_of_ref(version).await?,
    };
    Ok((named, false))
}
