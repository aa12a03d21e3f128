//! What a person reads while it runs, on stderr: lines, groups, a live table; in CI with that system's commands.

use super::redact::Redactor;
use super::secret::Secret;
use crate::vars::Vars;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};

/// How lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A terminal: colours, live tables.
    Terminal,
    /// A file or pipe: plain lines.
    Plain,
    /// A GitHub job log: groups, annotations, masks.
    GitHub,
    /// A GitLab job log: sections and colours. It knows no masks at run time: what is secret is only ours to keep out.
    GitLab,
}

/// Variables whose values are secret in every job.
const JOB_SECRETS: [&str; 9] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_RUNTIME_TOKEN",
    "TIDEGATE_ID_TOKEN",
    "TIDEGATE_REDIS_PASSWORD",
    "CI_JOB_TOKEN",
    "CI_REGISTRY_PASSWORD",
    "GITLAB_TOKEN",
];

/// The console. Clones share the same stream and secrets.
#[derive(Clone)]
pub struct Console {
    style: Style,
    colours: bool,
    out: Arc<Mutex<dyn Write + Send>>,
    redactor: Redactor,
    /// Progress bars, drawn only on a terminal.
    live: indicatif::MultiProgress,
    /// Names of the sections that are open in a GitLab log, and how many there were.
    sections: Arc<Mutex<(Vec<String>, u32)>>,
}

