//! The command line: subcommands and flags. Each command's own work lives beside its code.

use crate::commands;
use crate::config::Span;
use crate::context::Request;
use crate::delivery::{Asked, set_of};
use crate::doctor;
use crate::error::{Error, Reason, Result};
use crate::event::FactFlags;
use crate::gates::{Gate, Override};
use crate::inputs::Inputs;
use crate::rehearse::Rehearsal;
use crate::serve;
use crate::sweep;
use crate::vars::Vars;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// One CI step that decides, builds once, waits for quiet queues, deploys, proves what runs, and tells the pull request.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take the event from CI and do what tidegate.yml says
    Run(Run),
    /// Deliver a merge to the default branch
    Merge(Delivery),
    /// Deliver a release (--tag)
    Release(Delivery),
    /// Create or update a pull request's preview (--pr)
    PrOpened(Delivery),
    /// Close a pull request's preview (--pr)
    PrClosed(Delivery),
    /// Deploy a version by hand, on any environment
    Deploy(Deploy),
    /// Release a fix of a released version from a branch beside the default one, and deliver it
    Hotfix(Hotfix),
    /// Go back to the last good version of an environment
    Rollback(Rollback),
    /// Show what would happen, as a plan with a hash; changes nothing
    Plan(About),
    /// Say what happened, what follows, and why; opens no connection
    Explain(About),
    /// Check tidegate.yml, offline
    Check(File),
    /// Write tidegate.yml and CI files from a preset
    Init(commands::init::Args),
    /// Try everything that a run will need; changes nothing
    Doctor(doctor::Args),
    /// Wait until SQS queues are quiet
    Drain(commands::drain::Args),
    /// Save the databases of an environment now, or show what is saved (--list)
    Backup(commands::backup::Args),
    /// Bring a backup back, into its own database or another one
    Restore(Box<commands::restore::Args>),
    /// Start a pipeline elsewhere: a GitHub workflow, a GitLab pipeline, a Travis build
    #[command(subcommand)]
    Trigger(commands::trigger::Trigger),
    /// What runs where, who put it there, and what has happened since
    Status(commands::status::Args),
    /// Who holds the lease of an environment; take it or let go of it by hand
    #[command(subcommand)]
    Lock(commands::lock::Lock),
    /// Remove previews of closed pull requests, and those that `ttl` and `max` say
    Sweep(sweep::Args),
    /// Keep an image from being deployed again, whoever asks; without a name, show what is kept so
    Quarantine(commands::quarantine::Args),
    /// Run everything in a sandbox in this process; no account needed
    Rehearse(Rehearse),
    /// The CD server: takes deploy requests and webhooks, runs one job per inventory, has a page and an API
    Serve(serve::Args),
    /// What stands between the server and a job's program
    #[command(hide = true)]
    ServeJob {
        /// The folder of the attempt
        folder: PathBuf,
    },
    /// Print the JSON Schema of tidegate.yml, or of tidegate-serve.yml
    Schema {
        /// Whose schema
        #[arg(value_enum, default_value_t = SchemaOf::Config)]
        of: SchemaOf,
    },
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct File {
    /// The configuration (default: tidegate.yml here or in a folder above)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What every delivery takes.
#[derive(Clone, Debug, Args)]
pub struct Delivery {
    #[command(flatten)]
    file: File,
    /// A variable of tidegate.yml; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How long to wait for the lease of the environment
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = commands::drain::span)]
    lock_timeout: Span,
    /// A gate to lift for this run, by hand and with a reason; may be given several times
    #[arg(long = "override", value_name = "GATE", value_enum)]
    lifted: Vec<Gate>,
    /// Why the gate is lifted, for those who ask later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    facts: FactFlags,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Deploy to this environment, whatever the event leads to
    #[arg(long, value_name = "ENV")]
    environment: Option<String>,
    /// The version to deploy there
    #[arg(long = "version", value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    pub delivery: Delivery,
}

/// `deploy`.
#[derive(Clone, Debug, Args)]
pub struct Deploy {
    /// The environment's key in tidegate.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// A tag, a version or a commit
    version: String,
    #[command(flatten)]
    pub delivery: Delivery,
}

