//! The pretend Heroku: apps with releases, dynos, config vars and add-ons that go on at each look, its registry, and
//! attached dynos. Its shapes are those of Heroku's own description, which stands between in the tests.

use super::registry;
use super::sandbox::{Asked, Shared, World, json_answer};
use crate::registry::copy::MANIFEST;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

mod attached;
mod data;
mod releases;

pub use attached::attach;
use attached::run;
pub use data::Data;
use releases::{change_formation, dynos, formation, latest_images, look_at_release, release_id, shown_release};

/// The key that it knows.
pub const KEY: &str = "heroku-sandbox-key";
const TIME: &str = "2026-01-01T00:00:00Z";

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does what it says.
    #[default]
    Honest,
    /// Images are taken, and no release is made.
    NoRelease,
    /// The release phase fails.
    PhaseFails,
    /// The release phase never ends.
    PhasePends,
    /// The release succeeds, and the dynos run the one before.
    KeepsDynos,
    /// New dynos crash.
    Crashes,
    /// New dynos never come up.
    Starts,
    /// Config vars are confirmed and forgotten.
    ForgetsVars,
    /// Add-ons are never ready.
    AddonPends,
    /// Add-ons cannot be made.
    AddonFails,
    /// Deleted apps are still there.
    KeepsApps,
    /// Somebody else releases right after us.
    Overtaken,
    /// Somebody else changes a config var, and of our images no release is made.
    Stranger,
    /// The registry keeps what it had.
    RegistryForgets,
}

/// What becomes of a program in a one-off dyno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends with this code.
    Exits(i32),
    /// The same, told in pieces.
    Pieces(i32),
    /// The connection ends, and nothing is told.
    Breaks,
    /// It runs for ever.
    Hangs,
}

impl Default for Fate {
    fn default() -> Self {
        Self::Exits(0)
    }
}

/// A release.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its number.
    pub version: u64,
    /// What it is.
    pub description: String,
    /// `pending`, `succeeded` or `failed`.
    pub status: &'static str,
    /// The images by process type.
    images: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
}

/// An app.
#[derive(Clone, Debug, Default)]
pub struct App {
    /// Who owns it.
    pub team: Option<String>,
    /// Config vars.
    pub config: BTreeMap<String, String>,
    /// Add-ons: plan, and how often each was looked at.
    pub addons: Vec<(String, u32)>,
    /// Releases, oldest first.
    pub releases: Vec<Release>,
    /// How many dynos of which size, by process type.
    pub formation: BTreeMap<String, (u64, String)>,
    /// Pipeline and stage.
    pub coupling: Option<(String, String)>,
    /// Whether its visitors see the maintenance page.
    pub maintenance: bool,
    /// Whether they have ever seen it.
    pub was_in_maintenance: bool,
    /// The version that runs.
    pub current: u64,
    /// How often its dynos were looked at since the release.
    looks: u32,
}

/// A one-off dyno.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was asked for.
    pub request: Value,
    /// Whether somebody stopped it.
    pub stopped: bool,
    app: String,
    fate: Fate,
}

/// Heroku's side of the sandbox.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The apps, by name.
    pub apps: BTreeMap<String, App>,
    /// Names that somebody else has.
    pub taken: Vec<String>,
    /// Pipelines that are there.
    pub pipelines: Vec<String>,
    /// How it behaves.
    pub mood: Mood,
    /// What becomes of one-off dynos.
    pub fate: Fate,
    /// The release of which a one-off dyno says that it is, instead of the app's.
    pub run_release: Option<u64>,
    /// The one-off dynos.
    pub runs: Vec<Run>,
    /// What the release phase says.
    pub phase: Vec<String>,
    /// Requests left in this hour, as it says.
    pub left: Option<u64>,
    /// Its databases' backups.
    pub data: Data,
    /// Where attached dynos are reached.
    pub rendezvous: String,
    /// How many apps a list shows at once, where that is less than it is asked for.
    pub page: Option<usize>,
    /// Whether its registry is another one than the sandbox's, so that images are believed.
    pub registry_elsewhere: bool,
}

impl App {
    /// An app that runs something already, as v3.
    pub fn running() -> Self {
        let images = BTreeMap::from([("web".to_owned(), format!("sha256:{}", "1".repeat(64)))]);
        let first =
            Release { version: 3, description: "Deployed web (111111111111)".into(), status: "succeeded", images, config: BTreeMap::new() };
        let formation = BTreeMap::from([("web".to_owned(), (1, "Basic".to_owned()))]);
        Self { releases: vec![first], formation, current: 3, looks: 9, ..Self::default() }
    }

