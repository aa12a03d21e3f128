//! Webhooks, whoever sends them: what a delivery says is a hint. What it names is looked up before anything starts, and
//! each delivery starts each of its rules once.

mod ecr;
pub mod payload;

pub use ecr::listen as listen_to_ecr;
pub use payload::{docker_hub, ecr_image_action, github, gitlab, plain};

use super::asking::{Asking, wanted};
use super::config::Rule;
use super::jobs::{self, Accepted, Callback, Wanted};
use super::server::Server;
use super::store::{Batch, Page};
use crate::config::is_match;
use crate::error::{Error, Reason, Result};
use crate::registry::Repository;
use crate::registry::store::Store as Registry;
use crate::version::check_image_tag;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a sender waits for what comes of its delivery; after that it is kept.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How often kept deliveries are tried.
const RETRY: Duration = Duration::from_secs(2);
/// For how many milliseconds they are tried.
const PATIENCE: u64 = 3_600_000;
/// How long a registry may take to say what is there.
const LOOK_UP: Duration = Duration::from_secs(20);

/// What a delivery says, once it is known who sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The names under which it is known: its id, and what its body is.
    pub names: Vec<String>,
    /// The event, and the event with its action: push, release.published.
    pub events: Vec<String>,
    /// The repository, as jincor/frontend.
    pub repository: String,
    /// The tag, of an image or of a commit.
    pub tag: Option<String>,
    /// The branch.
    pub branch: Option<String>,
    /// The commit.
    pub sha: Option<String>,
    /// Who did it.
    pub pusher: Option<String>,
    /// Where the image is.
    pub image: Option<String>,
    /// Where the sender wants to be told.
    pub callback: Option<Callback>,
}

/// What came of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Jobs were begun, or joined; their ids.
    Jobs(Vec<String>),
    /// It came before.
    Before,
    /// It is kept, and tried again: a registry does not answer, or too many jobs wait.
    Kept,
    /// It starts nothing, for this reason.
    Ignored(String),
}

/// A delivery that could not be taken yet.
#[derive(Serialize, Deserialize)]
struct Kept {
    hook: String,
    delivery: Delivery,
    since: u64,
}

/// Starts what the rules of a webhook say, or keeps the delivery and tries again: most senders come only once.
pub async fn take_or_keep(server: &Server, hook: &str, rules: &[Rule], delivery: &Delivery) -> Result<Taken> {
    let why = match tokio::time::timeout(AT_ONCE, take(server, hook, rules, delivery)).await {
        Ok(Err(error)) if error.reason == Reason::InputInvalid => return Err(error),
        Ok(Err(error)) => error.sentence,
        Ok(Ok(taken)) => return Ok(taken),
        Err(_elapsed) => "the registry does not answer at once".into(),
    };
    let kept = Kept { hook: hook.to_owned(), delivery: delivery.clone(), since: jobs::now() };
    // The same one twice is kept once.
    let name = delivery.names.first().map_or_else(crate::tools::ulid::ulid, |name| format!("{hook}:{name}"));
    server.store.commit(Batch::new().put(format!("deliveries/{name}"), &kept)).await?;
    server.say(&format!("webhook {hook}: a delivery is kept and tried again: {why}"));
    Ok(Taken::Kept)
}

/// How many deliveries are kept.
pub async fn kept(store: &super::store::Store) -> Result<usize> {
    Ok(store.list(Page { limit: 1000, ..Page::all("deliveries/") }).await?.len())
}

/// Tries the deliveries that are kept, until the server stops.
pub async fn retry(server: Arc<Server>) {
    loop {
        tokio::select! {
            () = server.world.clock.sleep(RETRY) => {}
            () = server.world.cancel.cancelled() => return,
        }
        // A store that is away is asked again with the next round.
        let docs = server.store.list(Page { limit: 100, ..Page::all("deliveries/") }).await.unwrap_or_default();
        for doc in docs {
            if let Ok(kept) = doc.parse::<Kept>()
                && let Some(words) = again(&server, &kept).await
                && server.store.commit(Batch::new().delete(&doc.key)).await.is_ok()
            {
                server.say(&format!("webhook {}: a delivery that was kept: {words}", kept.hook));
            }
        }
    }
}

