//! Tells a Slack channel how jobs ended, with the end of what they said.

use super::config::SlackOn;
use super::jobs::{Job, Status};
use super::server::Server;
use crate::tools::http;
use serde_json::{Value, json};
use std::time::Duration;

/// Slack shows no more in one block. <https://docs.slack.dev/reference/block-kit/blocks/section-block>
const BLOCK: usize = 2900;
const LIMIT: Duration = Duration::from_secs(10);

/// Tells the channel. What cannot be told is said in the log, and changes nothing.
pub async fn tell(server: &Server, job: &Job) {
    let config = server.config();
    let Some(slack) = &config.serve.slack else { return };
    if slack.on == SlackOn::Failure && job.status == Status::Success {
        return;
    }
    let end = server.output.end(&job.id, 16 * 1024).await.unwrap_or_default();
    let link = config.serve.public_url.as_deref().map(|url| format!("{url}/ui/jobs/{}", job.id));
    let message = message(job, &last_lines(&end.text, slack.lines), link.as_deref());
    let sent = async {
        let url = server.secret(&slack.webhook.env).map_err(|error| error.sentence)?;
        let client = http::client(&server.world.vars).map_err(|error| error.sentence)?;
        let answer = http::send(&server.world.clock, client.post(url.expose()).timeout(LIMIT).json(&message)).await?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
    };
    if let Err(why) = sent.await {
        server.say(&format!("Slack was not told about job {}: {why}", job.id));
    }
}

/// The last lines, without colours.
fn last_lines(output: &str, count: usize) -> String {
    let plain = console::strip_ansi_codes(output);
    let lines: Vec<&str> = plain.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn message(job: &Job, lines: &str, link: Option<&str>) -> Value {
    let icon = match job.status {
        Status::Success => ":white_check_mark:",
        Status::Cancelled => ":warning:",
        Status::Queued | Status::Starting | Status::Running | Status::Error | Status::TimedOut | Status::Lost => ":x:",
    };
    let tag = job.values.get("tag").map(|tag| format!(" `{}`", escaped(tag))).unwrap_or_default();
    let name = link.map_or_else(|| escaped(&job.app), |link| format!("<{link}|{}>", escaped(&job.app)));
    let text = format!("{icon} *{name}*{tag}: {} ({}), asked for by {}", job.status.name(), escaped(&job.detail), escaped(&job.by));
    let mut blocks = vec![json!({"type": "section", "text": {"type": "mrkdwn", "text": text}})];
    if !lines.trim().is_empty() {
        let kept: String = escaped(lines).replace("```", "'''").chars().rev().take(BLOCK).collect::<Vec<_>>().into_iter().rev().collect();
        blocks.push(json!({"type": "section", "text": {"type": "mrkdwn", "text": format!("```{kept}```")}}));
    }
    json!({"text": text, "blocks": blocks})
}

/// <https://docs.slack.dev/messaging/formatting-message-text#escaping>
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_told_and_nobody_is_called() {
        let output = "one\n\u{1b}[31mtwo\u{1b}[0m\n<!channel> ```three\n";
        assert_eq!(last_lines(output, 2), "two\n<!channel> ```three");
        assert_eq!(escaped("<!channel>"), "&lt;!channel&gt;");
    }
}
