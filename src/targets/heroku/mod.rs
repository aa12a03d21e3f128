//! Heroku: the digest that was built, copied to the app's own registry, released, and followed to the dynos that run it.

use super::{Life, Settled, Site, Work as Target, live};
use crate::config::{self, template::Values};
use crate::error::{Error, Reason, Result};
use crate::world::World;
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) mod api;
mod app;
mod dynos;
mod images;
mod one_off;
pub(super) mod previews;
mod release;
mod rendezvous;
mod vars;

use api::{Api, Request};
use app::Switch;
pub use one_off::run_off;
use release::Release;
pub use release::version_in;

/// How long the first pause between two looks is, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long switching maintenance mode off may take after a failure: the CI system may kill us soon.
const OFF_LIMIT: Duration = Duration::from_millis(1500);

/// A target with everything filled that is known beforehand.
#[derive(Clone, Debug, Serialize)]
pub struct Work {
    /// The target's part of the configuration.
    pub target: config::Heroku,
    /// The app's name.
    pub app: String,
    /// Process types and the images they run, by key.
    pub processes: Vec<(String, String)>,
    /// The AWS role that the images are read with.
    pub aws: config::Aws,
}

/// The name of an app: as it is, or made one that Heroku takes. Different texts never become the same name.
pub fn app_name(text: &str) -> String {
    const LIMIT: usize = 30;
    if is_app_name(text) {
        return text.to_owned();
    }
    if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return app_name(&format!("App-{text}")); // in capitals, so that it ends with a hash of its own
    }
    let plain = crate::version::slug(&text.to_lowercase(), LIMIT);
    if plain == text || text.to_lowercase() == text {
        return plain; // as it is, or with a hash of the text already
    }
    let hashed = crate::version::slug(text, LIMIT);
    let hash = hashed.rsplit('-').next().unwrap_or_default();
    let head: String = plain.chars().take(LIMIT - 1 - hash.len()).collect();
    format!("{}-{hash}", head.trim_end_matches('-'))
}

/// Whether Heroku takes this name: `^[a-z][a-z0-9-]{1,28}[a-z0-9]$`.
pub fn is_app_name(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (3..=30).contains(&text.len()) && text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-') && text.chars().all(fine)
}

/// Refuses a secret that is not there, before anything is built. Those of other environments and branches are not looked at.
pub fn check(world: &World, target: &Target, work: &Work) -> Result<()> {
    super::secret(world, &work.target.token.env, "the API key of Heroku")?;
    let named = vars::layers(&target.values, &work.target.config).into_iter().flat_map(|layer| layer.values());
    let mut secrets = named.flatten().filter_map(config::TextOrSecret::secret_name);
    secrets.try_for_each(|name| super::secret(world, name, "a config var").map(drop))
}

/// Deploys, and proves that it runs.
pub async fn deploy(site: &Site<'_>, target: &Target, work: &Work) -> Result<Settled> {
    let deploy = Deploy::new(site, site.values(&target.values), work)?;
    let outcome = live(&deploy, target.rollback, site.world).await;
    match outcome {
        Err(error) => Err(deploy.after_failure(error).await),
        settled => settled,
    }
}

/// The proof that it runs already: the release that this delivery made is the app's, and its dynos are up.
pub async fn runs(site: &Site<'_>, target: &Target, work: &Work) -> Result<Option<Settled>> {
    let Some(version) = release::version_in(site.memory.started().await.as_deref()) else { return Ok(None) };
    let deploy = Deploy::new(site, site.values(&target.values), work)?;
    let Some(release) = deploy.current().await?.filter(|release| release.version == version) else { return Ok(None) };
    let has = deploy.config_vars().await?;
    if vars::difference(&has, &vars::wanted(site, &deploy.values, &work.target.config)?).is_some() || !deploy.has_images().await? {
        return Ok(None);
    }
    let look = deploy.dynos(release.version).await?;
    Ok(look.are_up().then(|| deploy.settled(release.version, &look)))
}

