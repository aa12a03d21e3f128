//! Telling a fork's pull request how its own run ended. That run has no right to comment; the `workflow_run` after it has.
//!
//! It has secrets too, so nothing of the fork is used: no artifact of its run is read, no code is checked out, and no name that
//! its author chose is repeated. What is said are GitHub's own facts: commit, conclusion and number of the run.
//! <https://securitylab.github.com/resources/github-actions-preventing-pwn-requests/>

use crate::config::{CommentMode, Config};
use crate::event::{Ended, Event, Kind};
use crate::forge::Forge;
use crate::forge::comments::{self, Keep, Section};
use crate::world::World;

/// No environment can be called so.
const SECTION: &str = "=fork";

/// Writes the comment after the run of a fork's pull request; for other events does nothing. A failure is a warning.
pub async fn tell(world: &World, forge: &Forge, event: &Event, config: &Config) {
    let (Forge::GitHub(github), Some(ended)) = (forge, ended(event)) else { return };
    let (Some(head), Some(branch), Some(sha)) = (&event.head_repo, &event.branch, &event.sha) else {
        world.console.dim("  the fork is gone: there is no pull request to tell");
        return;
    };
    let create = match config.comment.mode {
        CommentMode::Never => return,
        CommentMode::OnFailure => ended.failed(),
        CommentMode::Always => true,
    };
    let numbers = match github.open_from(head, branch, sha).await {
        Ok(numbers) => numbers,
        Err(error) => return world.console.warning(&format!("the fork's pull request is not told: {error}")),
    };
    if numbers.is_empty() {
        world.console.dim(&format!("  no open pull request has the commit {}: a newer one may be there", crate::event::short(sha)));
    }
    let text = text(world, event, ended);
    let section = Section { project: &config.project, environment: SECTION, text: &text, create, keep: Keep::Nothing };
    for number in numbers {
        let Some(thread) = forge.thread(number) else { return };
        let name = forge.pull_request_name(number);
        match comments::upsert(&thread, &section).await {
            Ok(written) => world.console.good(&format!("{name}: comment {}", written.name())),
            Err(error) => world.console.warning(&format!("{name} is not told: {error}")),
        }
    }
}

/// The run that ended, if it was one of a fork's pull request.
fn ended(event: &Event) -> Option<&Ended> {
    let ended = event.more.ended.as_ref()?;
    let is_it = event.kind == Kind::WorkflowRun
        && event.action.as_deref() == Some("completed")
        && event.is_fork == Some(true)
        && ended.of == "pull_request";
    is_it.then_some(ended)
}

fn text(world: &World, event: &Event, ended: &Ended) -> String {
    let short = event.short7.as_deref().unwrap_or_default();
    let how = match ended.conclusion.as_str() {
        "success" => format!("✅ its own run of {short} succeeded"),
        "action_required" => format!("✋ its own run of {short} waits for somebody with write access to approve it"),
        "cancelled" | "skipped" | "neutral" | "stale" => format!("⏭️ its own run of {short} was not carried out to its end"),
        "timed_out" => format!("❌ its own run of {short} took too long"),
        _failed => format!("❌ its own run of {short} failed"),
    };
    let log = match (world.vars.get("GITHUB_SERVER_URL"), &event.more.repository) {
        (Some(server), Some(repository)) => format!(" · [log]({server}/{repository}/actions/runs/{})", ended.run),
        _unknown => String::new(),
    };
    format!(
        "### ⏭️ not deployed: this pull request comes from a fork\n\n{how}{log}\n\n\
         Code of a fork gets no secrets here, so it has no preview. Once it is merged it is delivered as `tidegate.yml` says.\n"
    )
}

impl Ended {
    fn failed(&self) -> bool {
        !matches!(self.conclusion.as_str(), "success" | "action_required" | "cancelled" | "skipped" | "neutral" | "stale")
    }
}
