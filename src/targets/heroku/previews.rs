//! Apps that tidegate made for pull requests, found by their config vars.

use super::api::{Api, Request};
use super::{Work, vars};
use crate::config::template::Values;
use crate::error::{Error, Reason, Result};
use crate::targets::previews::Mark;
use crate::world::World;
use futures::stream::{StreamExt, TryStreamExt};
use serde_json::Value;

/// How many apps are asked at the same time.
const AT_ONCE: usize = 4;

/// The apps whose mark names this project. Only those are asked whose names begin as those of previews do.
pub async fn marks(world: &World, project: &str, (work, values): (&Work, &Values)) -> Result<Vec<Mark>> {
    let api = Api::open(world, &work.target.token.env)?;
    let team = work.target.create.as_ref().and_then(|create| create.team.as_deref());
    let path = match team.map(|team| values.fill(team)).transpose() {
        Ok(Some(team)) => format!("/teams/{team}/apps"),
        Ok(None) => "/apps".to_owned(),
        Err(why) => return Err(Error::new(Reason::InputInvalid, why)),
    };
    let beginning = beginning(&work.target.app, project);
    let apps = all(&api, &path).await?;
    let ours = apps.iter().filter_map(|app| Some((app.get("name")?.as_str()?, app))).filter(|(name, _)| name.starts_with(&beginning));
    let looks = ours.map(|(name, app)| look(&api, project, name, app));
    let found: Vec<Option<Mark>> = futures::stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn look(api: &Api<'_>, project: &str, name: &str, app: &Value) -> Result<Option<Mark>> {
    let Some(has) = api.find(&format!("/apps/{name}/config-vars")).await? else { return Ok(None) }; // gone meanwhile
    let Some(owner) = has.body.get(vars::OWNER).and_then(Value::as_str) else { return Ok(None) };
    let repository = has.body.get(vars::REPOSITORY).and_then(Value::as_str);
    let time = |field: &str| app.get(field).and_then(Value::as_str).and_then(|at| at.parse().ok());
    Ok(Mark::of(owner, project, repository, name, time("released_at").or_else(|| time("created_at"))))
}

/// A list is told in pages: `Next-Range` names the next one.
async fn all(api: &Api<'_>, path: &str) -> Result<Vec<Value>> {
    let mut apps = Vec::new();
    let mut range = Some("name ..; max=1000".to_owned());
    while let Some(part) = range {
        let answer = api.expect(&Request { range: Some(&part), ..Request::get(path) }).await?;
        apps.extend(answer.list().iter().cloned());
        range = answer.next.filter(|next| *next != part);
    }
    Ok(apps)
}

/// What all names of such apps begin with, as far as they are never cut or changed.
fn beginning(template: &str, project: &str) -> String {
    const NEVER_CUT: usize = 16;
    let filled = template.replace("{project}", project);
    let fixed = filled.split('{').next().unwrap_or_default();
    let same = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    let begins_well = fixed.starts_with(|c: char| c.is_ascii_lowercase());
    if begins_well { fixed.chars().take_while(same).take(NEVER_CUT).collect() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_as_they_are_never_changed() {
        for (template, beginning_) in
            [("{project}-pr-{pr}", "demo-pr-"), ("review-{branch_slug}", "review-"), ("{branch_slug}", ""), ("Demo-{pr}", "")]
        {
            assert_eq!(beginning(template, "demo"), beginning_, "{template}");
            let name = super::super::app_name(
                &template.replace("{project}", "demo").replace("{pr}", "7").replace("{branch_slug}", &"x".repeat(60)),
            );
            assert!(name.starts_with(beginning_), "{name}");
        }
    }
}
