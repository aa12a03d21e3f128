//! `tidegate init`: writes a configuration and its CI files from a preset, and overwrites nothing without consent.

use crate::checkout::Checkout;
use crate::cli::Format;
use crate::error::{Error, Reason, Result};
use crate::forge::github::{self, GitHub};
use crate::inputs::Inputs;
use crate::tools::secret::Secret;
use crate::version::slug;
use crate::world::World;
use clap::ValueEnum;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// The action's repository, whose release is pinned.
const ACTION: &str = "tidegate/tidegate";
/// What stands for the pin in the files.
const UNPINNED: &str = "0000000000000000000000000000000000000000 # v0.0.0";

/// What to write.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The preset: the shape of a project's life
    #[arg(long, value_enum, default_value_t = Preset::NeuroUi)]
    preset: Preset,
    /// The CI system (default: by the remote `origin`)
    #[arg(long, value_enum)]
    ci: Option<Host>,
    /// The project's name (default: the repository's)
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// The AWS account of the registry
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    /// The AWS region of the registry
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// The default branch (default: the remote's, or main)
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// The commit of the action to pin (default: that of this version's release, asked from GitHub)
    #[arg(long, value_name = "SHA")]
    pin: Option<String>,
    /// With the workflow that tells pull requests of forks how they went (GitHub)
    #[arg(long)]
    forks: bool,
    /// Overwrite files that are there
    #[arg(long)]
    force: bool,
    /// What stdout gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The presets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// One image: dev at merge, staging at release, production by hand behind a drain, hot fixes, pull requests
    NeuroUi,
    /// AWX: staging at merge, production at official tags, a developer's job; or the pipelines of the repositories downstream
    Fragalysis,
    /// Docker Swarm and a webhook: production and stage by branch, an image for every other branch
    Jincor,
    /// Heroku: staging at merge, production by branch, a review app with its database for every pull request
    Joplin,
    /// A CD server and a repository of manifests: prod by tag, dev, test and stage by branch
    Enac,
}

/// The CI systems that files are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Host {
    /// GitHub Actions
    GitHub,
    /// GitLab CI
    GitLab,
}

/// A file of a preset: where it goes, and what is in it.
type File = (&'static str, &'static str);

impl Preset {
    fn config(self) -> &'static str {
        match self {
            Self::NeuroUi => include_str!("../../templates/presets/neuro-ui/tidegate.yml"),
            Self::Fragalysis => include_str!("../../templates/presets/fragalysis/tidegate.yml"),
            Self::Jincor => include_str!("../../templates/presets/jincor/tidegate.yml"),
            Self::Joplin => include_str!("../../templates/presets/joplin/tidegate.yml"),
            Self::Enac => include_str!("../../templates/presets/enac/tidegate.yml"),
        }
    }

    /// What is special to every project.
    fn to_edit(self) -> &'static str {
        match self {
            Self::NeuroUi => "role, clusters, namespaces and queues",
            Self::Fragalysis => "repository, host, job templates and what is downstream",
            Self::Jincor => "repository, hosts and services",
            Self::Joplin => "repository, apps, team, pipeline and config vars",
            Self::Enac => "repository, runners and what the manifests are told",
        }
    }

    /// The rehearsal of an event that this one deploys on.
    fn rehearsal(self) -> &'static str {
        match self {
            Self::NeuroUi | Self::Jincor | Self::Joplin => "tidegate rehearse merge",
            Self::Fragalysis => "PUBLISH_IMAGES=yes tidegate rehearse merge",
            Self::Enac => "tidegate rehearse push test",
        }
    }

    /// The project's name in the files, which the user's takes the place of.
    fn project(self) -> &'static str {
        match self {
            Self::NeuroUi => "neuro-ui",
            Self::Fragalysis => "fragalysis-app",
            Self::Jincor => "jincor-app",
            Self::Joplin => "joplin",
            Self::Enac => "enac-app",
        }
    }

    fn files(self, host: Host) -> &'static [File] {
        match (self, host) {
            (Self::NeuroUi, Host::GitHub) => &[
                (".github/workflows/deliver.yml", include_str!("../../templates/presets/neuro-ui/github/deliver.yml")),
                (".github/workflows/production.yml", include_str!("../../templates/presets/neuro-ui/github/production.yml")),
                (".github/workflows/hotfix.yml", include_str!("../../templates/presets/neuro-ui/github/hotfix.yml")),
            ],
            (Self::NeuroUi, Host::GitLab) => &[(".gitlab-ci.yml", include_str!("../../templates/presets/neuro-ui/gitlab/gitlab-ci.yml"))],
            (Self::Fragalysis, Host::GitHub) => {
                &[(".github/workflows/deliver.yml", include_str!("../../templates/presets/fragalysis/github/deliver.yml"))]
            }
            (Self::Fragalysis, Host::GitLab) => {
                &[(".gitlab-ci.yml", include_str!("../../templates/presets/fragalysis/gitlab/gitlab-ci.yml"))]
            }
            (Self::Jincor, Host::GitHub) => {
                &[(".github/workflows/deliver.yml", include_str!("../../templates/presets/jincor/github/deliver.yml"))]
            }
            (Self::Joplin, Host::GitHub) => &[
                (".github/workflows/deliver.yml", include_str!("../../templates/presets/joplin/github/deliver.yml")),
                (".github/workflows/sweep.yml", include_str!("../../templates/presets/joplin/github/sweep.yml")),
            ],
            (Self::Joplin, Host::GitLab) => &[(".gitlab-ci.yml", include_str!("../../templates/presets/joplin/gitlab/gitlab-ci.yml"))],
            (Self::Enac, Host::GitHub) => {
                &[(".github/workflows/deliver.yml", include_str!("../../templates/presets/enac/github/deliver.yml"))]
            }
            (Self::Enac, Host::GitLab) => &[(".gitlab-ci.yml", include_str!("../../templates/presets/enac/gitlab/gitlab-ci.yml"))],
            (Self::Jincor, Host::GitLab) => &[(".gitlab-ci.yml", include_str!("../../templates/presets/jincor/gitlab/gitlab-ci.yml"))],
        }
    }
}

