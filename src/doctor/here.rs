//! What can be said without asking anybody: the CI system, the configuration, the checkout, tools, secrets, the state.

use super::Finding;
use crate::checkout::Checkout;
use crate::commands::place::Place;
use crate::config::{self, Loaded, When, WhenEvent};
use crate::error::{Error, Reason};
use crate::event::{self, Kind, Provider};
use crate::state::{self, Kind as Store};
use crate::tools::process;
use crate::variables::Variables;
use crate::world::World;
use std::path::Path;

/// Where this runs.
pub(super) fn provider(world: &World) -> Vec<Finding> {
    let vars = &world.vars;
    let provider = match event::provider(vars) {
        Ok(provider) => provider,
        Err(error) => return vec![Finding::bad("where", &error)],
    };
    let mut found = vec![Finding::good(
        "where",
        match provider {
            Provider::GitHub => format!("a GitHub job of {}", vars.get("GITHUB_REPOSITORY").unwrap_or("?")),
            Provider::GitLab => format!("a GitLab job of {}", vars.get("CI_PROJECT_PATH").unwrap_or("?")),
            Provider::Laptop => "no CI job: what a job is given (tokens, roles) is looked for in this shell".into(),
        },
    )];
    let odd = vars.get("GITHUB_SERVER_URL").is_some_and(|url| url.contains("gitea") || url.contains("forgejo") || url.contains("codeberg"));
    if provider == Provider::GitHub && odd {
        let fix = "comments, deployments and leases need GitHub's API; keep the state in S3 or Redis and do not expect the rest";
        found.push(Finding::note("where", "this server is not GitHub, although it sets GITHUB_ACTIONS", fix));
    }
    found
}

pub(super) fn configuration(loaded: &Loaded) -> Finding {
    match config::refuse_unsupported(loaded, None) {
        Ok(()) => {
            let (images, environments) = (loaded.config.images.len(), loaded.config.environments.len());
            let said = format!("{} is valid: images: {images}, environments: {environments}", loaded.file);
            Finding::good("configuration", said)
        }
        Err(error) => Finding::bad("configuration", &error),
    }
}

/// Whether the event's run has what a delivery needs: forks and Dependabot have no secrets.
pub(super) fn context(world: &World, place: &Place) -> Vec<Finding> {
    let event = &place.event;
    let mut found = Vec::new();
    if matches!(event.kind, Kind::PullRequest | Kind::MergeRequest) && event.is_fork != Some(false) {
        let fix = "nothing to mend: a run of a fork has no secrets and deploys nothing; look at a run of the repository itself";
        found.push(Finding::note("where", "this is a pull request of a fork", fix));
    }
    if [&event.actor, &event.more.author].into_iter().flatten().any(|login| login == "dependabot[bot]") {
        let fix = "nothing to mend: such runs deploy nothing; its secrets are separate (Settings > Secrets > Dependabot)";
        found.push(Finding::note("where", "this is a run of Dependabot, which has no secrets", fix));
    }
    let unprotected = world.vars.is_true("GITLAB_CI") && world.vars.get("CI_COMMIT_REF_PROTECTED") == Some("false");
    if unprotected && event.kind != Kind::MergeRequest {
        let fix = "protected variables are missing here: protect the branch or tag (Settings > Repository), or unprotect the variable";
        found.push(Finding::note("where", "this ref is not protected", fix));
    }
    if event.more.frozen {
        let fix = "deploys are refused until it is over (Settings > CI/CD > Deploy freezes)";
        found.push(Finding::note("where", "a deploy freeze is on", fix));
    }
    found
}