/// What came of a delivery that was kept; nothing when it is to be tried again.
async fn again(server: &Server, kept: &Kept) -> Option<String> {
    let config = server.config();
    let Some(hook) = config.serve.webhooks.get(&kept.hook) else { return Some("its webhook is not there any more".into()) };
    match take(server, &kept.hook, hook.rules(), &kept.delivery).await {
        Ok(taken) => Some(super::http::hooks::words(&taken)),
        Err(error) if error.reason == Reason::InputInvalid => Some(error.sentence),
        Err(error) if jobs::now().saturating_sub(kept.since) > PATIENCE => {
            let _untold = server.note(jobs::Entry::new(&format!("webhook {}", kept.hook), "dropped").detail(error.sentence.clone())).await;
            Some(format!("given up after an hour: {}", error.sentence))
        }
        Err(error) => {
            // A line at the beginning and one every ten minutes are enough.
            let age = jobs::now().saturating_sub(kept.since);
            if age % 600_000 < 4000 {
                server.say(&format!("webhook {}: a delivery of {} is still kept: {}", kept.hook, kept.delivery.repository, error.sentence));
            }
            None
        }
    }
}

/// Starts what the rules of a webhook say.
pub async fn take(server: &Server, hook: &str, rules: &[Rule], delivery: &Delivery) -> Result<Taken> {
    fits(delivery)?;
    let names: Vec<String> = delivery.names.iter().map(|name| format!("{hook}:{name}")).collect();
    for name in &names {
        if jobs::was_seen(&server.store, name).await? {
            return Ok(Taken::Before);
        }
    }
    let matching: Vec<(usize, &Rule)> = rules.iter().enumerate().filter(|(_, rule)| matches(rule, delivery)).collect();
    if matching.is_empty() {
        return Ok(Taken::Ignored("no rule is about it".into()));
    }
    let mut started = Vec::new();
    let mut why = String::new();
    for (index, rule) in matching {
        match start(server, hook, index, rule, delivery).await? {
            Started::Job(id) => started.push(id),
            Started::Nothing(reason) => why = reason,
        }
    }
    if started.is_empty() {
        return Ok(Taken::Ignored(why)); // sent again after what was missing is there, it may start something
    }
    // Each rule has its own mark by now: a server that was killed in between goes on with the next one.
    if why.is_empty() {
        jobs::see(&server.store, &names).await?;
    }
    Ok(Taken::Jobs(started))
}

/// Whether what is named can be the name of anything. What does not fit is an attack or a mistake.
fn fits(delivery: &Delivery) -> Result<()> {
    let wrong = |what: &str| Error::new(Reason::InputInvalid, format!("{what} cannot be one"));
    if Repository::parse(&delivery.repository.to_lowercase()).is_err() {
        return Err(wrong("the repository"));
    }
    if let Some(tag) = &delivery.tag {
        check_image_tag(tag, tag).map_err(|_grammar| wrong("the tag"))?;
    }
    let is_ref = |text: &String| {
        !text.is_empty() && text.len() <= 255 && !text.starts_with('-') && !text.chars().any(|c| c.is_control() || c == ' ')
    };
    if !delivery.branch.iter().all(is_ref) {
        return Err(wrong("the branch"));
    }
    if !delivery.sha.iter().all(|sha| sha.len() <= 64 && sha.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err(wrong("the commit"));
    }
    Ok(())
}

fn matches(rule: &Rule, delivery: &Delivery) -> bool {
    let globs = |globs: &[String], text: &str| globs.iter().any(|glob| is_match(glob, text));
    let list = |wanted: &Option<crate::config::OneOrMany<String>>, said: Option<&String>| {
        wanted.as_ref().is_none_or(|wanted| said.is_some_and(|said| globs(wanted.as_slice(), said)))
    };
    let events = rule.events.as_ref().is_none_or(|events| events.as_slice().iter().any(|event| delivery.events.contains(event)));
    let repository = rule.repository.as_ref().is_none_or(|glob| globs(std::slice::from_ref(glob), &delivery.repository));
    events && repository && list(&rule.tags, delivery.tag.as_ref()) && list(&rule.branches, delivery.branch.as_ref())
}

enum Started {
    Job(String),
    Nothing(String),
}