    fn add(&mut self, description: String, images: BTreeMap<String, String>) {
        let version = self.releases.last().map_or(1, |last| last.version + 1);
        let config = self.config.clone();
        self.releases.push(Release { version, description, status: "succeeded", images, config });
        (self.current, self.looks) = (version, 0);
    }

    fn images(&self) -> BTreeMap<String, String> {
        let running = self.releases.iter().find(|release| release.version == self.current);
        running.map(|release| release.images.clone()).unwrap_or_default()
    }
}

/// Answers a request below /heroku.
pub fn answer(shared: &Shared, asked: &Asked) -> Response {
    let mut world = shared.world();
    let path = asked.path.strip_prefix("/heroku").unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["download", _number] => return data::download(&world.heroku),
        ["streams", _app, _version] => return world.heroku.phase.join("\n").into_response(),
        ["logs", _session] => return "2026-01-01T00:00:00 app[web.1]: panic: no database\n".into_response(),
        _api => {}
    }
    if asked.header("authorization") != format!("Bearer {KEY}") {
        return error(401, "unauthorized", "Invalid credentials provided.");
    }
    let variant = asked.header("accept");
    if !variant.starts_with("application/vnd.heroku+json; version=3") {
        return error(406, "not_acceptable", "An API version must be specified.");
    }
    let mut response = api(&mut world, asked, &parts);
    let left = world.heroku.left.unwrap_or(4500);
    if let Ok(value) = left.to_string().parse() {
        response.headers_mut().insert("ratelimit-remaining", value);
    }
    response
}

fn error(status: u16, id: &str, message: &str) -> Response {
    json_answer(status, &json!({"id": id, "message": message}))
}

fn not_found(what: &str) -> Response {
    error(404, "not_found", &format!("Couldn't find that {what}."))
}

fn id(seed: &str) -> String {
    let hex = crate::registry::oci::digest_of(seed.as_bytes());
    let hex = hex.trim_start_matches("sha256:");
    let part = |from: usize, length: usize| hex.chars().skip(from).take(length).collect::<String>();
    format!("{}-{}-4{}-8{}-{}", part(0, 8), part(8, 4), part(12, 3), part(15, 3), part(18, 12))
}

fn api(world: &mut World, asked: &Asked, parts: &[&str]) -> Response {
    let generous = world.generous;
    let heroku = &mut world.heroku;
    let body = asked.json();
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (asked.method.as_str(), parts) {
        ("POST", ["apps"] | ["teams", "apps"]) => create(heroku, &text("name"), &body),
        ("GET", ["apps"]) => list(heroku, asked, None),
        ("GET", ["teams", team, "apps"]) => list(heroku, asked, Some(team)),
        (_, ["client", "v11", rest @ ..]) => data::answer(heroku, asked, rest),
        ("GET", ["pipelines", name]) if generous || heroku.pipelines.iter().any(|known| known == name) => {
            json_answer(200, &json!({"id": id(name), "name": name, "created_at": TIME, "updated_at": TIME}))
        }
        ("POST", ["pipeline-couplings"]) => match heroku.apps.get_mut(&text("app")) {
            Some(app) => {
                app.coupling = Some((text("pipeline"), text("stage")));
                json_answer(201, &coupling(&text("app"), app))
            }
            None => not_found("app"),
        },
        ("PATCH", ["pipeline-couplings", coupled]) => {
            let found = heroku.apps.iter_mut().find(|(name, app)| id(&format!("coupling {name}")) == **coupled && app.coupling.is_some());
            let Some((name, app)) = found else { return not_found("pipeline coupling") };
            app.coupling = app.coupling.take().map(|(pipeline, _)| (pipeline, text("stage")));
            json_answer(200, &coupling(name, app))
        }
        (method, ["apps", name, rest @ ..]) => {
            if heroku.taken.iter().any(|taken| taken == name) {
                return error(403, "forbidden", "You do not have access to the app.");
            }
            if !heroku.apps.contains_key(*name) {
                return not_found("app");
            }
            of_app(world, asked, (method, name, rest))
        }
        _other => not_found("resource"),
    }
}

fn create(heroku: &mut Platform, name: &str, body: &Value) -> Response {
    let fine = name.len() <= 30
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !fine {
        return error(422, "invalid_params", "Name is invalid.");
    }
    if heroku.apps.contains_key(name) || heroku.taken.iter().any(|taken| taken == name) {
        return error(422, "invalid_params", &format!("Name {name} is already taken"));
    }
    let team = body.get("team").and_then(Value::as_str).map(str::to_owned);
    let mut app = App { team, ..App::default() };
    app.add("Initial release".into(), BTreeMap::new());
    heroku.apps.insert(name.to_owned(), app.clone());
    json_answer(201, &shown(name, &app))
}