/// Whether the app is there, or can be made. Changes nothing.
pub async fn look(site: &Site<'_>, target: &Target, work: &Work) -> Result<String> {
    let deploy = Deploy::new(site, site.values(&target.values), work)?;
    let app = &work.app;
    match (deploy.app().await?, &work.target.create) {
        (Some(_), _) => {
            let release = deploy.current().await?.map_or("nothing yet".to_owned(), |release| format!("v{}", release.version));
            Ok(format!("the Heroku app {app} is there and runs {release}"))
        }
        (None, Some(_)) => Ok(format!("there is no Heroku app {app} yet: a delivery makes it")),
        (None, None) => deploy.create().await.map(|()| String::new()), // says that it is missing
    }
}

/// Deletes the app of a closed pull request, if tidegate made it for that; what is gone.
pub async fn remove(site: &Site<'_>, work: &Work) -> Result<Option<String>> {
    let deploy = Deploy::new(site, Values::default(), work)?;
    let app = &work.app;
    if deploy.api.find(&format!("/apps/{app}")).await?.is_none() {
        return Ok(None);
    }
    let has = deploy.config_vars().await?;
    if has.get(vars::OWNER).and_then(Value::as_str) != Some(&site.owner) {
        site.say(&format!("the app {app} was not made by tidegate for this pull request (config var {}): it stays", vars::OWNER));
        return Ok(None);
    }
    let repository = has.get(vars::REPOSITORY).and_then(Value::as_str);
    super::previews::check_repository(site, repository, &format!("the app {app} (config var {})", vars::REPOSITORY))?;
    deploy.delete().await?;
    Ok(Some(format!("the Heroku app {app} is deleted, with its add-ons")))
}

/// One deploy to one app.
struct Deploy<'a> {
    site: &'a Site<'a>,
    values: Values,
    work: &'a Work,
    api: Api<'a>,
    /// Whether we switched maintenance mode on.
    in_maintenance: AtomicBool,
    /// Whether what runs is another than before, as far as we know.
    is_between: AtomicBool,
}

/// What was there.
struct Before {
    /// Whether the app is there.
    exists: bool,
    /// What runs.
    current: Option<Release>,
}

/// What was begun.
#[derive(Default)]
struct Started {
    /// Whether config vars were changed.
    configured: bool,
    /// The release that came of that.
    config: Option<u64>,
    /// The release that was made, or that had the images already.
    release: Option<Release>,
    /// Whether the run before made it: then it is not known what ran before that.
    is_resumed: bool,
    /// Whether it runs: a release phase that fails leaves the one before running.
    succeeded: AtomicBool,
}