async fn start(server: &Server, hook: &str, index: usize, rule: &Rule, delivery: &Delivery) -> Result<Started> {
    let mut values = values(delivery);
    let image = rule.image.clone().or_else(|| delivery.image.clone());
    if let (Some(image), Some(tag)) = (&image, &delivery.tag) {
        match look_up(server, hook, image, tag).await? {
            Some(digest) => {
                values.insert("image".into(), format!("{image}:{tag}@{digest}"));
                values.insert("digest".into(), digest);
            }
            None => return Ok(Started::Nothing(format!("{image}:{tag} is not in its registry"))),
        }
    }
    let once: Vec<String> = delivery.names.iter().map(|name| format!("{hook}:{name}#{index}")).collect();
    let asking = Asking {
        by: format!("webhook {hook}{}", delivery.pusher.as_deref().map(|pusher| format!(" ({})", harmless(pusher))).unwrap_or_default()),
        values,
        callback: delivery.callback.clone(),
        once,
        // Each push is deployed: to join the job of another tag would lose this one.
        busy: Some(super::config::Busy::Queue),
        ..Asking::default()
    };
    let inventory = format!("{hook}:{}", delivery.repository);
    let wanted = match job_of(server, rule, (hook, &inventory), asking).await {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Started::Nothing(error.sentence)),
    };
    Ok(match server.accept(&wanted).await? {
        Accepted::New(job, _) | Accepted::Joined(job) => Started::Job(job.id),
        Accepted::Before(id) => Started::Job(id),
        Accepted::Busy => Started::Nothing("a job of the same inventory runs or waits".into()),
        Accepted::Full(waiting) => {
            return Err(Error::new(Reason::LockTimeout, format!("{waiting} jobs of the same inventory wait already")));
        }
    })
}

async fn job_of(server: &Server, rule: &Rule, (hook, inventory): (&str, &str), asking: Asking) -> Result<Wanted> {
    let config = server.config();
    if let Some(id) = &rule.app {
        let app = server.apps.get(&server.store, id).await?;
        let app = app.ok_or_else(|| Error::new(Reason::ConfigInvalid, format!("there is no app {id}")))?;
        return wanted(&config.serve, &app, asking);
    }
    let command = rule.command.clone().unwrap_or_default();
    let plain = super::config::Runner::Process(super::config::ProcessRunner::default());
    let runner = rule.runner.as_ref().and_then(|name| config.serve.runners.get(name)).unwrap_or(&plain).with_command(&command);
    let app = format!("webhook:{hook}");
    let runner_name = rule.runner.clone().unwrap_or_else(|| app.clone());
    let inventory = rule.inventory.as_deref().unwrap_or(inventory);
    let wanted = asking.by_runner(&config.serve, &app, inventory, (runner_name, runner));
    Ok(match rule.timeout {
        Some(timeout) => Wanted { timeout: timeout.0.as_secs().max(1), ..wanted },
        None => wanted,
    })
}

fn values(delivery: &Delivery) -> BTreeMap<String, String> {
    let (namespace, name) = delivery.repository.rsplit_once('/').unwrap_or(("", &delivery.repository));
    let all = [("repository", delivery.repository.as_str()), ("namespace", namespace), ("name", name)];
    let mut values: BTreeMap<String, String> = all.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    for (name, value) in [("tag", &delivery.tag), ("branch", &delivery.branch), ("sha", &delivery.sha)] {
        values.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
    }
    values.insert("pusher".into(), harmless(delivery.pusher.as_deref().unwrap_or_default()));
    values
}

/// A name that somebody chose: kept when it is harmless as an argument and in a message.
fn harmless(name: &str) -> String {
    let fits = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._@-[]".contains(c));
    if fits { name.to_owned() } else { "unknown".to_owned() }
}

/// The digest that a registry has under a tag.
async fn look_up(server: &Server, hook: &str, image: &str, tag: &str) -> Result<Option<String>> {
    let config = server.config();
    let role = match config.serve.webhooks.get(hook) {
        Some(super::config::Hook::Ecr(queue)) => queue.role.clone(),
        Some(_) | None => None,
    };
    let asked = async {
        let repository = Repository::parse(image)?;
        let registry = Registry::open(&server.world, &repository, role).await?;
        registry.oci().digest(tag).await
    };
    match tokio::time::timeout(LOOK_UP, asked).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::new(Reason::TargetTimeout, format!("the registry of {image} does not answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        let good = Delivery {
            repository: "jincor/frontend".into(),
            tag: Some("stage".into()),
            branch: Some("main".into()),
            ..Delivery::default()
        };
        assert!(fits(&good).is_ok());
        for bad in [
            Delivery { repository: "../../etc".into(), ..good.clone() },
            Delivery { repository: "a b;$(touch x)".into(), ..good.clone() },
            Delivery { tag: Some("x';touch p".into()), ..good.clone() },
            Delivery { tag: Some(String::new()), ..good.clone() },
            Delivery { branch: Some("--upload-pack=x".into()), ..good.clone() },
            Delivery { branch: Some("a\nb".into()), ..good.clone() },
            Delivery { sha: Some("--x".into()), ..good.clone() },
        ] {
            assert!(fits(&bad).is_err(), "{bad:?}");
        }
        assert_eq!((harmless("ada"), harmless("$(id)"), harmless("-rf")), ("ada".into(), "unknown".into(), "unknown".into()));
    }
}
