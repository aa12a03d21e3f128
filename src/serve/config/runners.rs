//! How jobs are run: a process of this machine, or a container of the Docker engine at hand.

use crate::config::{SecretName, TextOrSecret};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How jobs are run.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Runner {
    /// A process of this machine, which outlives a restart of the server.
    Process(ProcessRunner),
    /// A container of the Docker engine at hand.
    Docker(DockerRunner),
}

/// A process. It gets PATH, HOME, LANG and the TIDEGATE_ variables of its job, and nothing else of the server's environment.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProcessRunner {
    /// The program and its arguments, without a shell; {app} {inventory} {job} {repository} {tag} {digest} {actor} are filled.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// The working directory (default: the folder of this file).
    pub folder: Option<PathBuf>,
    /// Further environment variables.
    #[serde(default)]
    pub env: IndexMap<String, TextOrSecret>,
    /// How many jobs of this runner run at once.
    #[schemars(range(min = 1, max = 1000))]
    pub running: Option<usize>,
}

/// A container. Its environment is `env` and the TIDEGATE_ variables of its job.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerRunner {
    /// The image.
    pub image: String,
    /// The arguments, as [app-deploy, "{inventory}", "{job}"]; {app} {repository} {tag} {digest} {actor} are filled as well.
    #[serde(default)]
    pub command: Vec<String>,
    /// What is run in place of the image's own entry point.
    pub entrypoint: Option<Vec<String>>,
    /// When the image is pulled.
    #[serde(default)]
    pub pull: Pull,
    /// The login of the image's registry.
    pub registry: Option<RegistryLogin>,
    /// The network it joins.
    pub network: Option<String>,
    /// `host` to see the machine's processes, as ENAC's does.
    #[schemars(regex(pattern = r"^host$"))]
    pub pid: Option<String>,
    /// Files and folders of the machine, as /srv/ssh:/root/.ssh:ro.
    #[serde(default)]
    #[schemars(inner(regex(pattern = r"^[^:]+:/[^:]*(:(ro|rw))?$")))]
    pub mounts: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: IndexMap<String, TextOrSecret>,
    /// The user it runs as.
    pub user: Option<String>,
    /// The most memory it may use, in MiB.
    #[schemars(range(min = 6))]
    pub memory: Option<u64>,
    /// What says that it went well.
    #[serde(default)]
    pub success: Success,
    /// How many jobs of this runner run at once.
    #[schemars(range(min = 1, max = 1000))]
    pub running: Option<usize>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// Before each job.
    #[default]
    Always,
    /// When it is not there.
    Missing,
    /// Never.
    Never,
}

/// What says that a container's job went well.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Success {
    /// Its exit code is 0.
    #[default]
    ExitCode,
    /// Its exit code is 0, and its last line is `Process terminated with return code: 0`, as ENAC's runner image ends.
    LastLine,
}

/// The login of a registry.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistryLogin {
    /// The user's name.
    pub username: TextOrSecret,
    /// The password or token.
    pub password: SecretName,
}

impl Runner {
    /// Its arguments.
    pub fn command(&self) -> &[String] {
        match self {
            Self::Process(process) => &process.command,
            Self::Docker(docker) => &docker.command,
        }
    }

    /// The same runner with other arguments.
    pub fn with_command(&self, command: &[String]) -> Self {
        match self.clone() {
            Self::Process(process) => Self::Process(ProcessRunner { command: command.to_vec(), ..process }),
            Self::Docker(docker) => Self::Docker(DockerRunner { command: command.to_vec(), ..docker }),
        }
    }

    /// Its environment variables.
    pub fn env(&self) -> &IndexMap<String, TextOrSecret> {
        match self {
            Self::Process(process) => &process.env,
            Self::Docker(docker) => &docker.env,
        }
    }

    /// How many of its jobs run at once.
    pub fn running(&self) -> Option<usize> {
        match self {
            Self::Process(process) => process.running,
            Self::Docker(docker) => docker.running,
        }
    }

    /// The names of its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.env().values().filter_map(super::named).collect();
        if let Self::Docker(DockerRunner { registry: Some(login), .. }) = self {
            names.push(&login.password.env);
            names.extend(super::named(&login.username));
        }
        names
    }
}
