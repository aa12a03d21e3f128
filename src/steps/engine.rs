//! The Docker engine at hand: builds with BuildKit and pushes, through its API and without a docker CLI.

use super::context_tar;
use super::endpoint::Endpoint;
use super::image::Job;
use super::progress::Progress;
use super::recipe::Recipe;
use super::session::{self, Offers, Session};
use crate::checkout::Checkout;
use crate::config::{Cache, CacheKind};
use crate::error::{Error, Reason, Result};
use crate::registry::oci::Manifest;
use crate::registry::store::{CACHE_TAG, RECIPE_LABEL, REVISION_LABEL, Store};
use crate::tools::http::chain;
use crate::tools::secret::Secret;
use crate::tools::wait::Backoff;
use crate::vars::Vars;
use crate::world::World;
use bollard::auth::DockerCredentials;
use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion, PushImageOptionsBuilder};
use bollard::{BollardRequest, Docker};
use futures::StreamExt;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// BuildKit answers nothing until it has read the whole context.
const BUILD_LIMIT: Duration = Duration::from_secs(6 * 3600);
const PUSH_TRIES: u32 = 4;
const SESSION_LIMIT: Duration = Duration::from_secs(30);

/// An engine that answered.
struct Engine {
    docker: Docker,
    endpoint: Endpoint,
    version: String,
}

async fn engine(vars: &Vars) -> Result<Engine> {
    let endpoint = Endpoint::of(vars)?;
    let missing = |why: String| {
        Error::new(Reason::ToolMissing, format!("there is no Docker engine at hand to build with: {why}"))
            .hint("start Docker, mount /var/run/docker.sock into the container, or set DOCKER_HOST")
    };
    let docker = endpoint.connect().map_err(|error| missing(chain(&error)))?;
    let version = docker.version().await.map_err(|error| missing(chain(&error)))?;
    Ok(Engine { docker, endpoint, version: version.version.unwrap_or_default() })
}

/// Whether an engine answers.
pub async fn is_at_hand(vars: &Vars) -> bool {
    engine(vars).await.is_ok()
}

/// What would build, or why nothing would.
pub async fn describe(vars: &Vars) -> Result<String> {
    let engine = engine(vars).await?;
    let at = match &engine.endpoint {
        Endpoint::Unix(path) => path.display().to_string(),
        Endpoint::Tcp(address) | Endpoint::Tls(address, _) => address.clone(),
    };
    Ok(format!("the Docker engine {} at {at}", engine.version))
}

/// Builds the image for every platform, pushes it, and says who did it.
pub async fn build_and_push(job: &Job<'_>, store: &Store, recipe: &Recipe, labels: Vec<(String, String)>) -> Result<String> {
    let engine = engine(&job.world.vars).await?;
    check_dockerfile(job, recipe)?;
    let build = &job.image.build;
    let version = build.version.as_str();
    let platforms: Vec<Option<&str>> = match build.image.platforms.as_slice() {
        [] => vec![None],
        listed => listed.iter().map(|platform| Some(platform.as_str())).collect(),
    };
    let several = platforms.len() > 1;
    let mut parts = Vec::new();
    for platform in &platforms {
        let tag = match platform.filter(|_| several) {
            Some(platform) => format!("{version}-{}", platform.replace('/', "-")),
            None => version.to_owned(),
        };
        let target = Target { name: store.oci().push_name(), tag, platform: platform.map(str::to_owned) };
        // A part that an interrupted run pushed is there already; an immutable repository would not take it twice.
        if !several || !is_there(store, &target.tag, recipe).await? {
            one(job, (&engine, store), recipe, &labels, &target).await?;
            push(job, &engine, store, &target).await?;
        }
        parts.push(target);
    }
    if several {
        join(store, version, &parts, &labels).await?;
    } else if matches!(build.image.cache, Cache::Kind(CacheKind::Registry)) {
        keep_cache(job, store, &engine.version).await?;
    }
    Ok(format!("built by the Docker engine {}", engine.version))
}

