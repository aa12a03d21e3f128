//! The inputs of a step: `with:` of the GitHub action (`INPUT_*`), or `TIDEGATE_INPUT_*` on GitLab and in containers.
//!
//! Values are read as GitHub's toolkit reads them: trimmed, empty means "not given", lists are lines, booleans are
//! `true|True|TRUE|false|False|FALSE`. <https://docs.github.com/actions/reference/workflows-and-actions/metadata-syntax#inputs>

use crate::config::{CommentMode, Config};
use crate::error::{Error, Reason, Result};
use crate::vars::Vars;
use std::path::PathBuf;

/// Every input, as `action.yml` declares it.
pub const NAMES: [&str; 17] = [
    "command",
    "environment",
    "version",
    "branch",
    "override",
    "reason",
    "config",
    "token",
    "set",
    "args",
    "aws-region",
    "role-to-assume",
    "working-directory",
    "comment",
    "report-file",
    "lock-timeout",
    "summary",
];

/// Commands that deliver.
const RUNS: [&str; 8] = ["run", "merge", "release", "pr-opened", "pr-closed", "deploy", "hotfix", "rollback"];
/// All commands that make sense as a step.
const COMMANDS: [&str; 20] = [
    "run",
    "merge",
    "release",
    "pr-opened",
    "pr-closed",
    "deploy",
    "hotfix",
    "rollback",
    "plan",
    "explain",
    "check",
    "doctor",
    "drain",
    "backup",
    "restore",
    "trigger",
    "status",
    "quarantine",
    "sweep",
    "rehearse",
];

/// The inputs of this process.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    vars: &'a Vars,
}

impl<'a> Inputs<'a> {
    /// Reads on demand.
    pub fn of(vars: &'a Vars) -> Self {
        Self { vars }
    }

