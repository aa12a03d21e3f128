//! A service of a cluster, as ECS describes it: its deployments, and what became of ours.

use super::api::Api;
use super::definition::Definition;
use super::{list, number, short, text};
use crate::error::{Error, Reason, Result};
use serde_json::{Value, json};

/// Where the service is.
pub struct Place {
    pub api: Api,
    pub cluster: String,
    pub name: String,
}

/// A service as it was at one look.
#[derive(Clone, Debug)]
pub struct Service(pub Value);

/// A deployment of a service.
#[derive(Clone, Copy, Debug)]
pub struct Deployment<'a>(&'a Value);

/// The deployment that is followed.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Its id.
    pub id: String,
    /// Its revision.
    pub revision: String,
    /// The revision that ran before.
    pub before: String,
    /// The deployment that was there before, where ours is another.
    pub replaced: Option<String>,
}

/// How far the deployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It goes on.
    Going,
    /// ECS says that it is completed.
    Completed,
    /// ECS gave it up, and leaves everything as it is.
    Failed,
    /// The version before is deployed again, and not by us.
    WentBack,
    /// Somebody else deployed something else.
    Taken,
}

impl Place {
    /// The service, which must be one that ECS itself deploys.
    pub async fn service(&self) -> Result<Service> {
        let answer = self.api.call("DescribeServices", &json!({"cluster": self.cluster, "services": [self.name]})).await?;
        let missing = |why: &str| {
            Error::new(
                Reason::TargetMissing,
                format!("the ECS cluster {} in {} has no service {}{why}", self.cluster, self.api.region, self.name),
            )
            .hint("`aws ecs list-services` lists them; tidegate does not create services")
        };
        let Some(service) = list(&answer, "/services").next().cloned().map(Service) else { return Err(missing("")) };
        match text(&service.0, "/status") {
            "ACTIVE" => {}
            status => return Err(missing(&format!(": it is {status}"))),
        }
        let controller = text(&service.0, "/deploymentController/type");
        if !matches!(controller, "" | "ECS") {
            let sentence = format!("the ECS service {} is deployed by {controller}, not by ECS itself", self.name);
            return Err(Error::new(Reason::TargetInput, sentence)
                .hint("use a service whose deployment controller is ECS, or a `command` target for the other one"));
        }
        if service.revision().is_empty() {
            return Err(Error::new(Reason::TargetInput, format!("the ECS service {} has no task definition", self.name)));
        }
        Ok(service)
    }

    /// A revision with its tags.
    pub async fn definition(&self, revision: &str) -> Result<Definition> {
        let answer = self.api.call("DescribeTaskDefinition", &json!({"taskDefinition": revision, "include": ["TAGS"]})).await?;
        Definition::of(answer)
    }

    /// Where a person sees it.
    pub fn url(&self) -> Option<String> {
        let region = &self.api.region;
        let known = !region.starts_with("cn-");
        let cluster = short(&self.cluster);
        known.then(|| format!("https://{region}.console.aws.amazon.com/ecs/v2/clusters/{cluster}/services/{}", short(&self.name)))
    }
}

impl Service {
    /// The revision that it is to run.
    pub fn revision(&self) -> &str {
        text(&self.0, "/taskDefinition")
    }

    /// How many tasks are wanted.
    pub fn desired(&self) -> u64 {
        number(&self.0, "/desiredCount")
    }

