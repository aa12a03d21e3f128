//! Whether an environment claims what happened: why, or why not. Pure.

use super::tag_fits;
use crate::config::{Config, Environment, When, WhenEvent};
use crate::error::Reason;
use crate::event::{Event, Kind};
use crate::occasion::{Occasion, Stop, refuse, skip};
use crate::tools::glob::Glob;
use crate::variables::Variables;
use crate::version::Version;

/// Whether an environment claims the occasion: why, or why not.
pub(super) fn claims(
    (config, rules): (&Config, &Environment),
    occasion: &Occasion,
    event: &Event,
    variables: &Variables,
) -> std::result::Result<String, Stop> {
    let mut no: Option<Stop> = None;
    for when in rules.when.as_slice() {
        match claim(when, (config, rules), occasion, event) {
            Ok(why) => return condition(rules, variables).map(|()| why),
            Err(stop) if no.as_ref().is_none_or(|old| old.reason == Reason::EventIgnored) => no = Some(stop),
            Err(_less_specific) => {}
        }
    }
    Err(no.unwrap_or_else(|| skip(Reason::EventIgnored, "`when:` is empty")))
}

fn condition(rules: &Environment, variables: &Variables) -> std::result::Result<(), Stop> {
    match &rules.r#if {
        Some(condition) if !condition.is_met(variables.get(&condition.var)) => {
            Err(skip(Reason::EventCondition, format!("the variable {}", condition.unmet())))
        }
        Some(_) | None => Ok(()),
    }
}

fn claim(when: &When, (config, rules): (&Config, &Environment), occasion: &Occasion, event: &Event) -> std::result::Result<String, Stop> {
    let no = |sentence: String| Err(skip(Reason::EventIgnored, sentence));
    match (when, occasion) {
        (When::Event(WhenEvent::Manual), _) => no("only by hand".into()),
        (When::Event(WhenEvent::Merge), Occasion::Push { branch, is_default: true }) => {
            Ok(format!("a merge to {branch}, the default branch"))
        }
        (When::Event(WhenEvent::Merge), Occasion::Push { .. }) if event.default_branch.is_none() => {
            Err(refuse(Reason::InputEvent, "the default branch is not known: name it with --default-branch"))
        }
        (When::Event(WhenEvent::Merge), Occasion::Push { branch, .. }) => no(format!("{branch} is not the default branch")),
        (When::Event(WhenEvent::Release), Occasion::Tag { tag, prerelease }) => release(config, rules, tag, *prerelease),
        (When::Event(WhenEvent::PullRequest), Occasion::PullRequest { open, wished }) => preview(rules, event, (*open, *wished)),
        (When::Branch(rule), Occasion::Push { branch, .. }) => {
            match (glob(&rule.branch, branch), rule.except.iter().find(|glob_| glob(glob_, branch))) {
                (true, None) => Ok(format!("{branch} matches {}", rule.branch)),
                (true, Some(except)) => no(format!("{branch} is excepted by {except}")),
                (false, _) => no(format!("{branch} does not match {}", rule.branch)),
            }
        }
        (When::Tag(rule), Occasion::Tag { tag, .. }) => {
            if tag_fits(&rule.tag, tag) {
                Ok(format!("{tag} matches {}", rule.tag))
            } else {
                no(format!("{tag} does not match {}", rule.tag))
            }
        }
        (When::Event(event), _) => no(format!("waits for {}", spoken(*event))),
        (When::Branch(rule), _) => no(format!("waits for pushes to {}", rule.branch)),
        (When::Tag(rule), _) => no(format!("waits for tags {}", rule.tag)),
    }
}

fn spoken(event: WhenEvent) -> &'static str {
    match event {
        WhenEvent::Merge => "merges to the default branch",
        WhenEvent::Release => "releases",
        WhenEvent::PullRequest => "pull requests",
        WhenEvent::Manual => "a person",
    }
}

fn release(config: &Config, rules: &Environment, tag: &str, marked: bool) -> std::result::Result<String, Stop> {
    let Some(bare) = config.bare_tag(tag) else {
        let sentence = format!("{tag} is of something else: the tags of this project begin with {}", config.tag_prefix);
        return Err(skip(Reason::EventNotAVersion, sentence));
    };
    let version = match Version::parse(bare) {
        Ok(version) if version.is_semver() => version,
        Err(error) if tag.contains('+') => {
            return Err(refuse(Reason::InputVersion, format!("{}; leave the build metadata out of the tag", error.sentence)));
        }
        Ok(_) | Err(_) => {
            let sentence = format!("{tag} is not a SemVer version such as v1.4.2; claim other tags with `when: {{tag: …}}`");
            return Err(skip(Reason::EventNotAVersion, sentence));
        }
    };
    if (marked || version.is_prerelease()) && !rules.prereleases {
        return Err(skip(Reason::EventPrerelease, format!("{version} is a pre-release; set `prereleases: true` to take those")));
    }
    Ok(format!("a release, {tag}"))
}

fn preview(rules: &Environment, event: &Event, (open, wished): (bool, bool)) -> std::result::Result<String, Stop> {
    let number = event.pr.unwrap_or_default();
    let name = if event.more.gitlab.is_some() { "merge request" } else { "pull request" };
    if !open && event.kind == Kind::PreviewStop {
        return Ok(format!("the preview of {name} {number} is stopped"));
    }
    if !open {
        return Ok(format!("{name} {number} was closed"));
    }
    if wished {
        return Ok(format!("{name} {number} is open, and asks for a preview"));
    }
    if event.more.draft && !rules.drafts {
        return Err(skip(Reason::EventDraft, "the pull request is a draft; set `drafts: true` to preview those"));
    }
    if rules.labels.is_empty() && event.action.as_deref() == Some("labeled") {
        return Err(skip(Reason::EventIgnored, "a label changes nothing here"));
    }
    let wanted = |label: &String| rules.labels.contains(label);
    if !rules.labels.is_empty() && !event.more.labels.iter().any(wanted) {
        return Err(skip(Reason::EventLabel, format!("the pull request has none of the labels {}", rules.labels.join(", "))));
    }
    let about_other_label = event.more.label.as_ref().is_some_and(|label| !rules.labels.contains(label));
    if event.action.as_deref() == Some("labeled") && about_other_label {
        return Err(skip(Reason::EventLabel, "the label that was added does not matter here"));
    }
    Ok(format!("{name} {number} is open"))
}

/// Whether a glob fits a branch.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    Glob::of_paths(pattern).is_ok_and(|glob| glob.is_match(name))
}
