//! What to do, as a value: one recipe per event, in the order of a version's life. Prints itself, has a hash. Pure.

use crate::config::{self, Config, Dockerfile, Environment, Gate, Kubernetes, Loaded, Promote, Target, template::Values};
use crate::context::{Decision, Outcome, Request};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, Kind, is_full_sha, short};
use crate::registry::Repository;
use crate::targets::kubernetes::Workload;
use crate::variables::{self, Variables};
use crate::version::{Version, check_image_tag, hex};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Everything that a run will do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The version of this shape; always 1.
    pub schema: u32,
    /// The first 12 hex digits of SHA-256 over everything else, without times and live facts.
    pub hash: String,
    /// What to do.
    pub outcome: Outcome,
    /// The reason code.
    pub reason: Reason,
    /// The environment's key.
    pub environment: Option<String>,
    /// The version.
    pub version: Option<String>,
    /// The images.
    pub images: Vec<PlannedImage>,
    /// The conditions before the switch.
    pub gates: Vec<PlannedGate>,
    /// The steps, each with the steps it waits for.
    pub steps: Vec<Step>,
    /// The lease under which it is done; none when nothing is done.
    pub lock: Option<Lock>,
    /// Where a rollback would lead; none yet.
    pub rollback: Option<()>,
    /// What can be foreseen to go wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why, for a person.
    #[serde(skip)]
    pub sentence: String,
    /// The commit that the version is of.
    #[serde(skip)]
    pub commit: Option<String>,
    /// The environment's name on the forge: a preview has its own.
    #[serde(skip)]
    pub display_environment: String,
    /// Whether this environment belongs to a pull request.
    #[serde(skip)]
    pub is_preview: bool,
    /// What happens to the other targets when one fails.
    #[serde(skip)]
    pub on_partial: config::OnPartial,
}

/// The lease of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Lock {
    /// Its name: project and environment.
    pub key: String,
    /// Whom it holds back.
    pub scope: String,
    /// Where it is kept.
    pub store: crate::state::Kind,
}

/// An image of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedImage {
    /// Its key.
    pub name: String,
    /// Registry host and repository.
    pub repository: String,
    /// The version's tag first, then aliases.
    pub tags: Vec<String>,
    /// How it comes to be.
    pub action: Action,
    /// Everything that a build needs.
    #[serde(skip)]
    pub build: Build,
}

/// How an image comes to be. Whatever the plan says, an image that is already there is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is built.
    Build,
    /// It was pushed before under this version.
    Reuse,
    /// The digest built at merge gets this version's tag.
    Promote,
}

/// A build with all placeholders filled.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// The configuration's own part.
    pub image: config::Image,
    /// Where the image goes.
    pub repository: Repository,
    /// Dockerfile candidates, in order.
    pub dockerfiles: Vec<String>,
    /// Build arguments.
    pub args: Vec<(String, String)>,
    /// The tag under which a merge pushed the same commit.
    pub source_tag: Option<String>,
    /// The commit.
    pub commit: Option<String>,
    /// The commit that is really checked out, for a pull request's test merge.
    pub checked_out: Option<String>,
    /// The version.
    pub version: Version,
}

/// A gate of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedGate {
    /// Its id.
    pub id: String,
    /// What it waits for.
    pub detail: String,
}

/// A step of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// What it does.
    pub title: String,
    /// The steps it waits for.
    pub after: Vec<String>,
    /// The work.
    #[serde(skip)]
    pub work: Work,
}

/// The work of a step.
#[derive(Clone, Debug, Serialize)]
pub enum Work {
    /// Take the lease.
    Lock,
    /// Move the image's aliases forward; the index into `images`.
    Tags(usize),
    /// Write down that the delivery begins.
    Record,
    /// Make sure the image is in its registry; the index into `images`.
    Image(usize),
    /// Wait until queues are quiet.
    Drain(DrainWork),
    /// Update workloads in Kubernetes.
    Kubernetes(KubernetesWork),
    /// Remove what a pull request had.
    RemovePreview,
}

/// A drain with all placeholders filled.
#[derive(Clone, Debug, Serialize)]
pub struct DrainWork {
    /// Queue names, URLs, prefixes.
    pub queues: Vec<String>,
    /// The regions.
    pub regions: Vec<String>,
    /// How long all counts must stay zero.
    pub quiet: Duration,
    /// How long to wait in all.
    pub timeout: Duration,
    /// Stops the producers.
    pub pause: Option<Vec<String>>,
    /// Starts them again.
    pub resume: Option<Vec<String>>,
    /// What a timeout means.
    pub on_timeout: config::OnTimeout,
    /// The role to assume.
    pub role: Option<String>,
}