impl Console {
    /// The console of this process.
    pub fn of_process(vars: &Vars) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let style = match (vars.is_true("GITHUB_ACTIONS"), vars.is_true("GITLAB_CI"), terminal) {
            (true, _, _) => Style::GitHub,
            (false, true, _) => Style::GitLab,
            (false, false, true) => Style::Terminal,
            (false, false, false) => Style::Plain,
        };
        let wanted = vars.get("CLICOLOR_FORCE").is_some_and(|value| value != "0") || terminal || style == Style::GitLab;
        let colours = wanted && vars.get("NO_COLOR").is_none() && style != Style::GitHub;
        let console = Self::to(style, colours, Arc::new(Mutex::new(std::io::stderr())));
        // GitLab has no masks at run time, and programs that we start inherit these.
        for name in JOB_SECRETS {
            // A short one ("test" against a sandbox) would blank ordinary words.
            let value = vars.get(name).filter(|value| value.len() >= 8);
            value.into_iter().for_each(|value| _ = console.redactor.learn(&Secret::new(value)));
        }
        console
    }

    /// A console that writes elsewhere.
    pub fn to(style: Style, colours: bool, out: Arc<Mutex<dyn Write + Send>>) -> Self {
        let live = indicatif::MultiProgress::with_draw_target(match style {
            Style::Terminal => indicatif::ProgressDrawTarget::stderr(),
            Style::Plain | Style::GitHub | Style::GitLab => indicatif::ProgressDrawTarget::hidden(),
        });
        Self { style, colours, out, redactor: Redactor::default(), live, sections: Arc::default() }
    }

    /// The same console in another style: a rehearsal inside a job must not speak to that job's system.
    pub fn plain(&self) -> Self {
        let style = if matches!(self.style, Style::GitHub | Style::GitLab) { Style::Plain } else { self.style };
        Self { style, ..self.clone() }
    }

    /// How lines are shown.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Progress bars; hidden unless this is a terminal.
    pub fn live(&self) -> &indicatif::MultiProgress {
        &self.live
    }

    /// The secrets known so far.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// Learns a secret; every later line is free of it, here and in the CI system's own log.
    pub fn mask(&self, secret: &Secret) {
        for form in self.redactor.learn(secret) {
            if self.style == Style::GitHub {
                self.raw(&format!("::add-mask::{}", escape_data(&form)));
            }
        }
    }

    /// One line of ours.
    pub fn line(&self, text: &str) {
        for line in text.split('\n') {
            // What is left out first would hide a secret, or make a command of two halves.
            self.raw(&safe(&self.redactor.clean(&visible(line))));
        }
    }

    /// A line that went well.
    pub fn good(&self, text: &str) {
        self.line(&format!("{} {text}", self.paint("✓", |s| s.green())));
    }

    /// A line that went badly.
    pub fn bad(&self, text: &str) {
        self.line(&format!("{} {text}", self.paint("✗", |s| s.red())));
    }

    /// A line that is quiet by nature.
    pub fn dim(&self, text: &str) {
        self.line(&self.paint(text, |s| s.dim()));
    }

    /// A headline.
    pub fn bold(&self, text: &str) {
        self.line(&self.paint(text, |s| s.bold()));
    }

    /// A line from the outside (a build, a pod). It cannot start a workflow command, nor move the cursor.
    pub fn relay(&self, source: &str, text: &str) {
        // Cleaned before it is cut: the beginning of a secret is a secret too.
        let plain: String = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
        let text: String = self.redactor.clean(&plain).chars().take(4000).collect();
        self.line(&self.paint(&format!("    {source} | {text}"), |s| s.dim()));
    }

    /// A warning; on GitHub an annotation.
    pub fn warning(&self, text: &str) {
        match self.style {
            Style::GitHub => self.annotate("warning", "tidegate", text),
            Style::Terminal | Style::Plain | Style::GitLab => self.line(&format!("{} {text}", self.paint("warning:", |s| s.yellow()))),
        }
    }

    /// A failure; on GitHub an annotation as well.
    pub fn error(&self, code: &str, lines: &[String]) {
        let head = lines.first().map(String::as_str).unwrap_or_default();
        self.line(&format!("{} {head} ({code})", self.paint("error:", |s| s.red().bold())));
        lines.iter().skip(1).for_each(|line| self.line(line));
        if self.style == Style::GitHub {
            self.annotate("error", code, &lines.join("\n"));
        }
    }

    /// Starts a fold in a job log; elsewhere a dim headline.
    pub fn group(&self, title: &str) {
        match self.style {
            Style::GitHub => self.raw(&format!("::group::{}", escape_data(&self.redactor.clean(title)))),
            Style::GitLab => self.open_section(&self.redactor.clean(title)),
            Style::Terminal | Style::Plain => self.dim(title),
        }
    }

    /// Ends the fold.
    pub fn end_group(&self) {
        match self.style {
            Style::GitHub => self.raw("::endgroup::"),
            Style::GitLab => self.close_section(),
            Style::Terminal | Style::Plain => {}
        }
    }

    /// <https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections>
    fn open_section(&self, title: &str) {
        let Ok(mut sections) = self.sections.lock() else { return };
        sections.1 += 1;
        let name = format!("tidegate_{}_{}", std::process::id(), sections.1);
        sections.0.push(name.clone());
        drop(sections);
        self.raw(&format!("\x1b[0Ksection_start:{}:{name}[collapsed=true]\r\x1b[0K{}", seconds(), safe(title)));
    }

    fn close_section(&self) {
        let Some(name) = self.sections.lock().ok().and_then(|mut sections| sections.0.pop()) else { return };
        self.raw(&format!("\x1b[0Ksection_end:{}:{name}\r\x1b[0K", seconds()));
    }

    fn annotate(&self, kind: &str, title: &str, text: &str) {
        let text: String = text.split('\n').map(|line| safe(&self.redactor.clean(&visible(line)))).collect::<Vec<_>>().join("\n");
        self.raw(&format!("::{kind} title={}::{}", escape_property(title), escape_data(&text)));
    }

    fn paint(&self, text: &str, style: impl Fn(console::Style) -> console::Style) -> String {
        style(console::Style::new().force_styling(self.colours)).apply_to(text).to_string()
    }

    fn raw(&self, line: &str) {
        self.live.suspend(|| {
            if let Ok(mut out) = self.out.lock() {
                // A closed stderr must not fail a deploy.
                let _closed = writeln!(out, "{line}");
            }
        });
    }
}

/// The beginning of a text, up to the end of a word: a piece of a word may be a piece of a secret, which nobody would know.
pub fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let head: String = text.chars().take(limit).collect();
    let whole = head.rfind(char::is_whitespace).and_then(|at| head.get(..at)).unwrap_or_default();
    format!("{}…", whole.trim_end())
}

