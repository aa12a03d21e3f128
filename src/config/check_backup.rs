//! Rules of `backup:`, `restore:` and `archive:` that go across keys.

use super::check::{Checker, at_index};
use super::template;
use super::{Archive, Backup, BackupCommand, Compress, Environment, MigrateWhen, Restore, Scrub, Source, TextOrSecret};
use crate::backup::bucket::Place;

/// Arguments of dump programs that would send the dump elsewhere, or say what tidegate says.
const TAKEN: [&str; 22] = [
    "-f",
    "--file",
    "-F",
    "--format",
    "-Z",
    "--compress",
    "-d",
    "--dbname",
    "-h",
    "--host",
    "-p",
    "--port",
    "-U",
    "--username",
    "-W",
    "--password",
    "-j",
    "--jobs",
    "-r",
    "--result-file",
    "--defaults-extra-file",
    "--defaults-file",
];

impl Checker<'_> {
    /// Everything about the databases of an environment.
    pub(super) fn databases(&mut self, path: &str, name: &str, rules: &Environment) {
        for (index, backup) in rules.backups().iter().enumerate() {
            let at = at_index(path, "backup", (index, rules.backup.as_ref()));
            self.backup(&at, backup);
            let earlier = rules.backups().iter().take(index);
            let same =
                |other: &&Backup| other.app.is_some() && other.app == backup.app && other.to == backup.to && other.name == backup.name;
            if earlier.clone().any(|other| same(&other)) {
                self.report(&at, "two databases would have backups of one name", "give each its own `app:`");
            }
            self.apart(&at, name, backup);
        }
        for (index, archive) in rules.archives().iter().enumerate() {
            self.archive(&at_index(path, "archive", (index, rules.archive.as_ref())), archive);
        }
        if let Some(restore) = &rules.restore {
            self.restore(&format!("{path}.restore"), (name, rules), restore);
        }
    }

    /// `keep:` removes by name: the backups of two environments must not look alike.
    fn apart(&mut self, path: &str, name: &str, backup: &Backup) {
        let names_place = |text: &str| template::names(text).iter().any(|name| name == "environment");
        let alike = |other: &Backup| other.app.is_some() && other.app == backup.app && other.to == backup.to && other.name == backup.name;
        let texts = || [backup.to.as_str(), backup.app.as_deref().unwrap_or_default(), backup.name.as_deref().unwrap_or_default()];
        if texts().iter().any(|text| names_place(text)) {
            return;
        }
        let others = self.config.environments.iter().take_while(|(other, _)| *other != name);
        let found = others.filter(|(_, rules)| rules.backups().iter().any(alike)).map(|(other, _)| other.clone()).next();
        if let Some(other) = found {
            let hint = "with one name for both, `keep:` of one would remove the other's: write {environment} into `app:`";
            self.report(path, format!("the backups of {other} have the same names"), hint);
        }
    }

    fn backup(&mut self, path: &str, backup: &Backup) {
        let given = [
            ("postgres", backup.postgres.is_some()),
            ("mysql", backup.mysql.is_some()),
            ("heroku-postgres", backup.heroku_postgres.is_some()),
            ("command", backup.command.is_some()),
        ];
        let names: Vec<&str> = given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
        match names.as_slice() {
            [] => self.report(path, "a backup of nothing", "write one of postgres, mysql, heroku-postgres or command"),
            [_one] => {}
            [_, _, ..] => self.report(path, format!("{} in one backup", names.join(" and ")), "make a list: one entry for each database"),
        }
        self.bucket(path, &backup.to, backup.endpoint.as_deref());
        if let Some(app) = &backup.app {
            self.placeholders(&format!("{path}.app"), app);
        }
        if let Some(name) = &backup.name {
            self.backup_name(&format!("{path}.name"), name);
        }
        if let Some(keep) = &backup.keep
            && keep.last.is_none()
            && keep.days.is_none()
        {
            self.report(
                &format!("{path}.keep"),
                "nothing is said to be kept",
                "write {last: 30}, {days: 90} or both; without `keep:` all are",
            );
        }
        if backup.timeout.0.is_zero() {
            self.report(&format!("{path}.timeout"), "no backup ends in no time", "write it as 2h");
        }
        if backup.heroku_postgres.is_some() && backup.compress.is_some_and(|compress| compress != Compress::None) {
            self.report(&format!("{path}.compress"), "Heroku's backups are compressed already", "remove this key");
        }
        if let Some(source) = backup.source() {
            self.source(&format!("{path}.{}", source.name()), source);
        }
    }

    fn backup_name(&mut self, path: &str, name: &str) {
        self.placeholders_of_backup(path, name);
        let names = template::names(name);
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if !has("time") {
            self.report(path, "two backups would have the same name", "write {time} into it");
        }
        if !has("app") && !has("environment") {
            self.report(path, "the name does not say which database it is of", "write {app} into it");
        }
        let odd = |part: &str| matches!(part, "" | "." | "..");
        if name.split('/').any(odd) {
            self.report(path, format!("{name:?} is no path below `to`"), "no / at its ends, no .. in it");
        }
    }

    fn bucket(&mut self, path: &str, to: &str, endpoint: Option<&str>) {
        let at = format!("{path}.to");
        self.placeholders_of_bucket(&at, to);
        let example: String = template::split(to)
            .unwrap_or_default()
            .into_iter()
            .map(|part| match part {
                template::Part::Text(text) => text,
                template::Part::Name(_) => "name".to_owned(),
            })
            .collect();
        if let Err(why) = Place::parse(&example) {
            self.report(&at, why, "write it as s3://bucket/prefix/");
        }
        if let Some(endpoint) = endpoint {
            self.address(&format!("{path}.endpoint"), endpoint);
        }
    }

    fn source(&mut self, path: &str, source: Source<'_>) {
        let args = match source {
            Source::Postgres(postgres) => postgres.args.as_slice(),
            Source::Mysql(mysql) => mysql.args.as_slice(),
            Source::HerokuPostgres(heroku) => {
                self.placeholders(&format!("{path}.app"), &heroku.app);
                &[]
            }
            Source::Command(command) => {
                self.backup_command(path, command);
                &[]
            }
        };
        for (index, arg) in args.iter().enumerate() {
            let name = arg.split('=').next().unwrap_or_default();
            let is_taken =
                TAKEN.iter().any(|taken| name == *taken || (taken.len() == 2 && !arg.starts_with("--") && arg.starts_with(taken)));
            let at = format!("{path}.args[{index}]");
            let inserts = ["--inserts", "--column-inserts", "--attribute-inserts", "--rows-per-insert"];
            if inserts.contains(&name) {
                self.report(
                    &at,
                    "rows as statements cannot be told from statements",
                    "leave it out: rows are copied, which is faster, too",
                );
            } else if is_taken {
                self.report(
                    &at,
                    format!("{name} is tidegate's own to say"),
                    "give only what is left out or added, as --exclude-table-data=sessions",
                );
            } else if !arg.starts_with('-') {
                self.report(
                    &at,
                    format!("{arg:?} is no argument that begins with -"),
                    "write names with their argument, as --exclude-table=a",
                );
            }
        }
    }

    fn backup_command(&mut self, path: &str, command: &BackupCommand) {
        for (key, argv) in [("run", &command.run), ("restore", &command.restore)] {
            for (index, word) in argv.iter().enumerate() {
                self.placeholders(&format!("{path}.{key}[{index}]"), word);
            }
            if (key == "run" || !argv.is_empty()) && argv.first().is_none_or(|program| program.trim().is_empty()) {
                self.report(&format!("{path}.{key}"), "the command is empty", "write it as [./save, --all]");
            }
        }
        for (key, text) in [("begins-with", &command.begins_with), ("ends-with", &command.ends_with)] {
            if text.as_deref() == Some("") {
                self.report(
                    &format!("{path}.{key}"),
                    "everything begins and ends with nothing",
                    "write what a good backup always has there",
                );
            }
        }
        for (name, value) in &command.env {
            if let TextOrSecret::Text(text) = value {
                self.placeholders(&format!("{path}.env.{name}"), text);
            }
        }
    }

    fn archive(&mut self, path: &str, archive: &Archive) {
        self.bucket(path, &archive.to, archive.endpoint.as_deref());
        self.placeholders(&format!("{path}.folder"), &archive.folder);
        self.inside(&format!("{path}.folder"), &archive.folder);
    }

    fn restore(&mut self, path: &str, (name, rules): (&str, &Environment), restore: &Restore) {
        let from = restore.from.as_deref().unwrap_or(name);
        if let Some(from) = &restore.from {
            self.environment_named(&format!("{path}.from"), from);
        }
        let backups = self.config.environments.get(from).map(Environment::backups).unwrap_or_default();
        let kind = backups.first().and_then(Backup::source).map(kind_of);
        if backups.is_empty() && self.config.environments.contains_key(from) {
            self.report(
                &format!("{path}.from"),
                format!("{from} has no backups"),
                format!("add `backup:` to {from}, or name another environment"),
            );
        }
        let own = rules.backups().first().and_then(Backup::source);
        let into = restore.into.as_ref().map(super::RestoreInto::source).or(own);
        match (into, kind) {
            (None, _) => self.report(path, "it is not said which database is restored", "add `into:`, or `backup:` of this environment"),
            (Some(into), Some(kind)) if kind_of(into) != kind => {
                self.report(
                    path,
                    format!("backups of {kind} do not fit into {}", kind_of(into)),
                    "restore into a database of the same kind",
                );
            }
            (Some(Source::Command(command)), _) if command.restore.is_empty() => {
                self.report(path, "the command says how to save, and not how to restore", "add `restore: [./load]` to it");
            }
            (Some(_), _) => {}
        }
        if let Some(into) = &restore.into {
            let source = into.source();
            self.source(&format!("{path}.into.{}", source.name()), source);
        }
        for (index, scrub) in restore.scrub.iter().enumerate() {
            match scrub {
                Scrub::Sql(file) => self.inside(&format!("{path}.scrub[{index}].sql"), file),
                Scrub::Command(command) => self.argv(&format!("{path}.scrub[{index}].command.run"), &command.run),
            }
        }
        if matches!(into, Some(Source::Command(_))) && (!restore.clean.is_empty() || restore.seed.is_some()) {
            self.report(path, "a program is told nothing about cleaning or being empty", "leave `clean:` and `seed:` out");
        }
        self.seed(path, rules, restore);
    }

    fn seed(&mut self, path: &str, rules: &Environment, restore: &Restore) {
        let Some(seed) = restore.seed else { return };
        if rules.deploy.is_empty() {
            self.report(&format!("{path}.seed"), "nothing is deployed here, so nothing is filled", "add `deploy:` targets");
        }
        if seed == MigrateWhen::Before && matches!(restore.into, Some(super::RestoreInto::HerokuPostgres(_))) {
            let hint = "write `seed: after`: the app and its database are there then";
            self.report(&format!("{path}.seed"), "before the switch a new app of Heroku has no database", hint);
        }
    }
}

/// Heroku's databases are PostgreSQL's.
fn kind_of(source: Source<'_>) -> &'static str {
    match source {
        Source::HerokuPostgres(_) => "postgres",
        Source::Postgres(_) | Source::Mysql(_) | Source::Command(_) => source.name(),
    }
}