async fn is_there(store: &Store, tag: &str, recipe: &Recipe) -> Result<bool> {
    let Some(manifest) = store.manifest(tag).await? else { return Ok(false) };
    Ok(store.about(&manifest).await?.labels.get(RECIPE_LABEL) == Some(&recipe.hash))
}

/// What one build makes.
struct Target {
    name: String,
    tag: String,
    platform: Option<String>,
}

fn check_dockerfile(job: &Job<'_>, recipe: &Recipe) -> Result<()> {
    if recipe.context.join(&recipe.dockerfile).is_file() {
        return Ok(());
    }
    let tried = job.image.build.dockerfiles.join(", ");
    let sentence = format!("image {}: there is no {tried} in {}", job.image.name, recipe.context.display());
    Err(Error::new(Reason::ConfigInvalid, sentence)
        .hint("`dockerfile:` is relative to `context:`; in a workflow, check the repository out first"))
}

async fn one(
    job: &Job<'_>,
    (engine, store): (&Engine, &Store),
    recipe: &Recipe,
    labels: &[(String, String)],
    target: &Target,
) -> Result<()> {
    let build = &job.image.build;
    let failed = |why: String| Error::new(Reason::BuildFailed, format!("image {} cannot be built: {why}", job.image.name));
    let time = build.commit.as_deref().and_then(|commit| Checkout::at(job.folder).commit_time(commit)).unwrap_or(0);
    let (context, dockerfile) = (recipe.context.clone(), recipe.dockerfile.clone());
    let packed = tokio::task::spawn_blocking(move || context_tar::pack(&context, &dockerfile, u64::try_from(time).unwrap_or(0)));
    let packed = packed.await.map_err(|error| failed(error.to_string()))??;
    let id = format!("tidegate-{}", crate::report::outputs::random());
    let opening = session::open(&engine.endpoint, id, offers(job, store)?);
    let session = tokio::time::timeout(SESSION_LIMIT, opening).await.unwrap_or_else(|_elapsed| Err(io::Error::other("no answer")));
    let session = session.map_err(|error| failed(format!("the engine opens no BuildKit session: {error}")))?;
    let options = options(job, &engine.version, recipe, (labels, target), &session);
    let body = bollard::body_try_stream(tokio_util::io::ReaderStream::new(tokio::fs::File::from_std(packed)));
    // A build id of its own lets bollard's plain request use our session; the engine itself wants version 2.
    let docker = engine.docker.clone().with_timeout(BUILD_LIMIT).with_request_modifier(as_buildkit);
    let mut stream = std::pin::pin!(docker.build_image(options, None, Some(body)));
    let mut view = Progress::new(job);
    loop {
        let item = tokio::select! {
            item = stream.next() => item,
            // Dropping the request and the session ends the build in the engine.
            () = job.world.cancel.cancelled() => return Err(Error::new(Reason::Cancelled, format!("cancelled while {} was built", job.image.name))),
        };
        match item {
            None => break,
            Some(Ok(BuildInfo { aux: Some(BuildInfoAux::BuildKit(status)), .. })) => view.show(&status),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let failure = failed(view.cause(&chain(&error))).detail(view.tail());
                return Err(if is_build(&error) { failure } else { failure.hint(ENGINE_WENT) });
            }
        }
    }
    view.close();
    Ok(())
}

const ENGINE_WENT: &str = "the connection to the Docker engine ended in the midst of the build: does the engine run (`docker info`)? \
                           nothing was pushed or switched; run the job again";

/// Whether the engine itself says why the build failed.
fn is_build(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error;
    matches!(error, Error::DockerStreamError { .. } | Error::DockerResponseServerError { .. })
}