/// What the files are filled with.
struct Facts {
    host: Host,
    project: String,
    account: String,
    region: String,
    branch: String,
}

/// Writes the files; what stdout gets.
pub async fn run(world: &World, args: &Args) -> Result<Option<String>> {
    let asker = Asker { terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal() };
    at_the_root()?;
    let facts = facts(world, args, &asker)?;
    let pin = match facts.host {
        Host::GitHub => Some(pin(world, args).await?),
        Host::GitLab => None,
    };
    let mut files = vec![("tidegate.yml", filled(args.preset.config(), args.preset, &facts, None))];
    files.extend(args.preset.files(facts.host).iter().map(|(path, text)| (*path, filled(text, args.preset, &facts, pin.as_deref()))));
    if args.forks {
        if facts.host == Host::GitLab {
            let sentence = "--forks writes a workflow of GitHub's";
            return Err(Error::new(Reason::InputInvalid, sentence)
                .hint("a merge request of a GitLab fork runs its pipeline in the fork's own project"));
        }
        files.push((
            ".github/workflows/forks.yml",
            filled(include_str!("../../templates/forks/forks.yml"), args.preset, &facts, pin.as_deref()),
        ));
    }
    let written = write(world, args, &asker, &files)?;
    let what = args.preset.to_edit();
    let rehearsal = args.preset.rehearsal();
    world.console.line(&format!("next: edit {what} in tidegate.yml, then `tidegate check`, `{rehearsal}`, `tidegate doctor`"));
    if facts.host == Host::GitHub && args.preset != Preset::NeuroUi {
        world.console.line("variables and secrets that the workflow passes on belong under Settings > Secrets and variables > Actions");
    } else if facts.host == Host::GitHub {
        world.console.line("the AWS role has to trust this repository: `tidegate doctor` in a job shows the line for its trust policy");
    } else {
        world
            .console
            .line("comments on merge requests need a project access token (scope api, role Developer) as the masked variable GITLAB_TOKEN");
    }
    Ok((args.format == Format::Json).then(|| format!("{:#}\n", json!({"schema": 1, "files": written}))))
}

