//! The one comment on a pull request: found by marker and author, a section per environment, races converge to one.

use super::thread::{Found, Thread};
use crate::error::Result;

/// GitHub takes 65,536 characters (GitLab a million); the rest is for other sections to grow.
const BODY_LIMIT: usize = 60_000;
/// How often an upsert starts again because another run wrote at the same time.
const ROUNDS: usize = 6;

/// What became of the comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// There was none.
    Created,
    /// It was edited in place.
    Edited,
    /// It said the same already.
    Unchanged,
}

impl Written {
    /// The word for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Edited => "edited",
            Self::Unchanged => "unchanged",
        }
    }
}

/// A section of the comment.
pub struct Section<'a> {
    /// The project: a repository may have several.
    pub project: &'a str,
    /// The environment's key.
    pub environment: &'a str,
    /// Markdown.
    pub text: &'a str,
    /// Whether a comment is made when there is none; otherwise only an old one is corrected.
    pub create: bool,
    /// Which older section is left as it is.
    pub keep: Keep<'a>,
}

/// Which older section is better than a new one.
#[derive(Clone, Copy, Debug)]
pub enum Keep<'a> {
    /// None.
    Nothing,
    /// A success that contains this text.
    Success(&'a str),
    /// Every one.
    Anything,
}

impl Keep<'_> {
    fn keeps(self, said: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Success(text) => said.starts_with("\n### ✅") && said.contains(text),
            Self::Anything => true,
        }
    }
}

/// Writes the section into the pull request's comment.
pub async fn upsert(thread: &Thread<'_>, section: &Section<'_>) -> Result<Written> {
    let me = thread.author().await?;
    let mut result = Written::Unchanged;
    let mut created = false;
    let mut lost = None;
    for _round in 0..ROUNDS {
        let mut own = own_comments(thread.list(&me).await?, section.project);
        own.sort_by_key(|comment| comment.id);
        let Some(first) = own.first() else {
            if created || !section.create {
                return Ok(result); // the list lags behind, or there is nothing to correct
            }
            match thread.create(&merge(&new_body(section.project), section)).await {
                Ok(()) => (result, created) = (Written::Created, true),
                Err(error) if error.lost => {
                    (result, lost) = (Written::Created, Some(error)); // it may be there all the same
                    thread.pause().await;
                }
                Err(error) => return Err(error),
            }
            continue; // look again: another run may have created one at the same moment
        };
        let said = split_at_section(&first.body, &open(section.environment)).map(|(_, said, _)| said);
        if own.len() == 1 && said.is_some_and(|said| section.keep.keeps(said)) {
            return Ok(result);
        }
        let wanted = own.iter().skip(1).fold(first.body.clone(), |body, other| adopt(&body, &other.body));
        let wanted = merge(&wanted, section);
        lost = None;
        if wanted.trim_end() == first.body.trim_end() && own.len() == 1 {
            return Ok(result);
        }
        match thread.edit(first.id, &wanted).await {
            Ok(()) => {}
            Err(error) if error.gone => continue, // deleted meanwhile: look again, create anew
            Err(error) => return Err(error),
        }
        if result == Written::Unchanged {
            result = Written::Edited;
        }
        remove(thread, own.get(1..).unwrap_or_default()).await?;
    }
    lost.map_or(Ok(result), Err)
}

