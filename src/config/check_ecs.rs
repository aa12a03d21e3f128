//! Rules of `ecs:` that go across keys.

use super::check::Checker;
use super::{Ecs, EcsRun, EcsTask};

impl Checker<'_> {
    pub(super) fn ecs(&mut self, path: &str, ecs: &Ecs) {
        for (key, text) in [("cluster", &ecs.cluster), ("service", &ecs.service)] {
            let at = format!("{path}.{key}");
            self.placeholders(&at, text);
            if text.trim().is_empty() {
                self.report(&at, format!("the {key} has no name"), format!("write the name of an ECS {key}, or its ARN"));
            }
        }
        self.placeholders(&format!("{path}.container"), ecs.container.as_deref().unwrap_or_default());
        if let Some(file) = &ecs.task_definition {
            let at = format!("{path}.task-definition");
            self.placeholders(&at, file);
            self.inside(&at, file);
        }
        self.timeout(path, ecs.timeout);
        self.image_of(path, ecs.image.as_deref());
        if let Some(task) = &ecs.run_task {
            self.ecs_task(&format!("{path}.run-task"), task);
        }
    }

    /// `ecs-task:` of `migrate:`.
    pub(super) fn ecs_run(&mut self, path: &str, run: &EcsRun) {
        let target = run.target();
        self.ecs(path, &Ecs { run_task: None, ..target.clone() });
        if let Some(task) = &target.run_task {
            self.ecs_task(path, task);
        }
        self.marker(path, run.failure_marker.as_deref());
    }

    fn ecs_task(&mut self, path: &str, task: &EcsTask) {
        self.argv(&format!("{path}.command"), &task.command);
        self.placeholders(&format!("{path}.container"), task.container.as_deref().unwrap_or_default());
        for (name, value) in &task.env {
            let at = format!("{path}.env.{name}");
            self.late_placeholders(&at, value);
            if name.is_empty() || name.contains('=') || name.chars().any(char::is_control) {
                self.report(&format!("{path}.env"), format!("{name:?} cannot name a variable"), "use letters, digits and _");
            }
        }
        self.timeout(path, task.timeout);
    }
}
