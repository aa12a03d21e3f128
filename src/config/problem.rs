//! A mistake in `tidegate.yml`, shown with the line it is on.

use crate::error::{Error, Reason};
use regex::Regex;
use std::sync::LazyLock;

/// How many mistakes of a file are shown.
const MOST: usize = 50;
/// How much of a line is shown, and of a word of the file, in characters.
const WINDOW: usize = 160;
const LONGEST: usize = 500;

#[allow(clippy::expect_used)] // constant
static LOGIN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"://[^/@\s]*@").expect("a pattern"));

/// A place in the file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The path of keys that leads there, as environments.dev.deploy[0].
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// The mistakes of one file as an error that shows each with its line.
pub fn error(file: &str, text: &str, mut problems: Vec<Problem>, reason: Reason) -> Error {
    problems.sort_by_key(|problem| problem.place);
    problems.dedup();
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = problems.iter().take(MOST).map(|problem| show(file, &lines, problem)).collect();
    if problems.len() > MOST {
        shown.push(format!("and {} more", problems.len() - MOST));
    }
    Error::new(reason, format!("{file} has {count}\n\n{}", shown.join("\n\n")))
}

/// A word of the file, which may be of any length and hold anything.
fn word(text: &str) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if plain.chars().count() <= LONGEST { plain } else { format!("{}…", plain.chars().take(LONGEST).collect::<String>()) }
}

fn show(file: &str, lines: &[&str], problem: &Problem) -> String {
    let Place { line, column } = problem.place;
    let path = if problem.path.is_empty() { String::new() } else { format!("  {}", word(&problem.path).replace('\n', " ")) };
    let mut shown = format!("{file}:{line}:{column}:{path}\n  {}", word(&problem.message));
    if let Some(source) = lines.get(line.saturating_sub(1)) {
        // Of a long line what is around the place.
        let before = column.saturating_sub(WINDOW / 2).min(column.saturating_sub(1));
        let skipped = if column > WINDOW { before } else { 0 };
        let source: String = source.chars().skip(skipped).take(WINDOW).collect();
        let indent = " ".repeat(column.saturating_sub(1 + skipped));
        shown.push_str(&format!("\n  {line:>4} | {}\n       | {indent}^", word(&without_logins(&source))));
    }
    if !problem.hint.is_empty() {
        shown.push_str(&format!("\n  → {}", word(&problem.hint)));
    }
    shown
}

/// An address may hold a login, which is a mistake here, and none to be repeated in a log.
fn without_logins(line: &str) -> String {
    LOGIN.replace_all(line, "://***@").into_owned()
}

/// "did you mean", when one of the known names is close.
pub fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase()), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.82).then_some(best.1)
}