    /// The newest deployment.
    pub fn primary(&self) -> Option<Deployment<'_>> {
        self.deployments().find(|deployment| text(deployment.0, "/status") == "PRIMARY")
    }

    /// A deployment by its id.
    pub fn deployment(&self, id: &str) -> Option<Deployment<'_>> {
        self.deployments().find(|deployment| deployment.id() == id)
    }

    /// What ECS said since a moment, newest first.
    pub fn events(&self, since: f64) -> Vec<&str> {
        let at = |event: &Value| event.get("createdAt").and_then(Value::as_f64).unwrap_or(f64::MAX);
        list(&self.0, "/events").filter(|event| at(event) >= since).map(|event| text(event, "/message")).collect()
    }

    /// Whether ECS itself gives up a deployment that fails.
    pub fn gives_up(&self) -> bool {
        self.is("/deploymentConfiguration/deploymentCircuitBreaker/enable")
    }

    /// Whether ECS goes back by itself.
    fn goes_back(&self) -> bool {
        let on = |part: &str| self.is(&format!("{part}/enable")) && self.is(&format!("{part}/rollback"));
        on("/deploymentConfiguration/deploymentCircuitBreaker") || on("/deploymentConfiguration/alarms")
    }

    /// How far the deployment is that is followed.
    pub fn stage(&self, goal: &Goal) -> Stage {
        let Some(primary) = self.primary() else { return Stage::Going };
        let is_new = goal.revision != goal.before;
        if primary.id() != goal.id && goal.replaced.as_deref() == Some(primary.id()) {
            return Stage::WentBack;
        }
        if primary.id() != goal.id && primary.revision() != goal.revision {
            return if primary.revision() == goal.before && is_new { Stage::WentBack } else { Stage::Taken };
        }
        match primary.state() {
            "COMPLETED" => Stage::Completed,
            "FAILED" if self.goes_back() && is_new => Stage::Going, // the deployment before comes next
            "FAILED" => Stage::Failed,
            "" if primary.is_steady() && self.deployments().count() == 1 => Stage::Completed,
            _going => Stage::Going,
        }
    }

    fn deployments(&self) -> impl Iterator<Item = Deployment<'_>> {
        list(&self.0, "/deployments").map(Deployment)
    }

    fn is(&self, pointer: &str) -> bool {
        self.0.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
    }
}

impl<'a> Deployment<'a> {
    pub fn id(self) -> &'a str {
        text(self.0, "/id")
    }

    pub fn revision(self) -> &'a str {
        text(self.0, "/taskDefinition")
    }

    /// IN_PROGRESS, COMPLETED or FAILED; nothing from servers that do not say it.
    pub fn state(self) -> &'a str {
        text(self.0, "/rolloutState")
    }

    /// Why it is in this state.
    pub fn why(self) -> &'a str {
        text(self.0, "/rolloutStateReason")
    }

    /// When it began, as ECS counts.
    pub fn began(self) -> f64 {
        self.0.get("createdAt").and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// How many of its tasks failed.
    pub fn failed(self) -> u64 {
        number(self.0, "/failedTasks")
    }

    /// Its tasks, for people.
    pub fn progress(self) -> String {
        let (running, desired) = (number(self.0, "/runningCount"), number(self.0, "/desiredCount"));
        let pending = match number(self.0, "/pendingCount") {
            0 => String::new(),
            pending => format!(" ({pending} pending)"),
        };
        let failed = match self.failed() {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        format!("{running} of {desired} running{pending}{failed}")
    }

    fn is_steady(self) -> bool {
        number(self.0, "/runningCount") == number(self.0, "/desiredCount")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(deployments: Value) -> Stage {
        let rollback = json!({"deploymentCircuitBreaker": {"enable": true, "rollback": true}});
        let goal = Goal { id: "ours".into(), revision: "new".into(), before: "old".into(), replaced: Some("first".into()) };
        Service(json!({"deployments": deployments, "deploymentConfiguration": rollback})).stage(&goal)
    }

    fn primary(id: &str, revision: &str, state: &str) -> Value {
        json!({"id": id, "status": "PRIMARY", "taskDefinition": revision, "rolloutState": state, "runningCount": 2, "desiredCount": 2})
    }

    #[test]
    fn a_deployment_is_told_by_its_id_and_revision() {
        assert_eq!(stage(json!([primary("ours", "new", "IN_PROGRESS"), {"id": "first", "status": "ACTIVE"}])), Stage::Going);
        assert_eq!(stage(json!([primary("ours", "new", "COMPLETED")])), Stage::Completed);
        assert_eq!(stage(json!([primary("other", "new", "COMPLETED")])), Stage::Completed, "somebody deployed the same");
        assert_eq!(stage(json!([primary("ours", "new", "FAILED")])), Stage::Going, "ECS will go back");
        assert_eq!(stage(json!([primary("other", "old", "COMPLETED")])), Stage::WentBack);
        assert_eq!(stage(json!([primary("first", "old", "COMPLETED")])), Stage::WentBack);
        assert_eq!(stage(json!([primary("other", "third", "COMPLETED")])), Stage::Taken);
        // Servers that say no state.
        assert_eq!(stage(json!([primary("ours", "new", "")])), Stage::Completed);
        assert_eq!(stage(json!([primary("ours", "new", ""), {"id": "first", "status": "ACTIVE"}])), Stage::Going);
    }
}
