//! One recipe per event, in the order of a version's life; then the parts that recipes are made of. Pure.

use super::{Action, BackMergeWork, Build, DrainWork, Plan, PlannedGate, PlannedImage, ReleaseWork, Step, Work};
use crate::config::{self, Config, Dockerfile, Environment, Loaded, Promote, Target, template::Values};
use crate::context::{Decision, Outcome};
use crate::error::{Error, Reason, Result};
use crate::event::{Event, is_full_sha, short};
use crate::gates::scan::{Allowed, Scan};
use crate::gates::{self, after::After};
use crate::registry::Repository;
use crate::version::{Version, check_image_tag};

/// A plan while it is made.
pub(super) struct Builder<'a> {
    pub(super) event: &'a Event,
    pub(super) loaded: &'a Loaded,
    pub(super) config: &'a Config,
    pub(super) name: &'a str,
    pub(super) rules: &'a Environment,
    pub(super) values: Values,
    pub(super) decision: &'a Decision,
    pub(super) plan: &'a mut Plan,
}

/// The recipes, in the order of a version's life.
impl Builder<'_> {
    pub(super) fn pull_request_opened(&mut self) -> Result<()> {
        self.images(Action::Build)?;
        self.begin()?;
        self.gates()?;
        self.switch()
    }

    /// A sweep may have found some of it under another name than tidegate.yml says now: that goes too.
    pub(super) fn pull_request_closed(&mut self, found: &[(usize, String)]) -> Result<()> {
        self.lock(Vec::new());
        self.removals()?;
        self.removals_by_mark(found)?;
        let title = format!("close the records of {}", self.plan.display_environment);
        self.step("remove", title, self.step_ids(), Work::RemovePreview);
        Ok(())
    }

    pub(super) fn merged(&mut self) -> Result<()> {
        self.images(Action::Build)?;
        self.begin()?;
        self.gates()?;
        self.switch()
    }

    pub(super) fn released(&mut self) -> Result<()> {
        self.images(Action::Promote)?;
        self.begin()?;
        self.gates()?;
        self.switch()
    }

    pub(super) fn deployed_by_hand(&mut self) -> Result<()> {
        self.images(Action::Reuse)?;
        self.begin()?;
        self.gates()?;
        self.switch()
    }

    /// The release is made when the images are there and the first gates are open: a no before that leaves no version behind.
    pub(super) fn hot_fixed(&mut self, back_merge: bool) -> Result<()> {
        let fix = self.decision.fix.clone().ok_or_else(|| Error::new(Reason::Internal, "a hot fix without its facts"))?;
        self.images(Action::Promote)?;
        let body = format!("A hot fix of {}, from {}.", fix.fixes, fix.branch);
        self.begin_with(Some(ReleaseWork { tag: fix.tag.clone(), commit: fix.tip.clone(), body }))?;
        self.gates()?;
        self.switch()?;
        if back_merge && fix.on_default != Some(true) {
            let base = self.event.default_branch.clone().unwrap_or_else(|| "main".into());
            let title = format!("open a pull request from {} to {base}", fix.branch);
            let work = BackMergeWork { branch: fix.branch, base, version: fix.version.to_string() };
            self.step("back-merge", title, self.step_ids(), Work::BackMerge(work));
        }
        Ok(())
    }

    /// The images are those of the record, aliases stay, and the database is not migrated back.
    pub(super) fn rolled_back(&mut self) -> Result<()> {
        self.images(Action::Reuse)?;
        if let Some(unknown) = self.plan.images.iter().find(|image| image.digest.is_none()) {
            let version = self.plan.version.as_deref().unwrap_or_default();
            let sentence = format!("when {version} was delivered to {}, there was no image {} with it", self.name, unknown.name);
            return Err(Error::new(Reason::InputVersion, sentence).hint(format!(
                "what is deployed here has changed since: tidegate deploy {} {version} delivers it as it would be made now",
                self.name
            )));
        }
        self.begin()?;
        self.gates()?;
        self.switch()
    }
}

