//! An app before its release: made or found, coupled to its pipeline, with its add-ons.

use super::api::{Answer, Request, judge};
use super::{Deploy, Work};
use crate::config::HerokuAddon;
use crate::error::{Error, Reason, Result};
use crate::tools::wait::{Backoff, spoken};
use reqwest::Method;
use serde_json::{Value, json};

impl Deploy<'_> {
    /// The app as it is, if it is there. Refuses one that takes no images.
    pub(super) async fn app(&self) -> Result<Option<Answer>> {
        let app = &self.work.app;
        let answer = self.api.find(&format!("/apps/{app}")).await.map_err(|error| {
            let is_taken = error.reason == Reason::AuthDenied;
            if is_taken {
                error.hint(format!("{app} belongs to somebody else, or this key may not see it: names are unique on Heroku"))
            } else {
                error
            }
        })?;
        let Some(answer) = answer else { return Ok(None) };
        let stack = answer.text("/stack/name").unwrap_or("container");
        if stack != "container" {
            let sentence = format!("the app {app} has the stack {stack}, which takes no images");
            return Err(Error::new(Reason::TargetInput, sentence).hint(format!("heroku stack:set container -a {app}")));
        }
        Ok(Some(answer))
    }

    /// Makes the app. The name is exact: what has it already is found, never something like it.
    pub(super) async fn create(&self) -> Result<()> {
        let Work { app, target, .. } = self.work;
        let Some(create) = &target.create else {
            let sentence = format!("there is no app {app} on Heroku");
            return Err(Error::new(Reason::TargetMissing, sentence).hint("create it by hand, or let tidegate do it: `create: {team: …}`"));
        };
        let mut body = json!({"name": app, "stack": "container"});
        let fields = [("region", &create.region), ("team", &create.team)];
        for (field, value) in fields.into_iter().filter_map(|(field, value)| Some((field, value.as_ref()?))) {
            let value = self.site.fill(&self.values, value)?;
            crate::targets::set(&mut body, &[field], json!(value));
        }
        let path = if create.team.is_some() { "/teams/apps" } else { "/apps" };
        self.site.note_started(&format!("app {app}")).await?;
        match self.api.expect(&Request::post(path, &body)).await {
            Ok(_made) => {}
            Err(error) if error.lost => {
                // It was not there a moment ago: if it is now, it is ours.
                if self.app().await?.is_none() {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
        self.site.say(&format!("the app {app} is created"));
        Ok(())
    }

    /// Couples the app to its pipeline, or moves it to its stage.
    pub(super) async fn couple(&self) -> Result<()> {
        let Work { app, target, .. } = self.work;
        let Some(wanted) = &target.pipeline else { return Ok(()) };
        let name = self.site.fill(&self.values, &wanted.name)?;
        let pipeline = self.api.find(&format!("/pipelines/{name}")).await?.ok_or_else(|| {
            Error::new(Reason::TargetMissing, format!("there is no pipeline {name} on Heroku"))
                .hint("heroku pipelines:create, or mend `pipeline:`")
        })?;
        let id = pipeline.text("/id").unwrap_or_default().to_owned();
        let stage = wanted.stage.name();
        if let Some(coupling) = self.api.find(&format!("/apps/{app}/pipeline-couplings")).await? {
            if coupling.text("/pipeline/id") != Some(&id) {
                let sentence = format!("the app {app} is in another pipeline than {name}");
                return Err(
                    Error::new(Reason::TargetInput, sentence).hint(format!("heroku pipelines:remove -a {app}, or mend `pipeline:`"))
                );
            }
            if coupling.text("/stage") == Some(stage) {
                return Ok(());
            }
            let path = format!("/pipeline-couplings/{}", coupling.text("/id").unwrap_or_default());
            self.api.expect(&Request::patch(&path, &json!({"stage": stage}))).await?;
        } else {
            let body = json!({"app": app, "pipeline": id, "stage": stage});
            let made = self.api.expect(&Request::post("/pipeline-couplings", &body)).await;
            if let Err(error) = made
                && (!error.lost || self.api.find(&format!("/apps/{app}/pipeline-couplings")).await?.is_none())
            {
                return Err(error);
            }
        }
        self.site.say(&format!("{app} is in the pipeline {name}, stage {stage}"));
        Ok(())
    }

    /// Makes the add-ons that are missing, and waits for all of them.
    pub(super) async fn addons(&self) -> Result<()> {
        let app = &self.work.app;
        for addon in &self.work.target.addons {
            let plan = self.site.fill(&self.values, &addon.plan)?;
            let service = plan.split(':').next().unwrap_or_default().to_owned();
            let there = match self.addon(&service).await? {
                Some(there) => there,
                None => {
                    let made = self.add(&plan, addon).await?;
                    self.site.say(&format!("add-on {plan} of {app}: being made"));
                    match made {
                        Some(made) => made,
                        None => self.addon(&service).await?.ok_or_else(|| {
                            Error::new(Reason::TargetFailed, format!("Heroku took the add-on {plan} for {app}, and it is not there"))
                        })?,
                    }
                }
            };
            self.provisioned(&plan, there).await?;
        }
        Ok(())
    }

    async fn addon(&self, service: &str) -> Result<Option<Value>> {
        let all = self.api.read(&format!("/apps/{}/addons", self.work.app)).await?;
        let is = |addon: &&Value| addon.pointer("/addon_service/name").and_then(Value::as_str) == Some(service);
        Ok(all.list().iter().find(is).cloned())
    }

    /// The answer may be lost: then the list of add-ons tells.
    async fn add(&self, plan: &str, addon: &HerokuAddon) -> Result<Option<Value>> {
        let mut body = json!({"plan": plan});
        if !addon.config.is_empty() {
            crate::targets::set(&mut body, &["config"], json!(addon.config));
        }
        match self.api.expect(&Request::post(&format!("/apps/{}/addons", self.work.app), &body)).await {
            Ok(answer) => Ok(Some(answer.body)),
            Err(error) if error.lost => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn provisioned(&self, plan: &str, mut addon: Value) -> Result<()> {
        let (clock, limit) = (&self.site.world.clock, self.work.target.timeout.0);
        let begun = clock.now();
        let mut pauses = Backoff::new(super::PAUSES.0, super::PAUSES.1);
        let text = |addon: &Value, name: &str| addon.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        loop {
            match text(&addon, "state").as_str() {
                "provisioned" => return Ok(()),
                "deprovisioned" => {
                    let sentence = format!("the add-on {plan} of {} could not be made, or was removed", self.work.app);
                    return Err(Error::new(Reason::TargetFailed, sentence).hint("is the plan right, and may this account have it?"));
                }
                state if clock.now().saturating_sub(begun) >= limit => {
                    let sentence = format!("the add-on {plan} of {} is still {state} after {}", self.work.app, spoken(limit));
                    return Err(Error::new(Reason::TargetTimeout, sentence).hint("it goes on there; run this again later"));
                }
                _provisioning => {}
            }
            self.api.sleep(self.api.pause(pauses.pause())).await?;
            let path = format!("/apps/{}/addons/{}", self.work.app, text(&addon, "id"));
            addon = self.api.read(&path).await?.body;
        }
    }

    /// Switches maintenance mode.
    pub(super) async fn maintenance(&self, on: Switch) -> Result<()> {
        let body = json!({"maintenance": on == Switch::On});
        let answer = self.api.expect(&Request::patch(&format!("/apps/{}", self.work.app), &body)).await?;
        if answer.body.get("maintenance") == body.get("maintenance") {
            return Ok(());
        }
        Err(Error::new(
            Reason::TargetFailed,
            format!("Heroku took the switch of {}'s maintenance mode, and it is as before", self.work.app),
        ))
    }

    /// Deletes the app, and looks whether it is gone.
    pub(super) async fn delete(&self) -> Result<()> {
        let path = format!("/apps/{}", self.work.app);
        let request = Request { method: Method::DELETE, ..Request::get(&path) };
        let answer = self.api.send(&request).await?;
        if answer.status != 404 {
            judge(answer, &request)?;
        }
        match self.api.find(&path).await? {
            None => Ok(()),
            Some(_) => {
                Err(Error::new(Reason::TargetFailed, format!("Heroku says that the app {} is deleted, and it is there", self.work.app)))
            }
        }
    }
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}