fn offers(job: &Job<'_>, store: &Store) -> Result<Offers> {
    let build = &job.image.build;
    let mut offers = Offers { world: Some(job.world.clone()), ..Offers::default() };
    let host = store.oci().push_name().split('/').next().unwrap_or_default().to_owned();
    if let Some(login) = store.oci().login() {
        offers.logins.insert(host, login.clone());
    }
    for (id, secret) in &build.image.secrets {
        let value = job.world.vars.get(&secret.env).ok_or_else(|| {
            Error::new(Reason::AuthMissing, format!("the build secret {id} of image {} is not set ({})", job.image.name, secret.env))
                .hint(format!("pass it to the step: `env: {{{}: ${{{{ secrets.{} }}}}}}`", secret.env, secret.env))
        })?;
        let value = Secret::new(value);
        job.world.console.mask(&value);
        offers.secrets.insert(id.clone(), value);
    }
    if build.image.ssh {
        let socket = job.world.vars.get("SSH_AUTH_SOCK").ok_or_else(|| {
            Error::new(Reason::AuthMissing, format!("image {} wants the SSH agent, but SSH_AUTH_SOCK is not set", job.image.name))
                .hint("start ssh-agent and add the key")
        })?;
        offers.ssh_agent = Some(socket.into());
    }
    Ok(offers)
}

fn options(
    job: &Job<'_>,
    version: &str,
    recipe: &Recipe,
    (labels, target): (&[(String, String)], &Target),
    session: &Session,
) -> bollard::query_parameters::BuildImageOptions {
    let build = &job.image.build;
    let mut args: HashMap<&str, &str> = build.args.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let cached = matches!(build.image.cache, Cache::Kind(CacheKind::Registry)) && can_cache_inline(version);
    let sources: Vec<String> = if cached { vec![format!("{}:{CACHE_TAG}", target.name)] } else { Vec::new() };
    if cached {
        args.insert("BUILDKIT_INLINE_CACHE", "1");
    }
    let labels: HashMap<&str, &str> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let tagged = format!("{}:{}", target.name, target.tag);
    let mut options = BuildImageOptionsBuilder::default()
        .dockerfile(&recipe.dockerfile)
        .t(&tagged)
        .buildargs(&args)
        .labels(&labels)
        .cachefrom(&sources)
        .nocache(matches!(build.image.cache, Cache::Kind(CacheKind::None)))
        .rm(true)
        .version(BuilderVersion::BuilderV1)
        .session(&session.id);
    if let Some(stage) = &build.image.target {
        options = options.target(stage);
    }
    if let Some(platform) = &target.platform {
        options = options.platform(platform);
    }
    options.build()
}

/// The next build starts from these layers; a cache that cannot be kept is no failure.
async fn keep_cache(job: &Job<'_>, store: &Store, version: &str) -> Result<()> {
    if !can_cache_inline(version) {
        let line = format!("  cache: registry is left out: the Docker engine {version} is too old for it (23 or newer)");
        job.world.console.line(&line);
        return Ok(());
    }
    if let Some(manifest) = store.manifest(job.image.build.version.as_str()).await?
        && let Err(error) = store.tag(&manifest, CACHE_TAG).await
    {
        job.world.console.warning(&format!("the build cache is not kept: {error}"));
    }
    Ok(())
}

/// Engines before 23 crash on inline caches from a registry.
fn can_cache_inline(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 23)
}