/// `hotfix`.
#[derive(Clone, Debug, Args)]
pub struct Hotfix {
    /// The version that the fix gets: the next one after the release that it fixes, as 1.4.3 after 1.4.2
    version: String,
    /// The environment it goes to (default: `hotfix.to` of tidegate.yml); it goes no further
    #[arg(long, value_name = "ENV")]
    to: Option<String>,
    /// Open a pull request that brings it to the default branch, if that does not have it
    #[arg(long)]
    back_merge: bool,
    #[command(flatten)]
    pub delivery: Delivery,
}

/// `rollback`.
#[derive(Clone, Debug, Args)]
pub struct Rollback {
    /// The environment's key in tidegate.yml
    #[arg(value_name = "ENV")]
    environment: String,
    /// The version to go back to (default: the last good one before what runs)
    #[arg(long, value_name = "VERSION")]
    to: Option<String>,
    #[command(flatten)]
    pub delivery: Delivery,
}

/// `plan` and `explain`: about the CI event, or about what is named.
#[derive(Clone, Debug, Args)]
pub struct About {
    /// merge, release, pr-opened, pr-closed, deploy ENV VERSION, hotfix VERSION, rollback ENV, restore ENV, or sweep (default: the CI event)
    #[arg(value_name = "EVENT", num_args = 0..=3)]
    about: Vec<String>,
    /// With `rollback ENV` the version to go back to, with `hotfix VERSION` the environment it goes to
    #[arg(long, value_name = "VERSION|ENV")]
    to: Option<String>,
    /// With `hotfix VERSION`: with the pull request to the default branch
    #[arg(long)]
    back_merge: bool,
    #[command(flatten)]
    which: commands::restore::Which,
    #[command(flatten)]
    pub delivery: Delivery,
}

/// `rehearse`.
#[derive(Clone, Debug, Args)]
pub struct Rehearse {
    /// The configuration (default: tidegate.yml here or in a folder above)
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The CI system to rehearse as (default: GitLab where there is a .gitlab-ci.yml and no workflow, else GitHub)
    #[arg(long, value_enum, global = true)]
    pub ci: Option<commands::init::Host>,
    /// The event
    #[command(subcommand)]
    pub rehearsal: Rehearsal,
}

/// A file that has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// tidegate.yml
    Config,
    /// tidegate-serve.yml
    Serve,
}

/// What stdout gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Nothing; messages go to stderr
    #[default]
    Text,
    /// JSON for machines
    Json,
}

impl Delivery {
    /// Flags and action inputs as one request.
    pub fn asked(&self, request: Request, vars: &Vars) -> Result<Asked> {
        let inputs = Inputs::of(vars);
        let set = set_of(&inputs, &self.set)?;
        let config = self.file.config.clone().or_else(|| inputs.path("config"));
        let lifted = Override::parse(self.lifted(&inputs)?, self.reason.clone().or_else(|| inputs.text("reason").map(str::to_owned)))?;
        let mut facts = self.facts.clone();
        if matches!(request, Request::Hotfix { .. }) {
            facts.branch = facts.branch.or_else(|| inputs.text("branch").map(str::to_owned));
        }
        Ok(Asked { request, config, folder: None, set, facts, lock_timeout: self.lock_timeout.0, lifted })
    }

    /// The gates of the flags, or of the step's input: one on each line, or with commas.
    fn lifted(&self, inputs: &Inputs<'_>) -> Result<Vec<Gate>> {
        if !self.lifted.is_empty() {
            return Ok(self.lifted.clone());
        }
        let words = inputs.lines("override");
        let words = words.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|word| !word.is_empty());
        let gate = |word: &str| {
            Gate::from_str(word, false).map_err(|_unknown| {
                Error::new(Reason::InputInvalid, format!("the input `override` is {word:?}, which is no gate"))
                    .hint("write after, drain, freeze, scan, backup or migration")
            })
        };
        words.map(gate).collect()
    }
}

impl Run {
    /// The event, or a deploy by hand when an environment is named.
    pub fn asked(&self, vars: &Vars) -> Result<Asked> {
        let request = by_inputs(self.environment.as_ref(), self.version.as_ref(), vars)?;
        self.delivery.asked(request, vars)
    }
}

/// The event, or a deploy by hand when an environment is named by flag or by the step's input.
fn by_inputs(environment: Option<&String>, version: Option<&String>, vars: &Vars) -> Result<Request> {
    let inputs = Inputs::of(vars);
    let given = |flag: Option<&String>, input: &str| flag.cloned().or_else(|| inputs.text(input).map(str::to_owned));
    let environment = given(environment, "environment").filter(|text| !text.is_empty());
    let version = given(version, "version").filter(|text| !text.is_empty());
    match (environment, version) {
        (Some(environment), version) => Ok(Request::Deploy { environment, version: version.unwrap_or_default() }),
        (None, Some(version)) => {
            let sentence = format!("the version {version} is named, but no environment for it");
            Err(Error::new(Reason::InputEnvironment, sentence).hint("name both (environment and version), or none"))
        }
        (None, None) => Ok(Request::Event),
    }
}

