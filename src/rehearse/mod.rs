//! `tidegate rehearse`: the real code, from event to comment, against a pretend outside in this process.

use crate::commands::init::Host;
use crate::config::{self, Config, Loaded, Target};
use crate::context::Request;
use crate::delivery::{self, Asked};
use crate::error::{Error, Reason, Result};
use crate::event::{FactFlags, is_full_sha};
use crate::report::Report;
use crate::run::{self, lease::DEFAULT_TIMEOUT};
use crate::tools::console::{Console, Style};
use crate::tools::wait::Clock;
use crate::vars::Vars;
use crate::version::hex;
use crate::world::World;
use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub mod aws;
pub mod awx;
pub mod cd_server;
pub mod downstream;
pub mod ecs;
pub mod engine;
pub mod github;
pub mod github_git;
mod github_life;
pub mod gitlab;
mod gitlab_job;
mod gitlab_places;
pub mod heroku;
pub mod hooks;
pub mod kubernetes;
mod kubernetes_objects;
mod kubernetes_rollout;
pub mod manifests;
pub mod registry;
pub mod s3;
pub mod sandbox;
pub mod scans;
pub mod swarm;

use sandbox::Sandbox;

/// How much faster than the wall a rehearsal's clock runs: two minutes of quiet take two seconds.
const SPEED: u32 = 60;
/// The pull request that a rehearsal is about.
const PULL_REQUEST: u64 = 12;
/// Variables of the surroundings that must not reach a rehearsal.
const FOREIGN: [&str; 9] = ["GITHUB_", "GITLAB_", "ACTIONS_", "RUNNER_", "INPUT_", "TIDEGATE_", "AWS_", "KUBE", "CI"];

/// Which event is rehearsed.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Rehearsal {
    /// A merge to the default branch
    Merge,
    /// A push to another branch
    Push {
        /// The branch
        branch: String,
    },
    /// A published release of the merged commit, or a pushed tag
    Release {
        /// The tag
        #[arg(default_value = "v1.0.0")]
        tag: String,
    },
    /// A pull request is opened
    PrOpened,
    /// A pull request is closed
    PrClosed,
    /// A deploy by hand
    Deploy {
        /// The environment's key
        #[arg(value_name = "ENV")]
        environment: String,
        /// The version
        version: String,
    },
}

/// Rehearses; ends with the comment as the pull request would show it.
pub async fn rehearse(world: &World, file: Option<&Path>, ci: Option<Host>, rehearsal: &Rehearsal) -> Result<Report> {
    let loaded = config::load(file)?;
    let on_gitlab = loaded.folder.join(".gitlab-ci.yml").exists() && !loaded.folder.join(".github/workflows").exists();
    let host = ci.unwrap_or(if on_gitlab { Host::GitLab } else { Host::GitHub });
    let stage = Stage::new(world, &loaded, host).await?;
    let console = world.console.plain();
    let place = if host == Host::GitLab { " as a GitLab job" } else { "" };
    console.bold(&format!(
        "rehearsing {} of {} in a sandbox{place}: nothing outside is touched, and waiting runs {SPEED} times as fast",
        name(rehearsal),
        loaded.config.project
    ));
    if !stage.has_engine {
        console.line("  there is no Docker engine here: a stand-in takes its place and pushes a tiny image");
    }
    // What came before, out of sight: a release finds the image that the merge built, a closed pull request its preview.
    let before = match rehearsal {
        Rehearsal::Release { .. } | Rehearsal::Deploy { .. } => Some(Rehearsal::Merge),
        Rehearsal::PrClosed => Some(Rehearsal::PrOpened),
        Rehearsal::Merge | Rehearsal::Push { .. } | Rehearsal::PrOpened => None,
    };
    let mut earlier: Vec<Rehearsal> = before.into_iter().collect();
    earlier.extend(promotions(&loaded.config, rehearsal));
    for before in &earlier {
        let silent = Console::to(Style::Plain, false, Arc::new(Mutex::new(std::io::sink())));
        stage.play(&loaded, before, silent).await.ok();
        stage.sandbox.with(|outside| {
            outside.github.comments.clear();
            outside.gitlab.notes.clear();
        });
    }
    let (report, pull_request) = stage.play(&loaded, rehearsal, console.clone()).await?;
    stage.show_comment(&console, pull_request);
    Ok(report)
}