impl Life for Deploy<'_> {
    type Before = Before;
    type Started = Started;

    async fn read(&self) -> Result<Before> {
        vars::wanted(self.site, &self.values, &self.work.target.config)?; // all of it is there
        if self.app().await?.is_none() {
            if self.work.target.create.is_none() {
                self.create().await?; // says that it is missing
            }
            return Ok(Before { exists: false, current: None });
        }
        let has = self.config_vars().await?;
        vars::check_owner(&has, &self.work.app, &self.site.owner)?;
        Ok(Before { exists: true, current: self.current().await? })
    }

    async fn start(&self, before: &mut Before, started: &mut Started) -> Result<()> {
        tokio::select! {
            begun = self.begin(before, started) => begun,
            () = self.site.world.cancel.cancelled() => Err(Error::new(Reason::Cancelled, format!("cancelled while {} was deployed", self.work.app))),
        }
    }

    async fn settle(&self, _before: &Before, started: &Started) -> Result<Settled> {
        let release = started.release.as_ref().ok_or_else(|| Error::new(Reason::Internal, "a release that was not made"))?;
        let release = self.follow(release).await?;
        started.succeeded.store(true, Ordering::SeqCst);
        self.scale().await?;
        let look = self.up(release.version).await?;
        self.confirm(release.version).await?;
        let mut settled = self.settled(release.version, &look);
        if self.work.target.maintenance
            && let Err(error) = self.end_maintenance().await
        {
            // It runs: going back would take a good release away.
            let app = &self.work.app;
            self.site
                .world
                .console
                .warning(&format!("{app} is still in maintenance mode ({}): heroku maintenance:off -a {app}", error.sentence));
            settled.detail.push_str("; STILL IN MAINTENANCE MODE");
        }
        Ok(settled)
    }

    fn has_changed(&self, started: &Started) -> bool {
        let waits = self.is_between.load(Ordering::SeqCst) && !started.succeeded.load(Ordering::SeqCst);
        !started.is_resumed && !waits && (started.configured || started.succeeded.load(Ordering::SeqCst))
    }

    async fn back(&self, before: &Before, started: &Started) -> Result<String> {
        let Some(release) = &before.current else { return Ok(String::new()) };
        let newest = self.newest().await?.map_or(0, |release| release.version);
        let ours = started.release.as_ref().map(|release| release.version).or(started.config);
        if ours.is_some_and(|ours| newest > ours) {
            let sentence = format!("v{newest} of {} is somebody else's, and is not undone", self.work.app);
            return Err(Error::new(Reason::TargetWrongDigest, sentence));
        }
        let body = json!({"release": release.id});
        let path = format!("/apps/{}/releases", self.work.app);
        let words = format!("Rollback to v{}", release.version);
        match self.api.expect(&Request::post(&path, &body)).await {
            Err(error) if !error.lost => return Err(error),
            _asked => {}
        }
        let made = self.newer_than(newest, &|made| made.description.starts_with(&words)).await?;
        let made =
            made.ok_or_else(|| Error::new(Reason::TargetFailed, format!("Heroku made no release that goes back to v{}", release.version)))?;
        let made = self.follow(&made).await?;
        self.up(made.version).await?;
        self.is_current(made.version).await?;
        Ok(format!("{} runs v{} again, as v{}", self.work.app, release.version, made.version))
    }

    async fn stop(&self, started: &Started) -> Option<String> {
        match &started.release {
            Some(release) => Some(format!("the release v{} ({}) goes on at Heroku", release.version, release.id)),
            None if self.is_between.load(Ordering::SeqCst) => {
                Some(format!("a release may have been made, and goes on then: heroku releases -a {}", self.work.app))
            }
            None => None,
        }
    }
}

impl<'a> Deploy<'a> {
    fn new(site: &'a Site<'a>, values: Values, work: &'a Work) -> Result<Self> {
        let api = Api::open(site.world, &work.target.token.env)?;
        Ok(Self { site, values, work, api, in_maintenance: AtomicBool::new(false), is_between: AtomicBool::new(false) })
    }

    /// Everything up to the release. Nothing that runs is touched before the images are there.
    async fn begin(&self, before: &mut Before, started: &mut Started) -> Result<()> {
        let is_new = !before.exists;
        if is_new {
            self.create().await?;
            before.exists = true;
        }
        self.claim(is_new).await.map_err(|error| {
            let app = &self.work.app;
            if is_new {
                error.hint(format!("the app {app} was made, and is not marked as ours: heroku apps:destroy -a {app}, then run this again"))
            } else {
                error
            }
        })?;
        self.couple().await?;
        self.addons().await?;
        let images = self.copy().await?;
        if self.work.target.maintenance {
            self.in_maintenance.store(true, Ordering::SeqCst); // also when the answer is lost
            self.maintenance(Switch::On).await?;
            self.site.say(&format!("{} is in maintenance mode", self.work.app));
        }
        self.configure(started).await?;
        if let Some(release) = self.resumed(&images).await? {
            self.is_between.store(true, Ordering::SeqCst);
            started.is_resumed = true;
            started.release = Some(release);
            return Ok(());
        }
        started.release = Some(self.release(&images).await?);
        Ok(())
    }

    /// Writes down whose app it is, when we made it: now, or in the run before that was killed.
    async fn claim(&self, is_new: bool) -> Result<()> {
        let made = is_new || self.site.memory.started().await.is_some_and(|handle| handle == format!("app {}", self.work.app));
        let app = &self.work.app;
        if made && self.config_vars().await?.get(vars::OWNER).is_none() {
            let body = json!({vars::OWNER: self.site.owner, vars::REPOSITORY: self.site.forge.repository()});
            self.api.expect(&Request::patch(&format!("/apps/{app}/config-vars"), &body)).await?;
        }
        Ok(())
    }