/// A Kubernetes target with all placeholders filled.
#[derive(Clone, Debug, Serialize)]
pub struct KubernetesWork {
    /// The configuration's own part.
    pub target: Kubernetes,
    /// The namespace.
    pub namespace: String,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// The image's key.
    pub image: String,
    /// The AWS region and role, for EKS.
    pub aws: config::Aws,
}

/// Makes the plan of a decision.
pub fn plan(event: &Event, loaded: &Loaded, request: &Request, decision: &Decision, variables: &Variables) -> Result<Plan> {
    let config = &loaded.config;
    let mut plan = Plan {
        environment: decision.environment.clone(),
        version: decision.version.as_ref().map(Version::to_string),
        commit: decision.commit.clone(),
        display_environment: decision.environment.clone().unwrap_or_default(),
        ..Plan::empty(decision.outcome, decision.reason, decision.sentence.clone())
    };
    if let Some((name, rules)) = decision.environment.as_ref().and_then(|name| config.environments.get_key_value(name)) {
        config::refuse_unsupported(loaded, Some(name))?;
        let values = variables::values(event, config, decision, variables);
        plan.is_preview = rules.is_preview();
        plan.on_partial = rules.on_partial;
        let mut builder = Builder { event, loaded, config, name, rules, values, decision, plan: &mut plan };
        builder.display_name()?;
        match (decision.outcome, request, event.kind) {
            (Outcome::Remove, _, _) => builder.pull_request_closed(),
            (_, Request::PrOpened, _) | (_, Request::Event, Kind::PullRequest) => builder.pull_request_opened()?,
            (_, Request::Release, _) | (_, Request::Event, Kind::Release | Kind::PushTag) => builder.released()?,
            (_, Request::Merge, _) | (_, Request::Event, Kind::PushBranch) => builder.merged()?,
            (_, Request::Deploy { .. } | Request::Event | Request::PrClosed, _) => builder.deployed_by_hand()?,
        }
    }
    plan.hash = hash(&plan);
    Ok(plan)
}

struct Builder<'a> {
    event: &'a Event,
    loaded: &'a Loaded,
    config: &'a Config,
    name: &'a str,
    rules: &'a Environment,
    values: Values,
    decision: &'a Decision,
    plan: &'a mut Plan,
}

/// The recipes, in the order of a version's life.
impl Builder<'_> {
    fn pull_request_opened(&mut self) -> Result<()> {
        self.images(Action::Build)?;
        self.begin();
        self.gates()?;
        self.targets()
    }

    fn pull_request_closed(&mut self) {
        self.lock(Vec::new());
        let title = format!("close the records of {}", self.plan.display_environment);
        self.step("remove", title, vec!["lock".into()], Work::RemovePreview);
    }

    fn merged(&mut self) -> Result<()> {
        self.images(Action::Build)?;
        self.begin();
        self.gates()?;
        self.targets()
    }

    fn released(&mut self) -> Result<()> {
        self.images(Action::Promote)?;
        self.begin();
        self.gates()?;
        self.targets()
    }

    fn deployed_by_hand(&mut self) -> Result<()> {
        self.images(Action::Reuse)?;
        self.begin();
        self.gates()?;
        self.targets()
    }
}