/// Turns bollard's classic request into one for BuildKit with the session that is open already, and writes
/// registry logins in the alphabet that the engine reads.
fn as_buildkit(mut request: BollardRequest) -> BollardRequest {
    for name in ["x-registry-auth", "x-registry-config"] {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok()).map(|text| text.replace('+', "-").replace('/', "_"));
        if let Some(Ok(value)) = value.map(|text| http::HeaderValue::from_str(&text)) {
            request.headers_mut().insert(name, value);
        }
    }
    if request.uri().path().ends_with("/build") {
        let uri = request.uri().to_string().replace("&version=1&", "&version=2&");
        let uri = uri.strip_suffix("&version=1").map_or(uri.clone(), |start| format!("{start}&version=2"));
        if let Ok(uri) = uri.replace("?version=1&", "?version=2&").parse() {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// Pushes. What failed for a passing reason is pushed again with a fresh login; layers that are there are not sent twice.
async fn push(job: &Job<'_>, engine: &Engine, store: &Store, target: &Target) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(20));
    let mut store = store.clone();
    for attempt in 1..=PUSH_TRIES {
        let error = match push_once(job.world, engine, &store, target).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let retry = passes(&error) || (attempt == 1 && lost_login(&error));
        if attempt == PUSH_TRIES || !retry {
            let sentence = format!("{}:{} cannot be pushed: {error}", target.name, target.tag);
            return Err(if error.contains("immutable") {
                Error::new(Reason::VersionConflict, sentence).hint("the tag exists with another image: release a new version")
            } else if lost_login(&error) {
                Error::new(Reason::AuthDenied, sentence).hint("the login may not push to this repository")
            } else {
                Error::new(Reason::PushFailed, sentence).hint("the image is built: running again pushes the rest")
            });
        }
        job.world.console.line(&format!("  the push was interrupted ({error}); it goes on where it stopped"));
        job.world.clock.sleep(backoff.pause()).await;
        store = Store::open(job.world, &job.image.build.repository, job.role.clone()).await?;
    }
    Ok(())
}

async fn push_once(world: &World, engine: &Engine, store: &Store, target: &Target) -> std::result::Result<(), String> {
    let login = store.oci().login().map(|login| DockerCredentials {
        username: Some(login.user.clone()),
        password: Some(login.password.expose().to_owned()),
        serveraddress: target.name.split('/').next().map(str::to_owned),
        ..DockerCredentials::default()
    });
    let options = PushImageOptionsBuilder::default().tag(&target.tag).build();
    let docker = engine.docker.clone().with_timeout(BUILD_LIMIT).with_request_modifier(as_buildkit);
    let mut stream = std::pin::pin!(docker.push_image(&target.name, Some(options), login.or_else(|| Some(DockerCredentials::default()))));
    loop {
        let item = tokio::select! {
            item = stream.next() => item,
            () = world.cancel.cancelled() => return Err("cancelled".into()),
        };
        match item {
            None => return Ok(()),
            Some(Ok(info)) => {
                if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
                    return Err(message);
                }
            }
            Some(Err(error)) => return Err(chain(&error)),
        }
    }
}

/// A login that ended or was refused: one more try with a fresh one.
fn lost_login(error: &str) -> bool {
    let error = error.to_lowercase();
    let words = ["401", "unauthorized", "no basic auth", "authentication required", "authorization token has expired", "denied"];
    words.iter().any(|part| error.contains(part))
}

fn passes(error: &str) -> bool {
    let error = error.to_lowercase();
    let passing = [
        "429",
        "toomanyrequests",
        "500",
        "502",
        "503",
        "504",
        "timeout",
        "reset",
        "eof",
        "expired",
        "broken pipe",
        "temporar",
        "connection refused",
    ];
    passing.iter().any(|part| error.contains(part)) && !error.contains("cancelled")
}

/// Joins the images of several platforms under one index, which carries the recipe as an annotation.
async fn join(store: &Store, version: &str, parts: &[Target], labels: &[(String, String)]) -> Result<()> {
    let mut manifests = Vec::new();
    for part in parts {
        let missing = || Error::new(Reason::PushFailed, format!("{} was pushed, but the registry does not have it", part.tag));
        let manifest = store.manifest(&part.tag).await?.ok_or_else(missing)?;
        let mut fields = part.platform.as_deref().unwrap_or_default().split('/');
        let mut platform = serde_json::json!({"os": fields.next(), "architecture": fields.next()});
        if let (Some(variant), Some(map)) = (fields.next(), platform.as_object_mut()) {
            map.insert("variant".into(), variant.into());
        }
        manifests.push(serde_json::json!({
            "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len(), "platform": platform,
        }));
    }
    let kept = labels.iter().filter(|(name, _)| name == RECIPE_LABEL || name == REVISION_LABEL);
    let annotations: HashMap<&str, &str> = kept.map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        "annotations": annotations,
    });
    let index = Manifest::new(bytes::Bytes::from(index.to_string()), "application/vnd.oci.image.index.v1+json");
    store.oci().put_manifest(&index, version).await
}
