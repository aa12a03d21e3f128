//! What the tasks of a service say: how many run what, and why others do not.

use super::engine::Manager;
use crate::error::{Error, Reason, Result};
use serde_json::Value;

/// How many lines of a task's log are shown.
const LOG_LINES: usize = 15;

/// A task.
pub struct Task {
    pub id: String,
    pub image: String,
    pub force: u64,
    pub state: String,
    pub desired: String,
    error: String,
    exit: Option<i64>,
    pub node: String,
    pub container: Option<String>,
    version: u64,
}

impl Task {
    fn of(value: &Value) -> Self {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        Self {
            id: text("/ID"),
            image: text("/Spec/ContainerSpec/Image"),
            force: number("/Spec/ForceUpdate"),
            state: text("/Status/State"),
            desired: text("/DesiredState"),
            error: text("/Status/Err"),
            exit: value.pointer("/Status/ContainerStatus/ExitCode").and_then(Value::as_i64),
            node: text("/NodeID"),
            container: Some(text("/Status/ContainerStatus/ContainerID")).filter(|id| !id.is_empty()),
            version: number("/Version/Index"),
        }
    }

    /// Whether it is meant to run, and does.
    pub fn runs(&self) -> bool {
        self.desired == "running" && self.state == "running"
    }

    fn failed(&self) -> bool {
        matches!(self.state.as_str(), "failed" | "rejected" | "orphaned")
    }
}

/// The tasks of a service, newest first.
pub async fn of(manager: &Manager, service: &str) -> Result<Vec<Task>> {
    let filters = serde_json::json!({"service": [service]}).to_string();
    let query: String = url::form_urlencoded::byte_serialize(filters.as_bytes()).collect();
    let listed = manager.get(&format!("/tasks?filters={query}")).await?;
    let mut tasks: Vec<Task> = listed.as_array().into_iter().flatten().map(Task::of).collect();
    tasks.sort_by_key(|task| std::cmp::Reverse(task.version));
    Ok(tasks)
}

/// Why tasks with this image do not run: the reason, one sentence, and what explains it. Nothing when no task says.
pub async fn cause(manager: &Manager, tasks: &[Task], image: &str) -> Option<(Reason, String, Vec<String>)> {
    let ours = |task: &&Task| task.image == image;
    let failed = tasks.iter().filter(ours).find(|task| task.failed());
    if let Some(task) = failed {
        let (reason, sentence) = judge(task);
        let mut detail: Vec<String> = tasks.iter().filter(ours).filter(|task| task.failed()).take(4).map(told).collect();
        let log = log(manager, &task.id).await;
        if !log.is_empty() {
            detail.push(format!("last lines of task {}:", short(&task.id)));
            detail.extend(log.into_iter().map(|line| format!("  {line}")));
        }
        return Some((reason, sentence, detail));
    }
    let waiting = tasks.iter().filter(ours).find(|task| !task.runs() && !task.error.is_empty())?;
    let (reason, sentence) = judge(waiting);
    Some((reason, sentence, vec![told(waiting)]))
}

fn judge(task: &Task) -> (Reason, String) {
    let words = task.error.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    let name = format!("task {}", short(&task.id));
    if has(&["no such image", "pull access denied", "manifest unknown", "manifest for", "unauthorized", "not found: manifest"]) {
        return (Reason::TargetImagePull, format!("{name} cannot pull its image: {}", task.error));
    }
    if has(&["unhealthy"]) {
        return (Reason::TargetProbe, format!("{name} runs but its health check fails: {}", task.error));
    }
    if has(&["no suitable node", "insufficient resources", "scheduling constraints"]) {
        return (Reason::TargetUnschedulable, format!("no node takes {name}: {}", task.error));
    }
    if has(&["non-zero exit", "task: exit"]) || (task.exit.is_some_and(|code| code != 0) && task.container.is_some()) {
        let code = task.exit.map(|code| format!(" with exit code {code}")).unwrap_or_default();
        return (Reason::TargetCrashLoop, format!("{name} starts and dies{code}: {}", task.error));
    }
    let words = if task.error.is_empty() { task.state.clone() } else { task.error.clone() };
    (Reason::TargetConfig, format!("{name} cannot be started: {words}"))
}

fn told(task: &Task) -> String {
    let node = if task.node.is_empty() { "no node".to_owned() } else { format!("node {}", short(&task.node)) };
    let error = if task.error.is_empty() { String::new() } else { format!(": {}", task.error) };
    format!("task {} on {node}: {}{error}", short(&task.id), task.state)
}

/// The first characters of an id, as the docker CLI shows it.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The last lines of a task's log; there may be none to read (other log drivers, a node that is away).
async fn log(manager: &Manager, task: &str) -> Vec<String> {
    let path = format!("/tasks/{task}/logs?stdout=1&stderr=1&tail={LOG_LINES}");
    let Ok(answer) = manager.call("GET", &path, None, None).await else { return Vec::new() };
    if answer.status != 200 {
        return Vec::new();
    }
    let text = unframed(&answer.body);
    let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
    lines.into_iter().rev().take(LOG_LINES).rev().collect()
}

/// Log streams come in frames of a stream's number, three zeroes, a length and the text, unless the task has a terminal.
fn unframed(bytes: &[u8]) -> String {
    let (mut text, mut rest) = (Vec::new(), bytes);
    while let [0..=2, 0, 0, 0, a, b, c, d, more @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX).min(more.len());
        let (piece, after) = more.split_at(length);
        text.extend_from_slice(piece);
        rest = after;
    }
    text.extend_from_slice(rest);
    String::from_utf8_lossy(&text).into_owned()
}

/// Compares, where the container runs on the very node that is asked, the image that it really has.
pub async fn wrong_container(manager: &Manager, own_node: &str, task: &Task, identities: &[String]) -> Result<Option<String>> {
    let Some(container) = task.container.as_deref().filter(|_| task.node == own_node && !own_node.is_empty()) else { return Ok(None) };
    let inspected = match manager.get(&format!("/containers/{container}/json")).await {
        Ok(inspected) => inspected,
        Err(error) if error.gone => return Ok(None), // it was replaced in this moment; the next look counts
        Err(error) => return Err(error),
    };
    let image = inspected.get("Image").and_then(Value::as_str).unwrap_or_default().to_owned();
    if identities.contains(&image) {
        return Ok(None);
    }
    let local = manager.get(&format!("/images/{image}/json")).await.unwrap_or(Value::Null);
    let digests = local.get("RepoDigests").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let known = digests.filter_map(|name| name.split_once('@')).any(|(_, digest)| identities.iter().any(|known| known == digest));
    Ok((!known).then_some(image))
}

/// An error of the swarm with its cause in front.
pub fn failure(service: &str, what: &str, cause: Option<(Reason, String, Vec<String>)>, reason: Reason) -> Error {
    match cause {
        Some((cause, sentence, detail)) => {
            let reason = if reason == Reason::TargetFailed { cause } else { reason };
            Error::new(reason, format!("{service}: {sentence} ({what})")).detail(detail)
        }
        None => Error::new(reason, format!("{service}: {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_frames_are_taken_apart() {
        let framed = [&[1, 0, 0, 0, 0, 0, 0, 3][..], b"ab\n", &[2, 0, 0, 0, 0, 0, 0, 2], b"c\n"].concat();
        assert_eq!(unframed(&framed), "ab\nc\n");
        assert_eq!(unframed(b"plain\n"), "plain\n");
        assert_eq!(unframed(&[1, 0, 0, 0, 255, 255, 255, 255, b'x']), "x");
    }
}