/// The variables that the configuration takes secrets from, but for what its `if:` switches off here.
pub(super) fn secrets(world: &World, loaded: &Loaded, variables: &Variables) -> Vec<Finding> {
    let mut names: Vec<&str> = loaded.config.secret_names_where(|condition| condition.is_met(variables.get(&condition.var)));
    names.sort_unstable();
    names.dedup();
    let find = |name: &str| {
        match world.vars.get(name) {
        Some(_) => Finding::good("secrets", format!("{name} is set")),
        None => Finding::bad(
            "secrets",
            &Error::new(Reason::AuthMissing, format!("{name} is not set, and tidegate.yml takes a secret from it")).hint(format!(
                "GitHub: `env: {{{name}: ${{{{ secrets.{name} }}}}}}` of the step; GitLab: a masked variable of that name (Settings > CI/CD)"
            )),
        ),
    }
    };
    names.into_iter().map(find).collect()
}

/// Whether git can answer here, and how much of the history it has.
pub(super) fn checkout(place: &Place, checkout: &Checkout) -> Vec<Finding> {
    let topic = "checkout";
    let Some(head) = checkout.head() else {
        let why = if process::read("git", &["--version"], Path::new(".")).is_none() {
            "git is not here"
        } else {
            "there is no git checkout here"
        };
        let fix = "actions/checkout before the step; on GitLab GIT_STRATEGY must not be none. Without it nothing can be built";
        return vec![Finding::note(topic, why, fix)];
    };
    let mut found = vec![Finding::good(topic, format!("at {}", event::short(&head)))];
    let config = &place.loaded.config;
    let releases =
        config.environments.values().any(|rules| rules.when.as_slice().iter().any(|when| matches!(when, When::Event(WhenEvent::Release))));
    if checkout.is_shallow() && releases && !place.forge.compares() {
        let fix = "check out the whole history (GitHub: `fetch-depth: 0`; GitLab: GIT_DEPTH: \"0\"), or give the step a token that may compare commits";
        found.push(Finding::bad(
            topic,
            &Error::new(Reason::InputEvent, "the clone is shallow, and nobody else can say whether a release is on the default branch")
                .hint(fix),
        ));
    } else if checkout.is_shallow() {
        found.push(Finding::good(topic, "shallow; how commits relate is asked from the forge"));
    }
    if checkout.is_dirty() {
        let fix = "an image built here would not be what its commit says; commit first";
        found.push(Finding::note(topic, "there are changes that are not committed", fix));
    }
    found
}

/// The programs that steps call.
pub(super) fn tools() -> Vec<Finding> {
    let version =
        |program: &str| process::read(program, &["--version"], Path::new(".")).and_then(|text| text.lines().next().map(str::to_owned));
    let mut found = vec![Finding::good("tools", concat!("tidegate ", env!("CARGO_PKG_VERSION")))];
    match version("git") {
        Some(version) => found.push(Finding::good("tools", version)),
        None => found.push(Finding::note("tools", "git is not here", "apt-get install git; the published image has it")),
    }
    for program in ["pg_dump", "psql"] {
        found.extend(version(program).map(|version| Finding::good("tools", version)));
    }
    found
}

/// Where leases and records are, and whether they can be read.
pub(super) async fn state(world: &World, place: &Place) -> Vec<Finding> {
    let topic = "state";
    let config = &place.loaded.config;
    let mut found = Vec::new();
    let Some(name) = config.environments.iter().find(|(_, rules)| !rules.is_preview()).map(|(name, _)| name.clone()) else {
        return found;
    };
    let looked = async {
        let key = place.key(&name)?;
        place.store.confirm().await?;
        place.store.list(&key.folder("lock")).await?;
        place.store.history(&key).await?;
        Ok(format!("leases and records can be read; they hold back {}", place.store.scope))
    };
    found.push(Finding::of(topic, looked.await));
    if place.store.kind() == Store::Job && !place.store.protects(true) {
        let fix = "write `resource_group: NAME` into the job and TIDEGATE_RESOURCE_GROUP: NAME into its variables (the component does)";
        found.push(Finding::note(topic, "this job is in no resource group: deliveries may overtake each other", fix));
    }
    if place.store.kind() == Store::File && state::is_ci(&world.vars) {
        let fix = "`state: auto`, s3://bucket/prefix or redis://host in tidegate.yml";
        found.push(Finding::note(topic, "leases are files of this runner and hold back no other run", fix));
    }
    found
}