    /// An input, trimmed. The runner upper-cases names and replaces spaces, and keeps hyphens.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        debug_assert!(NAMES.contains(&name), "{name} is not an input");
        let upper = name.to_ascii_uppercase();
        let own = self.vars.get(&format!("TIDEGATE_INPUT_{}", upper.replace('-', "_")));
        let actions = || if self.vars.is_true("GITHUB_ACTIONS") { self.vars.get(&format!("INPUT_{upper}")) } else { None };
        own.or_else(actions).map(str::trim).filter(|text| !text.is_empty())
    }

    /// The lines of an input, without empty ones.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let lines = self.text(name).unwrap_or_default().lines().map(str::trim);
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// A yes or no.
    pub fn flag(&self, name: &str, otherwise: bool) -> Result<bool> {
        match self.text(name) {
            None => Ok(otherwise),
            Some("false" | "False" | "FALSE") => Ok(false),
            Some("true" | "True" | "TRUE") => Ok(true),
            Some(other) => {
                let sentence = format!("the input `{name}` is {other:?}, which is neither true nor false");
                Err(Error::new(Reason::InputInvalid, sentence).hint("write true or false"))
            }
        }
    }

    /// A path. A step may name one of the host (`${{ github.workspace }}`), which is elsewhere in a container.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| PathBuf::from(self.inside(path)))
    }

    /// A text whose host path, if it is one, is that of the container.
    fn inside(&self, text: &str) -> String {
        let (Some(outer), Some(workspace)) = (self.vars.get("RUNNER_WORKSPACE"), self.vars.get("GITHUB_WORKSPACE")) else {
            return text.to_owned();
        };
        let name = self.vars.get("GITHUB_REPOSITORY").and_then(|repository| repository.split('/').nth(1)).unwrap_or_default();
        let host = format!("{}/{name}", outer.trim_end_matches('/'));
        match text.strip_prefix(&host) {
            Some(rest) if host != workspace && (rest.is_empty() || rest.starts_with('/')) => format!("{workspace}{rest}"),
            Some(_) | None => text.to_owned(),
        }
    }

    fn must_fit(&self, name: &str, pattern: &str, example: &str) -> Result<()> {
        let text = self.text(name).unwrap_or_default();
        if regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
            return Ok(());
        }
        Err(Error::new(Reason::InputInvalid, format!("the input `{name}` is {text:?}")).hint(format!("write it {example}")))
    }

    /// Where the comment is written, if this says.
    pub fn comment(&self) -> Result<Option<CommentMode>> {
        Ok(match self.text("comment") {
            None => None,
            Some("always") => Some(CommentMode::Always),
            Some("on-failure") => Some(CommentMode::OnFailure),
            Some("never") => Some(CommentMode::Never),
            Some(other) => {
                let sentence = format!("the input `comment` is {other:?}");
                return Err(Error::new(Reason::InputInvalid, sentence).hint("write always, on-failure or never"));
            }
        })
    }

    /// What the step says over the file: the role and region of the whole file, and who is told. What an environment says
    /// for itself stays, as it is the more exact word.
    pub fn apply(&self, config: &mut Config) -> Result<()> {
        if let Some(region) = self.text("aws-region") {
            self.must_fit("aws-region", r"^[a-z]{2,}(-[a-z]+)+-[0-9]+$", "as us-west-2")?;
            config.aws.region = Some(region.to_owned());
        }
        if let Some(role) = self.text("role-to-assume") {
            self.must_fit("role-to-assume", r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$", "as arn:aws:iam::123456789012:role/ci")?;
            config.aws.role = Some(role.to_owned());
        }
        if let Some(mode) = self.comment()? {
            config.comment.mode = mode;
        }
        Ok(())
    }

    /// The command line that the inputs stand for; `None` when there is no command among them, or one was written out.
    ///
    /// `given` are the arguments of the process. GitHub passes the input `args` of a container action on as those, too.
    pub fn command_line(&self, given: &[String]) -> Result<Option<Vec<String>>> {
        let in_job = self.vars.is_true("GITHUB_ACTIONS") || self.vars.is_true("GITLAB_CI");
        let alone = || Some("run").filter(|_| given.is_empty() && in_job); // in a job the event says what to do
        let Some(command) = self.text("command").or_else(alone) else { return Ok(None) };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if !given.is_empty() && words(&given.join(" ")) != words(self.text("args").unwrap_or_default()) {
            return Ok(None);
        }
        self.refuse_unknown()?;
        if !COMMANDS.contains(&command) {
            let near = crate::config::problem::did_you_mean(command, COMMANDS.iter().copied());
            let hint = near.map_or_else(|| format!("write one of {}", COMMANDS.join(", ")), |near| format!("did you mean {near:?}?"));
            let sentence = format!("the input `command` is {command:?}; more words go into `args`, one on each line");
            return Err(Error::new(Reason::InputInvalid, sentence).hint(hint));
        }
        self.flag("summary", true)?;
        let mut line = vec!["tidegate".to_owned(), command.to_owned()];
        if RUNS.contains(&command) {
            // Relative to where the step begins, not to its working directory: later steps look for it there.
            let elsewhere = self.path("working-directory").and_then(|_folder| std::env::current_dir().ok());
            let report = self.path("report-file").map(|path| elsewhere.map_or(path.clone(), |here| here.join(path)));
            line.extend(report.into_iter().flat_map(|path| ["--report".to_owned(), path.display().to_string()]));
            line.extend(self.text("lock-timeout").into_iter().flat_map(|time| ["--lock-timeout".to_owned(), time.to_owned()]));
        }
        line.extend(self.lines("args").iter().map(|arg| self.inside(arg)));
        if command == "deploy" {
            line.push("--".to_owned()); // what follows is a name, whatever it looks like
            for name in ["environment", "version"] {
                line.push(self.text(name).map(str::to_owned).ok_or_else(|| {
                    Error::new(Reason::InputInvalid, format!("the input `{name}` is empty, and `command: deploy` needs it"))
                        .hint("with: {command: deploy, environment: production, version: 1.4.2}")
                })?);
            }
        }
        if command == "hotfix" {
            line.extend(self.text("environment").into_iter().flat_map(|name| ["--to".to_owned(), name.to_owned()]));
            line.push("--".to_owned());
            line.push(self.text("version").map(str::to_owned).ok_or_else(|| {
                Error::new(Reason::InputInvalid, "the input `version` is empty, and `command: hotfix` needs it")
                    .hint("with: {command: hotfix, version: 1.4.3, branch: hotfix/1.4.3}")
            })?);
        }
        if matches!(command, "backup" | "restore") {
            line.push("--".to_owned());
            line.push(self.text("environment").map(str::to_owned).ok_or_else(|| {
                Error::new(Reason::InputInvalid, format!("the input `environment` is empty, and `command: {command}` needs it"))
                    .hint(format!("with: {{command: {command}, environment: staging}}; flags go into `args`, one on each line"))
            })?);
        }
        if command == "rollback" {
            line.extend(self.text("version").into_iter().flat_map(|version| ["--to".to_owned(), version.to_owned()]));
            line.push("--".to_owned());
            line.push(self.text("environment").map(str::to_owned).ok_or_else(|| {
                Error::new(Reason::InputInvalid, "the input `environment` is empty, and `command: rollback` needs it").hint(
                    "with: {command: rollback, environment: production}; `version` names the one to go back to, if not the last good one",
                )
            })?);
        }
        Ok(Some(line))
    }

    /// GitHub only warns of an input that the action does not have, and the step would go on without it.
    fn refuse_unknown(&self) -> Result<()> {
        for prefix in ["TIDEGATE_INPUT_", "INPUT_"] {
            if prefix == "INPUT_" && !self.vars.is_true("GITHUB_ACTIONS") {
                continue;
            }
            for (variable, _) in self.vars.starting_with(prefix) {
                let name = variable.trim_start_matches(prefix).to_ascii_lowercase().replace('_', "-");
                // The runner's own, and what other tools in the same job export.
                if NAMES.contains(&name.as_str()) || matches!(name.as_str(), "entrypoint") {
                    continue;
                }
                let near = crate::config::problem::did_you_mean(&name, NAMES.iter().copied());
                let hint = near.map_or_else(|| format!("the inputs are {}", NAMES.join(", ")), |near| format!("did you mean `{near}`?"));
                return Err(Error::new(Reason::InputInvalid, format!("there is no input `{name}`")).hint(hint));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action() -> Vars {
        Vars::from([("GITHUB_ACTIONS", "true")])
    }

    #[test]
    fn inputs_are_read_as_the_toolkit_reads_them() {
        let vars = action().with("INPUT_AWS-REGION", " us-west-2 \n").with("INPUT_SET", "a=b\r\n\n  c=d\n").with("INPUT_VERSION", "  ");
        let inputs = Inputs::of(&vars);
        assert_eq!(inputs.text("aws-region"), Some("us-west-2"));
        assert_eq!(inputs.lines("set"), ["a=b", "c=d"]);
        assert_eq!(inputs.text("version"), None);
        for (text, value) in [("true", true), ("True", true), ("TRUE", true), ("false", false), ("FALSE", false), ("", false)] {
            let vars = action().with("INPUT_SUMMARY", text);
            assert_eq!(Inputs::of(&vars).flag("summary", false).unwrap(), value, "{text}");
        }
        let vars = action().with("INPUT_SUMMARY", "yes");
        assert!(Inputs::of(&vars).flag("summary", true).unwrap_err().sentence.contains("`summary`"));
    }

    #[test]
    fn outside_an_action_only_our_own_variables_are_inputs() {
        let vars = Vars::from([("INPUT_VERSION", "1"), ("TIDEGATE_INPUT_ROLE_TO_ASSUME", "arn:x")]);
        assert_eq!((Inputs::of(&vars).text("version"), Inputs::of(&vars).text("role-to-assume")), (None, Some("arn:x")));
    }

    #[test]
    fn the_inputs_are_a_command_line() {
        let line = |vars: &Vars| Inputs::of(vars).command_line(&[]).map(|line| line.unwrap_or_default().join(" "));
        let deploy = action().with("INPUT_COMMAND", "deploy").with("INPUT_ENVIRONMENT", "prod").with("INPUT_VERSION", "1.10");
        assert_eq!(line(&deploy).unwrap(), "tidegate deploy -- prod 1.10");
        let restore =
            action().with("INPUT_COMMAND", "restore").with("INPUT_ENVIRONMENT", "staging").with("INPUT_ARGS", "--from\nproduction");
        assert_eq!(line(&restore).unwrap(), "tidegate restore --from production -- staging");
        assert!(line(&action().with("INPUT_COMMAND", "backup")).unwrap_err().sentence.contains("`environment`"));
        assert!(line(&deploy.with("INPUT_VERSION", "")).unwrap_err().sentence.contains("`version`"));
        let run = action().with("INPUT_COMMAND", "run").with("INPUT_ARGS", "--base\nmain").with("INPUT_REPORT-FILE", "r.json");
        assert_eq!(line(&run).unwrap(), "tidegate run --report r.json --base main");
        let given = |text: &str| Inputs::of(&run).command_line(&text.split(' ').map(String::from).collect::<Vec<_>>()).unwrap().is_some();
        assert!(given("--base main"), "the runner passes `args` on as arguments");
        assert!(!given("drain --queue jobs"), "a command line that was written out wins");
        assert_eq!(line(&action()).unwrap(), "tidegate run");
        assert_eq!(line(&Vars::from([])).unwrap(), "");
        assert!(line(&action().with("INPUT_COMMAND", "deplyo")).unwrap_err().hint.unwrap().contains("deploy"));
        let unknown = line(&action().with("INPUT_COMMAND", "run").with("INPUT_ENVIROMENT", "x")).unwrap_err();
        assert!(unknown.hint.unwrap().contains("`environment`"));
    }

    #[test]
    fn paths_of_the_host_become_paths_of_the_container() {
        let vars = action()
            .with("RUNNER_WORKSPACE", "/home/runner/work/demo")
            .with("GITHUB_WORKSPACE", "/github/workspace")
            .with("GITHUB_REPOSITORY", "acme/demo")
            .with("INPUT_CONFIG", "/home/runner/work/demo/demo/ci/tidegate.yml");
        assert_eq!(Inputs::of(&vars).path("config"), Some(PathBuf::from("/github/workspace/ci/tidegate.yml")));
        assert_eq!(Inputs::of(&vars).inside("/home/runner/work/demo/demonstration"), "/home/runner/work/demo/demonstration");
        assert_eq!(Inputs::of(&vars).inside("ci/tidegate.yml"), "ci/tidegate.yml");
    }
}
