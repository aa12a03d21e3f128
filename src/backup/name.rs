//! Names of backups: a template, its values, and the pattern that finds the others of the same database.

use crate::config::MigrationId;
use crate::config::template::{self, Part, Values};
use crate::error::{Error, Reason, Result};
use regex::Regex;
use std::collections::BTreeSet;
use std::path::Path;

/// The name when none is given: that of Joplin's backups, with the project before it.
pub const DEFAULT: &str = "{project}/{app}/{app}.{branch_slug}.{time}.{commit}.{migration}.{ext}";
/// Placeholders that only names of backups have.
pub const OWN: [&str; 5] = ["app", "time", "commit", "migration", "ext"];
/// The same for every backup of a database.
const FIXED: [&str; 3] = ["project", "environment", "app"];
/// The longest value in a name.
const VALUE_LIMIT: usize = 100;

/// The template of a backup's names: the default one names the project only where `to` does not.
pub fn template(given: Option<&str>, to: &str) -> String {
    match given {
        Some(given) => given.to_owned(),
        None if template::names(to).iter().any(|name| name == "project") => DEFAULT.trim_start_matches("{project}/").to_owned(),
        None => DEFAULT.to_owned(),
    }
}

/// The name of one backup. A value that this run does not have is `none`; what could leave the folder is replaced.
pub fn fill(template: &str, values: &Values) -> Result<String> {
    let parts = template::split(template).map_err(|why| Error::new(Reason::ConfigInvalid, format!("the name of the backup: {why}")))?;
    let name: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Name(name) => value(values, name),
        })
        .collect();
    let fits = name.len() <= 900 && !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if fits {
        Ok(name)
    } else {
        Err(Error::new(Reason::InputInvalid, format!("{name:?} cannot be the name of a backup")).hint("look at `name:` of the backup"))
    }
}

fn value(values: &Values, name: &str) -> String {
    let given = |name: &str| values.get(name).filter(|text| !text.is_empty());
    let found =
        given(name).or_else(|| if name == "branch_slug" || name == "branch" { given("tag").or_else(|| given("version")) } else { None });
    safe(found.unwrap_or("none"))
}

/// A value without anything that has a meaning in paths.
pub fn safe(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let plain: String = plain.trim_matches('.').chars().take(VALUE_LIMIT).collect();
    if plain.is_empty() { "none".into() } else { plain }
}

/// What finds all backups of the same database: what their names begin with, and how they look.
pub fn family(template: &str, values: &Values) -> Result<(String, Regex)> {
    let (mut pattern, mut prefix, mut is_open) = (String::from("^"), String::new(), false);
    let mut has_time = false;
    for part in template::split(template).unwrap_or_default() {
        let literal = match &part {
            Part::Text(text) => Some(text.clone()),
            Part::Name(name) if FIXED.contains(&name.as_str()) || name.starts_with("var.") => Some(value(values, name)),
            Part::Name(_) => None,
        };
        match literal {
            Some(text) => {
                pattern.push_str(&regex::escape(&text));
                if !is_open {
                    prefix.push_str(&text);
                }
            }
            None => {
                // Names of two databases may differ by what stands before the time alone.
                let is_time = !has_time && matches!(&part, Part::Name(name) if name == "time");
                has_time |= is_time;
                pattern.push_str(if is_time { "(?P<time>\\d{4}-\\d\\d-\\d\\d--\\d\\d-\\d\\d-\\d\\d)" } else { "[^/]+" });
                is_open = true;
            }
        }
    }
    pattern.push('$');
    let regex = Regex::new(&pattern).map_err(|error| Error::new(Reason::ConfigInvalid, format!("the name of the backup: {error}")))?;
    Ok((prefix, regex))
}

/// The moment that a name holds, in seconds since 1970.
pub fn moment(pattern: &Regex, name: &str) -> Option<i64> {
    let found = pattern.captures(name)?;
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d--%H-%M-%S", found.name("time")?.as_str()).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_second())
}

/// The newest migration of a folder of the repository.
pub fn newest_migration(root: &Path, id: &MigrationId) -> Result<Option<String>> {
    let MigrationId::Folder(folder) = id else { return Ok(None) };
    let place = root.join(folder);
    let entries = std::fs::read_dir(&place).map_err(|error| {
        Error::new(Reason::ConfigInvalid, format!("the migrations of `backup:` are not in {folder}: {error}"))
            .hint("`migration: {folder: …}` is relative to tidegate.yml")
    })?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: Vec<String> = names.filter(|name| !name.starts_with(['.', '_']) && !name.ends_with(".pyc")).collect();
    Ok(alembic_head(&place, &names).or_else(|| highest(&names)))
}

/// By the number at the beginning, as 0042_users.py, 20210313140442_init/ or V12__add.sql; without one by name.
fn highest(names: &[String]) -> Option<String> {
    let number = |name: &String| {
        let digits: String = name.trim_start_matches(['V', 'v']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u128>().ok()
    };
    names.iter().filter(|name| number(name).is_some()).max_by_key(|name| (number(name), (*name).clone())).map(|name| stem(name))
}

fn stem(name: &str) -> String {
    let cut = [".up.sql", ".down.sql", ".sql", ".py", ".rb", ".js", ".ts", ".php", ".xml", ".yml", ".yaml", ".json"];
    cut.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name).to_owned()
}

