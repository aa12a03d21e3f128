//! Rules of `app_deploy:` that go across keys.

use super::check::Checker;
use super::{AppDeploy, Proof, TextOrSecret};

impl Checker<'_> {
    pub(super) fn app_deploy(&mut self, path: &str, app: &AppDeploy) {
        self.address(&format!("{path}.url"), &app.url);
        if app.url.contains(['?', '#']) {
            self.report(&format!("{path}.url"), "the paths of the server are added to this address", "write it as https://cd.example.com");
        }
        if app.url.trim_end_matches('/').ends_with("/app-deploy") {
            self.report(&format!("{path}.url"), "/app-deploy/ is added by tidegate", "write the address as https://cd.example.com");
        }
        if let TextOrSecret::Text(id) = &app.deployment_id {
            let at = format!("{path}.deployment-id");
            self.late_placeholders(&at, id);
            if id.trim().is_empty() {
                self.report(&at, "the id is empty", "write the deployment's id as the server has it, or `{env: NAME}`");
            }
        }
        if let Some(proof) = &app.proof {
            self.proof(&format!("{path}.proof"), proof);
            if matches!(proof, Proof::Answer(_)) {
                self.report(&format!("{path}.proof"), "a job names no version in its answer", "use `command` or `http` here");
            }
        }
        self.timeout(path, app.timeout);
        let at = format!("{path}.interval");
        if app.interval.0.is_zero() {
            self.report(&at, "without a pause the server would be asked all the time", "write a length such as 2s");
        } else if app.interval.0 >= app.timeout.0 && !app.timeout.0.is_zero() {
            let (interval, timeout) = (app.interval, app.timeout);
            self.report(&at, format!("a pause of {interval} is not shorter than the timeout, {timeout}"), "write a length such as 2s");
        }
    }
}

impl AppDeploy {
    /// The environment variables that hold its secrets.
    pub fn secret_names(&self) -> Vec<&str> {
        std::iter::once(self.deployment_secret.env.as_str()).chain(self.deployment_id.secret_name()).collect()
    }
}
