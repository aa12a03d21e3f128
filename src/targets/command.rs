//! A program that deploys: argument list, chosen environment, its exit code, a failure marker, and its whole process group.

use super::{Life, Settled, Site, Work, live, proof, unfilled};
use crate::config::{CommandRun, Proof, Rollback, TextOrSecret, template::Values};
use crate::error::{Error, Reason, Result};
use crate::tools::process::{End, Program, Ran};
use crate::tools::secret::Secret;
use crate::world::World;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Variables of ours that every program may see.
const PASSED: [&str; 9] = ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "NO_COLOR"];

/// Refuses a program, folder or secret that is not there.
pub fn check(world: &World, folder: &Path, values: &Values, command: &CommandRun) -> Result<()> {
    let fill = |text: &str| values.fill(text);
    secrets(world, command)?;
    let at = match &command.directory {
        Some(inside) => folder.join(fill(inside).unwrap_or_default()),
        None => folder.to_owned(),
    };
    if !at.is_dir() {
        return Err(Error::new(Reason::ConfigInvalid, format!("there is no folder {}", at.display())).hint("`directory:` of the command"));
    }
    let programs = command.run.first().into_iter().chain(command.undo.first());
    for program in programs.filter_map(|program| fill(program).ok()) {
        is_there(world, &at, &program)?;
    }
    command.proof.as_ref().map_or(Ok(()), |proof| check_proof(world, folder, proof))
}

/// Refuses a proof whose program is not there.
pub fn check_proof(world: &World, folder: &Path, proof: &Proof) -> Result<()> {
    match proof {
        Proof::Command(command) => {
            command.run.first().filter(|program| !program.contains('{')).map_or(Ok(()), |program| is_there(world, folder, program))
        }
        Proof::Http(_) | Proof::Answer(_) => Ok(()),
    }
}

pub(crate) fn is_there(world: &World, at: &Path, program: &str) -> Result<()> {
    if find(world, at, program).is_none() && !world.rehearsal {
        return Err(Error::new(Reason::ToolMissing, format!("there is no program {program} in {}", at.display())).hint(
            "a path is relative to the command's `directory:`; a bare name is looked for in PATH. Inside the image: build your own FROM it",
        ));
    }
    Ok(())
}

fn secrets(world: &World, command: &CommandRun) -> Result<Vec<(String, Secret)>> {
    let named = command.env.iter().filter_map(|(name, value)| match value {
        TextOrSecret::Secret(secret) => Some((name, secret)),
        TextOrSecret::Text(_) => None,
    });
    named.map(|(name, secret)| Ok((name.clone(), super::secret(world, &secret.env, &format!("the secret {name} of a command"))?))).collect()
}

fn find(world: &World, folder: &Path, program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(folder.join(program)).filter(|path| path.is_file());
    }
    world.vars.get("PATH")?.split(':').map(|place| Path::new(place).join(program)).find(|path| path.is_file())
}

/// Runs the program and takes its word, or that of its proof.
pub async fn deploy(site: &Site<'_>, work: &Work, command: &CommandRun) -> Result<Settled> {
    let rollback = if command.undo.is_empty() { Rollback::Never } else { work.rollback };
    live(&Process { site, values: site.values(&work.values), command }, rollback, site.world).await
}

/// Takes away what was made for a pull request: `run` is its `remove` by now.
pub async fn remove(site: &Site<'_>, work: &Work, command: &CommandRun) -> Result<Option<String>> {
    run(site, &site.values(&work.values), command, "remove").await?;
    Ok(Some(format!("`{}` ended with exit code 0", command.run.first().map(String::as_str).unwrap_or_default())))
}

/// What the proof says; without one, what the journal says.
pub async fn runs(site: &Site<'_>, work: &Work, command: &CommandRun) -> Result<Option<Settled>> {
    let said = match &command.proof {
        Some(proof) => proof::holds(site, &site.values(&work.values), proof).await?,
        None => site.memory.is_done().await.then(|| "it ended with exit code 0".to_owned()),
    };
    Ok(said.map(|said| Settled::deployed(said, None)))
}

struct Process<'a> {
    site: &'a Site<'a>,
    values: Values,
    command: &'a CommandRun,
}