    /// Their values may stand in what the app says: those that look like secrets are masked.
    async fn config_vars(&self) -> Result<Value> {
        let vars = self.api.read(&format!("/apps/{}/config-vars", self.work.app)).await?.body;
        for (name, value) in vars.as_object().into_iter().flatten() {
            if let Some(value) = value.as_str().filter(|value| vars::is_secret(name, value)) {
                self.site.world.console.mask(&crate::tools::secret::Secret::new(value));
            }
        }
        Ok(vars)
    }

    async fn configure(&self, started: &mut Started) -> Result<()> {
        let wanted = vars::wanted(self.site, &self.values, &self.work.target.config)?;
        let Some((patch, said)) = vars::difference(&self.config_vars().await?, &wanted) else {
            // The run before may have changed them, and not have seen the end of that.
            let newest = self.newest().await?.filter(|release| release.status == "pending" && !release.description.starts_with("Deployed"));
            return self.follow_config(newest, started).await;
        };
        let before = self.newest().await?.map_or(0, |release| release.version);
        let asked = self.api.expect(&Request::patch(&format!("/apps/{}/config-vars", self.work.app), &patch)).await;
        started.configured = asked.as_ref().err().is_none_or(|error| error.lost);
        asked?;
        self.site.say(&format!("config vars of {}: {said}", self.work.app));
        let there = self.config_vars().await?;
        match vars::difference(&there, &wanted) {
            None => {
                let made = self.oldest_since(before).await?;
                self.follow_config(made, started).await
            }
            Some((_, said)) => {
                let sentence = format!("Heroku took the config vars of {}, and they are not so: it still {said}", self.work.app);
                Err(Error::new(Reason::TargetWrongDigest, sentence).hint("does an add-on own them?"))
            }
        }
    }

    /// Heroku makes a release of a change of config vars too, whose release phase runs what is there already.
    async fn follow_config(&self, made: Option<Release>, started: &mut Started) -> Result<()> {
        let Some(made) = made else { return Ok(()) };
        started.config = Some(made.version);
        self.site.say(&format!("the change of config vars is v{} of {}", made.version, self.work.app));
        self.is_between.store(true, Ordering::SeqCst); // while it is pending nobody goes back
        self.follow(&made).await?;
        self.is_between.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn settled(&self, version: u64, look: &dynos::Look) -> Settled {
        let url = format!("https://dashboard.heroku.com/apps/{}/activity", self.work.app);
        Settled::deployed(format!("{} runs v{version}: {look}", self.work.app), Some(url))
    }

    async fn end_maintenance(&self) -> Result<()> {
        self.maintenance(Switch::Off).await?;
        self.in_maintenance.store(false, Ordering::SeqCst);
        self.site.say(&format!("{} is out of maintenance mode", self.work.app));
        Ok(())
    }

    /// What is known to run again is shown again; what is not stays behind the maintenance page, and that is said.
    async fn after_failure(&self, mut error: Error) -> Error {
        if !self.in_maintenance.load(Ordering::SeqCst) {
            return error;
        }
        let runs_again = error.reason == Reason::TargetRolledBack || !self.is_between.load(Ordering::SeqCst);
        let off = async { runs_again && matches!(tokio::time::timeout(OFF_LIMIT, self.maintenance(Switch::Off)).await, Ok(Ok(()))) };
        let said = match off.await {
            true => format!("{} is out of maintenance mode", self.work.app),
            false => {
                format!("{app} stays in maintenance mode; when it runs as it should: heroku maintenance:off -a {app}", app = self.work.app)
            }
        };
        error.detail.push(said);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::app_name;

    #[test]
    fn names_fit_and_never_become_the_same() {
        assert_eq!(app_name("joplin-staging"), "joplin-staging");
        let names = [
            "joplin-pr-Feature",
            "joplin-pr-feature",
            "joplin-pr-feature_",
            "joplin-pr-a-very-long-branch-name-1",
            "joplin-pr-a-very-long-branch-name-2",
        ];
        let made: std::collections::BTreeSet<String> = names.iter().map(|name| app_name(name)).collect();
        assert_eq!(made.len(), names.len(), "{made:?}");
        for name in made {
            assert!(
                name.len() <= 30
                    && name.starts_with("joplin-pr-")
                    && !name.ends_with('-')
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                "{name}"
            );
        }
    }
}