/// The parts of recipes.
impl Builder<'_> {
    fn step(&mut self, id: &str, title: String, after: Vec<String>, work: Work) {
        self.plan.steps.push(Step { id: id.to_owned(), title, after, work });
    }

    fn fill(&self, path: &str, text: &str) -> Result<String> {
        self.values.fill(text).map_err(|why| {
            let path = format!("environments.{}.{path}", self.name);
            let hint = "use another placeholder here, or claim only events that have it".to_owned();
            self.loaded.error(Reason::ConfigInvalid, vec![(path, why, hint)])
        })
    }

    fn display_name(&mut self) -> Result<()> {
        self.plan.display_environment = match (&self.rules.name, self.plan.is_preview) {
            (Some(name), _) => self.fill("name", name)?,
            (None, true) => format!("{}-pr-{}", self.config.project, self.event.pr.unwrap_or_default()),
            (None, false) => self.name.to_owned(),
        };
        Ok(())
    }

    /// The images are there: from here on only one run goes on. The lease is not held for the length of a build.
    fn begin(&mut self) {
        let images = self.step_ids();
        let deploys = !self.rules.deploy.is_empty();
        if deploys {
            self.lock(images);
        }
        for index in 0..self.plan.images.len() {
            let Some(image) = self.plan.images.get(index) else { continue };
            let (name, aliases) = (image.name.clone(), image.tags.get(1..).unwrap_or_default().join(", "));
            if !aliases.is_empty() {
                // Where nothing is deployed, only an alias that has to move needs the lease, and takes it itself.
                let after = if deploys { "lock".to_owned() } else { format!("image.{name}") };
                self.step(&format!("tags.{name}"), format!("move {aliases} forward"), vec![after], Work::Tags(index));
            }
        }
        if deploys {
            let title = format!("write down that {} is delivered", self.plan.version.as_deref().unwrap_or_default());
            self.step("record", title, self.step_ids(), Work::Record);
        }
    }

    fn lock(&mut self, after: Vec<String>) {
        let title = format!("take the lease {}/{}", self.config.project, self.plan.display_environment);
        self.step("lock", title, after, Work::Lock);
    }

    fn step_ids(&self) -> Vec<String> {
        self.plan.steps.iter().map(|step| step.id.clone()).collect()
    }

    fn images(&mut self, action: Action) -> Result<()> {
        let version = self.decision.version.clone().ok_or_else(|| Error::new(Reason::Internal, "a plan without a version"))?;
        let used = |name: &str| action != Action::Reuse || self.rules.deploy.is_empty() || self.is_deployed(name);
        let names: Vec<String> = self.config.images.keys().filter(|name| used(name)).cloned().collect();
        for name in names {
            let Some(image) = self.config.images.get(&name) else { continue };
            let action = match (action, image.promote) {
                (Action::Promote, Promote::Rebuild) => Action::Build,
                (planned, _) => planned,
            };
            let planned = self.image(&name, image, action, &version)?;
            let title = format!("{} {}:{}", verb(action), planned.repository, version);
            self.plan.images.push(planned);
            let index = self.plan.images.len() - 1;
            self.step(&format!("image.{name}"), title, Vec::new(), Work::Image(index));
        }
        Ok(())
    }

    fn is_deployed(&self, name: &str) -> bool {
        let only = self.config.images.len() == 1;
        self.rules.deploy.iter().any(|target| match target {
            Target::Kubernetes(kubernetes) => kubernetes.image.as_deref().map_or(only, |image| image == name),
            Target::Swarm(_)
            | Target::Heroku(_)
            | Target::Awx(_)
            | Target::Ecs(_)
            | Target::AppDeploy(_)
            | Target::Command(_)
            | Target::Webhook(_) => true,
        })
    }

    fn image(&self, name: &str, image: &config::Image, action: Action, version: &Version) -> Result<PlannedImage> {
        let repository = Repository::parse(&image.repository)?;
        let mut tags = vec![version.to_string()];
        for tag in &self.rules.tags {
            let tag = self.fill("tags", tag)?;
            check_image_tag(&tag, &tag)?;
            if !tags.contains(&tag) && version.claims_alias(&tag) {
                tags.push(tag);
            }
        }
        let dockerfiles = match &image.dockerfile {
            Dockerfile::Path(file) => vec![self.fill("dockerfile", file)?],
            Dockerfile::WithFallback(choice) => vec![self.fill("dockerfile", &choice.file)?, choice.fallback.clone()],
        };
        let mut args = Vec::new();
        for (arg, value) in &image.args {
            args.push((arg.clone(), self.fill("args", value)?));
        }
        let source_tag = self.decision.commit.as_deref().filter(|commit| is_full_sha(commit)).map(short);
        let build = Build {
            image: image.clone(),
            repository: repository.clone(),
            dockerfiles,
            args,
            source_tag: source_tag.filter(|tag| action != Action::Build && tag != version.as_str()),
            commit: self.decision.commit.clone(),
            checked_out: self.event.more.built_sha.clone().or_else(|| self.decision.commit.clone()),
            version: version.clone(),
        };
        Ok(PlannedImage { name: name.to_owned(), repository: repository.to_string(), tags, action, build })
    }

    fn aws(&self) -> config::Aws {
        let own = &self.rules.aws;
        config::Aws {
            region: own.region.clone().or_else(|| self.config.aws.region.clone()),
            role: own.role.clone().or_else(|| self.config.aws.role.clone()),
        }
    }

    fn gates(&mut self) -> Result<()> {
        let drains: Vec<config::Drain> = self
            .rules
            .gates
            .iter()
            .filter_map(|gate| match gate {
                Gate::Drain(drain) => Some(drain.clone()),
                Gate::Scan(_) => None,
            })
            .collect();
        let before = self.step_ids();
        for (index, drain) in drains.iter().enumerate() {
            let mut queues = Vec::new();
            for queue in &drain.queues {
                queues.push(self.fill("gates", queue)?);
            }
            let aws = self.aws();
            let regions = if drain.regions.is_empty() { aws.region.clone().into_iter().collect() } else { drain.regions.clone() };
            let id = if index == 0 { "drain".to_owned() } else { format!("drain.{}", index + 1) };
            let place = if regions.is_empty() { "the default region".to_owned() } else { regions.join(", ") };
            let detail = format!("{} in {place}: quiet for {}, at most {}", queues.join(", "), drain.quiet, drain.timeout);
            let work = DrainWork {
                queues,
                regions,
                quiet: drain.quiet.0,
                timeout: drain.timeout.0,
                pause: self.hook(drain.pause.as_ref())?,
                resume: self.hook(drain.resume.as_ref())?,
                on_timeout: drain.on_timeout,
                role: aws.role,
            };
            // Queues are watched while the build runs; but producers are paused only when the image is there.
            let after = if work.pause.is_some() { before.clone() } else { Vec::new() };
            self.plan.gates.push(PlannedGate { id: id.clone(), detail: detail.clone() });
            self.step(&id, format!("wait for {detail}"), after, Work::Drain(work));
        }
        Ok(())
    }

    fn hook(&self, hook: Option<&config::Hook>) -> Result<Option<Vec<String>>> {
        let Some(hook) = hook else { return Ok(None) };
        hook.command.iter().map(|word| self.fill("gates", word)).collect::<Result<_>>().map(Some)
    }

    fn targets(&mut self) -> Result<()> {
        let before = self.step_ids();
        let mut previous: Option<String> = None;
        for (index, target) in self.rules.deploy.iter().enumerate() {
            let (id, title, work) = match target {
                Target::Kubernetes(kubernetes) => self.kubernetes(index, kubernetes)?,
                Target::Swarm(_)
                | Target::Heroku(_)
                | Target::Awx(_)
                | Target::Ecs(_)
                | Target::AppDeploy(_)
                | Target::Command(_)
                | Target::Webhook(_) => continue, // refused by config::refuse_unsupported
            };
            let after = before.iter().cloned().chain(previous.take()).collect();
            self.step(&id, title, after, work);
            previous = Some(id);
        }
        Ok(())
    }

    fn kubernetes(&self, index: usize, target: &Kubernetes) -> Result<(String, String, Work)> {
        let namespace = self.fill("deploy", &target.namespace)?;
        if !crate::targets::kubernetes::is_dns_label(&namespace) {
            let path = format!("environments.{}.deploy[{index}].kubernetes.namespace", self.name);
            let message = format!("{namespace:?} cannot be a namespace");
            let hint = "at most 63 lower-case letters, digits and dashes: look at the values of this run";
            return Err(self.loaded.error(Reason::InputInvalid, vec![(path, message, hint.into())]));
        }
        let mut workloads = Vec::new();
        for workload in &target.workloads {
            let filled = self.fill("deploy", workload)?;
            workloads.push(Workload::parse(&filled).map_err(|why| Error::new(Reason::InputInvalid, why))?);
        }
        let image = target.image.clone().or_else(|| self.config.images.keys().next().cloned()).unwrap_or_default();
        let place = match (&target.context, &target.cluster) {
            (Some(place), _) | (None, Some(place)) => format!("{place}/{namespace}"),
            (None, None) => namespace.clone(),
        };
        let named: Vec<String> = workloads.iter().map(Workload::to_string).collect();
        let title = format!("kubernetes {place}: {}", named.join(", "));
        let id = if index == 0 { "deploy.kubernetes".to_owned() } else { format!("deploy.kubernetes.{}", index + 1) };
        let work = KubernetesWork { target: target.clone(), namespace, workloads, image, aws: self.aws() };
        Ok((id, title, Work::Kubernetes(work)))
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Build => "build",
        Action::Reuse => "find",
        Action::Promote => "promote to",
    }
}

