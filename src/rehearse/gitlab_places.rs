//! The pretend GitLab's deployments and environments.

use super::gitlab::{Deployment, Project, TIME, page, refused, user};
use super::sandbox::{Asked, json_answer};
use axum::response::Response;
use serde_json::{Value, json};

fn deployment_answer(gitlab: &Project, deployment: &Deployment) -> Value {
    let environment = gitlab.environments.iter().position(|(name, _)| *name == deployment.environment).unwrap_or(0) + 1;
    let job = deployment
        .job
        .map(|job| json!({"id": job, "status": deployment.status, "web_url": format!("https://gitlab.com/acme/demo/-/jobs/{job}")}));
    json!({
        "id": deployment.id, "iid": deployment.id, "ref": deployment.reference, "sha": deployment.sha, "status": deployment.status,
        "created_at": TIME, "updated_at": TIME, "user": user("ada"), "deployable": job,
        "environment": {"id": environment, "name": deployment.environment, "slug": "place", "external_url": null, "created_at": TIME, "updated_at": TIME},
    })
}

pub(super) fn deployments(gitlab: &mut Project, asked: &Asked, method: &str, rest: &[&str]) -> Response {
    let form = asked.form();
    let text = |name: &str| form.get(name).cloned().unwrap_or_default();
    match (method, rest) {
        ("GET", []) => {
            let (place, status) = (asked.parameter("environment"), asked.parameter("status"));
            let fits = |deployment: &&Deployment| {
                place.as_ref().is_none_or(|place| *place == deployment.environment)
                    && status.as_ref().is_none_or(|status| *status == deployment.status)
            };
            let newest_first = gitlab.deployments.iter().rev().filter(fits);
            page(asked, newest_first.map(|deployment| deployment_answer(gitlab, deployment)).collect())
        }
        ("POST", []) if ["environment", "sha", "ref", "tag", "status"].iter().any(|name| text(name).is_empty()) => {
            refused(400, "400 Bad request: environment, sha, ref, tag and status are required")
        }
        ("POST", []) => {
            let (environment, reference) = (text("environment"), text("ref"));
            gitlab.make_environment(&environment);
            let deployment = Deployment { id: gitlab.id(), environment, sha: text("sha"), reference, status: text("status"), job: None };
            let answer = deployment_answer(gitlab, &deployment);
            if !gitlab.forgets_deployments {
                gitlab.deployments.push(deployment);
            }
            json_answer(201, &answer)
        }
        ("PUT", [id]) => {
            let id: u64 = id.parse().unwrap_or(0);
            match gitlab.deployments.iter_mut().find(|deployment| deployment.id == id) {
                Some(deployment) if deployment.job.is_some() => return refused(403, "403 Forbidden"),
                Some(deployment) => deployment.status = text("status"),
                None => return refused(404, "404 Not found"),
            }
            let found = gitlab.deployments.iter().find(|deployment| deployment.id == id);
            json_answer(200, &found.map(|deployment| deployment_answer(gitlab, deployment)).unwrap_or_default())
        }
        _other => refused(404, "404 Not Found"),
    }
}

pub(super) fn environments(gitlab: &mut Project, asked: &Asked, method: &str, rest: &[&str]) -> Response {
    let answer = |(index, (name, stopped)): (usize, &(String, bool))| {
        let state = if *stopped { "stopped" } else { "available" };
        json!({"id": index + 1, "name": name, "slug": "place", "external_url": null, "state": state, "created_at": TIME, "updated_at": TIME})
    };
    match (method, rest) {
        ("GET", []) => {
            let (name, states) = (asked.parameter("name"), asked.parameter("states"));
            let all = gitlab.environments.iter().enumerate().filter(|(_, (known, _))| name.as_ref().is_none_or(|name| name == known));
            let all = all.map(answer).filter(|found| states.as_deref().is_none_or(|state| found.pointer("/state") == Some(&json!(state))));
            page(asked, all.collect())
        }
        ("POST", [id, "stop"]) => {
            let index = id.parse::<usize>().unwrap_or(0).wrapping_sub(1);
            match gitlab.environments.get_mut(index) {
                Some((_, stopped)) => *stopped = true,
                None => return refused(404, "404 Not found"),
            }
            json_answer(200, &gitlab.environments.get(index).map(|found| answer((index, found))).unwrap_or_default())
        }
        _other => refused(404, "404 Not Found"),
    }
}