impl Deploy {
    /// The request.
    pub fn asked(&self, vars: &Vars) -> Result<Asked> {
        let request = Request::Deploy { environment: self.environment.clone(), version: self.version.clone() };
        self.delivery.asked(request, vars)
    }
}

impl Hotfix {
    /// The request.
    pub fn asked(&self, vars: &Vars) -> Result<Asked> {
        let request = Request::Hotfix { version: self.version.clone(), to: self.to.clone(), back_merge: self.back_merge };
        self.delivery.asked(request, vars)
    }
}

impl Rollback {
    /// The request.
    pub fn asked(&self, vars: &Vars) -> Result<Asked> {
        let request = Request::Rollback { environment: self.environment.clone(), to: self.to.clone() };
        self.delivery.asked(request, vars)
    }
}

impl About {
    /// `plan sweep`: what it is asked with.
    pub fn sweep(&self) -> Option<sweep::Args> {
        let Delivery { set, format, lock_timeout, file, facts, .. } = self.delivery.clone();
        (self.about == ["sweep"]).then_some(sweep::Args { set, format, lock_timeout, at: commands::lock::At { file, facts } })
    }

    /// `plan restore ENV`: what it is asked with.
    pub fn restore(&self) -> Option<commands::restore::Args> {
        let [word, environment] = self.about.as_slice() else { return None };
        let Delivery { set, format, lock_timeout, file, facts, .. } = self.delivery.clone();
        (word == "restore").then(|| commands::restore::Args {
            environment: environment.clone(),
            which: self.which.clone(),
            clean: Vec::new(),
            yes_restore: Vec::new(),
            no_backup: false,
            lock_timeout,
            set,
            format,
            at: commands::lock::At { file, facts },
        })
    }

    /// The request that is asked about.
    pub fn asked(&self, vars: &Vars) -> Result<Asked> {
        if self.delivery.report.is_some() {
            let sentence = "--report is for runs: nothing is done here";
            return Err(Error::new(Reason::InputInvalid, sentence).hint("use --format json"));
        }
        let words: Vec<&str> = self.about.iter().map(String::as_str).collect();
        let request = match words.as_slice() {
            [] | ["run"] => by_inputs(None, None, vars)?,
            ["merge"] => Request::Merge,
            ["release"] => Request::Release,
            ["pr-opened"] => Request::PrOpened,
            ["pr-closed"] => Request::PrClosed,
            ["hotfix", version] => Request::Hotfix { version: (*version).into(), to: self.to.clone(), back_merge: self.back_merge },
            ["rollback", environment] => Request::Rollback { environment: (*environment).into(), to: self.to.clone() },
            ["deploy", environment, version] => Request::Deploy { environment: (*environment).into(), version: (*version).into() },
            other => {
                let sentence = format!("{:?} is not an event", other.join(" "));
                return Err(Error::new(Reason::InputInvalid, sentence).hint(
                    "write merge, release, pr-opened, pr-closed, deploy ENV VERSION, hotfix VERSION, rollback ENV, or (with plan) restore ENV or sweep",
                ));
            }
        };
        self.delivery.asked(request, vars)
    }
}

/// Arguments without the empty ones that container actions pass for inputs that were not given.
pub fn without_empty(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for arg in args {
        if !arg.is_empty() {
            kept.push(arg);
            continue;
        }
        let alone = ["--help", "--draft", "--prerelease", "--version"];
        let takes_value = |last: &String| last.starts_with("--") && !last.contains('=') && !alone.contains(&last.as_str());
        if kept.last().is_some_and(takes_value) {
            kept.pop();
        }
    }
    kept.retain(|arg| !(arg.starts_with("--") && arg.find('=').is_some_and(|at| at + 1 == arg.len())));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn empty_arguments_count_as_not_given() {
        let args = ["tidegate", "run", "--config", "", "--environment=", "", "--set", "a=b"].map(String::from);
        assert_eq!(without_empty(args.into_iter()), ["tidegate", "run", "--set", "a=b"]);
    }
}