/// SHA-256 over the canonical plan: it holds neither times nor live facts.
fn hash(plan: &Plan) -> String {
    let work: Vec<&Work> = plan.steps.iter().map(|step| &step.work).collect();
    let builds: Vec<&Build> = plan.images.iter().map(|image| &image.build).collect();
    let canonical = serde_json::json!({
        "outcome": plan.outcome, "environment": plan.environment, "version": plan.version, "commit": plan.commit,
        "images": plan.images, "gates": plan.gates, "steps": plan.steps, "work": work, "builds": builds,
    });
    hex(&Sha256::digest(canonical.to_string().as_bytes())).chars().take(12).collect()
}

impl Plan {
    /// The plan of something that cannot be done.
    pub fn refused(error: &Error) -> Self {
        let mut plan = Self::empty(Outcome::Refuse, error.reason, error.lines().join("\n"));
        plan.hash = hash(&plan);
        plan
    }

    fn empty(outcome: Outcome, reason: Reason, sentence: String) -> Self {
        Self {
            schema: 1,
            hash: String::new(),
            outcome,
            reason,
            environment: None,
            version: None,
            images: Vec::new(),
            gates: Vec::new(),
            steps: Vec::new(),
            lock: None,
            rollback: None,
            warnings: Vec::new(),
            sentence,
            commit: None,
            display_environment: String::new(),
            is_preview: false,
            on_partial: config::OnPartial::Stop,
        }
    }
}