impl Life for Process<'_> {
    type Before = ();
    type Started = bool;

    async fn read(&self) -> Result<()> {
        check_words(self.site.step, &self.values, &self.command.undo).map(drop)
    }

    async fn start(&self, _before: &mut (), started: &mut bool) -> Result<()> {
        if self.site.memory.is_done().await {
            self.site.say("the run before did it to the end");
            return Ok(());
        }
        *started = true;
        run(self.site, &self.values, self.command, "run").await?;
        self.site.note_done().await
    }

    async fn settle(&self, _before: &(), _started: &bool) -> Result<Settled> {
        let Some(proof) = &self.command.proof else { return Ok(Settled::deployed("it ended with exit code 0", None)) };
        let deadline = self.site.world.clock.now().saturating_add(self.command.timeout.0);
        Ok(Settled::deployed(proof::wait(self.site, &self.values, proof, deadline).await?, None))
    }

    fn has_changed(&self, started: &bool) -> bool {
        *started
    }

    async fn back(&self, _before: &(), _started: &bool) -> Result<String> {
        let undo = CommandRun { run: self.command.undo.clone(), failure_marker: None, ..self.command.clone() };
        run(self.site, &self.values, &undo, "undo").await?;
        Ok(format!("`{}` ended with exit code 0", self.command.undo.first().map(String::as_str).unwrap_or_default()))
    }

    async fn stop(&self, _started: &bool) -> Option<String> {
        None // its process group ended with the wait for it
    }
}

fn check_words(step: &str, values: &Values, words: &[String]) -> Result<Vec<String>> {
    words.iter().map(|word| values.fill(word).map_err(|why| unfilled(step, why))).collect()
}

/// Runs a program to its end. `Ok` means exit code 0 and no failure marker.
pub async fn run(site: &Site<'_>, values: &Values, command: &CommandRun, source: &str) -> Result<()> {
    let argv = check_words(site.step, values, &command.run)?;
    let program = argv.first().cloned().unwrap_or_default();
    if site.world.rehearsal {
        site.say(&format!("{source}: would run {}", argv.join(" ")));
        return Ok(());
    }
    let folder = match &command.directory {
        Some(inside) => site.folder.join(site.fill(values, inside)?),
        None => site.folder.to_owned(),
    };
    site.say(&format!("{source}: {}", argv.join(" ")));
    let environment = environment(site, values, command)?;
    let mut argv = argv;
    if let (Some(first), true) = (argv.first_mut(), program.contains('/')) {
        // What is executed is looked up from our own folder, not from the child's.
        *first = std::fs::canonicalize(folder.join(&program)).map_or(program.clone(), |path| path.display().to_string());
    }
    let marker = command.failure_marker.as_deref();
    let cancel = Some(&site.world.cancel);
    let child = Program { argv: &argv, folder: &folder, env: Some(environment), limit: command.timeout.0, cancel, marker };
    let ran = child.run(&|line| site.world.console.relay(source, line)).await?;
    judge(&program, command.timeout.0, marker, ran)
}

/// The child's whole environment: what every program needs, what the configuration passes on or sets, and what this run is about.
fn environment(site: &Site<'_>, values: &Values, command: &CommandRun) -> Result<Vec<(String, String)>> {
    let mut environment = surroundings(site, values, &command.pass);
    for (name, value) in &command.env {
        let value = match value {
            TextOrSecret::Text(text) => site.fill(values, text)?,
            TextOrSecret::Secret(secret) => super::secret(site.world, &secret.env, name)?.expose().to_owned(),
        };
        environment.push((name.clone(), value));
    }
    Ok(environment)
}

/// What every program may see: what it cannot do without, what is passed on by name, and what this run is about.
pub fn surroundings(site: &Site<'_>, values: &Values, pass: &[String]) -> Vec<(String, String)> {
    let vars = &site.world.vars;
    let passed = PASSED.into_iter().chain(pass.iter().map(String::as_str));
    let mut environment: Vec<(String, String)> = passed.filter_map(|name| Some((name.to_owned(), vars.get(name)?.to_owned()))).collect();
    for name in ["project", "environment", "version", "tag", "sha", "run_url"] {
        let value = values.get(name).map(str::to_owned);
        environment.extend(value.map(|value| (format!("TIDEGATE_{}", name.to_uppercase()), value)));
    }
    for (name, image) in site.images {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        environment.push((format!("TIDEGATE_IMAGE_{plain}"), image.reference()));
    }
    environment
}

fn judge(program: &str, limit: Duration, marker: Option<&str>, ran: Ran) -> Result<()> {
    let Ran { end, marked, tail } = ran;
    let detail = || std::iter::once(format!("last lines of `{program}`:")).chain(tail.iter().map(|line| format!("  {line}"))).collect();
    let failed = |reason: Reason, what: String| Err(Error::new(reason, format!("`{program}` {what}")).detail(detail()));
    match end {
        End::Exited(status) if status.success() && !marked => Ok(()),
        End::Exited(status) if status.success() => {
            failed(Reason::TargetFailed, format!("ended with exit code 0, but its output says {}", marker.unwrap_or_default()))
        }
        End::Exited(status) => {
            use std::os::unix::process::ExitStatusExt;
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => format!("ended with {status}"),
            };
            failed(Reason::TargetFailed, how)
        }
        End::TimedOut => failed(
            Reason::TargetTimeout,
            format!("did not end within {}; it was ended with all that it had started", humantime::format_duration(limit)),
        ),
        End::Cancelled => failed(Reason::Cancelled, "was ended, with all that it had started, because the run was cancelled".into()),
    }
}