/// The environments where a version must have succeeded before, the first one first.
fn promotions(config: &Config, rehearsal: &Rehearsal) -> Vec<Rehearsal> {
    let Rehearsal::Deploy { environment, version } = rehearsal else { return Vec::new() };
    let before = |name: &String| config.environments.get(name).and_then(|rules| rules.after.clone());
    let chain = std::iter::successors(before(environment), |name| before(name)).take(config.environments.len());
    let mut chain: Vec<Rehearsal> = chain.map(|environment| Rehearsal::Deploy { environment, version: version.clone() }).collect();
    chain.reverse();
    chain
}

fn name(rehearsal: &Rehearsal) -> String {
    match rehearsal {
        Rehearsal::Merge => "a merge".into(),
        Rehearsal::Push { branch } => format!("a push to {branch}"),
        Rehearsal::Release { tag } => format!("the release {tag}"),
        Rehearsal::PrOpened => "an opened pull request".into(),
        Rehearsal::PrClosed => "a closed pull request".into(),
        Rehearsal::Deploy { environment, version } => format!("the deploy of {version} to {environment}"),
    }
}

/// The sandbox and a folder for the files that a job would have.
struct Stage<'a> {
    world: &'a World,
    sandbox: Sandbox,
    folder: tempfile::TempDir,
    sha: String,
    repository: String,
    has_engine: bool,
    host: Host,
}

impl<'a> Stage<'a> {
    async fn new(world: &'a World, loaded: &Loaded, host: Host) -> Result<Self> {
        let failed = |error: std::io::Error| Error::new(Reason::Internal, format!("the sandbox cannot be set up: {error}"));
        let head = crate::checkout::Checkout::at(&loaded.folder).head();
        let sha = head.unwrap_or_else(|| pretend_sha(&loaded.config.project));
        let mut outside = sandbox::World { generous: true, ..sandbox::World::default() };
        let repository = format!("acme/{}", loaded.config.project);
        outside.github.repository.clone_from(&repository);
        outside.github.history = vec![pretend_sha("before"), sha.clone()];
        outside.github.pulls = vec![(sha.clone(), PULL_REQUEST)];
        let image = loaded.config.images.values().next().map_or("demo", |image| image.repository.as_str());
        outside.cluster.first_image = format!("{image}:before@sha256:{}", hex(&Sha256::digest(b"before")));
        outside.cluster.log = "listening on :8080\n".into();
        let apps = heroku_targets(&loaded.config).filter(|heroku| heroku.create.is_none());
        let names = apps.map(|heroku| heroku.app.replace("{project}", &loaded.config.project)).filter(|name| !name.contains('{'));
        outside.heroku.apps = names.map(|name| (crate::targets::heroku::app_name(&name), heroku::App::running())).collect();
        outside.heroku.phase = vec!["(the output of the release phase)".into()];
        outside.ecs.containers = ecs_containers(&loaded.config);
        let sandbox = Sandbox::start(outside).await.map_err(failed)?;
        let folder = tempfile::tempdir().map_err(failed)?;
        std::fs::write(folder.path().join("kubeconfig"), sandbox.kubeconfig(&contexts(&loaded.config))).map_err(failed)?;
        let has_engine = crate::steps::engine::is_at_hand(&world.vars).await;
        Ok(Self { world, sandbox, folder, sha, repository, has_engine, host })
    }

    /// One run of the real code.
    async fn play(&self, loaded: &Loaded, rehearsal: &Rehearsal, console: Console) -> Result<(Report, Option<u64>)> {
        let (event, payload, request) = self.event(rehearsal);
        let path = self.folder.path().join("event.json");
        std::fs::write(&path, payload.to_string()).map_err(|error| Error::new(Reason::Internal, format!("no event file: {error}")))?;
        let vars = self.vars(&loaded.config, (event, rehearsal), &path);
        let vars =
            if self.host == Host::GitLab { gitlab_job::of(&self.sandbox, &self.repository, &self.sha, rehearsal, vars) } else { vars };
        let world = World {
            vars,
            console,
            clock: Clock::fast(SPEED),
            rehearsal: true,
            detour: Some(format!("http://{}", self.sandbox.address)),
            ..self.world.clone()
        };
        let config = Some(PathBuf::from(&loaded.file));
        let asked = Asked {
            request,
            config,
            folder: None,
            set: Vec::new(),
            facts: FactFlags::default(),
            lock_timeout: DEFAULT_TIMEOUT,
            lifted: Default::default(),
        };
        let prepared = delivery::prepare(&world, &asked).await?;
        Ok(run::run(&world, &prepared).await)
    }

