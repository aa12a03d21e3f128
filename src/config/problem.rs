//! A mistake in `tidegate.yml`, shown with the line it is on.

use crate::error::{Error, Reason};

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
    let shown: Vec<String> = problems.iter().map(|problem| show(file, text, problem)).collect();
    Error::new(reason, format!("{file} has {count}\n\n{}", shown.join("\n\n")))
}

fn show(file: &str, text: &str, problem: &Problem) -> String {
    let Place { line, column } = problem.place;
    let path = if problem.path.is_empty() { String::new() } else { format!("  {}", problem.path) };
    let mut shown = format!("{file}:{line}:{column}:{path}\n  {}", problem.message);
    if let Some(source) = text.lines().nth(line.saturating_sub(1)) {
        let source: String = without_logins(source).chars().take(160).collect();
        let indent = " ".repeat(column.saturating_sub(1));
        shown.push_str(&format!("\n  {line:>4} | {source}\n       | {indent}^"));
    }
    if !problem.hint.is_empty() {
        shown.push_str(&format!("\n  → {}", problem.hint));
    }
    shown
}

/// An address may hold a login, which is a mistake here, and none to be repeated in a log.
fn without_logins(line: &str) -> String {
    let login = regex::Regex::new(r"://[^/@\s]*@");
    login.map_or_else(|_never| line.to_owned(), |login| login.replace_all(line, "://***@").into_owned())
}

/// "did you mean", when one of the known names is close.
pub fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|name| (strsim::jaro_winkler(&wrong.to_lowercase(), &name.to_lowercase()), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.82).then_some(best.1)
}
