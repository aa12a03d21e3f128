//! Rules of `tidegate.yml` that go across keys, which no schema can say.

use super::problem::{Problem, did_you_mean};
use super::tree::Node;
use super::{Config, Dockerfile, EnsureRepository, Environment, Gate, HotfixRule, Image, Promote, Target, When, WhenEvent};
use super::{tag_pattern, template};
use crate::tools::glob::Glob;
use std::collections::BTreeMap;

/// Every rule that is broken.
pub fn check(config: &Config, tree: &Node) -> Vec<Problem> {
    let mut checker = Checker { config, tree, problems: Vec::new() };
    if let Err((sentence, hint)) = crate::state::Rule::parse(&config.state) {
        checker.report("state", sentence, hint);
    }
    checker.variables();
    let mut repositories: Vec<&str> = Vec::new();
    for (name, image) in &config.images {
        checker.image(name, image);
        if repositories.contains(&image.repository.as_str()) {
            let hint = "the same version would be two images: give each its own repository";
            checker.report(&format!("images.{name}.repository"), "another image has this repository already", hint);
        }
        repositories.push(&image.repository);
    }
    for (name, environment) in &config.environments {
        checker.environment(name, environment);
    }
    checker.claims();
    if let Some(HotfixRule::Lane(hotfix)) = &config.hotfix {
        checker.environment_named("hotfix.to", &hotfix.to);
        if config.environments.get(&hotfix.to).is_some_and(Environment::is_preview) {
            checker.report("hotfix.to", format!("{} is made by pull requests", hotfix.to), "name an environment that stays");
        }
        hotfix.branches.iter().enumerate().for_each(|(n, glob)| checker.glob(&format!("hotfix.branches[{n}]"), glob));
    }
    checker.problems
}

