//! The report as Markdown: a section of the pull request's comment, and the job summary.

use super::{Report, ReportedStep, StepOutcome, size};
use crate::error::Verdict;

/// GitHub drops a summary above 1 MiB as a whole.
const SUMMARY_LIMIT: usize = 1_000_000;

/// The section of the comment. It holds no durations: a repeated run changes nothing, so nothing is edited.
pub fn section(report: &Report) -> String {
    let mut text = format!("### {} {}\n\n", mark(report.verdict), escape(&report.headline()));
    if let Some(error) = &report.error {
        text.push_str(&format!("**{}** `{}`\n\n", escape(&error.sentence), error.reason));
        if !error.detail.is_empty() {
            text.push_str(&format!("```text\n{}\n```\n\n", fenced(&error.detail)));
        }
        if let Some(hint) = &error.hint {
            text.push_str(&format!("→ {}\n\n", escape(hint).replace("\\`", "`"))); // our own words: code stays code
        }
    }
    let rows = rows(report);
    if !rows.is_empty() {
        text.push_str(&format!("| | |\n|---|---|\n{}\n", rows.concat()));
    }
    text.push_str(&footer(report));
    text
}

/// The job summary: the same with durations.
pub fn summary(report: &Report) -> String {
    let mut text = section(report);
    if !report.steps.is_empty() {
        text.push_str("\n\n| step | | seconds |\n|---|---|---|\n");
        for step in &report.steps {
            let outcome = match step.outcome {
                StepOutcome::Done => "done",
                StepOutcome::Failed => "failed",
                StepOutcome::Skipped => "skipped",
                StepOutcome::Cancelled => "cancelled",
            };
            text.push_str(&format!("| {} | {outcome} | {:.1} |\n", escape(&step.id), step.seconds));
        }
    }
    if text.len() > SUMMARY_LIMIT {
        return crate::forge::comments::shorten(&text, SUMMARY_LIMIT / 4);
    }
    text
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Deployed | Verdict::Removed => "✅",
        Verdict::Skipped | Verdict::Superseded => "⏭️",
        Verdict::Cancelled | Verdict::Refused => "🚫",
        Verdict::Failed | Verdict::RolledBack | Verdict::Unknown | Verdict::TimedOut => "❌",
    }
}

fn rows(report: &Report) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    rows.extend(report.urls.get("environment").map(|url| format!("| url | {} |\n", link(url))));
    for image in &report.images {
        let name = image.r#ref.split('@').next().unwrap_or_default();
        rows.push(format!("| image `{}` | `{name}`<br>`{}` ({}, {}) |\n", image.name, image.digest, size(image.size), image.how));
    }
    for step in report
        .steps
        .iter()
        .filter(|step| (step.id.starts_with("drain") || step.id.starts_with("scan.")) && step.outcome == StepOutcome::Done)
    {
        rows.push(format!("| {} | {} |\n", step.id, escape(&step.note)));
    }
    let is_data = |step: &&ReportedStep| ["archive", "seed", "backup", "migrate"].iter().any(|kind| step.id.starts_with(kind));
    rows.extend(report.steps.iter().filter(is_data).map(around));
    for target in &report.targets {
        rows.push(format!("| {} | {}: {} |\n", target.id, target.verdict.name(), escape(&target.detail)));
    }
    rows.extend(report.steps.iter().filter(|step| step.id.starts_with("trigger.")).map(around));
    rows
}

/// What ran before or after the targets. A failure's sentence stands above the table already.
fn around(step: &ReportedStep) -> String {
    let note = match step.outcome {
        StepOutcome::Done => escape(&step.note),
        StepOutcome::Failed => "failed".into(),
        StepOutcome::Skipped => "not begun".into(),
        StepOutcome::Cancelled => "cancelled".into(),
    };
    format!("| {} | {note} |\n", step.id)
}

fn footer(report: &Report) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(report.commit.as_ref().map(|commit| format!("commit {commit}")));
    parts.extend((!report.plan_hash.is_empty()).then(|| format!("plan `{}`", report.plan_hash)));
    parts.extend(report.urls.get("run").map(|url| format!("[log]({url})")));
    parts.join(" · ")
}

/// Lines of others for a fence that they cannot close.
fn fenced(lines: &[String]) -> String {
    lines.join("\n").replace("```", "'''").chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// An address that a platform may have given, as a link of its own; what is none stays text.
fn link(address: &str) -> String {
    match url::Url::parse(address) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => format!("<{}>", url.as_str().replace('|', "%7C")),
        Ok(_) | Err(_) => escape(address),
    }
}

/// Text of others (names, messages) that must not become markup, mentions or commands.
pub fn escape(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '|' | '`' | '*' | '[' | ']' | '\\' | '#' => {
                safe.push('\\');
                safe.push(c);
            }
            '@' => safe.push_str("@\u{200b}"),
            '\n' | '\r' => safe.push(' '),
            // Right-to-left and zero-width marks can make one name look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' => {}
            c if c.is_control() => {}
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What markup escapes would not be found in what was escaped.
    #[test]
    fn a_secret_with_markup_in_it_is_cleaned_first() {
        use crate::error::{Error, Reason};
        use crate::tools::{redact::Redactor, secret::Secret};
        let value = "p@ss*w#rd[1]<long>";
        let redactor = Redactor::default();
        redactor.learn(&Secret::new(value));
        let error =
            Error::new(Reason::TargetFailed, format!("it says {value}")).hint(format!("look at {value}")).detail(vec![value.to_owned()]);
        let section = section(&Report::of_error(&error).cleaned(&redactor));
        assert!(!section.contains("ss\\*w") && !section.contains("w#rd") && section.matches("\\*\\*\\*").count() >= 2, "{section}");
    }

    #[test]
    fn an_address_is_one_link_or_none() {
        assert_eq!(link("https://web.example/a?b=1"), "<https://web.example/a?b=1>");
        let hostile = link("https://web.example/> | [x](https://evil.example) <b>");
        assert!(hostile.matches(['<', '>']).count() == 2 && !hostile.contains([' ', '|']), "{hostile}");
        assert!(!link("javascript:alert(1)//<b>").contains('<'));
    }

    #[test]
    fn foreign_text_stays_text() {
        assert_eq!(escape("@acme <b>|`x`"), "@\u{200b}acme &lt;b&gt;\\|\\`x\\`");
        assert_eq!(escape("a\u{202e}b\nc"), "ab c");
    }
}