    fn event(&self, rehearsal: &Rehearsal) -> (&'static str, Value, Request) {
        let repository = json!({"full_name": self.repository, "default_branch": "main", "id": 1});
        let sender = json!({"login": "octocat"});
        let pull = |action: &str, merged: bool| {
            let side = |name: &str, sha: &str| json!({"ref": name, "sha": sha, "repo": {"id": 1, "full_name": self.repository}});
            json!({
                "action": action, "number": PULL_REQUEST, "repository": repository, "sender": sender,
                "pull_request": {
                    "number": PULL_REQUEST, "draft": false, "merged": merged, "user": sender, "labels": [{"name": "preview"}],
                    "head": side("change", &self.sha), "base": side("main", &pretend_sha("before")),
                },
            })
        };
        match rehearsal {
            Rehearsal::Merge | Rehearsal::Push { .. } => {
                let payload = json!({
                    "ref": format!("refs/heads/{}", branch_of(rehearsal)), "before": pretend_sha("before"), "after": self.sha, "created": false, "deleted": false,
                    "forced": false, "head_commit": {"id": self.sha}, "repository": repository, "sender": sender,
                });
                ("push", payload, Request::Event)
            }
            Rehearsal::Release { tag } => {
                self.sandbox.with(|outside| outside.github.tags = vec![(tag.clone(), self.sha.clone())]);
                let release = json!({"tag_name": tag, "target_commitish": "main", "draft": false, "prerelease": false, "author": sender});
                ("release", json!({"action": "published", "release": release, "repository": repository, "sender": sender}), Request::Event)
            }
            Rehearsal::PrOpened => ("pull_request", pull("opened", false), Request::Event),
            Rehearsal::PrClosed => {
                self.sandbox.with(|outside| outside.github.closed.push(PULL_REQUEST));
                ("pull_request", pull("closed", true), Request::Event)
            }
            Rehearsal::Deploy { environment, version } => {
                if !is_full_sha(version) {
                    self.sandbox.with(|outside| outside.github.tags = vec![(version.clone(), self.sha.clone())]);
                }
                let request = Request::Deploy { environment: environment.clone(), version: version.clone() };
                let payload = json!({"ref": "refs/heads/main", "inputs": {}, "repository": repository, "sender": sender});
                ("workflow_dispatch", payload, request)
            }
        }
    }

    /// The variables of a GitHub job whose every address is the sandbox.
    fn vars(&self, config: &Config, (event, rehearsal): (&str, &Rehearsal), path: &Path) -> Vars {
        let own = |(name, _): &(&str, &str)| !FOREIGN.iter().any(|foreign| name.starts_with(foreign)) && !name.ends_with("_TOKEN");
        let kept = self.world.vars.starting_with("").filter(own).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut vars: Vars = kept.collect();
        let reference = match rehearsal {
            Rehearsal::Release { tag } => format!("refs/tags/{tag}"),
            Rehearsal::Merge | Rehearsal::Push { .. } | Rehearsal::PrOpened | Rehearsal::PrClosed | Rehearsal::Deploy { .. } => {
                format!("refs/heads/{}", branch_of(rehearsal))
            }
        };
        let repositories = config.images.values().flat_map(|image| std::iter::once(&image.repository).chain(&image.copies));
        let hosts: Vec<String> = repositories.filter_map(|name| Some(crate::registry::Repository::parse(name).ok()?.host)).collect();
        let reached = hosts.iter().map(String::as_str).chain(std::iter::once("registry.heroku.com"));
        let endpoints: Vec<String> = reached.map(|host| format!("{host}=http://{}", self.sandbox.address)).collect();
        let login = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{}", registry::PASSWORD));
        let logins: serde_json::Map<String, Value> = hosts.iter().map(|host| (host.clone(), json!({"auth": login}))).collect();
        let shown = path.display().to_string();
        for (name, value) in [
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("GITHUB_EVENT_NAME", event.to_owned()),
            ("GITHUB_EVENT_PATH", shown),
            ("GITHUB_REPOSITORY", self.repository.clone()),
            ("GITHUB_SHA", self.sha.clone()),
            ("GITHUB_REF", reference),
            ("GITHUB_ACTOR", "octocat".to_owned()),
            ("GITHUB_SERVER_URL", "https://github.com".to_owned()),
            ("GITHUB_API_URL", self.sandbox.url("github")),
            ("GITHUB_RUN_ID", "1".to_owned()),
            ("GITHUB_TOKEN", "sandbox-github-token".to_owned()),
            ("AWS_ENDPOINT_URL", self.sandbox.url("aws")),
            ("AWS_ACCESS_KEY_ID", "AKIASANDBOX".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "sandbox-secret-key".to_owned()),
            ("AWS_REGION", config.aws.region.clone().unwrap_or_else(|| "us-east-1".into())),
            ("KUBECONFIG", self.folder.path().join("kubeconfig").display().to_string()),
            ("TIDEGATE_REGISTRY_ENDPOINTS", endpoints.join(",")),
            ("DOCKER_AUTH_CONFIG", json!({"auths": logins}).to_string()),
        ] {
            vars = vars.with(name, value);
        }
        if !self.has_engine {
            vars = vars.with("DOCKER_HOST", format!("tcp://{}", self.sandbox.address)).with("DOCKER_TLS_VERIFY", "");
        }
        for secret in config.secret_names() {
            match pretend_secret(config, secret) {
                Some(known) => vars = vars.with(secret, known),
                None if vars.get(secret).is_none() => vars = vars.with(secret, "rehearsal-secret"),
                None => {}
            }
        }
        vars
    }

