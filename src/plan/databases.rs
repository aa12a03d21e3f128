//! The part of a plan about databases: what is saved before anything changes, what fills an empty one, and migrations. Pure.

use super::recipes::Builder;
use super::switch::{ALWAYS, every_name, every_text};
use super::{EcsWork, MigrateRun, MigrateWork, Plan, SeedWork, Work};
use crate::backup::{self, archive, bucket::Place, name};
use crate::config::{
    self, Backup, Environment, KubernetesJob, Loaded, Migrate, MigrateWhen, RestoreInto, Runner, Source, Target, template::Values,
};
use crate::context::{Decision, Outcome};
use crate::error::{Error, Reason, Result};
use crate::event::Event;
use crate::gates;
use crate::targets::{self, kubernetes};
use crate::variables::{self, Variables};

/// What is saved of an environment, or what is restored there: both outside of a delivery.
pub fn databases(
    event: &Event,
    loaded: &Loaded,
    environment: &str,
    variables: &Variables,
    ask: Databases<'_>,
) -> Result<(Vec<backup::Work>, Option<SeedWork>)> {
    let config = &loaded.config;
    let Some((name, rules)) = config.environments.get_key_value(environment) else {
        return Err(crate::context::unknown_environment(config, environment));
    };
    let mut decision = Decision { environment: Some(name.clone()), ..Decision::none(Outcome::Deploy, Reason::Planned, String::new()) };
    decision.commit.clone_from(&event.sha);
    let values = variables::values(event, config, &decision, variables);
    let mut plan = Plan::empty(Outcome::Deploy, Reason::Planned, String::new());
    let builder = Builder { event, loaded, config, name, rules, values, decision: &decision, plan: &mut plan };
    match ask {
        Databases::Saved => Ok((builder.backups_of(name, rules)?, None)),
        Databases::Restored { from, app, elsewhere } => {
            let mut restore = rules.restore.clone().unwrap_or_default();
            if elsewhere && restore.into.is_none() && rules.backups().is_empty() {
                let from = from.or(restore.from.as_deref()).and_then(|from| config.environments.get(from));
                restore.into = from.and_then(|from| config::RestoreInto::of(from.backups().first()?)); // of the same kind
            }
            let work = builder.restore_of((name, rules), &restore, (from, app))?;
            Ok((builder.backups_of(name, rules)?, Some(work)))
        }
    }
}

/// What is asked about the databases of an environment.
#[derive(Clone, Copy, Debug)]
pub enum Databases<'a> {
    /// What is saved.
    Saved,
    /// What is restored, from whose backup.
    Restored {
        /// The environment, named by hand.
        from: Option<&'a str>,
        /// The database, where there are several.
        app: Option<&'a str>,
        /// Whether it goes to an address by hand.
        elsewhere: bool,
    },
}

