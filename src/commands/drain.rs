//! `tidegate drain`: the drain gate alone, for a person or another tool.

use crate::config::{OnTimeout, Span};
use crate::error::{Error, Reason, Result};
use crate::gates::drain::Drain;
use crate::inputs::Inputs;
use crate::plan::DrainWork;
use crate::tools::wait::spoken;
use crate::world::World;
use std::time::Instant;

/// What to wait for.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Queue names, URLs, or prefixes that end in *
    #[arg(required = true, value_name = "QUEUE")]
    pub queues: Vec<String>,
    /// The region; may be given several times (default: AWS_REGION)
    #[arg(long = "region", value_name = "REGION", value_delimiter = ',')]
    pub regions: Vec<String>,
    /// How long all counts must stay zero without a break
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = span)]
    pub quiet: Span,
    /// How long to wait in all
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = span)]
    pub timeout: Span,
    /// The role to assume
    #[arg(long, value_name = "ARN")]
    pub role: Option<String>,
}

/// A length of time.
pub fn span(text: &str) -> std::result::Result<Span, String> {
    humantime::parse_duration(text).map(Span).map_err(|_error| "write a length of time, as 30s, 10m or 2h".to_owned())
}

/// Waits until the queues are quiet.
pub async fn run(world: &World, args: &Args) -> Result<()> {
    let inputs = Inputs::of(&world.vars);
    let of_step = |regions: &Vec<String>| {
        if regions.is_empty() { inputs.text("aws-region").map(str::to_owned).into_iter().collect() } else { regions.clone() }
    };
    let work = DrainWork {
        queues: args.queues.clone(),
        regions: of_step(&args.regions),
        quiet: args.quiet.0,
        timeout: args.timeout.0,
        pause: None,
        resume: None,
        on_timeout: OnTimeout::Fail,
        role: args.role.clone().or_else(|| inputs.text("role-to-assume").map(str::to_owned)),
    };
    if work.quiet.is_zero() {
        return Err(Error::new(Reason::InputInvalid, "--quiet 0s: a single look proves nothing")
            .hint("AWS asks for several minutes of zero: 2m or more"));
    }
    if work.quiet >= work.timeout {
        let sentence = format!("--quiet {} does not fit into --timeout {}", args.quiet, args.timeout);
        return Err(Error::new(Reason::InputInvalid, sentence).hint("wait longer, or ask for less quiet"));
    }
    let started = Instant::now();
    let drain = Drain::open(world, &work).await?;
    world.console.line(&format!("waiting for {} to be quiet for {}", drain.counted(), args.quiet));
    let quiet = drain.wait().await.map_err(|error| {
        if error.reason == Reason::DrainTimeout { error.hint("stop the producers, or give it more time (--timeout)") } else { error }
    })?;
    world.console.good(&format!("{} ({})", quiet.sentence, spoken(started.elapsed())));
    Ok(())
}