/// A part of the apps, by name; `Next-Range` says where it goes on.
fn list(heroku: &Platform, asked: &Asked, team: Option<&str>) -> Response {
    let range = asked.header("range");
    let after = range.split_once(']').and_then(|(_, rest)| rest.split_once("..")).map(|(name, _)| name.to_owned());
    let all = heroku.apps.iter().filter(|(_, app)| team.is_none() || app.team.as_deref() == team);
    let mut rest = all.skip_while(|(name, _)| after.as_ref().is_some_and(|after| *name <= after));
    let part: Vec<(&String, &App)> = rest.by_ref().take(heroku.page.unwrap_or(1000)).collect();
    let more = rest.next().is_some();
    let shown: Vec<Value> = part.iter().map(|(name, app)| shown(name, app)).collect();
    let mut answer = json_answer(if more { 206 } else { 200 }, &Value::Array(shown));
    let last = part.last().map(|(name, _)| name.as_str()).unwrap_or_default();
    if let (true, Ok(next)) = (more, format!("name ]{last}..; max=1000").parse()) {
        answer.headers_mut().insert("next-range", next);
    }
    answer
}

fn shown(name: &str, app: &App) -> Value {
    let team = app.team.as_ref().map(|team| json!({"id": id(team), "name": team}));
    json!({
        "id": id(name), "name": name, "maintenance": app.maintenance, "stack": {"id": id("stack"), "name": "container"}, "team": team,
        "build_stack": {"id": id("stack"), "name": "container"}, "region": {"id": id("region"), "name": "us"}, "acm": false,
        "owner": {"email": "ops@example.com", "id": id("owner")}, "created_at": TIME, "updated_at": TIME, "released_at": TIME, "archived_at": null,
        "git_url": format!("https://git.heroku.com/{name}.git"), "web_url": format!("https://{name}.herokuapp.com/"), "buildpack_provided_description": null,
        "repo_size": 0, "slug_size": 0, "space": null, "internal_routing": null, "organization": null, "generation": {"id": id("cedar"), "name": "cedar"},
    })
}

fn coupling(name: &str, app: &App) -> Value {
    let (pipeline, stage) = app.coupling.clone().unwrap_or_default();
    json!({
        "id": id(&format!("coupling {name}")), "app": {"id": id(name)}, "pipeline": {"id": pipeline}, "stage": stage, "created_at": TIME, "updated_at": TIME,
    })
}

fn of_app(world: &mut World, asked: &Asked, (method, name, rest): (&str, &str, &[&str])) -> Response {
    let latest = latest_images(world, name);
    let heroku = &mut world.heroku;
    let mood = heroku.mood;
    if let (["dynos", ..], "POST") = (rest, method) {
        return run(heroku, asked, name, rest);
    }
    let latest = (!heroku.registry_elsewhere).then_some(latest);
    let Some(app) = heroku.apps.get_mut(name) else { return not_found("app") };
    match (method, rest) {
        ("GET", []) => json_answer(200, &shown(name, app)),
        ("GET", ["addon-attachments"]) => data::attachments(name, app),
        ("DELETE", []) => {
            let answer = json_answer(200, &shown(name, app));
            if mood != Mood::KeepsApps {
                heroku.apps.remove(name);
            }
            answer
        }
        ("PATCH", []) => {
            app.maintenance = asked.json().get("maintenance") == Some(&json!(true));
            app.was_in_maintenance |= app.maintenance;
            json_answer(200, &shown(name, app))
        }
        ("GET", ["config-vars"]) => json_answer(200, &json!(app.config)),
        ("PATCH", ["config-vars"]) => config_vars(app, &asked.json(), mood),
        ("GET", ["pipeline-couplings"]) if app.coupling.is_some() => json_answer(200, &coupling(name, app)),
        (_, ["addons", rest @ ..]) => addons(app, asked, (name, rest), mood),
        ("GET", ["formation"]) => json_answer(200, &formation(name, app)),
        ("PATCH", ["formation"]) => change_formation(app, asked, (name, latest.as_ref()), mood),
        ("GET", ["releases"]) => {
            let base = asked.header("host");
            json_answer(200, &app.releases.iter().rev().map(|release| shown_release(base, name, app, release)).collect())
        }
        ("POST", ["releases"]) => {
            let wanted = asked.json().get("release").and_then(Value::as_str).unwrap_or_default().to_owned();
            let found = app.releases.iter().find(|release| release_id(name, release.version) == wanted).cloned();
            let Some(found) = found else { return not_found("release") };
            app.config.clone_from(&found.config);
            app.add(format!("Rollback to v{}", found.version), found.images);
            json_answer(201, &app.releases.last().map(|made| shown_release(asked.header("host"), name, app, made)).unwrap_or_default())
        }
        ("GET", ["releases", release]) => look_at_release(app, asked, (name, release), mood),
        ("GET", ["dynos"]) => dynos(app, name, mood),
        ("POST", ["log-sessions"]) => {
            let url = format!("http://{}/heroku/logs/1", asked.header("host"));
            json_answer(201, &json!({"id": id("session"), "logplex_url": url, "created_at": TIME, "updated_at": TIME}))
        }
        _other => not_found("resource"),
    }
}

