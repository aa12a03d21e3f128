//! Directives count when who wrote them may give them: `trust.directives`.

use crate::config::{Association, Config};
use crate::error::Result;
use crate::event::directives::{Directive, parse};
use crate::event::{Event, Kind};
use crate::forge::Forge;

/// Directives that count, and what is said of those that do not.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Those that count.
    pub taken: Vec<Directive>,
    /// Those that do not, and why, for a person.
    pub left: Vec<String>,
    /// What was taken for granted without asking.
    pub assumed: Option<String>,
}

/// What the event says, if whoever wrote it may say it as far as that is known without asking.
pub fn assumed(event: &Event, config: &Config) -> Told {
    let Some((said, told)) = said(event, config) else { return Told::default() };
    match (told, &event.more.association) {
        (Some(told), _) => told,
        (None, Some(association)) => judge(said, config, &of_name(association)),
        (None, None) => {
            let first = first_of(&said);
            Told { assumed: Some(format!("whoever wrote {first} may give directives")), ..known(said) }
        }
    }
}

/// The same, with the forge's own word where the event does not have it.
pub async fn told(event: &Event, config: &Config, forge: &Forge) -> Result<Told> {
    let Some((said, told)) = said(event, config) else { return Ok(Told::default()) };
    if let Some(told) = told {
        return Ok(told);
    }
    let who = match (&event.more.association, forge) {
        (Some(association), _) => of_name(association),
        (None, Forge::Absent { why }) => {
            let first = first_of(&said);
            let left = vec![format!("{first} is not taken: nobody can be asked who its author is, as there is {why}")];
            return Ok(Told { left, ..Told::default() });
        }
        (None, Forge::GitHub(_) | Forge::GitLab(_)) => forge.association(event).await?,
    };
    Ok(judge(said, config, &who))
}

/// What is written, and the answer where that does not depend on the author.
fn said(event: &Event, config: &Config) -> Option<(Vec<Directive>, Option<Told>)> {
    let about = matches!(event.kind, Kind::PushBranch | Kind::PullRequest | Kind::MergeRequest);
    let said = parse(event.more.text.as_deref().filter(|_| about)?);
    let first = said.first()?;
    if said.iter().all(|one| matches!(one, Directive::Unknown(_))) {
        let known = known(said.clone()); // a slip is told whoever made it
        return Some((said, Some(known)));
    }
    if config.trust.directives.is_empty() {
        let left = vec![format!("{first} is not taken: `trust.directives` of tidegate.yml names nobody who may give directives")];
        return Some((said, Some(Told { left, ..Told::default() })));
    }
    Some((said, None))
}

fn judge(said: Vec<Directive>, config: &Config, who: &[Association]) -> Told {
    if who.iter().any(|association| config.trust.directives.contains(association)) {
        return known(said);
    }
    let first = first_of(&said);
    let who = who.first().map_or("nobody that the forge knows here", |association| association.name());
    let wanted: Vec<&str> = config.trust.directives.iter().map(|association| association.name()).collect();
    Told {
        left: vec![format!("{first} is not taken: its author is {who}, and `trust.directives` names {}", wanted.join(", "))],
        ..Told::default()
    }
}

/// One of them, for sentences about all.
fn first_of(said: &[Directive]) -> String {
    said.first().map(ToString::to_string).unwrap_or_default()
}

/// Those that tidegate knows; the others are named.
fn known(said: Vec<Directive>) -> Told {
    let (unknown, taken): (Vec<Directive>, Vec<Directive>) = said.into_iter().partition(|one| matches!(one, Directive::Unknown(_)));
    let name = |one: &Directive| format!("{one} is no directive: write skip, preview=off, preview=on or set NAME=VALUE");
    Told { taken, left: unknown.iter().map(name).collect(), assumed: None }
}

/// As GitHub writes it.
pub fn of_name(text: &str) -> Vec<Association> {
    Association::ALL.into_iter().filter(|association| association.name() == text).collect()
}
