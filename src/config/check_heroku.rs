//! Rules of `heroku:` and `heroku-run:` that go across keys.

use super::check::Checker;
use super::problem::did_you_mean;
use super::{Heroku, HerokuConfig, HerokuRun, MigrateWhen, TextOrSecret};
use crate::targets::heroku::is_app_name;
use indexmap::IndexMap;

impl Checker<'_> {
    pub(super) fn heroku(&mut self, path: &str, heroku: &Heroku) {
        self.app(&format!("{path}.app"), &heroku.app);
        self.timeout(path, heroku.timeout);
        if heroku.processes.is_empty() {
            self.image_of(path, None);
        }
        for (process, image) in &heroku.processes {
            let at = format!("{path}.processes.{process}");
            self.process(&at, process);
            if !self.config.images.contains_key(image) {
                let near = did_you_mean(image, self.config.images.keys().map(String::as_str)).map(|name| format!("did you mean {name:?}?"));
                self.report(&at, format!("there is no image {image:?}"), near.unwrap_or_else(|| "declare it under `images:`".into()));
            }
        }
        for process in heroku.dynos.keys() {
            let at = format!("{path}.dynos.{process}");
            self.process(&at, process);
            if process == "release" {
                self.report(&at, "the release phase has no dynos of its own", "remove it");
            }
            let is_there = if heroku.processes.is_empty() { process == "web" } else { heroku.processes.contains_key(process) };
            if !is_there {
                self.report(&at, format!("nothing is released as {process:?}"), "name it under `processes:` with its image");
            }
        }
        for (index, addon) in heroku.addons.iter().enumerate() {
            self.placeholders(&format!("{path}.addons[{index}].plan"), &addon.plan);
        }
        if let Some(create) = &heroku.create {
            for (key, text) in [("team", &create.team), ("region", &create.region)] {
                self.placeholders(&format!("{path}.create.{key}"), text.as_deref().unwrap_or_default());
            }
        }
        if let Some(pipeline) = &heroku.pipeline {
            self.placeholders(&format!("{path}.pipeline.name"), &pipeline.name);
        }
        self.config_vars(&format!("{path}.config"), &heroku.config);
    }

    fn app(&mut self, path: &str, app: &str) {
        self.placeholders(path, app);
        if !app.contains('{') && !is_app_name(app) {
            let hint = "at most 30 lower-case letters, digits and dashes, beginning with a letter";
            let length = app.chars().count();
            self.report(path, format!("{app:?} ({length} characters) cannot be an app's name"), hint);
        }
    }

    fn process(&mut self, path: &str, process: &str) {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if process.is_empty() || !process.chars().all(fine) {
            self.report(path, format!("{process:?} cannot be a process type"), "as web, worker or release");
        }
    }

    fn config_vars(&mut self, path: &str, config: &HerokuConfig) {
        self.layer(&format!("{path}.vars"), &config.vars);
        for (environment, layer) in &config.per_environment {
            let at = format!("{path}.per-environment.{environment}");
            self.environment_named(&at, environment);
            self.layer(&at, layer);
        }
        for (glob, layer) in &config.per_branch {
            let at = format!("{path}.per-branch.{glob}");
            self.glob(&at, glob);
            self.layer(&at, layer);
        }
    }

    fn layer(&mut self, path: &str, layer: &IndexMap<String, Option<TextOrSecret>>) {
        for (name, value) in layer {
            let at = format!("{path}.{name}");
            if let Some(TextOrSecret::Text(text)) = value {
                self.placeholders_of_app(&at, text);
            }
            if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace() || c == '=') {
                self.report(&at, format!("{name:?} cannot name a config var"), "use letters, digits and _");
            }
            if name.starts_with("TIDEGATE_") {
                self.report(&at, "names that begin with TIDEGATE_ are ours", "use another name");
            }
        }
    }

    pub(super) fn heroku_run(&mut self, path: &str, run: &HerokuRun, when: MigrateWhen) {
        self.app(&format!("{path}.app"), &run.app);
        self.argv(&format!("{path}.command"), &run.command);
        self.timeout(path, run.timeout);
        self.marker(path, run.failure_marker.as_deref());
        for (name, value) in &run.env {
            if let TextOrSecret::Text(text) = value {
                self.late_placeholders(&format!("{path}.env.{name}"), text);
            }
        }
        if when == MigrateWhen::Before {
            let hint = "write `when: after`; for a migration before the switch use Heroku's release phase: a process type `release`";
            self.report(path, "before the release a one-off dyno would run the version before", hint);
        }
    }
}

impl Heroku {
    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        let layers = self.config.per_environment.values().chain(self.config.per_branch.values());
        let vars = std::iter::once(&self.config.vars).chain(layers).flat_map(|layer| layer.values());
        std::iter::once(self.token.env.as_str()).chain(vars.flatten().filter_map(TextOrSecret::secret_name)).collect()
    }
}

impl HerokuRun {
    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        std::iter::once(self.token.env.as_str()).chain(self.env.values().filter_map(TextOrSecret::secret_name)).collect()
    }
}
