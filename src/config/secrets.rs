//! Which parts of the configuration are secrets: only ever the names of the environment variables that hold them.

use super::{CommandRun, Login, Migrate, Runner, SecretName, Target, TextOrSecret, WebhookAuth};
use serde_json::Value;

impl Target {
    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        match self {
            Self::Kubernetes(kubernetes) => {
                kubernetes.gitops.iter().filter_map(|gitops| gitops.token.as_ref()).map(|token| token.env.as_str()).collect()
            }
            Self::Swarm(swarm) => {
                let tls = swarm.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
                let ssh = swarm.ssh.iter().flat_map(|ssh| [&ssh.key, &ssh.known_hosts]);
                tls.chain(ssh).chain(swarm.secrets.values()).map(|secret| secret.env.as_str()).collect()
            }
            Self::Awx(awx) => {
                let own = awx.token.iter().chain(awx.login.iter().flat_map(of_login)).map(|secret| secret.env.as_str());
                own.chain(awx.extra_vars.values().filter_map(secret_of)).collect()
            }
            Self::Command(command) => command.secret_names(),
            Self::Webhook(webhook) => {
                let mut names = match &webhook.auth {
                    Some(WebhookAuth::Hmac(secret) | WebhookAuth::Bearer(secret)) => vec![secret.env.as_str()],
                    Some(WebhookAuth::Basic(login)) => of_login(login).map(|secret| secret.env.as_str()).to_vec(),
                    None => Vec::new(),
                };
                if let TextOrSecret::Secret(secret) = &webhook.url {
                    names.push(&secret.env);
                }
                names
            }
            Self::Heroku(heroku) => heroku.secret_names(),
            Self::Ecs(_) => Vec::new(),
            Self::AppDeploy(app) => app.secret_names(),
        }
    }
}

impl Migrate {
    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        match &self.run {
            Runner::KubernetesJob(_) | Runner::EcsTask(_) => Vec::new(),
            Runner::HerokuRun(run) => run.secret_names(),
            Runner::Command(command) => command.secret_names(),
        }
    }
}

impl CommandRun {
    fn secret_names(&self) -> Vec<&str> {
        self.env.values().filter_map(TextOrSecret::secret_name).collect()
    }
}

impl TextOrSecret {
    /// The text; nothing of a secret.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Secret(_) => "",
        }
    }

    /// The environment variable, if it is a secret.
    pub fn secret_name(&self) -> Option<&str> {
        match self {
            Self::Secret(secret) => Some(&secret.env),
            Self::Text(_) => None,
        }
    }
}

fn of_login(login: &Login) -> [&SecretName; 2] {
    [&login.username, &login.password]
}

/// `{env: NAME}` as the value of an extra variable.
pub fn secret_of(value: &Value) -> Option<&str> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.get("env")?.as_str()
}