/// The parts of recipes.
impl Builder<'_> {
    pub(super) fn step(&mut self, id: &str, title: String, after: Vec<String>, work: Work) {
        self.plan.steps.push(Step { id: id.to_owned(), title, after, work });
    }

    pub(super) fn fill(&self, path: &str, text: &str) -> Result<String> {
        self.values.fill(text).map_err(|why| {
            if let (true, None, Some(version)) = (self.decision.by_hand, &self.decision.commit, &self.decision.version) {
                let sentence = format!("there is no version {version}: neither git nor the forge knows such a tag, branch or commit");
                return Error::new(Reason::InputVersion, sentence).hint("look at its spelling; git fetch --tags, or push the tag first");
            }
            let path = format!("environments.{}.{path}", self.name);
            let hint = "use another placeholder here, or claim only events that have it".to_owned();
            self.loaded.error(Reason::ConfigInvalid, vec![(path, why, hint)])
        })
    }

    pub(super) fn display_name(&mut self) -> Result<()> {
        self.plan.display_environment = match (&self.rules.name, self.plan.is_preview) {
            (Some(name), _) => self.fill("name", name)?,
            (None, true) => format!("{}-pr-{}", self.config.project, self.event.pr.unwrap_or_default()),
            (None, false) => self.name.to_owned(),
        };
        Ok(())
    }

    pub(super) fn url(&mut self) -> Result<()> {
        let Some(text) = self.rules.url.as_ref().filter(|_| self.decision.outcome == Outcome::Deploy) else { return Ok(()) };
        let filled = self.fill("url", text)?;
        let url = url::Url::parse(&filled).map_err(|why| {
            let path = format!("environments.{}.url", self.name);
            let hint = "look at the values of this run: {branch_slug} fits into a host name, {branch} may not".to_owned();
            self.loaded.error(Reason::InputInvalid, vec![(path, format!("{filled:?} is no address: {why}"), hint)])
        })?;
        self.plan.url = Some(url.to_string());
        Ok(())
    }

    /// The images are there: from here on only one run goes on. The lease is not held for the length of a build.
    fn begin(&mut self) -> Result<()> {
        self.begin_with(None)
    }

    fn begin_with(&mut self, release: Option<ReleaseWork>) -> Result<()> {
        self.after();
        self.scans()?;
        let images_ready = self.step_ids();
        // A pipeline elsewhere is started once, like a deploy: it needs the lease and the record too.
        let triggers = self.rules.trigger.iter().any(|trigger| self.is_met(trigger.condition()));
        let deploys = triggers || self.has_targets();
        if deploys {
            self.lock(images_ready.clone());
        }
        if let Some(work) = release {
            let title = format!("release {} of {}", work.tag, short(&work.commit));
            self.step("release", title, self.step_ids(), Work::Release(work));
        }
        for index in 0..self.plan.images.len() {
            let Some(image) = self.plan.images.get(index) else { continue };
            let (name, aliases) = (image.name.clone(), image.tags.get(1..).unwrap_or_default().join(", "));
            if !aliases.is_empty() {
                // Where nothing is deployed, only an alias that has to move needs the lease, and takes it itself.
                let after = if deploys { vec!["lock".to_owned()] } else { images_ready.clone() };
                self.step(&format!("tags.{name}"), format!("move {aliases} forward"), after, Work::Tags(index));
            }
        }
        if deploys {
            let title = format!("write down that {} is delivered", self.plan.version.as_deref().unwrap_or_default());
            self.step("record", title, self.step_ids(), Work::Record);
        }
        Ok(())
    }

    /// What the registry's scan found is asked as soon as the image is there; what ran here before is not asked again.
    fn scans(&mut self) -> Result<()> {
        let scans = self.rules.scans();
        if self.plan.is_back || scans.is_empty() || self.lifts(gates::Gate::Scan) {
            return Ok(());
        }
        let images: Vec<String> = self.plan.images.iter().map(|image| image.name.clone()).collect();
        for (index, scan) in scans.iter().enumerate() {
            for image in &images {
                let number = if index == 0 { String::new() } else { format!(".{}", index + 1) };
                let id = format!("scan.{image}{number}");
                let work = Scan {
                    image: image.clone(),
                    max: scan.max,
                    timeout: scan.timeout.0,
                    settle: scan.settle.0,
                    on_unsupported: scan.on_unsupported,
                    allow: scan.allow.iter().map(Allowed::of).collect::<Result<_>>()?,
                };
                let detail = format!("the scan of {image} found {}, within {}", work.limit(), scan.timeout);
                self.plan.gates.push(PlannedGate { id: id.clone(), detail: detail.clone() });
                self.step(&id, format!("see that {detail}"), vec![format!("image.{image}")], Work::Scan(work));
            }
        }
        Ok(())
    }

    /// The same images must have succeeded elsewhere, unless a person lifts that, or they ran here before.
    fn after(&mut self) {
        let Some(environment) = self.rules.after.clone().filter(|_| !self.plan.is_back) else { return };
        if self.lifts(gates::Gate::After) {
            return;
        }
        let soak = self.rules.soak.as_ref().map(|soak| soak.0);
        let how = self.rules.soak.as_ref().map(|soak| format!(", and ran there for {soak}")).unwrap_or_default();
        let detail = format!("the same images succeeded on {environment}{how}");
        self.plan.gates.push(PlannedGate { id: "after".into(), detail: detail.clone() });
        let images = self.step_ids();
        self.step("after", format!("see that {detail}"), images, Work::After(After { environment, soak }));
    }

    /// Whether a person lifts this gate in this run. What was lifted although it is not there is no news.
    pub(super) fn lifts(&mut self, gate: gates::Gate) -> bool {
        let name = match gate {
            gates::Gate::After => "after",
            gates::Gate::Drain => "drain",
            gates::Gate::Scan => "scan",
            gates::Gate::Backup => "backup",
            gates::Gate::Freeze | gates::Gate::Migration => return false, // decided before there is a plan
        };
        let Some(reason) = self.decision.overrides.lifts(gate).then(|| self.decision.overrides.reason.clone()) else { return false };
        self.plan.lifted.push(format!("{name}: {reason}"));
        true
    }

    fn lock(&mut self, after: Vec<String>) {
        let title = format!("take the lease {}/{}", self.config.project, self.plan.display_environment);
        self.step("lock", title, after, Work::Lock);
    }

    pub(super) fn step_ids(&self) -> Vec<String> {
        self.plan.steps.iter().map(|step| step.id.clone()).collect()
    }

    fn images(&mut self, action: Action) -> Result<()> {
        let version = self.decision.version.clone().ok_or_else(|| Error::new(Reason::Internal, "a plan without a version"))?;
        let used = |name: &str| action != Action::Reuse || !self.has_targets() || self.is_deployed(name) || self.is_sent(name);
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
        let takes = |target: &Target| match target {
            Target::Kubernetes(kubernetes) => kubernetes.image.as_deref().map_or(only, |image| image == name),
            Target::Swarm(swarm) => swarm.image.as_deref().map_or(only, |image| image == name),
            // What a program or playbook deploys it says itself.
            Target::Awx(_) | Target::Command(_) | Target::Webhook(_) | Target::AppDeploy(_) => true,
            Target::Ecs(ecs) => ecs.image.as_deref().map_or(only, |image| image == name),
            Target::Heroku(heroku) => self.processes(heroku).iter().any(|(_, image)| image == name),
        };
        self.rules.deploy.iter().filter(|target| self.is_wanted(target)).any(takes)
    }

    fn image(&self, name: &str, image: &config::Image, action: Action, version: &Version) -> Result<PlannedImage> {
        let repository = Repository::parse(&image.repository)?;
        let mut tags = vec![version.to_string()];
        for tag in self.rules.tags.iter().filter(|_| !self.plan.is_back) {
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
        let mut image = image.clone();
        if self.event.more.named.is_some() {
            image.paths.clear();
            image.cache = config::Cache::Kind(config::CacheKind::None); // the same recipe made anew: what it fetches may have changed
        }
        let copies = image.copies.iter().map(|copy| Repository::parse(copy)).collect::<Result<Vec<_>>>()?;
        let source_tag = self.decision.commit.as_deref().filter(|commit| is_full_sha(commit)).map(short);
        let of_merge = self.config.comment.preview_of_merge;
        let build = Build {
            image,
            repository: repository.clone(),
            copies,
            dockerfiles,
            args,
            source_tag: source_tag.filter(|tag| action != Action::Build && tag != version.as_str()),
            commit: self.decision.commit.clone(),
            checked_out: self.event.more.built_sha.clone().filter(|_| of_merge).or_else(|| self.decision.commit.clone()),
            version: version.clone(),
            is_trusted: !self.plan.is_preview,
            after: self.rules.after.clone().filter(|_| !self.decision.overrides.lifts(gates::Gate::After)),
        };
        let copies = build.copies.iter().map(Repository::to_string).collect();
        let digest = self.decision.pinned.get(name).cloned();
        Ok(PlannedImage { name: name.to_owned(), repository: repository.to_string(), tags, copies, digest, action, build })
    }

    pub(super) fn aws(&self) -> config::Aws {
        self.aws_of(self.rules)
    }

    pub(super) fn aws_of(&self, rules: &Environment) -> config::Aws {
        config::Aws {
            region: rules.aws.region.clone().or_else(|| self.config.aws.region.clone()),
            role: self.config.role(Some(rules)).cloned(),
        }
    }

    fn gates(&mut self) -> Result<()> {
        let drains = self.rules.drains();
        if !drains.is_empty() && self.lifts(gates::Gate::Drain) {
            return Ok(());
        }
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
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Build => "build",
        Action::Reuse => "find",
        Action::Promote => "promote to",
    }
}
