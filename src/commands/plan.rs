//! `tidegate plan`: everything a run would do, and its hash. Changes nothing.

use crate::delivery::{self, Asked};
use crate::error::Result;
use crate::plan::Plan;
use crate::world::World;

/// Makes the plan that `run` would carry out.
pub async fn plan(world: &World, asked: &Asked) -> Result<Plan> {
    Ok(delivery::prepare(world, asked).await?.plan)
}
