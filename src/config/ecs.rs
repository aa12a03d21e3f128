//! `ecs:` of `deploy:`: services of an Amazon ECS cluster.

use super::{Condition, Restart, Rollback, Span};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A service of an Amazon ECS cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ecs {
    /// A condition on variables: the target is left out when it is not met.
    pub r#if: Option<Condition>,
    /// The cluster's name or ARN.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// The service's name.
    pub service: String,
    /// The image (a key of `images:`) that it runs.
    pub image: Option<String>,
    /// The container; when not given the only one, or the one whose image has the same repository.
    pub container: Option<String>,
    /// A JSON file with the task definition, relative to tidegate.yml; a copy of the service's own when not given.
    pub task_definition: Option<String>,
    /// A task of the new revision that must end with exit code 0 before the service is updated.
    pub run_task: Option<EcsTask>,
    /// How long the deployment may take.
    #[serde(default = "super::targets::ten_minutes")]
    pub timeout: Span,
    /// Replace tasks even when nothing changes.
    #[serde(default)]
    pub restart: Restart,
    /// Go back to the task definition before when the deployment fails.
    pub rollback: Option<Rollback>,
}

/// A task that runs to its end.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EcsTask {
    /// What is run in the container instead of its own command.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// The container it is run in; the service's own when not given.
    pub container: Option<String>,
    /// Further variables.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// How long it may take.
    #[serde(default = "super::targets::half_an_hour")]
    pub timeout: Span,
}

/// A task that runs once, on its own: `ecs-task:` of `migrate:`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EcsRun {
    /// The cluster's name or ARN.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// The service whose task definition, network and capacity are the pattern.
    pub service: String,
    /// The image (a key of `images:`) that the task runs.
    pub image: Option<String>,
    /// The container that gets the image and the command; the only one, or the one whose image has the same repository.
    pub container: Option<String>,
    /// A JSON file with the task definition, relative to tidegate.yml; a copy of the service's own when not given.
    pub task_definition: Option<String>,
    /// What is run in the container instead of its own command.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// Further variables.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// How long it may take.
    #[serde(default = "super::targets::half_an_hour")]
    pub timeout: Span,
    /// A text in its output that means failure, whatever its exit code; it is looked for in its CloudWatch log.
    pub failure_marker: Option<String>,
}

impl EcsRun {
    /// The same as a target that runs this task and switches nothing.
    pub fn target(&self) -> Ecs {
        let task =
            EcsTask { command: self.command.clone(), container: self.container.clone(), env: self.env.clone(), timeout: self.timeout };
        Ecs {
            r#if: None,
            cluster: self.cluster.clone(),
            service: self.service.clone(),
            image: self.image.clone(),
            container: self.container.clone(),
            task_definition: self.task_definition.clone(),
            run_task: Some(task),
            timeout: self.timeout,
            restart: Restart::Never,
            rollback: None,
        }
    }
}

fn default_cluster() -> String {
    "default".into()
}