/// Alembic's revisions name the one before: the head is the one that no other names. Several heads are all told.
fn alembic_head(place: &Path, names: &[String]) -> Option<String> {
    let assigned = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| {
            let rest = line.trim_start().strip_prefix(name)?;
            let (hint, value) = rest.split_once('=')?;
            (hint.trim().is_empty() || hint.trim_start().starts_with(':')).then(|| value.to_owned())
        })?;
        Some(line.split(['\'', '"']).skip(1).step_by(2).map(str::to_owned).collect::<Vec<String>>())
    };
    let mut revisions = Vec::new();
    let mut followed = BTreeSet::new();
    for name in names.iter().filter(|name| name.ends_with(".py")) {
        let Ok(text) = std::fs::read_to_string(place.join(name)) else { continue };
        let (Some(revision), Some(before)) = (assigned(&text, "revision"), assigned(&text, "down_revision")) else { continue };
        followed.extend(before);
        revisions.extend(revision.into_iter().next());
    }
    let heads: Vec<String> = revisions.into_iter().filter(|revision| !followed.contains(revision)).collect();
    (!heads.is_empty()).then(|| heads.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        let mut values = Values::default();
        pairs.iter().for_each(|(name, value)| values.set(*name, Some((*value).to_owned())));
        values
    }

    /// founding-systems §3.1: `<app>/<app>.<branch>.<time>.<full commit>.<latest migration id>.psql.gz`.
    #[test]
    fn the_default_is_joplins_name() {
        let all = values(&[
            ("project", "joplin"),
            ("app", "joplin-staging"),
            ("branch_slug", "master"),
            ("time", "2019-03-01--12-00-59"),
            ("commit", "de51273000000000000000000000000000000000"),
            ("migration", "0042_users"),
            ("ext", "sql.gz"),
        ]);
        let name = "joplin-staging/joplin-staging.master.2019-03-01--12-00-59.de51273000000000000000000000000000000000.0042_users.sql.gz";
        assert_eq!(fill(DEFAULT, &all).unwrap(), format!("joplin/{name}"));
        assert_eq!(fill(&template(None, "s3://b/deployment-backups/{project}/"), &all).unwrap(), name);
    }

    #[test]
    fn nothing_leaves_its_folder() {
        let odd = values(&[("project", "p"), ("app", "../../x"), ("branch_slug", "a/b"), ("migration", "0042 users;rm")]);
        let name = fill("{project}/{app}.{branch_slug}.{migration}.{commit}.{ext}", &odd).unwrap();
        assert_eq!(name, "p/-..-x.a-b.0042-users-rm.none.none");
        assert!(fill("../{app}", &odd).is_err() && fill("a//{app}", &odd).is_err());
    }

    #[test]
    fn a_family_is_that_of_one_database() {
        let of = |app: &str| values(&[("project", "shop"), ("app", app)]);
        let (prefix, regex) = family(DEFAULT, &of("shop-production")).unwrap();
        assert_eq!(prefix, "shop/shop-production/shop-production.");
        assert!(regex.is_match("shop/shop-production/shop-production.main.2026-11-27--03-26-34.abc.0042.dump.zst"));
        assert_eq!(moment(&regex, "shop/shop-production/shop-production.main.1970-01-02--00-00-01.abc.0042.dump.zst"), Some(86_401));
        let (_, bare) = family("{app}-{time}.{ext}", &of("shop-production")).unwrap();
        assert!(
            bare.is_match("shop-production-2026-11-27--03-26-34.dump") && !bare.is_match("shop-production-2-2026-11-27--03-26-34.dump")
        );
        for other in [
            "shop/shop-production-2/shop-production-2.main.t.c.m.dump",
            "shop/shop-production/x.main.t.c.m.dump",
            "shop/shop-production/shop-production.a/b.t.c.m.d",
        ] {
            assert!(!regex.is_match(other), "{other}");
        }
    }

    #[test]
    fn the_newest_migration_by_number() {
        let names = |names: &[&str]| highest(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["0001_initial.py", "0010_b.py", "0009_z.py"]).as_deref(), Some("0010_b"));
        assert_eq!(names(&["20210313140442_init", "20220101000000_more", "migration_lock.toml"]).as_deref(), Some("20220101000000_more"));
        assert_eq!(names(&["V2__b.sql", "V10__c.sql", "V1__a.sql"]).as_deref(), Some("V10__c"));
        assert_eq!(names(&["20230101_x.up.sql", "20230101_x.down.sql"]).as_deref(), Some("20230101_x"));
        assert_eq!(names(&["README.md"]), None);
    }

    #[test]
    fn the_head_of_alembic_is_what_nothing_follows() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("9f_first.py", "revision = '9f'\ndown_revision = None\n");
        write("1a_second.py", "revision: str = \"1a\"\ndown_revision: Union[str, None] = \"9f\"\n");
        write("5c_third.py", "revision = '5c'\ndown_revision = '1a'\n");
        let found = newest_migration(folder.path(), &MigrationId::Folder(".".into())).unwrap();
        assert_eq!(found.as_deref(), Some("5c"));
    }
}