fn facts(world: &World, args: &Args, asker: &Asker) -> Result<Facts> {
    let checkout = Checkout::here();
    let remote = checkout.remote();
    let (host, path) = remote.clone().unwrap_or_default();
    let guessed = match host.as_str() {
        host if host.contains("gitlab") || Path::new(".gitlab-ci.yml").exists() => Host::GitLab,
        _other => Host::GitHub,
    };
    let here = std::env::current_dir().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
    let name = path.rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned).or(here).unwrap_or_else(|| "app".into());
    let project = asker.ask(&args.project, "project", &plain(&name));
    if project.is_empty() || slug(&project, 40) != project || plain(&project) != project {
        let sentence = format!("{project:?} cannot be a project's name");
        return Err(Error::new(Reason::InputInvalid, sentence).hint("use lower-case letters, digits and hyphens, as neuro-ui"));
    }
    let account = asker.ask(&args.account, "AWS account of the registry", "123456789012");
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(
            Error::new(Reason::InputInvalid, format!("{account:?} is not an AWS account")).hint("it has 12 digits: --account 123456789012")
        );
    }
    let region = Inputs::of(&world.vars).text("aws-region").or_else(|| world.vars.get("AWS_REGION")).unwrap_or("us-west-2").to_owned();
    let region = asker.ask(&args.region, "AWS region of the registry", &region);
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(Error::new(Reason::InputInvalid, format!("{region:?} is not an AWS region")).hint("--region us-west-2"));
    }
    let known = ["main", "master", "trunk"].into_iter().find(|name| checkout.tip(name).is_some() || checkout.has_branch(name));
    let known = known.map(str::to_owned).or_else(|| checkout.branch());
    let branch = args.branch.clone().or_else(|| checkout.default_branch()).or(known).unwrap_or_else(|| "main".into());
    let host_of_ci = args.ci.unwrap_or(guessed);
    let why = if args.ci.is_some() {
        "--ci"
    } else if host.is_empty() {
        "there is no remote: --ci chooses"
    } else {
        "by the remote; --ci chooses"
    };
    let name = match host_of_ci {
        Host::GitHub => "GitHub",
        Host::GitLab => "GitLab",
    };
    world.console.line(&format!("for {name} ({why}), project {project}, default branch {branch}"));
    if host_of_ci == Host::GitLab && args.pin.is_some() {
        return Err(Error::new(Reason::InputInvalid, "--pin is for the GitHub action")
            .hint("the component is taken by its version: leave --pin out"));
    }
    Ok(Facts { host: host_of_ci, project, account, region, branch })
}

/// CI systems look for their files at the root of a repository only.
fn at_the_root() -> Result<()> {
    let Some(root) = Checkout::here().root() else { return Ok(()) };
    if std::fs::canonicalize(".").is_ok_and(|here| here == root) {
        return Ok(());
    }
    let sentence = format!("this is a folder inside the repository {}", root.display());
    Err(Error::new(Reason::InputInvalid, sentence)
        .hint("run `tidegate init` at its root; a project in a folder is named by the inputs `working-directory` or `config`"))
}

/// A repository's name as a project's.
fn plain(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(40).collect();
    let plain = plain.trim_matches('-').to_owned();
    // What YAML takes for a number or a word of its own needs a letter in front.
    let is_text = serde_yaml::from_str::<serde_yaml::Value>(&plain).is_ok_and(|value| value.is_string());
    if plain.is_empty() {
        "app".into()
    } else if is_text {
        plain
    } else {
        format!("app-{plain}")
    }
}

/// The files are valid as they stand; what is special to a project takes the place of the example's.
fn filled(text: &str, preset: Preset, facts: &Facts, pin: Option<&str>) -> String {
    let text = text.replace("aws: {region: us-west-2", &format!("aws: {{region: {}", facts.region));
    let text = text.replace("dkr.ecr.us-west-2.amazonaws.com", &format!("dkr.ecr.{}.amazonaws.com", facts.region));
    let text = text.replace(preset.project(), &facts.project).replace("123456789012", &facts.account);
    let text = text.replace("branches: [main", &format!("branches: [{}", serde_json::Value::from(facts.branch.as_str())));
    let text = text.replace("except: [main,", &format!("except: [{},", serde_json::Value::from(facts.branch.as_str())));
    let text = text.replace("[\"main\"", "[main").replace("tidegate@v0.0.0", concat!("tidegate@v", env!("CARGO_PKG_VERSION")));
    text.replace(UNPINNED, pin.unwrap_or(UNPINNED))
}

