//! `tidegate explain`: what happened, what follows, and why. Opens no connection.

use crate::config;
use crate::context::{self, Decision};
use crate::delivery::Asked;
use crate::error::Result;
use crate::event::{Event, Provider};
use crate::gather;
use crate::tools::console::Console;
use crate::variables::Variables;
use crate::vars::Vars;
use serde_json::{Value, json};

/// The answer, for people or as JSON.
pub struct Explanation {
    provider: Provider,
    event: Event,
    decision: Decision,
    assumed: Vec<String>,
}

/// Explains the event of this environment.
pub fn explain(asked: &Asked, vars: &Vars) -> Result<Explanation> {
    let (provider, event) = asked.event(vars)?;
    let loaded = config::load(asked.config.as_deref())?;
    let variables = Variables::resolve(&loaded.config, &asked.set, vars)?;
    let facts = gather::assume(&event, asked, &loaded.config);
    let (variables, notes) = variables.directed(&loaded.config, &asked.set, &event, &facts.directives);
    let mut assumed = facts.assumed.clone();
    assumed.extend(facts.notes.iter().cloned().chain(notes));
    let decision = match context::decide(&event, &loaded, &asked.request, &variables, &facts) {
        Ok(decision) => decision,
        // `explain` answers whatever it finds: what would stop a run is its answer.
        Err(error) => Decision::none(context::Outcome::Refuse, error.reason, error.to_string()),
    };
    Ok(Explanation { provider, event, decision, assumed })
}

impl Explanation {
    /// The contract.
    pub fn json(&self) -> Value {
        let decision = &self.decision;
        json!({
            "schema": 1,
            "provider": self.provider,
            "event": self.event,
            "decision": {
                "outcome": decision.outcome,
                "reason": decision.reason,
                "environment": decision.environment,
                "version": decision.version.as_ref().map(ToString::to_string),
            },
            "rules": decision.rulings,
            "assumed": self.assumed,
        })
    }

    /// The same for a person.
    pub fn print(&self, console: &Console) {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".into());
        let event = &self.event;
        let kind = serde_json::to_value(event.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
        let action = event.action.as_deref().map(|action| format!(" ({action})")).unwrap_or_default();
        console.bold(&format!("event     {kind}{action}"));
        console.line(&format!("  ref     {}", text(&event.r#ref)));
        console.line(&format!("  commit  {}", text(&event.sha)));
        console.line(&format!("  actor   {}", text(&event.actor)));
        let decision = &self.decision;
        let version = decision.version.as_ref().map(ToString::to_string);
        let what = match decision.outcome {
            context::Outcome::Deploy => format!("deploy {} to {}", text(&version), text(&decision.environment)),
            context::Outcome::Remove => format!("remove {}", text(&decision.environment)),
            context::Outcome::Skip => "nothing to do".into(),
            context::Outcome::Refuse => "refused".into(),
        };
        console.bold(&format!("decision  {what} ({})", decision.reason));
        console.line(&format!("  because {}", decision.sentence));
        for ruling in &decision.rulings {
            let mark = if ruling.matched { "✓" } else { "·" };
            console.line(&format!("  {mark} {}: {}", ruling.environment, ruling.why));
        }
        for assumed in &self.assumed {
            console.line(&format!("  assumed: {assumed}"));
        }
    }
}
