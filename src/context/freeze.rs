//! Nothing is switched while a freeze is on. Pure.

use super::{Decision, Facts, Outcome, stopped};
use crate::config::{Config, Environment};
use crate::error::Reason;
use crate::event::Event;
use crate::gates;
use crate::occasion::{Occasion, refuse};
use jiff::Timestamp;

/// Nothing is switched in a freeze, unless a person lifts it. GitLab only says that one is on: whoever deploys has to stop.
/// Previews change nothing that people rely on.
pub(super) fn unless_frozen(mut decision: Decision, event: &Event, config: &Config, (occasion, facts): (&Occasion, &Facts)) -> Decision {
    let Some((name, rules)) = decision.environment.as_ref().and_then(|name| config.environments.get_key_value(name)) else {
        return decision;
    };
    let is_preview = matches!(occasion, Occasion::PullRequest { .. });
    let switches = (!rules.deploy.is_empty() || !rules.trigger.is_empty()) && !is_preview;
    if !switches || decision.outcome != Outcome::Deploy {
        return decision;
    }
    let Some(freeze) = frozen(rules, event, facts.now) else { return decision };
    if facts.lifted.lifts(gates::Gate::Freeze) {
        decision.lifted.push(format!("freeze ({freeze}): {}", facts.lifted.reason));
        return decision;
    }
    let (end, how) = match event.more.frozen {
        true => ("", ", or end it under Settings > CI/CD > Deploy freezes"),
        false => ("`freeze:` ", ""),
    };
    let sentence = format!(
        "{end}{freeze}: run this again when it is over{how}; in an emergency: tidegate deploy {name} VERSION --override freeze --reason TEXT"
    );
    let Decision { environment, version, commit, .. } = decision;
    Decision { environment, version, commit, ..stopped(refuse(Reason::GateFreeze, sentence), decision.rulings) }
}

/// Why nothing may be deployed here now, if so.
pub fn frozen(rules: &Environment, event: &Event, now: Timestamp) -> Option<String> {
    if event.more.frozen {
        return Some("a deploy freeze is on (CI_DEPLOY_FREEZE)".into());
    }
    gates::freeze::until(&rules.freeze, now).map(|until| format!("holds deploys back until {until}"))
}
