//! Rules of `deploy:` and `migrate:` that go across keys.

use super::check::Checker;
use super::problem::did_you_mean;
use super::template;
use super::{
    Awx, CommandRun, Condition, Environment, GitopsEdit, JobType, Kubernetes, KubernetesJob, Migrate, MigrateWhen, OnFailure, Proof,
    Restart, Runner, Span, Swarm, Target, TextOrSecret, Webhook, secret_of,
};
use crate::targets::kubernetes::{Workload, is_dns_label};
use serde_json::Value;

impl Checker<'_> {
    /// Two inventories in one namespace would delete each other's objects.
    pub(super) fn manifests_apart(&mut self, path: &str, targets: &[Target]) {
        let mut seen: Vec<(&Option<String>, &Option<String>, &str)> = Vec::new();
        for (index, target) in targets.iter().enumerate() {
            let Target::Kubernetes(kubernetes) = target else { continue };
            let place = (&kubernetes.context, &kubernetes.cluster, kubernetes.namespace.as_str());
            if kubernetes.apply.is_empty() {
                continue;
            }
            if seen.contains(&place) {
                let hint = "name all manifests in one target's `apply`; the others name their workloads and images only";
                self.report(&format!("{path}[{index}].kubernetes.apply"), "another target applies manifests in this namespace", hint);
            }
            seen.push(place);
        }
    }

    pub(super) fn target(&mut self, path: &str, target: &Target) {
        if let Some(condition) = target.condition() {
            self.variable_named(&format!("{path}.{}.if.var", target.name()), &condition.var);
        }
        match target {
            Target::Kubernetes(kubernetes) => self.kubernetes(&format!("{path}.kubernetes"), kubernetes),
            Target::Swarm(swarm) => self.swarm(&format!("{path}.swarm"), swarm),
            Target::Awx(awx) => self.awx(&format!("{path}.awx"), awx),
            Target::Command(command) => self.command(&format!("{path}.command"), command),
            Target::Webhook(webhook) => self.webhook(&format!("{path}.webhook"), webhook),
            Target::Heroku(heroku) => self.heroku(&format!("{path}.heroku"), heroku),
            Target::Ecs(ecs) => self.ecs(&format!("{path}.ecs"), ecs),
            Target::AppDeploy(app) => self.app_deploy(&format!("{path}.app_deploy"), app),
        }
    }

    pub(super) fn migrate(&mut self, path: &str, migrate: &Migrate, rules: &Environment) {
        if rules.deploy.is_empty() {
            self.report(path, "there is no switch to migrate for: nothing is deployed here", "add `deploy:` targets");
        }
        match &migrate.run {
            Runner::KubernetesJob(job) => self.kubernetes_job(&format!("{path}.run.kubernetes-job"), job),
            Runner::HerokuRun(run) => self.heroku_run(&format!("{path}.run.heroku-run"), run, migrate.when),
            Runner::EcsTask(run) => self.ecs_run(&format!("{path}.run.ecs-task"), run),
            Runner::Command(command) => {
                let at = format!("{path}.run.command");
                self.command(&at, command);
                if !command.undo.is_empty() || !command.remove.is_empty() || command.proof.is_some() {
                    self.report(
                        &at,
                        "`undo`, `remove` and `proof` belong to targets, not to migrations",
                        "remove them: the exit code decides",
                    );
                }
            }
        }
        if migrate.on_failure == OnFailure::Rollback {
            let at = format!("{path}.on-failure");
            if migrate.when == MigrateWhen::Before {
                self.report(
                    &at,
                    "before the switch there is nothing to go back from: nothing is switched",
                    "leave it out, or write `when: after`",
                );
            }
            if rules.migrations().iter().any(|migrate| !migrate.backward_compatible) {
                let hint = "with `backward-compatible: true` everywhere the version before works with the new schema";
                self.report(&at, "the version before may not work with the migrated database", hint);
            }
            if rules.is_preview() {
                self.report(&at, "a preview has nothing to go back to", "leave it out");
            }
        }
    }

    fn kubernetes(&mut self, path: &str, target: &Kubernetes) {
        self.namespace(path, &target.namespace);
        self.one_place(path, target.context.is_some(), target.cluster.is_some());
        let mut seen = Vec::new();
        for (index, workload) in target.workloads.iter().enumerate() {
            let at = format!("{path}.workloads[{index}]");
            self.placeholders(&at, workload);
            match Workload::parse(workload) {
                Ok(parsed) if seen.contains(&parsed) => self.report(&at, format!("{parsed} is listed twice"), "remove one of them"),
                Ok(parsed) => seen.push(parsed),
                Err(why) => self.report(&at, why, "write it as deployment/web, statefulset/worker or daemonset/agent"),
            }
        }
        for (index, glob) in target.apply.iter().enumerate() {
            let at = format!("{path}.apply[{index}]");
            self.placeholders(&at, glob);
            self.inside(&at, glob);
        }
        self.timeout(path, target.timeout);
        if target.restart != Restart::Never && target.gitops.is_some() {
            self.report(&format!("{path}.restart"), "with `gitops` nothing is restarted from here", "remove it");
        }
        if target.restart == Restart::WhenUnchanged && !target.apply.is_empty() {
            self.report(
                &format!("{path}.restart"),
                "with `apply` it is not known beforehand whether something changes",
                "use always or never",
            );
        }
        if let Some(gitops) = &target.gitops {
            let at = format!("{path}.gitops");
            if !target.apply.is_empty() {
                self.report(&at, "`apply` and `gitops` both change what runs", "keep one: with `gitops` something in the cluster applies");
            }
            self.placeholders(&format!("{at}.branch"), &gitops.branch);
            if gitops.repository.split('/').count() < 2 {
                let message = format!("{:?} is not a repository", gitops.repository);
                self.report(&format!("{at}.repository"), message, "write it as owner/name");
            }
            for (index, edit) in gitops.edit.iter().enumerate() {
                self.edit(&format!("{at}.edit[{index}]"), edit);
            }
        }
        self.image_of(path, target.image.as_deref());
    }

    fn edit(&mut self, path: &str, edit: &GitopsEdit) {
        self.placeholders(&format!("{path}.file"), &edit.file);
        self.late_placeholders(&format!("{path}.value"), &edit.value);
        if let Err(why) = crate::targets::kubernetes::edit::Path::parse(&edit.key) {
            self.report(&format!("{path}.key"), why, "write it as ui.image.tag, containers[0].image or images[name=ui].newTag");
        }
    }

    fn kubernetes_job(&mut self, path: &str, job: &KubernetesJob) {
        self.namespace(path, &job.namespace);
        self.one_place(path, job.context.is_some(), job.cluster.is_some());
        match (&job.from, &job.manifest) {
            (Some(_), Some(_)) => self.report(path, "`from` and `manifest` both say what runs", "keep one of them"),
            (None, None) => {
                self.report(path, "neither `from` nor `manifest` says what runs", "add `from: deployment/web`, whose pods are the pattern");
            }
            (Some(from), None) => {
                self.placeholders(&format!("{path}.from"), from);
                if let Err(why) = Workload::parse(from) {
                    self.report(&format!("{path}.from"), why, "write it as deployment/web");
                }
                if job.command.is_empty() {
                    self.report(
                        path,
                        "`command` is missing: the pattern's own program never ends",
                        "add `command: [./manage.py, migrate]`",
                    );
                }
            }
            (None, Some(file)) => {
                self.placeholders(&format!("{path}.manifest"), file);
                self.inside(&format!("{path}.manifest"), file);
            }
        }
        for (index, word) in job.command.iter().enumerate() {
            self.late_placeholders(&format!("{path}.command[{index}]"), word);
        }
        for (name, value) in &job.env {
            self.late_placeholders(&format!("{path}.env.{name}"), value);
        }
        self.image_of(path, job.image.as_deref());
        self.timeout(path, job.timeout);
        self.marker(path, job.failure_marker.as_deref());
    }

    pub(super) fn timeout(&mut self, path: &str, timeout: Span) {
        if timeout.0.is_zero() {
            self.report(&format!("{path}.timeout"), "no time at all is never enough", "write a length such as 10m");
        }
    }

    pub(super) fn marker(&mut self, path: &str, marker: Option<&str>) {
        if let Some(marker) = marker.filter(|marker| marker.trim().is_empty()) {
            self.report(&format!("{path}.failure-marker"), format!("{marker:?} is in every output"), "write the text that means failure");
        }
    }

    fn namespace(&mut self, path: &str, namespace: &str) {
        let at = format!("{path}.namespace");
        self.placeholders(&at, namespace);
        if template::names(namespace).is_empty() && !is_dns_label(namespace) {
            self.report(&at, format!("{namespace:?} cannot be a namespace"), "at most 63 lower-case letters, digits and dashes");
        }
    }

    fn one_place(&mut self, path: &str, has_context: bool, has_cluster: bool) {
        if has_context && has_cluster {
            let hint = "`cluster` names an EKS cluster, `context` an entry of the kubeconfig: keep one";
            self.report(&format!("{path}.cluster"), "`context` and `cluster` both say where", hint);
        }
    }

    /// The image that runs there: named, or the only one.
    pub(super) fn image_of(&mut self, path: &str, image: Option<&str>) {
        let images = &self.config.images;
        match image {
            Some(image) if !images.contains_key(image) => {
                let near = did_you_mean(image, images.keys().map(String::as_str)).map(|name| format!("did you mean {name:?}?"));
                let hint = near.unwrap_or_else(|| "declare it under `images:`".into());
                self.report(&format!("{path}.image"), format!("there is no image {image:?}"), hint);
            }
            None if images.len() != 1 => {
                let message = format!("{} images are declared, so it is unclear which one runs here", images.len());
                self.report(path, message, "add `image:` with the name of one of them");
            }
            Some(_) | None => {}
        }
    }

    fn swarm(&mut self, path: &str, swarm: &Swarm) {
        let host = swarm.host.as_deref().unwrap_or_default();
        self.placeholders(&format!("{path}.host"), host);
        let known = ["unix://", "tcp://", "ssh://"].iter().any(|scheme| host.starts_with(scheme));
        if swarm.host.is_some() && !known && !host.starts_with('{') {
            let message = format!("{host:?} is not the address of an engine");
            self.report(&format!("{path}.host"), message, "write unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host");
        }
        self.timeout(path, swarm.timeout);
        if swarm.tls.is_some() && !host.starts_with("tcp://") && !host.starts_with('{') {
            self.report(&format!("{path}.tls"), "certificates are for tcp:// only", "remove `tls`, or write the host as tcp://host:2376");
        }
        if swarm.ssh.is_some() && !host.starts_with("ssh://") && !host.starts_with('{') {
            self.report(&format!("{path}.ssh"), "a key is for ssh:// only", "remove `ssh`, or write the host as ssh://user@host");
        }
        if host.starts_with("tcp://") && swarm.tls.is_none() && !is_loopback(host) {
            let hint = "add `tls:` with ca, cert and key, or use ssh://user@host";
            self.report(&format!("{path}.host"), "an engine without TLS lets everybody in who reaches it", hint);
        }
        if let Some(at) = has_login(host).filter(|_| !host.starts_with("ssh://")) {
            self.report(&format!("{path}.host"), at, "name secrets by their environment variables");
        }
        for (index, service) in swarm.services.iter().enumerate() {
            self.placeholders(&format!("{path}.services[{index}]"), service);
        }
        for (name, source) in &swarm.configs {
            self.placeholders(&format!("{path}.configs.{name}.file"), &source.file);
            self.inside(&format!("{path}.configs.{name}.file"), &source.file);
        }
        let names = swarm.configs.keys().map(|name| ("configs", name)).chain(swarm.secrets.keys().map(|name| ("secrets", name)));
        for (list, name) in names.collect::<Vec<_>>() {
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > 48 || !name.chars().all(fine) {
                let hint = "at most 48 letters, digits, dots, dashes and underscores: a number is added";
                self.report(&format!("{path}.{list}.{name}"), format!("{name:?} cannot be rotated"), hint);
            }
        }
        self.image_of(path, swarm.image.as_deref());
    }

    fn awx(&mut self, path: &str, awx: &Awx) {
        self.address(&format!("{path}.host"), &awx.host);
        self.timeout(path, awx.timeout);
        if awx.job_type == Some(JobType::Check) {
            self.report(&format!("{path}.job-type"), "a check changes nothing, so nothing is deployed by it", "remove it, or write run");
        }
        match (&awx.token, &awx.login) {
            (None, None) => self.report(path, "there is no login", "add `token: {env: AWX_TOKEN}`, or `login:` with username and password"),
            (Some(_), Some(_)) => self.report(path, "`token` and `login` both say who we are", "keep one of them"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        let names = [("template", Some(&awx.template)), ("inventory", awx.inventory.as_ref())];
        for (key, name) in names.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name?))) {
            self.placeholders(&format!("{path}.{key}"), &name.to_string());
        }
        for (index, name) in awx.credentials.iter().enumerate() {
            self.placeholders(&format!("{path}.credentials[{index}]"), &name.to_string());
        }
        for (key, text) in [("organization", &awx.organization), ("limit", &awx.limit), ("scm-branch", &awx.scm_branch)] {
            self.placeholders(&format!("{path}.{key}"), text.as_deref().unwrap_or_default());
        }
        for (key, list) in [("tags", &awx.tags), ("skip-tags", &awx.skip_tags)] {
            for (index, text) in list.iter().enumerate() {
                self.placeholders(&format!("{path}.{key}[{index}]"), text);
            }
        }
        for (name, value) in &awx.extra_vars {
            if secret_of(value).is_none() {
                self.json(&format!("{path}.extra-vars.{name}"), value);
            }
        }
    }

    /// Free JSON: texts may hold placeholders, and 1.10 must not become 1.1 on its way.
    pub(super) fn json(&mut self, path: &str, value: &Value) {
        match value {
            Value::String(text) => self.late_placeholders(path, text),
            Value::Number(number) if number.is_f64() => {
                let hint = format!("write it in quotes: \"{number}\" (1.10 without them is the number 1.1)");
                self.report(path, "this is read as a number, and versions are text", hint);
            }
            Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| self.json(&format!("{path}[{index}]"), item)),
            Value::Object(_) if secret_of(value).is_some() => {
                let hint = "a secret is a whole extra variable of `awx`, or a variable of a command";
                self.report(path, "a secret cannot stand here: this would be sent as it is written", hint);
            }
            Value::Object(map) => map.iter().for_each(|(name, item)| self.json(&format!("{path}.{name}"), item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn command(&mut self, path: &str, command: &CommandRun) {
        self.argv(&format!("{path}.run"), &command.run);
        for (index, word) in command.undo.iter().enumerate() {
            self.late_placeholders(&format!("{path}.undo[{index}]"), word);
        }
        for (index, word) in command.remove.iter().enumerate() {
            self.placeholders(&format!("{path}.remove[{index}]"), word);
        }
        for (name, value) in &command.env {
            if let TextOrSecret::Text(text) = value {
                self.late_placeholders(&format!("{path}.env.{name}"), text);
            }
            if name.is_empty() || name.contains('=') || name.chars().any(char::is_control) {
                self.report(&format!("{path}.env"), format!("{name:?} cannot name a variable"), "use letters, digits and _");
            }
        }
        if let Some(folder) = &command.directory {
            self.placeholders(&format!("{path}.directory"), folder);
            self.inside(&format!("{path}.directory"), folder);
        }
        self.timeout(path, command.timeout);
        self.marker(path, command.failure_marker.as_deref());
        if let Some(proof) = &command.proof {
            self.proof(&format!("{path}.proof"), proof);
            if matches!(proof, Proof::Answer(_)) {
                self.report(&format!("{path}.proof"), "a command has no answer", "use `command` or `http` here");
            }
        }
    }

    pub(super) fn argv(&mut self, path: &str, argv: &[String]) {
        if argv.first().is_none_or(|program| program.trim().is_empty()) {
            self.report(path, "the command is empty", "write it as [./deploy, \"{version}\"]");
        }
        for (index, word) in argv.iter().enumerate() {
            self.late_placeholders(&format!("{path}[{index}]"), word);
        }
    }

    pub(super) fn proof(&mut self, path: &str, proof: &Proof) {
        let (kind, contains) = match proof {
            Proof::Http(http) => {
                self.address(&format!("{path}.http.url"), &http.url);
                ("http", &http.contains)
            }
            Proof::Command(command) => {
                self.argv(&format!("{path}.command.run"), &command.run);
                ("command", &command.contains)
            }
            Proof::Answer(answer) => ("answer", &answer.contains),
        };
        let at = format!("{path}.{kind}.contains");
        self.late_placeholders(&at, contains);
        let identifies = |name: &String| matches!(name.as_str(), "version" | "tag" | "sha" | "short_sha") || name.starts_with("digest.");
        if !template::names(contains).iter().any(identifies) {
            let hint = "use {version}, {short_sha} or {digest.NAME}: the text must differ from version to version";
            self.report(&at, "this text does not say which version runs, so it proves nothing", hint);
        }
    }

    fn webhook(&mut self, path: &str, webhook: &Webhook) {
        match &webhook.url {
            TextOrSecret::Text(url) => self.address(&format!("{path}.url"), url),
            TextOrSecret::Secret(_) => {}
        }
        self.timeout(path, webhook.timeout);
        if let Some(body) = &webhook.body {
            self.json(&format!("{path}.body"), body);
        }
        if let Some(status) = webhook.expect.iter().find(|status| !(100..600).contains(*status)) {
            self.report(&format!("{path}.expect"), format!("{status} is not a status"), "statuses are from 100 to 599");
        }
        if webhook.expect.is_empty() {
            self.report(&format!("{path}.expect"), "no status means yes", "write [200], or remove the key");
        }
        self.proof(&format!("{path}.proof"), &webhook.proof);
    }

    /// An address that credentials or instructions are sent to.
    pub(super) fn address(&mut self, path: &str, url: &str) {
        self.late_placeholders(path, url);
        if let Some(why) = has_login(url) {
            self.report(path, why, "name secrets by their environment variables");
        }
        let plain = url.starts_with("http://") && !is_loopback(url);
        if plain {
            self.report(path, "without TLS everybody on the way can read and change it", "write https://");
        } else if !url.starts_with("https://") && !url.starts_with("http://") && !url.starts_with('{') {
            self.report(path, format!("{url:?} is not an address"), "write it as https://host/path");
        }
    }

    /// A path that must not lead out of the repository.
    pub(super) fn inside(&mut self, path: &str, file: &str) {
        if file.starts_with('/') || file.split('/').any(|part| part == "..") {
            self.report(path, format!("{file:?} leads out of the repository"), "name files relative to tidegate.yml, without ..");
        }
    }
}

fn has_login(url: &str) -> Option<&'static str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.contains('@').then_some("a login stands in the address")
}

/// Whether an address is on this machine, where nobody listens on the way.
pub fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(authority, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

impl Target {
    /// Its key in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => "kubernetes",
            Self::Swarm(_) => "swarm",
            Self::Heroku(_) => "heroku",
            Self::Awx(_) => "awx",
            Self::Ecs(_) => "ecs",
            Self::AppDeploy(_) => "app_deploy",
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
        }
    }

    /// Whether it makes something of its own for a preview, which goes when the pull request is closed.
    pub fn is_removable(&self) -> bool {
        match self {
            Self::Kubernetes(kubernetes) => !kubernetes.apply.is_empty(),
            Self::Heroku(heroku) => heroku.create.is_some(),
            Self::Command(command) => !command.remove.is_empty(),
            Self::Swarm(_) | Self::Awx(_) | Self::Webhook(_) | Self::Ecs(_) | Self::AppDeploy(_) => false,
        }
    }

    /// What has to be so for it to be deployed to.
    pub fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Kubernetes(kubernetes) => kubernetes.r#if.as_ref(),
            Self::Swarm(swarm) => swarm.r#if.as_ref(),
            Self::Awx(awx) => awx.r#if.as_ref(),
            Self::Command(command) => command.r#if.as_ref(),
            Self::Webhook(webhook) => webhook.r#if.as_ref(),
            Self::Heroku(heroku) => heroku.r#if.as_ref(),
            Self::Ecs(ecs) => ecs.r#if.as_ref(),
            Self::AppDeploy(app) => app.r#if.as_ref(),
        }
    }
}
