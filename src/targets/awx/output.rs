//! What a job says while it runs: its lines in their order, or the nodes of a workflow.

use super::job::Job;
use crate::config::{AwxKind, Output};
use crate::error::Result;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// How many events are asked for at once.
const PAGE: u64 = 200;
const TAIL: usize = 15;
/// How much is shown in all, in bytes.
const SHOWN_LIMIT: usize = 8 * 1024 * 1024;

/// What was heard so far.
#[derive(Default)]
pub struct Heard {
    /// The next line of the job's output.
    next_line: u64,
    /// The states of a workflow's nodes.
    nodes: BTreeMap<u64, String>,
    shown: usize,
    /// The last lines.
    pub tail: VecDeque<String>,
}

impl Heard {
    /// Asks for what is new, and shows it. Whether there was anything.
    pub(super) async fn more(&mut self, job: &Job<'_>) -> Result<bool> {
        match job.launched.kind {
            AwxKind::Job => self.lines(job).await,
            AwxKind::Workflow => self.nodes(job).await,
        }
    }

    /// Events may arrive out of order: only what follows without a gap is shown.
    async fn lines(&mut self, job: &Job<'_>) -> Result<bool> {
        let path = format!(
            "/api/v2/jobs/{}/job_events/?order_by=start_line&start_line__gte={}&page_size={PAGE}&no_truncate=True",
            job.launched.id, self.next_line
        );
        let answer = job.api.get(&path).await?;
        let before = self.next_line;
        let lines = self.next_lines(&answer.body);
        lines.iter().for_each(|line| self.line(job, line));
        Ok(self.next_line > before)
    }

    /// The lines of these events that follow those before.
    pub(crate) fn next_lines(&mut self, events: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for event in results(events) {
            let number = |name: &str| event.get(name).and_then(Value::as_u64);
            let (Some(start), Some(end)) = (number("start_line"), number("end_line")) else { continue };
            if start != self.next_line || end <= start {
                continue; // one without output, or one before it is still on its way
            }
            self.next_line = end;
            lines.extend(event.get("stdout").and_then(Value::as_str).unwrap_or_default().lines().map(str::to_owned));
        }
        lines
    }

    async fn nodes(&mut self, job: &Job<'_>) -> Result<bool> {
        let answer =
            job.api.get(&format!("/api/v2/workflow_jobs/{}/workflow_nodes/?order_by=id&page_size={PAGE}", job.launched.id)).await?;
        let lines = self.changed_nodes(&answer.body);
        lines.iter().for_each(|line| self.line(job, line));
        Ok(!lines.is_empty())
    }

    /// What these nodes of a workflow have become since they were looked at last.
    pub(crate) fn changed_nodes(&mut self, nodes: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for node in results(nodes) {
            let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let Some(id) = node.pointer("/summary_fields/job/id").and_then(Value::as_u64) else { continue };
            let state = text("/summary_fields/job/status");
            if self.nodes.get(&id) != Some(&state) {
                let waits = text("/summary_fields/job/type") == "workflow_approval" && state == "pending";
                let shown = if waits { "waits for a person to approve it" } else { &state };
                lines.push(format!("{} (job {id}): {shown}", text("/summary_fields/job/name")));
                self.nodes.insert(id, state);
            }
        }
        lines
    }

    fn line(&mut self, job: &Job<'_>, line: &str) {
        let plain = console::strip_ansi_codes(line);
        let plain = plain.trim_end();
        if plain.is_empty() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        if job.awx.output == Output::Show {
            self.tail.push_back(crate::tools::console::cut(plain, 1000));
            let before = self.shown;
            self.shown = before.saturating_add(plain.len() + 1);
            match (self.shown <= SHOWN_LIMIT, before <= SHOWN_LIMIT) {
                (true, _) => job.site.world.console.relay("awx", plain),
                (false, true) => job.site.say("the rest of the job's output is not shown here"),
                (false, false) => {}
            }
        }
    }
}

/// A page of a list.
fn results(page: &Value) -> impl Iterator<Item = &Value> {
    page.pointer("/results").and_then(Value::as_array).into_iter().flatten()
}