/// The first rule that something breaks which stands in no file: what is wrong, and what to do.
pub(super) fn alone(look: impl FnOnce(&mut Checker<'_>)) -> Option<(String, String)> {
    let config: Config = serde_json::from_value(serde_json::json!({"schema": 1, "project": "alone"})).ok()?;
    let tree = super::tree::read("{}").ok()?;
    let mut checker = Checker { config: &config, tree: &tree, problems: Vec::new() };
    look(&mut checker);
    checker.problems.into_iter().next().map(|problem| (problem.message, problem.hint))
}

pub(super) struct Checker<'a> {
    pub(super) config: &'a Config,
    tree: &'a Node,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    pub(super) fn report(&mut self, path: &str, message: impl Into<String>, hint: impl Into<String>) {
        let place = self.tree.place_of(path);
        self.problems.push(Problem { place, path: path.to_owned(), message: message.into(), hint: hint.into() });
    }

    fn variables(&mut self) {
        let secrets: Vec<&str> = self.config.secret_names();
        for (name, variable) in &self.config.variables {
            if !is_word(name) {
                self.report(&format!("variables.{name}"), format!("{name:?} cannot name a variable"), "use letters, digits and _");
            }
            let credentials = ["GITHUB_TOKEN", "GH_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
            if variable.env.as_deref().is_some_and(|env| secrets.contains(&env) || credentials.contains(&env)) {
                let hint = "secrets are never shown, variables are: give the variable another environment variable";
                self.report(&format!("variables.{name}.env"), "this environment variable holds a secret", hint);
            }
        }
    }

    fn image(&mut self, name: &str, image: &Image) {
        let path = format!("images.{name}");
        if !is_word(name) {
            self.report(&path, format!("{name:?} cannot name an image"), "use letters, digits, - and _");
        }
        if let Err(why) = crate::registry::Repository::parse(&image.repository) {
            self.report(&format!("{path}.repository"), why.sentence, why.hint.unwrap_or_default());
        } else if matches!(image.ensure_repository, EnsureRepository::Create(_)) && !crate::registry::is_ecr(&image.repository) {
            let hint = "other registries make repositories at the first push: remove this key";
            self.report(&format!("{path}.ensure-repository"), "only ECR repositories can be created", hint);
        }
        for (index, copy) in image.copies.iter().enumerate() {
            let at = format!("{path}.copies[{index}]");
            if let Err(why) = crate::registry::Repository::parse(copy) {
                self.report(&at, why.sentence, why.hint.unwrap_or_default());
            } else if *copy == image.repository || image.copies.iter().take(index).any(|other| other == copy) {
                self.report(&at, format!("{copy} has the image already"), "name every repository once");
            }
        }
        for (arg, value) in &image.args {
            let at = format!("{path}.args.{arg}");
            self.placeholders(&at, value);
            let versioned = template::names(value).iter().any(|name| matches!(name.as_str(), "version" | "tag" | "actor" | "run_url"));
            if versioned && image.promote == Promote::Digest {
                let hint = "a release reuses the image built at merge: read the version at run time, or set `promote: rebuild`";
                self.report(&at, "something that differs from run to run is baked into the image", hint);
            }
        }
        for (index, glob) in image.paths.iter().enumerate() {
            let bare = glob.strip_prefix('!').unwrap_or(glob);
            if bare.starts_with('/') || bare.starts_with("./") || bare.starts_with("..") {
                let hint = "globs are relative to the root of the repository already, as \"ui/**\"";
                self.report(&format!("{path}.paths[{index}]"), format!("{glob:?} would name nothing"), hint);
            } else if let Err(why) = Glob::of_paths(bare) {
                self.report(&format!("{path}.paths[{index}]"), format!("{glob:?} is no glob: {why}"), "write it as \"ui/**\"");
            }
        }
        match &image.dockerfile {
            Dockerfile::Path(file) => self.placeholders(&format!("{path}.dockerfile"), file),
            Dockerfile::WithFallback(choice) => self.placeholders(&format!("{path}.dockerfile.file"), &choice.file),
        }
        for (index, platform) in image.platforms.iter().enumerate() {
            let parts = platform.split('/').count();
            if !(2..=3).contains(&parts) || platform.split('/').any(|part| !is_word(part)) {
                self.report(
                    &format!("{path}.platforms[{index}]"),
                    format!("{platform:?} is not a platform"),
                    "write it as linux/amd64 or linux/arm/v7",
                );
            }
        }
    }

    fn environment(&mut self, name: &str, rules: &Environment) {
        let path = format!("environments.{name}");
        if !is_word(name) || name.len() > 63 {
            self.report(&path, format!("{name:?} cannot name an environment"), "use at most 63 letters, digits, - and _");
        }
        if rules.when.as_slice().is_empty() {
            self.report(&format!("{path}.when"), "no event leads here", "write merge, release, pull-request, manual, or a branch or tag");
        }
        if rules.deploy.is_empty() && self.config.images.is_empty() {
            let hint = "add `deploy:` targets, or `images:` to build";
            self.report(&path, "this environment would do nothing: there is neither a target nor an image", hint);
        }
        for when in rules.when.as_slice() {
            self.when(&format!("{path}.when"), when);
        }
        if let Some(condition) = &rules.r#if {
            self.variable_named(&format!("{path}.if.var"), &condition.var);
        }
        self.promotion(&path, name, rules);
        if let Some(preview) = &rules.name {
            self.placeholders(&format!("{path}.name"), preview);
            if rules.is_preview() && !template::names(preview).iter().any(|name| name == "pr") {
                let hint = "previews of two pull requests must not share a name: write it as \"{project}-pr-{pr}\"";
                self.report(&format!("{path}.name"), "the name of a preview must contain {pr}", hint);
            }
        }
        for (key, is_given) in [("ttl", rules.ttl.is_some()), ("max", rules.max.is_some())] {
            if is_given && !rules.is_preview() {
                self.report(&format!("{path}.{key}"), "only previews go by themselves", "leave it out, or write `when: pull-request`");
            } else if is_given && !rules.deploy.iter().any(Target::is_removable) {
                let hint = "targets that can: kubernetes with `apply:`, heroku with `create:`, command with `remove:`";
                self.report(&format!("{path}.{key}"), "no target of this preview can be removed", hint);
            }
        }
        if rules.ttl.as_ref().is_some_and(|ttl| ttl.0.is_zero()) {
            self.report(&format!("{path}.ttl"), "a preview would go at once", "write it as 7d");
        }
        if let Some(url) = &rules.url {
            self.placeholders(&format!("{path}.url"), url);
            if !url.starts_with("https://") && !url.starts_with("http://") {
                self.report(&format!("{path}.url"), "this is no address", "write it as \"https://pr-{pr}.example.com\"");
            }
        }
        self.tags(&path, rules);
        for (index, migrate) in rules.migrations().iter().enumerate() {
            self.migrate(&at_index(&path, "migrate", (index, rules.migrate.as_ref())), migrate, rules);
        }
        self.databases(&path, name, rules);
        for (index, gate) in rules.gates.iter().enumerate() {
            match gate {
                Gate::Drain(drain) => self.drain(&format!("{path}.gates[{index}].drain"), drain),
                Gate::Scan(scan) => self.scan(&format!("{path}.gates[{index}].scan"), scan),
            }
        }
        self.manifests_apart(&format!("{path}.deploy"), &rules.deploy);
        for (index, target) in rules.deploy.iter().enumerate() {
            self.target(&format!("{path}.deploy[{index}]"), target);
            if matches!(target, Target::Command(command) if !command.remove.is_empty()) && !rules.is_preview() {
                let hint = "leave it out, or write `when: pull-request`";
                self.report(&format!("{path}.deploy[{index}].command.remove"), "only previews are removed", hint);
            }
        }
        for (index, trigger) in rules.trigger.iter().enumerate() {
            self.trigger(&format!("{path}.trigger[{index}]"), trigger);
        }
    }

    /// `after`, `soak` and `freeze`.
    fn promotion(&mut self, path: &str, name: &str, rules: &Environment) {
        if let Some(after) = &rules.after {
            let at = format!("{path}.after");
            self.environment_named(&at, after);
            let before = |name: &str| self.config.environments.get(name).and_then(|rules| rules.after.clone());
            let mut chain = std::iter::successors(Some(after.clone()), |name| before(name)).take(self.config.environments.len());
            let circular = chain.any(|before| before == name);
            if circular {
                self.report(
                    &at,
                    format!("{name} comes after itself, so nothing could ever be deployed to it"),
                    "name the environment before it",
                );
            } else if self.config.environments.get(after).is_some_and(Environment::is_preview) {
                self.report(&at, format!("{after} is made by pull requests: no release succeeds there"), "name an environment that stays");
            } else if self.config.environments.get(after).is_some_and(|rules| rules.deploy.is_empty() && rules.trigger.is_empty()) {
                self.report(&at, format!("nothing is deployed to {after}, so there are no records of success"), "name one with `deploy:`");
            }
        } else if rules.soak.is_some() {
            self.report(
                &format!("{path}.soak"),
                "it has to run somewhere for so long, and it is not said where",
                "add `after: ENVIRONMENT`",
            );
        }
        for (index, freeze) in rules.freeze.iter().enumerate() {
            if let Err(wrong) = crate::gates::freeze::Window::parse(freeze) {
                self.report(&format!("{path}.freeze[{index}].{}", wrong.0), wrong.1, wrong.2);
            }
        }
    }

    fn tags(&mut self, path: &str, rules: &Environment) {
        for (index, tag) in rules.tags.iter().enumerate() {
            let at = format!("{path}.tags[{index}]");
            self.placeholders(&at, tag);
            if template::split(tag).is_ok()
                && template::names(tag).is_empty()
                && let Err(why) = crate::version::check_image_tag(tag, tag)
            {
                self.report(
                    &at,
                    why.sentence.replace("a version", "an image tag"),
                    "letters, digits, dots, dashes and underscores, as latest",
                );
            }
        }
    }

    fn when(&mut self, path: &str, when: &When) {
        match when {
            When::Event(_) => {}
            When::Branch(branch) => {
                self.glob(path, &branch.branch);
                branch.except.iter().for_each(|glob| self.glob(path, glob));
            }
            When::Tag(tag) => {
                if let Err(why) = tag_pattern(&tag.tag) {
                    self.report(path, format!("{:?} is not a regular expression: {why}", tag.tag), "look at its brackets and backslashes");
                }
            }
        }
    }

    pub(super) fn glob(&mut self, path: &str, glob: &str) {
        if let Err(why) = Glob::of_paths(glob) {
            self.report(path, format!("{glob:?} is not a glob: {why}"), "as release/** or hotfix/*");
        }
    }

    /// Two environments that literally claim the same event.
    fn claims(&mut self) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (name, rules) in &self.config.environments {
            for when in rules.when.as_slice() {
                let Some(claim) = claim(when, rules) else { continue };
                if let Some(other) = seen.insert(claim, name.clone()).filter(|other| other != name) {
                    let hint = "an event leads to one environment: several places are several entries under `deploy:` of it";
                    self.report(&format!("environments.{name}.when"), format!("{other:?} claims the same event"), hint);
                }
            }
        }
    }

    pub(super) fn placeholders(&mut self, path: &str, text: &str) {
        self.placeholders_with(path, text, TakesImages::No);
    }

    /// A text that is filled when the images are there.
    pub(super) fn late_placeholders(&mut self, path: &str, text: &str) {
        self.placeholders_with(path, text, TakesImages::Yes);
    }

    /// The same where the target is an app of Heroku, which has a name.
    pub(super) fn placeholders_of_app(&mut self, path: &str, text: &str) {
        self.placeholders_with(path, text, TakesImages::YesAndApp);
    }

    /// The address of a bucket.
    pub(super) fn placeholders_of_bucket(&mut self, path: &str, text: &str) {
        self.placeholders_with(path, text, TakesImages::NoButApp);
    }

    /// The name of a backup.
    pub(super) fn placeholders_of_backup(&mut self, path: &str, text: &str) {
        self.placeholders_with(path, text, TakesImages::BackupName);
    }

    fn placeholders_with(&mut self, path: &str, text: &str, takes_images: TakesImages) {
        if let Err(why) = template::split(text) {
            self.report(path, why, "write {{ and }} for literal braces");
            return;
        }
        for name in template::names(text) {
            self.placeholder(path, &name, takes_images);
        }
    }

    fn placeholder(&mut self, path: &str, name: &str, takes_images: TakesImages) {
        let images = || self.config.images.keys().map(String::as_str);
        let known = match name.split_once('.') {
            None if matches!(takes_images, TakesImages::YesAndApp | TakesImages::NoButApp) && name == "app" => true,
            None if takes_images == TakesImages::BackupName && crate::backup::name::OWN.contains(&name) => true,
            None => template::NAMES.contains(&name),
            Some(("var", variable)) => self.config.variables.contains_key(variable),
            Some(("image" | "digest", image)) if images().any(|known| known == image) => {
                if !matches!(takes_images, TakesImages::Yes | TakesImages::YesAndApp) {
                    let hint = "tidegate sets images by digest itself";
                    self.report(path, format!("{{{name}}} has no value here: images are made later"), hint);
                }
                return;
            }
            Some(_) => false,
        };
        if known {
            return;
        }
        let variables = self.config.variables.keys().map(|name| format!("var.{name}"));
        let of_images = self.config.images.keys().flat_map(|name| [format!("image.{name}"), format!("digest.{name}")]);
        let more: Vec<String> = match takes_images {
            TakesImages::Yes | TakesImages::YesAndApp => variables.chain(of_images).collect(),
            TakesImages::No | TakesImages::NoButApp => variables.collect(),
            TakesImages::BackupName => variables.chain(crate::backup::name::OWN.map(str::to_owned)).collect(),
        };
        let hint = match did_you_mean(name, template::NAMES.iter().copied().chain(more.iter().map(String::as_str))) {
            Some(near) => format!("did you mean {{{near}}}?"),
            None if name.starts_with("var.") => "declare it under `variables:`".into(),
            None => format!("known: {}", template::NAMES.join(", ")),
        };
        self.report(path, format!("unknown placeholder {{{name}}}"), hint);
    }

    pub(super) fn variable_named(&mut self, path: &str, name: &str) {
        if !self.config.variables.contains_key(name) {
            self.report(path, format!("there is no variable {name:?}"), "declare it under `variables:`");
        }
    }

    pub(super) fn environment_named(&mut self, path: &str, name: &str) {
        let known = &self.config.environments;
        if !known.contains_key(name) {
            let near = did_you_mean(name, known.keys().map(String::as_str)).map(|near| format!("did you mean {near:?}?"));
            self.report(path, format!("there is no environment {name:?}"), near.unwrap_or_default());
        }
    }
}