fn config_vars(app: &mut App, patch: &Value, mood: Mood) -> Response {
    let mut config = app.config.clone();
    let mut names = Vec::new();
    for (name, value) in patch.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(value) => config.insert(name.clone(), value.to_owned()),
            None => config.remove(name),
        };
        names.push(name.clone());
    }
    let answer = json_answer(200, &json!(config));
    if mood != Mood::ForgetsVars {
        app.config = config;
        let images = app.images();
        let (before, has_images) = (app.current, !images.is_empty());
        app.add(format!("Set {} config vars", names.join(", ")), images);
        if has_images {
            // The release phase of what is there runs again; until it has succeeded what ran before goes on.
            app.releases.last_mut().into_iter().for_each(|release| release.status = "pending");
            app.current = before;
        }
    }
    answer
}

fn addons(app: &mut App, asked: &Asked, (name, rest): (&str, &[&str]), mood: Mood) -> Response {
    let shown = |plan: &str, looks: u32| {
        let service = plan.split(':').next().unwrap_or_default();
        let state = if mood == Mood::AddonFails {
            "deprovisioned"
        } else if mood == Mood::AddonPends || looks < 2 {
            "provisioning"
        } else {
            "provisioned"
        };
        json!({
            "id": id(&format!("{name} {plan}")), "name": format!("{service}-round-1"), "state": state, "addon_service": {"id": id(service), "name": service},
            "plan": {"id": id(plan), "name": plan}, "app": {"id": id(name), "name": name}, "config_vars": [], "created_at": TIME, "updated_at": TIME,
        })
    };
    match (asked.method.as_str(), rest) {
        ("GET", []) => json_answer(200, &app.addons.iter().map(|(plan, looks)| shown(plan, *looks)).collect()),
        ("POST", []) => {
            let plan = asked.json().get("plan").and_then(Value::as_str).unwrap_or_default().to_owned();
            app.addons.push((plan.clone(), 0));
            if plan.starts_with("heroku-postgresql") {
                app.config.insert("DATABASE_URL".into(), "postgres://sandbox".into());
            }
            json_answer(201, &shown(&plan, 0))
        }
        ("GET", [wanted]) => match app.addons.iter_mut().find(|(plan, _)| id(&format!("{name} {plan}")) == **wanted) {
            Some((plan, looks)) => {
                *looks += 1;
                json_answer(200, &shown(plan, *looks))
            }
            None => not_found("add-on"),
        },
        _other => not_found("resource"),
    }
}

/// Whether a login is one for Heroku's registry.
pub fn is_login(basic: &str) -> bool {
    base64::engine::general_purpose::STANDARD.encode(format!("_:{KEY}")) == basic
}

/// Heroku's registry: repositories of apps that are there, and manifests of Docker's own type.
pub fn registry(shared: &Shared, asked: &Asked) -> Response {
    let path = asked.path.strip_prefix("/v2/").unwrap_or_default();
    if let Some((name, kind, _reference)) = registry::split(path) {
        let app = name.split('/').next().unwrap_or_default();
        let mut world = shared.world();
        if !world.heroku.apps.contains_key(app) {
            return registry::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        }
        if kind == "manifests" && asked.method == "PUT" && asked.header("content-type") != MANIFEST {
            return registry::error(415, "UNSUPPORTED", "unsupported manifest type");
        }
        world.registry_forgets |= world.heroku.mood == Mood::RegistryForgets;
        world.repositories.entry(name.to_owned()).or_default();
    }
    registry::serve(shared, asked)
}

impl Platform {
    /// An app that is there, by name.
    pub fn app(&self, name: &str) -> App {
        self.apps.get(name).cloned().unwrap_or_default()
    }

    /// The one-off dynos' programs and their variables.
    pub fn commands(&self) -> Vec<(String, Map<String, Value>)> {
        let text = |run: &Run| run.request.get("command").and_then(Value::as_str).unwrap_or_default().to_owned();
        let env = |run: &Run| run.request.get("env").and_then(Value::as_object).cloned().unwrap_or_default();
        self.runs.iter().map(|run| (text(run), env(run))).collect()
    }
}