impl Builder<'_> {
    /// What comes before the switch, one after another; the last step. Going back saves and migrates nothing.
    pub(super) fn before_the_switch(&mut self, before: &[String]) -> Result<Option<String>> {
        let mut previous: Option<String> = None;
        if self.plan.is_back {
            return Ok(previous);
        }
        let after = |previous: &Option<String>| before.iter().cloned().chain(previous.clone()).collect::<Vec<_>>();
        let rules = self.rules;
        for archive in rules.archives() {
            previous = Some(self.archive(archive, after(&previous))?);
        }
        if let Some(restore) = rules.restore.as_ref().filter(|restore| restore.seed == Some(MigrateWhen::Before)) {
            previous = Some(self.seed(restore, after(&previous))?);
        }
        if !rules.backups().is_empty() && !self.lifts(gates::Gate::Backup) {
            for work in self.backups_of(self.name, rules)? {
                let id = self.numbered("backup");
                let what = work.backup.source().map(Source::spoken).unwrap_or_default();
                let title = format!("save {what} to {}", work.place);
                self.step(&id, title, after(&previous), Work::Backup(Box::new(work)));
                previous = Some(id);
            }
        }
        for migrate in rules.migrations().iter().filter(|migrate| migrate.when == MigrateWhen::Before) {
            previous = Some(self.migrate(migrate, after(&previous))?);
        }
        Ok(previous)
    }

    /// What comes after the switch.
    pub(super) fn after_the_switch(&mut self) -> Result<()> {
        if self.plan.is_back {
            return Ok(());
        }
        let rules = self.rules;
        if let Some(restore) = rules.restore.as_ref().filter(|restore| restore.seed == Some(MigrateWhen::After)) {
            self.seed(restore, self.step_ids())?;
        }
        for migrate in rules.migrations().iter().filter(|migrate| migrate.when == MigrateWhen::After) {
            self.migrate(migrate, self.step_ids())?;
        }
        Ok(())
    }

    /// migrate, then migrate.2.
    fn numbered(&self, base: &str) -> String {
        let is_free = |id: &String| self.plan.steps.iter().all(|step| step.id != *id);
        let numbers = (2..).map(|number| format!("{base}.{number}"));
        std::iter::once(base.to_owned()).chain(numbers).find(is_free).unwrap_or_else(|| base.to_owned())
    }

    fn archive(&mut self, archive: &config::Archive, after: Vec<String>) -> Result<String> {
        let folder = self.fill("archive.folder", &archive.folder)?;
        let place = self.bucket("archive.to", &archive.to, &self.values)?;
        let id = self.numbered("archive");
        let title = format!("keep {folder} in {place}");
        let work = archive::Work { archive: archive.clone(), folder, place, aws: self.aws() };
        self.step(&id, title, after, Work::Archive(Box::new(work)));
        Ok(id)
    }

    fn seed(&mut self, restore: &config::Restore, after: Vec<String>) -> Result<String> {
        let work = self.restore_of((self.name, self.rules), restore, (None, None))?;
        let id = self.numbered("seed");
        let title = format!("fill {} from the newest backup of {}, if it is empty", work.into.source().spoken(), work.environment);
        self.step(&id, title, after, Work::Seed(Box::new(work)));
        Ok(id)
    }

    /// The restore of an environment: from whose backup, into what. `from` and `app` are named by hand.
    pub(super) fn restore_of(
        &self,
        (name, rules): (&str, &Environment),
        restore: &config::Restore,
        (from, app): (Option<&str>, Option<&str>),
    ) -> Result<SeedWork> {
        let from = from.or(restore.from.as_deref()).unwrap_or(name);
        let missing = |sentence: String| Error::new(Reason::InputBackup, sentence);
        let Some((from, source)) = self.config.environments.get_key_value(from) else {
            return Err(crate::context::unknown_environment(self.config, from));
        };
        let all = self.backups_of(from, source)?;
        let Some(first) = all.first() else {
            return Err(
                missing(format!("{from} has no backups: tidegate.yml gives it no `backup:`")).hint("name another one with --from ENV")
            );
        };
        let at = match app {
            None => 0,
            Some(app) => all.iter().position(|work| work.app() == app).ok_or_else(|| {
                let known: Vec<&str> = all.iter().map(backup::Work::app).collect();
                missing(format!("{from} has no database {app}")).hint(format!("it has {}", known.join(", ")))
            })?,
        };
        let saved = all.get(at).unwrap_or(first).clone();
        let own = || rules.backups().get(at).and_then(RestoreInto::of);
        let into = restore.into.clone().or_else(own);
        let into = into.ok_or_else(|| {
            missing(format!("it is not said which database of {name} is restored"))
                .hint("add `restore: {into: …}` or `backup:` to it, or write --into URL")
        })?;
        let into = match into {
            RestoreInto::HerokuPostgres(heroku) => RestoreInto::HerokuPostgres(self.heroku_app(&heroku, &self.values)?),
            other @ (RestoreInto::Postgres(_) | RestoreInto::Mysql(_) | RestoreInto::Command(_)) => other,
        };
        Ok(SeedWork { from: saved, environment: from.clone(), into, restore: restore.clone() })
    }

    /// The backups of an environment, which need not be the one of this plan.
    pub(super) fn backups_of(&self, name: &str, rules: &Environment) -> Result<Vec<backup::Work>> {
        let mut works = Vec::new();
        for (index, backup) in rules.backups().iter().enumerate() {
            works.push(self.backup((name, rules), index, backup)?);
        }
        Ok(works)
    }

    fn backup(&self, (name, rules): (&str, &Environment), index: usize, backup: &Backup) -> Result<backup::Work> {
        let mut values = self.values.clone();
        values.set("environment", Some(name.to_owned()));
        values.set("commit", self.decision.commit.clone());
        let fill = |text: &str, values: &Values| {
            values.fill(text).map_err(|why| {
                Error::new(Reason::ConfigInvalid, format!("environments.{name}.backup: {why}")).hint("use another placeholder here")
            })
        };
        let mut backup = backup.clone();
        if let Some(heroku) = &backup.heroku_postgres {
            backup.heroku_postgres = Some(self.heroku_app(heroku, &values)?);
        }
        if let Some(command) = &mut backup.command {
            for word in command.run.iter_mut().chain(command.restore.iter_mut()) {
                *word = fill(word, &values)?;
            }
            for value in command.env.values_mut() {
                if let config::TextOrSecret::Text(text) = value {
                    *text = fill(text, &values)?;
                }
            }
        }
        let app = match (&backup.app, &backup.heroku_postgres) {
            (Some(app), _) => fill(app, &values)?,
            (None, Some(heroku)) => heroku.app.clone(),
            (None, None) => self.usual_app((name, rules), index, &values)?,
        };
        values.set("app", Some(name::safe(&app)));
        let place = self.bucket("backup.to", &backup.to, &values)?;
        let template = name::template(backup.name.as_deref(), &backup.to);
        let known = format!("{template}{{project}}{{environment}}{{app}}{{version}}{{commit}}{{branch_slug}}{{branch}}{{tag}}");
        let values = values.used_by([known.as_str()]);
        Ok(backup::Work { backup, place, name: template, values, aws: self.aws_of(rules) })
    }

    /// The one app of Heroku that is deployed to; otherwise project and environment. A second database has a number.
    fn usual_app(&self, (name, rules): (&str, &Environment), index: usize, values: &Values) -> Result<String> {
        let mut apps = rules.deploy.iter().filter_map(|target| if let Target::Heroku(heroku) = target { Some(&heroku.app) } else { None });
        let base = match (apps.next(), apps.next()) {
            (Some(app), None) => targets::heroku::app_name(&values.fill(app).map_err(|why| Error::new(Reason::ConfigInvalid, why))?),
            (_, _) => format!("{}-{name}", self.config.project),
        };
        Ok(if index == 0 { base } else { format!("{base}-{}", index + 1) })
    }

    fn heroku_app(&self, heroku: &config::HerokuPostgres, values: &Values) -> Result<config::HerokuPostgres> {
        let app =
            values.fill(&heroku.app).map_err(|why| Error::new(Reason::ConfigInvalid, format!("the Heroku app of a backup: {why}")))?;
        Ok(config::HerokuPostgres { app: targets::heroku::app_name(&app), ..heroku.clone() })
    }

    fn bucket(&self, path: &str, to: &str, values: &Values) -> Result<Place> {
        let wrong = |why: String| {
            let path = format!("environments.{}.{path}", self.name);
            self.loaded.error(Reason::ConfigInvalid, vec![(path, why, "look at the values of this run".to_owned())])
        };
        Place::parse(&values.fill(to).map_err(wrong)?).map_err(wrong)
    }

    fn migrate(&mut self, migrate: &Migrate, after: Vec<String>) -> Result<String> {
        let id = self.numbered("migrate");
        let (run, texts, title) = match &migrate.run {
            Runner::KubernetesJob(job) => {
                let work = self.kubernetes_job(job)?;
                let mut texts: Vec<String> = job.command.iter().chain(job.env.values()).chain(&job.manifest).cloned().collect();
                self.check_filled(&texts)?;
                if job.manifest.is_some() {
                    texts.push(every_name(self.config));
                }
                let what = if job.command.is_empty() { job.manifest.clone().unwrap_or_default() } else { self.shown(&job.command) };
                let title = format!("migrate: a job in {} runs {what}", work.namespace);
                (MigrateRun::KubernetesJob(Box::new(work)), texts, title)
            }
            Runner::HerokuRun(run) => {
                let texts = every_text(run.as_ref());
                self.check_filled(&texts)?;
                let app = targets::heroku::app_name(&self.fill("migrate.run.heroku-run", &run.app)?);
                let title = format!("migrate: a dyno of {app} runs {}", self.shown(&run.command));
                (MigrateRun::HerokuRun(Box::new(config::HerokuRun { app, ..run.as_ref().clone() })), texts, title)
            }
            Runner::EcsTask(run) => {
                let texts = every_text(run.as_ref());
                self.check_filled(&texts)?;
                let place =
                    format!("{}/{}", self.fill("migrate.run.ecs-task", &run.cluster)?, self.fill("migrate.run.ecs-task", &run.service)?);
                let title = format!("migrate: a task of {place} runs {}", self.shown(&run.command));
                let image = self.image_name(run.image.as_deref()).unwrap_or_default();
                (MigrateRun::EcsTask(Box::new(EcsWork { run: run.as_ref().clone(), image, aws: self.aws() })), texts, title)
            }
            Runner::Command(command) => {
                let mut texts = every_text(command.as_ref());
                self.check_filled(&texts)?;
                texts.push(ALWAYS.into());
                (MigrateRun::Command(command.clone()), texts, format!("migrate: {}", self.shown(&command.run)))
            }
        };
        let values = self.values.used_by(texts.iter().map(String::as_str));
        self.step(
            &id,
            title,
            after,
            Work::Migrate(Box::new(MigrateWork { run, breaks: !migrate.backward_compatible, on_failure: migrate.on_failure, values })),
        );
        Ok(id)
    }

    fn kubernetes_job(&self, job: &KubernetesJob) -> Result<kubernetes::job::Work> {
        let namespace = self.namespace("migrate.run.kubernetes-job", &job.namespace)?;
        let from = job.from.as_ref().map(|from| self.workload(from)).transpose()?;
        let image = self.image_name(job.image.as_deref()).unwrap_or_default();
        Ok(kubernetes::job::Work { target: job.clone(), namespace, from, image, aws: self.aws() })
    }
}
