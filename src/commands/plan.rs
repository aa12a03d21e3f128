//! `tidegate plan`: everything a run would do, and its hash. Changes nothing.

use crate::delivery::{self, Asked};
use crate::error::{Reason, Result};
use crate::plan::Plan;
use crate::world::World;

/// Makes the plan that `run` would carry out.
pub async fn plan(world: &World, asked: &Asked) -> Result<Plan> {
    match delivery::prepare(world, asked).await {
        Ok(prepared) => Ok(prepared.plan),
        // What is asked for cannot be done: that is an answer too.
        Err(error)
            if matches!(error.reason, Reason::InputEnvironment | Reason::InputVersion | Reason::InputEvent | Reason::ConfigOverlap)
                || matches!(error.reason, Reason::GateHotfix | Reason::GateMigration | Reason::GateQuarantined | Reason::TagMoved) =>
        {
            Ok(Plan::refused(&error))
        }
        Err(error) => Err(error),
    }
}
