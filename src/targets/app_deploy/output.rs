//! What a job says: the new part of a log that comes whole, only with its news, or shorter than before.

use crate::config::Output;
use crate::targets::Site;
use std::collections::VecDeque;

const TAIL: usize = 15;
/// How much is shown in all, in bytes.
const SHOWN_LIMIT: usize = 8 * 1024 * 1024;
/// How much of the last log is kept to know the next one by.
const KEPT_LIMIT: usize = 64 * 1024;
/// How long a line may become before its rest is left out.
const LINE_LIMIT: usize = 16 * 1024;
/// What the last line of a log says before the code.
const ENDING: &str = "Process terminated with return code: ";

/// What was heard so far.
#[derive(Default)]
pub(super) struct Heard {
    /// The end of the last log that came.
    kept: String,
    /// The length of that log.
    length: usize,
    /// Whether the server forgets what it has told: an empty answer after words.
    forgets: bool,
    /// The line that has not ended.
    line: String,
    /// The last line that has.
    last: String,
    shown: usize,
    /// The last lines, where they may be shown.
    tail: VecDeque<String>,
}

impl Heard {
    /// Takes a log as the server told it, and shows what is new in it.
    pub(super) fn take(&mut self, log: &str, site: &Site<'_>, output: Output) {
        let news = self.news(log);
        for line in self.lines(news) {
            self.show(&line, site, output);
        }
        self.keep(log);
    }

    /// Shows the line that will not end any more.
    pub(super) fn end(&mut self, site: &Site<'_>, output: Output) {
        if !self.line.is_empty() {
            self.last = std::mem::take(&mut self.line);
            self.show(&self.last.clone(), site, output);
        }
    }