/// The commit of this version's release, with the version beside it.
async fn pin(world: &World, args: &Args) -> Result<String> {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    if let Some(sha) = &args.pin {
        if !crate::event::is_full_sha(sha) {
            return Err(Error::new(Reason::InputInvalid, format!("--pin {sha:?} is not a commit")).hint("give all 40 hex digits"));
        }
        return Ok(format!("{sha} # {version}"));
    }
    let token = Secret::new(github::token(&world.vars).unwrap_or_default());
    let github = GitHub::new(&world.vars, github::api(&world.vars), &token, ACTION, world.clock)?;
    let found = github.look_up(&format!("tags/{version}")).await;
    match found {
        Ok(Some(sha)) => Ok(format!("{sha} # {version}")),
        other => {
            let why = match other {
                Ok(_) => format!("GitHub knows no release {version} of {ACTION}"),
                Err(why) => why,
            };
            Err(Error::new(Reason::InputInvalid, format!("the action cannot be pinned to a commit: {why}"))
                .hint(format!("look the commit of {version} up at https://github.com/{ACTION}/tags and give it: tidegate init --pin SHA")))
        }
    }
}

/// Writes all files, or none: what is there and different needs consent.
fn write(world: &World, args: &Args, asker: &Asker, files: &[(&str, String)]) -> Result<Vec<PathBuf>> {
    let differs = |path: &str, text: &str| std::fs::read_to_string(path).map_or(Path::new(path).exists(), |there| there != text);
    let there: Vec<&str> = files.iter().filter(|(path, text)| differs(path, text)).map(|(path, _)| *path).collect();
    if !there.is_empty() && !args.force && !asker.may(&format!("overwrite {}?", there.join(", "))) {
        let include =
            "to add tidegate to a pipeline that is there, copy the `include:` from `tidegate init --ci gitlab` in an empty folder";
        let hint =
            if there.contains(&".gitlab-ci.yml") { format!("overwrite with --force; {include}") } else { "overwrite with --force".into() };
        let sentence = format!("nothing was written: {} is there already, with other content", there.join(", "));
        return Err(Error::new(Reason::InputInvalid, sentence).hint(hint));
    }
    for (path, _) in files {
        let in_the_way =
            Path::new(path).ancestors().skip(1).find(|folder| folder.exists() && !folder.is_dir() && !folder.as_os_str().is_empty());
        if let Some(file) = in_the_way.map(Path::to_owned).or_else(|| Path::new(path).is_dir().then(|| PathBuf::from(path))) {
            let sentence = format!("nothing was written: {} is in the way of {path}", file.display());
            return Err(Error::new(Reason::InputInvalid, sentence).hint("move it away"));
        }
    }
    let mut written = Vec::new();
    for (path, text) in files {
        let unchanged = std::fs::read_to_string(path).is_ok_and(|there| there == *text);
        if !unchanged {
            let folder = Path::new(path).parent().unwrap_or(Path::new("."));
            let done = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
            done.map_err(|error| Error::new(Reason::InputInvalid, format!("{path} cannot be written: {error}")))?;
        }
        world.console.good(&format!("{path}{}", if unchanged { "  (as it was)" } else { "" }));
        written.push(PathBuf::from(path));
    }
    Ok(written)
}

/// Questions, on a terminal only: elsewhere the default answers.
struct Asker {
    terminal: bool,
}

impl Asker {
    fn ask(&self, given: &Option<String>, what: &str, default: &str) -> String {
        if let Some(given) = given {
            return given.clone();
        }
        self.answer(&format!("{what} [{default}]: ")).filter(|answer| !answer.is_empty()).unwrap_or_else(|| default.to_owned())
    }

    fn may(&self, question: &str) -> bool {
        self.answer(&format!("{question} [y/N] ")).is_some_and(|answer| matches!(answer.as_str(), "y" | "Y" | "yes"))
    }

    fn answer(&self, question: &str) -> Option<String> {
        if !self.terminal {
            return None;
        }
        let mut out = std::io::stderr();
        let _closed = write!(out, "{question}").and_then(|()| out.flush());
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).ok()?;
        Some(line.trim().to_owned())
    }
}