/// What was adopted goes; another run may be faster.
async fn remove(thread: &Thread<'_>, others: &[Found]) -> Result<()> {
    for other in others {
        match thread.delete(other.id).await {
            Ok(()) => {}
            Err(error) if error.gone => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The marker counts only as the first line: a quoted comment is not ours.
fn own_comments(all: Vec<Found>, project: &str) -> Vec<Found> {
    all.into_iter()
        .filter(|comment| comment.body.starts_with(&marker(project)))
        .map(|comment| Found { body: comment.body.replace("\r\n", "\n"), ..comment })
        .collect()
}

fn marker(project: &str) -> String {
    format!("<!-- tidegate:{project} -->")
}

fn new_body(project: &str) -> String {
    format!("{}\n", marker(project))
}

fn open(environment: &str) -> String {
    format!("<!-- tidegate:section:{environment} -->")
}

/// How every section begins.
const OPEN: &str = "<!-- tidegate:section:";
const CLOSE: &str = "<!-- tidegate:end -->";

/// The body with the section put in, in place of the environment's older one.
pub(crate) fn merge(body: &str, section: &Section<'_>) -> String {
    let text = without_commands(&section.text.replace("<!--", "<!\u{200b}--"));
    let (open, close) = (open(section.environment), CLOSE);
    // The new section gets the room that the others leave, and never less than a useful piece.
    let others =
        split_at_section(body, &open).map_or(body.chars().count(), |(before, _, after)| before.chars().count() + after.chars().count());
    let room = BODY_LIMIT.saturating_sub(others + 500).max(BODY_LIMIT / 4);
    let block = format!("{open}\n{}\n{close}\n", shorten(text.trim_end(), room));
    let merged = match split_at_section(body, &open) {
        Some((before, _, after)) => format!("{before}{block}{}", without(after, &open)),
        None => format!("{body}{block}"),
    };
    if merged.chars().count() <= BODY_LIMIT {
        return merged;
    }
    // Older sections are the less important part when all together are too long.
    format!("{}\n{block}", body.lines().next().unwrap_or_default())
}

/// GitLab takes a line that begins with a slash for a command (`/merge`, `/close`) and runs it with our token's rights.
fn without_commands(text: &str) -> String {
    let safe = |line: &str| if line.trim_start().starts_with('/') { format!("\u{200b}{line}") } else { line.to_owned() };
    text.lines().map(safe).collect::<Vec<_>>().join("\n")
}

/// The body with the sections of another comment that it lacks.
fn adopt(body: &str, other: &str) -> String {
    let mut merged = body.to_owned();
    let mut rest = other;
    while let Some(start) = rest.find(OPEN) {
        let Some(from) = rest.get(start..) else { break };
        let Some(end) = from.find(CLOSE) else { break };
        let Some((block, after)) = from.split_at_checked(end + CLOSE.len()) else { break };
        let head = block.lines().next().unwrap_or_default();
        if !merged.contains(head) {
            merged.push_str(block);
            merged.push('\n');
        }
        rest = after;
    }
    merged
}

/// What stands before a section, in it, and after it. One whose end somebody removed reaches to the next one.
fn split_at_section<'a>(body: &'a str, open: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (before, from) = body.split_once(open)?;
    let next = from.find(OPEN).unwrap_or(from.len());
    let (said, after) = match from.split_once(CLOSE) {
        Some((said, after)) if said.len() < next => (said, after.strip_prefix('\n').unwrap_or(after)),
        Some(_) | None => from.split_at_checked(next)?,
    };
    Some((before, said, after))
}

/// The text without this section, however often it is there.
fn without(text: &str, open: &str) -> String {
    let mut left = text.to_owned();
    while let Some((before, _, after)) = split_at_section(&left, open) {
        left = format!("{before}{after}");
    }
    left
}

/// Cuts the middle out of a long text, at line ends, and closes a code fence that was cut open.
pub fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let take = |lines: &mut dyn Iterator<Item = &str>, room: usize| {
        let mut kept: Vec<String> = Vec::new();
        let mut used = 0;
        for line in lines {
            used += line.chars().count() + 1;
            if used > room {
                break;
            }
            kept.push(line.to_owned());
        }
        kept
    };
    let head = take(&mut text.lines(), limit * 2 / 3);
    let mut tail = take(&mut text.lines().rev(), limit / 4);
    tail.reverse();
    let open = |lines: &[String]| lines.iter().filter(|line| line.starts_with("```")).count() % 2 == 1;
    let fence = |wanted: bool| if wanted { "```\n" } else { "" };
    format!(
        "{}\n{}\n… cut; the job's log has everything …\n\n{}{}",
        head.join("\n"),
        fence(open(&head)),
        fence(open(&tail)),
        tail.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section<'a>(environment: &'a str, text: &'a str) -> Section<'a> {
        Section { project: "p", environment, text, create: true, keep: Keep::Nothing }
    }

    #[test]
    fn sections_are_replaced_and_others_kept() {
        let one = merge(&new_body("p"), &section("dev", "first"));
        let two = merge(&one, &section("staging", "second"));
        let three = merge(&two, &section("dev", "third"));
        assert!(three.contains("third") && three.contains("second") && !three.contains("first"));
        assert_eq!(merge(&three, &section("dev", "third")), three, "the same text changes nothing");
    }

    #[test]
    fn a_section_that_somebody_damaged_is_replaced_as_a_whole() {
        let body = format!("{}{}\nold\n{}\nother\n{CLOSE}\n{}\nolder\n{CLOSE}\n", new_body("p"), open("dev"), open("staging"), open("dev"));
        let merged = merge(&body, &section("dev", "new"));
        assert!(merged.contains("new") && merged.contains("other") && !merged.contains("old"), "{merged}");
        assert_eq!(merge(&merged, &section("dev", "new")), merged);
    }

    #[test]
    fn foreign_sections_are_adopted_once() {
        let one = merge(&new_body("p"), &section("dev", "d"));
        let two = merge(&new_body("p"), &section("staging", "s"));
        let both = adopt(&one, &two);
        assert!(both.contains("section:dev") && both.contains("section:staging"));
        assert_eq!(adopt(&both, &two), both);
    }

    #[test]
    fn a_section_cannot_close_itself_or_plant_a_marker() {
        let body = merge(&new_body("p"), &section("dev", "x <!-- tidegate:end --> <!-- tidegate:section:staging -->"));
        assert_eq!(body.matches(CLOSE).count(), 1);
        assert!(!body.contains("<!-- tidegate:section:staging"));
    }

    #[test]
    fn no_line_is_a_quick_action() {
        let body = merge(&new_body("p"), &section("dev", "/merge\n  /close\n```\n/approve\n```\na /label in a line"));
        assert!(body.lines().all(|line| !line.trim_start().starts_with('/')), "{body}");
        assert!(body.contains("a /label in a line"));
    }

    #[test]
    fn long_texts_keep_head_and_tail_within_the_limit() {
        let text = format!("head\n```\n{}\n```\ntail", "log line\n".repeat(20_000));
        let body = merge(&new_body("p"), &section("dev", &text));
        assert!(body.chars().count() <= BODY_LIMIT && body.contains("head") && body.contains("tail"));
        assert_eq!(body.matches("```").count() % 2, 0);
    }
}
