//! Releases of an app, its formation, and the dynos that run it.

use super::super::registry;
use super::super::sandbox::{Asked, World, json_answer};
use super::{App, Mood, Release, TIME, error, id, not_found};
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn formation(name: &str, app: &App) -> Value {
    let kinds = app.formation.iter().map(|(kind, (quantity, size))| {
        json!({
            "id": id(&format!("{name} {kind}")), "type": kind, "quantity": quantity, "size": size, "dyno_size": {"id": id(size), "name": size},
            "command": "", "app": {"id": id(name), "name": name}, "created_at": TIME, "updated_at": TIME,
        })
    });
    kinds.collect()
}

pub(super) fn change_formation(
    app: &mut App,
    asked: &Asked,
    (name, latest): (&str, Option<&BTreeMap<String, String>>),
    mood: Mood,
) -> Response {
    let body = asked.json();
    let mut images = app.images();
    for update in body.get("updates").and_then(Value::as_array).into_iter().flatten() {
        let text = |pointer: &str| update.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/type").unwrap_or_default();
        if let Some(image) = text("/docker_image") {
            if !asked.header("accept").ends_with(".docker-releases") {
                return error(422, "invalid_params", "Unknown parameter: docker_image");
            }
            if latest.is_some_and(|latest| latest.get(&kind) != Some(&image)) {
                return error(422, "invalid_params", &format!("The image {image} for {kind} was not found."));
            }
            app.formation.entry(kind.clone()).or_insert_with(|| (u64::from(kind == "web"), "Basic".into()));
            images.insert(kind.clone(), image);
        }
        let Some(there) = app.formation.get_mut(&kind) else {
            return error(404, "not_found", &format!("Couldn't find that process type ({kind})."));
        };
        there.0 = update.get("quantity").and_then(Value::as_u64).unwrap_or(there.0);
        there.1 = text("/dyno_size/name").unwrap_or_else(|| there.1.clone());
    }
    if mood == Mood::Stranger {
        let images = app.images();
        app.add("Set DEBUG config vars".into(), images);
    } else if images != app.images() && mood != Mood::NoRelease {
        let named: Vec<String> = images
            .iter()
            .map(|(kind, image)| format!("{kind} ({})", image.trim_start_matches("sha256:").chars().take(12).collect::<String>()))
            .collect();
        let before = app.current;
        app.add(format!("Deployed {}", named.join(", ")), images);
        app.releases.last_mut().into_iter().for_each(|release| release.status = "pending");
        app.current = before; // until its phase has succeeded
    }
    json_answer(200, &formation(name, app))
}

/// The images that Heroku's registry has for an app, by process type.
pub(super) fn latest_images(world: &World, name: &str) -> BTreeMap<String, String> {
    let mine = world.repositories.iter().filter_map(|(path, repository)| Some((path.strip_prefix(&format!("{name}/"))?, repository)));
    let config = |repository: &registry::Repository| {
        let (bytes, _) = repository.manifests.get(repository.tags.get("latest")?)?;
        let manifest: Value = serde_json::from_slice(bytes).ok()?;
        Some(manifest.pointer("/config/digest")?.as_str()?.to_owned())
    };
    mine.filter_map(|(kind, repository)| Some((kind.to_owned(), config(repository)?))).collect()
}

pub(super) fn release_id(name: &str, version: u64) -> String {
    id(&format!("{name} v{version}"))
}

pub(super) fn shown_release(host: &str, name: &str, app: &App, release: &Release) -> Value {
    let output = release.description.starts_with("Deployed").then(|| format!("http://{host}/heroku/streams/{name}/{}", release.version));
    json!({
        "id": release_id(name, release.version), "version": release.version, "status": release.status, "current": release.version == app.current,
        "description": release.description, "output_stream_url": output, "app": {"id": id(name), "name": name}, "slug": null, "eligible_for_rollback": true,
        "user": {"id": id("owner"), "email": "ops@example.com"}, "created_at": TIME, "updated_at": TIME, "addon_plan_names": [], "artifacts": [],
    })
}

pub(super) fn look_at_release(app: &mut App, asked: &Asked, (name, wanted): (&str, &str), mood: Mood) -> Response {
    let is_wanted = |release: &&Release| release_id(name, release.version) == wanted || release.version.to_string() == wanted;
    let Some(found) = app.releases.iter().find(is_wanted).cloned() else { return not_found("release") };
    let answer = shown_release(asked.header("host"), name, app, &found);
    if found.status != "pending" || mood == Mood::PhasePends {
        return json_answer(200, &answer);
    }
    let status = if mood == Mood::PhaseFails { "failed" } else { "succeeded" };
    app.releases.iter_mut().filter(|release| release.version == found.version).for_each(|release| release.status = status);
    if status == "succeeded" {
        (app.current, app.looks) = (found.version, 0);
    }
    if mood == Mood::Overtaken {
        let images = app.images();
        app.add("Deployed web (222222222222)".into(), images);
    }
    json_answer(200, &answer)
}

pub(super) fn dynos(app: &mut App, name: &str, mood: Mood) -> Response {
    app.looks += 1;
    let has_images = !app.images().is_empty();
    let first = app.releases.first().map_or(0, |release| release.version);
    let is_new = app
        .releases
        .iter()
        .any(|release| release.version == app.current && release.description.starts_with("Deployed") && release.version > 3);
    let state = if mood == Mood::Crashes && is_new {
        "crashed"
    } else if (mood == Mood::Starts && is_new) || app.looks < 2 {
        "starting"
    } else {
        "up"
    };
    let version = if mood == Mood::KeepsDynos { first } else { app.current };
    let kinds = app
        .formation
        .iter()
        .filter(|_| has_images)
        .flat_map(|(kind, (quantity, size))| (1..=*quantity).map(move |number| (kind, size, number)));
    let shown = kinds.map(|(kind, size, number)| {
        json!({
            "id": id(&format!("{name} {kind}.{number}")), "name": format!("{kind}.{number}"), "type": kind, "state": state, "size": size, "command": "",
            "release": {"id": release_id(name, version), "version": version}, "app": {"id": id(name), "name": name}, "attach_url": null,
            "created_at": TIME, "updated_at": TIME,
        })
    });
    json_answer(200, &shown.collect())
}
