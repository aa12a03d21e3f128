//! Everything a run is given from around it: variables, console, clock, cancelling, and where the working directory is.

use crate::tools::console::Console;
use crate::tools::wait::{Cancel, Clock};
use crate::vars::Vars;
use std::time::Duration;

/// The surroundings of a run. A rehearsal makes its own.
#[derive(Clone)]
pub struct World {
    /// The environment variables.
    pub vars: Vars,
    /// What a person reads.
    pub console: Console,
    /// The clock.
    pub clock: Clock,
    /// Set when the run is to stop.
    pub cancel: Cancel,
    /// Whether this is a rehearsal: then the commit that is checked out does not matter.
    pub rehearsal: bool,
    /// In a rehearsal, the sandbox that stands for every address of the configuration.
    pub detour: Option<String>,
}

impl World {
    /// Ends when the run has been cancelled for this long.
    pub async fn cancelled_for(&self, length: Duration) {
        self.cancel.cancelled().await;
        self.clock.sleep(length).await;
    }
}