    fn show_comment(&self, console: &Console, pull_request: Option<u64>) {
        let body = self.sandbox.with(|outside| match self.host {
            Host::GitHub => {
                outside.github.comments.iter().rfind(|comment| Some(comment.pr) == pull_request).map(|comment| comment.body.clone())
            }
            Host::GitLab => {
                outside.gitlab.notes.iter().rfind(|note| Some(note.merge_request) == pull_request).map(|note| note.body.clone())
            }
        });
        let Some(body) = body else { return };
        console.line("");
        let number = pull_request.unwrap_or_default();
        console.bold(&match self.host {
            Host::GitHub => format!("the comment on pull request #{number}:"),
            Host::GitLab => format!("the note on merge request !{number}:"),
        });
        let shown = body.lines().filter(|line| !line.starts_with("<!--"));
        shown.for_each(|line| console.line(&format!("  {line}")));
    }
}

fn targets(config: &Config) -> impl Iterator<Item = &Target> {
    config.environments.values().flat_map(|environment| &environment.deploy)
}

fn heroku_targets(config: &Config) -> impl Iterator<Item = &crate::config::Heroku> {
    targets(config).filter_map(|target| if let Target::Heroku(heroku) = target { Some(heroku.as_ref()) } else { None })
}

/// The pretend AWX and Heroku know one login each; everything else takes any secret.
fn pretend_secret(config: &Config, secret: &str) -> Option<&'static str> {
    if heroku_targets(config).any(|heroku| heroku.token.env == secret) {
        return Some(heroku::KEY);
    }
    let mut logins = targets(config).filter_map(|target| if let Target::Awx(awx) = target { Some(awx) } else { None });
    logins.find_map(|awx| {
        let is = |name: &crate::config::SecretName| name.env == secret;
        match (&awx.token, &awx.login) {
            (Some(token), _) if is(token) => Some(awx::TOKEN),
            (_, Some(login)) if is(&login.username) => Some("admin"),
            (_, Some(login)) if is(&login.password) => Some(awx::PASSWORD),
            (_, _) => None,
        }
    })
}

/// The containers that services of the pretend ECS have: those that are named, or one for each image, which runs an older one.
fn ecs_containers(config: &Config) -> Vec<(String, String)> {
    let mut containers: Vec<(String, String)> = Vec::new();
    for target in targets(config) {
        let Target::Ecs(ecs) = target else { continue };
        let (key, image) = match &ecs.image {
            Some(key) => (key.as_str(), config.images.get(key)),
            None => config.images.first().map_or(("app", None), |(key, image)| (key.as_str(), Some(image))),
        };
        let repository = image.map_or("demo", |image| image.repository.as_str());
        let before = format!("{repository}:before@sha256:{}", hex(&Sha256::digest(b"before")));
        let task = ecs.run_task.as_ref().and_then(|task| task.container.as_deref());
        for name in std::iter::once(ecs.container.as_deref().unwrap_or(key)).chain(task) {
            if !containers.iter().any(|(known, _)| known == name) {
                containers.push((name.to_owned(), before.clone()));
            }
        }
    }
    containers
}

/// The branch that a rehearsal is about.
fn branch_of(rehearsal: &Rehearsal) -> &str {
    match rehearsal {
        Rehearsal::Push { branch } => branch,
        Rehearsal::Merge | Rehearsal::Release { .. } | Rehearsal::PrOpened | Rehearsal::PrClosed | Rehearsal::Deploy { .. } => "main",
    }
}

/// A commit id that looks real and is always the same.
fn pretend_sha(seed: &str) -> String {
    hex(&Sha256::digest(seed.as_bytes())).chars().take(40).collect()
}

fn contexts(config: &Config) -> Vec<String> {
    let mut names = vec!["sandbox".to_owned()];
    for environment in config.environments.values() {
        for target in &environment.deploy {
            if let Target::Kubernetes(kubernetes) = target {
                names.extend(kubernetes.context.clone());
            }
        }
    }
    names
}