/// Whether a text is filled when the images are there, so that `{image.NAME}` has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakesImages {
    Yes,
    YesAndApp,
    No,
    /// No, but the database has a name.
    NoButApp,
    /// The name of a backup has placeholders of its own.
    BackupName,
}

/// The path of one entry of a key that holds one or a list.
pub(super) fn at_index<T>(path: &str, key: &str, (index, given): (usize, Option<&super::OneOrMany<T>>)) -> String {
    match given {
        Some(super::OneOrMany::Many(_)) => format!("{path}.{key}[{index}]"),
        Some(super::OneOrMany::One(_)) | None => format!("{path}.{key}"),
    }
}

fn claim(when: &When, rules: &Environment) -> Option<String> {
    let condition = rules.r#if.as_ref().map(|condition| format!("{} {:?}", condition.var, condition.is)).unwrap_or_default();
    match when {
        When::Event(WhenEvent::Manual) => None,
        When::Event(WhenEvent::PullRequest) => Some(format!("pull-request {:?} {condition}", rules.labels)),
        When::Event(WhenEvent::Merge) => Some(format!("merge {condition}")),
        When::Event(WhenEvent::Release) => Some(format!("release {condition}")),
        When::Branch(branch) => Some(format!("branch {} {:?} {condition}", branch.branch, branch.except)),
        When::Tag(tag) => Some(format!("tag {} {condition}", tag.tag)),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

impl Config {
    /// The environment variables that hold secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        self.secret_names_where(|_condition| true)
    }

    /// The environment variables that hold secrets of what is done when these conditions hold.
    pub fn secret_names_where(&self, is_met: impl Fn(&super::Condition) -> bool) -> Vec<&str> {
        let wanted = |condition: Option<&super::Condition>| condition.is_none_or(&is_met);
        let places = || self.environments.values().filter(|environment| wanted(environment.r#if.as_ref()));
        let build = self.images.values().flat_map(|image| image.secrets.values()).map(|secret| secret.env.as_str());
        let notify = places().flat_map(|environment| &environment.notify).filter_map(|notify| match notify {
            super::Notify::Slack(slack) => Some(slack.webhook.env.as_str()),
            super::Notify::Email(_) => None,
        });
        let targets = places().flat_map(|environment| &environment.deploy).filter(|target| wanted(target.condition()));
        let migrations = places().flat_map(Environment::migrations).flat_map(super::Migrate::secret_names);
        let backups = places().flat_map(Environment::backups).filter_map(super::Backup::source);
        let restores = places().filter_map(|environment| environment.restore.as_ref()?.into.as_ref()).map(super::RestoreInto::source);
        let databases = backups.chain(restores).flat_map(super::Source::secret_names);
        let triggers = places().flat_map(|environment| &environment.trigger).filter(|trigger| wanted(trigger.condition()));
        let targets = targets.flat_map(Target::secret_names);
        let triggers = triggers.flat_map(super::Trigger::secret_names);
        build.chain(notify).chain(targets).chain(migrations).chain(databases).chain(triggers).collect()
    }

    /// The AWS role of an environment's deliveries: its own, or the file's.
    pub fn role<'a>(&'a self, rules: Option<&'a Environment>) -> Option<&'a String> {
        rules.and_then(|rules| rules.aws.role.as_ref()).or(self.aws.role.as_ref())
    }
}

impl Environment {
    /// Whether pull requests lead here.
    pub fn is_preview(&self) -> bool {
        self.when.as_slice().iter().any(|when| matches!(when, When::Event(WhenEvent::PullRequest)))
    }
}