    /// What the log's last line says the process returned, word for word.
    pub(super) fn code(&self) -> Option<&str> {
        let last = if self.line.is_empty() { &self.last } else { &self.line };
        let code = last.strip_prefix(ENDING)?;
        let number = code.strip_prefix('-').unwrap_or(code);
        (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(code)
    }

    /// The last lines for an error's detail.
    pub(super) fn tail(&self) -> Vec<String> {
        if self.tail.is_empty() {
            return Vec::new();
        }
        std::iter::once("last lines of the job:".to_owned()).chain(self.tail.iter().map(|line| format!("  {line}"))).collect()
    }

    /// The part of a log that was not heard yet.
    fn news<'t>(&self, log: &'t str) -> &'t str {
        let before = self.length - self.kept.len();
        let goes_on = log.get(before..).and_then(|rest| rest.strip_prefix(self.kept.as_str()));
        match goes_on {
            Some(rest) if !self.forgets || !rest.is_empty() => return rest,
            Some(_) | None if self.forgets || self.length == 0 => return log,
            Some(_) | None => {}
        }
        if before == 0 && self.kept.starts_with(log) {
            return ""; // an earlier state of the same log
        }
        // A log that was shortened lacks its first lines: it begins with what was heard last.
        let starts = self.kept.match_indices('\n').map(|(at, _)| at + 1);
        let mut ends = starts.filter_map(|at| self.kept.get(at..)).filter(|end| !end.is_empty());
        if let Some(rest) = ends.find_map(|end| log.strip_prefix(end)) {
            return rest;
        }
        // Still longer than what is kept, it holds all of that.
        if before > 0
            && let Some((_, rest)) = log.split_once(self.kept.as_str())
        {
            return rest;
        }
        log
    }

    /// Keeps the end of the log; one that is only an earlier state of the last says nothing.
    fn keep(&mut self, log: &str) {
        self.forgets |= log.is_empty() && self.length > 0;
        let is_earlier = self.length == self.kept.len() && self.kept.starts_with(log);
        if log.is_empty() || is_earlier {
            return;
        }
        let mut from = log.len().saturating_sub(KEPT_LIMIT);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        self.kept = log.get(from..).unwrap_or_default().to_owned();
        self.length = log.len();
    }

    /// The lines that ended in this piece.
    fn lines(&mut self, piece: &str) -> Vec<String> {
        let mut ended = Vec::new();
        for part in piece.split_inclusive('\n') {
            let (text, ends) = part.strip_suffix('\n').map_or((part, false), |text| (text, true));
            let room = LINE_LIMIT.saturating_sub(self.line.len());
            self.line.extend(text.chars().take(room));
            if ends {
                self.last = std::mem::take(&mut self.line).trim_end_matches('\r').to_owned();
                ended.push(self.last.clone());
            }
        }
        ended
    }

    fn show(&mut self, line: &str, site: &Site<'_>, output: Output) {
        let plain = console::strip_ansi_codes(line);
        let plain = plain.trim_end();
        if plain.is_empty() || output == Output::Hide {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(crate::tools::console::cut(plain, 1000));
        let before = self.shown;
        self.shown = before.saturating_add(plain.len() + 1);
        match (self.shown <= SHOWN_LIMIT, before <= SHOWN_LIMIT) {
            (true, _) => site.world.console.relay("cd", plain),
            (false, true) => site.say("the rest of the job's output is not shown here"),
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines that are made of these answers.
    fn heard(logs: &[&str]) -> (Vec<String>, Heard) {
        let (mut heard, mut lines) = (Heard::default(), Vec::new());
        for log in logs {
            let news = heard.news(log).to_owned();
            lines.extend(heard.lines(&news));
            heard.keep(log);
        }
        (lines, heard)
    }

    #[test]
    fn nothing_is_heard_twice_and_nothing_is_missed() {
        let whole: &[&str] = &["", "a\n", "a\nb", "a\nb\nc\n", "a\nb\nc\n"];
        let news: &[&str] = &["a\n", "", "b", "\n", "c\n", ""];
        let shortened: &[&str] = &["a\nb", "a\nb\n", "b\nc\n"];
        let earlier: &[&str] = &["a\nb\n", "a\n", "a\nb\nc\n"];
        for logs in [whole, news, shortened, earlier] {
            assert_eq!(heard(logs).0, ["a", "b", "c"], "{logs:?}");
        }
        assert_eq!(heard(&["ok\n", "", "ok\n", "ok\n"]).0, ["ok", "ok", "ok"], "equal news of a server that forgets");
        assert_eq!(heard(&["a\n", "x\ny\n"]).0, ["a", "x", "y"], "a log that lost all that was heard");
    }

    #[test]
    fn long_logs_are_known_by_their_ends() {
        let line = |number: usize| format!("line {number} ä\n");
        let log = |from: usize, to: usize| (from..to).map(line).collect::<String>();
        let (lines, heard) = heard(&[&log(0, 30_000), &log(0, 30_001), &log(10_000, 30_002), &log(10_000, 30_003)]);
        assert_eq!(lines.len(), 30_003);
        assert!(heard.kept.len() <= KEPT_LIMIT);
    }

    #[test]
    fn the_code_is_taken_word_for_word_from_the_last_line() {
        let code = |logs: &[&str]| heard(logs).1.code().map(str::to_owned);
        for (log, said) in [
            ("Process terminated with return code: 0\n", Some("0")),
            ("Process terminated with return code: 0\r\n", Some("0")),
            ("a\nProcess terminated with return code: 17", Some("17")),
            ("Process terminated with return code: -9\n", Some("-9")),
            ("Process terminated with return code: 0\nmore\n", None),
            ("Process terminated with return code: 0\n\n", None),
            (" Process terminated with return code: 0\n", None),
            ("Process terminated with return code: 0 or so\n", None),
            ("Process terminated with return code: \n", None),
            ("", None),
        ] {
            assert_eq!(code(&[log]).as_deref(), said, "{log:?}");
        }
        assert_eq!(code(&["Process term", "inated with return code: 0\n"]).as_deref(), Some("0"));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let (_, heard) = heard(&["x".repeat(200_000).as_str()]);
        assert!(heard.line.len() <= LINE_LIMIT);
    }
}
