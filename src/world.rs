//! Everything a run is given from around it: variables, console, clock, cancelling, and where the working directory is.

use crate::tools::console::Console;
use crate::tools::wait::{Cancel, Clock};
use crate::vars::Vars;
use std::path::PathBuf;

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
    /// A folder for what must not outlive the run.
    pub scratch: PathBuf,
}