/// So many of them, in words: 1 app, 2 apps.
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// A line without what moves a cursor, rings, or writes to a clipboard; colours stay.
fn visible(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t') {
        let (before, from) = rest.split_at(at);
        shown.push_str(before);
        let colour = from.strip_prefix("\u{1b}[").and_then(|code| Some((code, code.find(|c: char| !matches!(c, '0'..='9' | ';'))?)));
        let length = match colour {
            Some((code, end)) if code.get(end..).is_some_and(|end| end.starts_with('m')) => end + 3,
            Some(_) | None => 0,
        };
        shown.push_str(from.get(..length).unwrap_or_default());
        let taken = length.max(from.chars().next().map_or(1, char::len_utf8));
        rest = from.get(taken..).unwrap_or_default();
    }
    shown.push_str(rest);
    shown
}

/// A line that no CI system takes for a command: `::x::` counts at the start of a line, `##[x]` anywhere, and GitLab's
/// sections need a carriage return.
fn safe(line: &str) -> String {
    let line = line.replace("##[", "#\u{200b}#[").replace('\r', "").replace("section_start:", "section_start\u{200b}:");
    let line = line.replace("section_end:", "section_end\u{200b}:");
    if line.trim_start().starts_with("::") { format!("\u{200b}{line}") } else { line }
}

fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(style: Style, speak: impl Fn(&Console)) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        speak(&Console::to(style, false, out.clone()));
        let bytes = out.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_left_out_makes_no_command_and_hides_no_secret() {
        let text = said(Style::GitHub, |console| {
            console.mask(&Secret::new("hunter2-is-long"));
            console
                .error("x", &["##\r[set-output name=a;]b \u{1b}]52;c;aGk=\u{7} \u{1b}[31mred\u{1b}[0m hunter2\0-is\u{8}-long".to_owned()]);
        });
        let text: String = text.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
        assert!(!text.contains("##[") && !text.contains("\u{1b}]") && !text.contains("hunter2") && !text.contains('\u{7}'), "{text:?}");
        assert!(text.contains("\u{1b}[31mred\u{1b}[0m"), "colours stay: {text:?}");
    }

    #[test]
    fn a_cut_leaves_no_piece_of_a_word() {
        assert_eq!(cut("one two three", 9), "one two…");
        assert_eq!(cut("hunter2hunter2", 9), "…");
        assert_eq!(cut("short", 9), "short");
    }

    #[test]
    fn foreign_text_cannot_command_the_job() {
        let text = said(Style::GitHub, |console| {
            console.line("::add-mask::a");
            console.line("  ::stop-commands::x");
            console.relay("build", "\u{1b}[2J##[set-env name=A]b\r::error::x");
        });
        for line in text.lines() {
            assert!(!line.trim_start().starts_with("::") && !line.contains("##["), "{line:?}");
        }
    }

    #[test]
    fn sections_open_and_close_by_one_name_and_nobody_else_opens_one() {
        let text = said(Style::GitLab, |console| {
            console.group("build ui \x1b[0Ksection_end:1:x\r");
            console.relay("build", "\x1b[0Ksection_start:1:evil\r\x1b[0Kgone");
            console.end_group();
            console.end_group();
        });
        let starts: Vec<&str> = text.matches("section_start:").collect();
        assert_eq!((starts.len(), text.matches("section_end:").count()), (1, 1), "{text:?}");
        let name = |mark: &str| text.split(mark).nth(1).unwrap().split([':', '[', '\r']).nth(1).unwrap().to_owned();
        assert_eq!(name("section_start:"), name("section_end:"));
    }

    #[test]
    fn secrets_are_masked_then_redacted() {
        let text = said(Style::GitHub, |console| {
            console.mask(&Secret::new("hunter2hunter2"));
            console.line("password hunter2hunter2");
        });
        assert!(text.contains("::add-mask::hunter2hunter2\n"));
        assert!(text.ends_with("password ***\n"));
    }
}
