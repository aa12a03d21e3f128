//! Starts the server, keeps its configuration current, and stops it in order.

use super::apps;
use super::asking::{Asking, announcing};
use super::config::{self, FILE_NAME, Loaded, Serve};
use super::http::listen::{Certificate, bind, serve};
use super::jobs::{self, Accepted};
use super::server::{Parts, Server};
use super::store::{Place, Store};
use super::{hooks, run as jobs_run};
use crate::error::{Error, Reason, Result};
use crate::tools::console::count;
use crate::vars::Vars;
use crate::world::World;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// How long the jobs that are followed may take to be left alone.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often the file and the certificate are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// `serve`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The configuration (default: tidegate-serve.yml here)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Only say whether the configuration is right and its secrets are there
    #[arg(long)]
    check: bool,
    /// Listen here in place of what the configuration says, as 127.0.0.1:0 for any free port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
}

/// Serves until the process is told to stop.
pub async fn run(world: &World, args: &Args) -> Result<()> {
    // Looked at before it is read: a change in between is found by the next look.
    let seen = changed(args.config.as_deref().unwrap_or(Path::new(FILE_NAME)));
    let loaded = Arc::new(config::load(args.config.as_deref())?);
    if args.check {
        // Its secrets as well: a server that starts without one would be found out at the first request.
        apps::Apps::new(world, &loaded, crate::tools::secret::Secret::new("check"))?;
        loaded.serve.tls.as_ref().map_or(Ok(()), |tls| Certificate::default().read(tls, &loaded.folder))?;
        world.console.good(&format!("{} is valid: {}", loaded.path.display(), counted(&loaded.serve)));
        return Ok(());
    }
    let data = data_folder(&world.vars, &loaded);
    let (lock, replica) = take(&data)?;
    let server = Arc::new(open(world, &loaded, &data, replica).await?);
    let certificate = Certificate::default();
    if let Some(tls) = &loaded.serve.tls {
        certificate.read(tls, &loaded.folder)?;
    }
    raise_file_limit();
    let listener = bind(args.listen.unwrap_or(loaded.serve.listen)).await?;
    let asked = server.uptime();
    server.store.beat(&server.replica).await?;
    server.note_heard(asked);
    server.metrics.config_holds.store(1, Ordering::Relaxed);
    greet(&server, &loaded, &listener, &data);
    let kept = hooks::kept(&server.store).await?;
    if kept > 0 {
        server.say(&format!("{kept} deliveries of webhooks are kept and tried again"));
    }
    tokio::spawn(jobs_run::work(server.clone()));
    tokio::spawn(hooks::listen_to_ecr(server.clone()));
    tokio::spawn(hooks::retry(server.clone()));
    tokio::spawn(keep_current(server.clone(), certificate.clone(), seen));
    if loaded.serve.announce.as_ref().is_some_and(|announce| announce.at_start) {
        announce(&server).await;
    }
    serve(server.clone(), listener, certificate).await;
    let ours = |job: &jobs::Job| job.holder.as_deref() == Some(server.replica.as_str());
    let left = jobs::running(&server.store).await.map_or(0, |jobs| jobs.iter().filter(|job| ours(job)).count());
    server.running.close();
    let _left = tokio::time::timeout(GOODBYE, server.running.wait()).await;
    server.say(&match left {
        0 => "stopped; no job was running".to_owned(),
        left => format!("stopped; {left} of its jobs go on, and are looked after by the next server"),
    });
    drop(lock);
    Ok(())
}

/// A server on its store.
async fn open(world: &World, loaded: &Arc<Loaded>, data: &Path, replica: String) -> Result<Server> {
    let serve = &loaded.serve;
    let place = Place { address: serve.store.clone(), prefix: serve.store_prefix.clone(), lease: serve.limits.lease.0 };
    let store = Store::open(&world.vars, &world.console, &place, data)?;
    let key = apps::key(&store).await?;
    Server::new(Parts { world: world.clone(), config: loaded.clone(), store, data: data.to_owned(), replica, key })
}

fn data_folder(vars: &Vars, loaded: &Loaded) -> PathBuf {
    match &loaded.serve.data {
        Some(data) => loaded.folder.join(data),
        None => crate::state::file::default_folder(vars).join("serve"),
    }
}

/// Takes the folder for this server alone; its name among replicas stands in it.
fn take(data: &Path) -> Result<(File, String)> {
    let failed = |error: &std::io::Error| {
        Error::new(Reason::LockUnreachable, format!("the folder {} cannot be used: {error}", data.display()))
            .hint("`data:` names a folder that this user may write; it keeps what jobs say, and the embedded store")
    };
    std::fs::create_dir_all(data).map_err(|error| failed(&error))?;
    private(data).map_err(|error| failed(&error))?;
    let lock = File::options().create(true).truncate(false).write(true).open(data.join("lock")).map_err(|error| failed(&error))?;
    if lock.try_lock().is_err() {
        return Err(Error::new(Reason::LockUnreachable, format!("another server uses the folder {}", data.display()))
            .hint("stop it, or name another folder with `data:`; several replicas have a folder each and share `store: redis://…`"));
    }
    let path = data.join("replica");
    let replica = std::fs::read_to_string(&path).unwrap_or_default();
    if crate::tools::ulid::is_ulid(replica.trim()) {
        return Ok((lock, replica.trim().to_owned()));
    }
    let replica = crate::tools::ulid::ulid();
    std::fs::write(&path, &replica).map_err(|error| failed(&error))?;
    Ok((lock, replica))
}

/// Many connections are many files; the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _stays_as_it_is = setrlimit(Resource::Nofile, limit);
}

/// What jobs say is nobody else's.
fn private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

fn counted(serve: &Serve) -> String {
    let apps = count(serve.apps.len(), "app", "apps");
    let runners = count(serve.runners.len(), "runner", "runners");
    format!("{apps}, {runners}, {}", count(serve.webhooks.len(), "webhook", "webhooks"))
}

fn greet(server: &Server, loaded: &Loaded, listener: &tokio::net::TcpListener, data: &Path) {
    let scheme = if loaded.serve.tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().map_or_else(|_unknown| loaded.serve.listen.to_string(), |address| address.to_string());
    server.say(&format!("tidegate {} serves on {scheme}://{address}", env!("CARGO_PKG_VERSION")));
    server.say(&format!("config: {} ({})", loaded.path.display(), counted(&loaded.serve)));
    server.say(&format!("store: {}, folder {}", loaded.serve.store, data.display()));
    if loaded.serve.users.is_empty() {
        server.say("page: off (nobody is in `users:`)");
    } else {
        server.say(&format!("page: {scheme}://{address}/ui/"));
    }
}

/// Runs the job that announces the apps.
async fn announce(server: &Server) {
    let asking = Asking { by: "the server's start".into(), ..Asking::default() };
    let begun = async {
        let wanted = announcing(&server.config().serve, config::ANNOUNCE, asking)?;
        server.accept(&wanted).await
    };
    match begun.await {
        Ok(Accepted::New(job, _) | Accepted::Joined(job)) => server.say(&format!("job {} announces the apps", job.id)),
        Ok(Accepted::Before(_) | Accepted::Busy | Accepted::Full(_)) => server.say("the apps are being announced already"),
        Err(error) => server.say(&format!("the apps cannot be announced: {}", error.sentence)),
    }
}

/// What another configuration says differently and cannot change while the server runs: key, what it is, what the file says.
fn fixed(was: &Serve, is: &Serve) -> Vec<(&'static str, String, String)> {
    let all = |serve: &Serve| {
        let data = serve.data.as_ref().map_or("the default".into(), |data| data.display().to_string());
        [
            ("listen", serve.listen.to_string()),
            ("store", serve.store.clone()),
            ("store-prefix", serve.store_prefix.clone()),
            ("data", data),
            ("tls", if serve.tls.is_some() { "on".into() } else { "off".into() }),
            ("limits.connections", serve.limits.connections.to_string()),
            ("limits.output", serve.limits.output.to_string()),
            ("limits.lease", serve.limits.lease.to_string()),
        ]
    };
    let pairs = all(was).into_iter().zip(all(is));
    pairs.filter(|((_, was), (_, is))| was != is).map(|((key, was), (_, is))| (key, was, is)).collect()
}

/// Takes the configuration and the certificate again when their files change, or at SIGHUP. What does not fit changes nothing.
async fn keep_current(server: Arc<Server>, certificate: Certificate, seen: Seen) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let path = server.config().path.clone();
    let mut seen = (seen, changed_secrets(&server));
    let mut seen_tls = changed_tls(&server);
    loop {
        let asked = tokio::select! {
            Some(()) = hangup.recv() => true,
            () = server.world.clock.sleep(LOOK) => false,
            () = server.world.cancel.cancelled() => return,
        };
        let now = (changed(&path), changed_secrets(&server));
        if asked || now != seen {
            reload(&server, &path);
            seen = (now.0, changed_secrets(&server)); // it may name other files now
        }
        let now = changed_tls(&server);
        if asked || now != seen_tls {
            seen_tls = now;
            let config = server.config();
            if let Some(tls) = &config.serve.tls {
                match certificate.read(tls, &config.folder) {
                    Ok(()) => server.say("the certificate was read again"),
                    Err(error) => server.say(&format!("the certificate stays as it was: {}", error.lines().join(" "))),
                }
            }
        }
    }
}

/// When a file was changed, and how long it is.
type Seen = Option<(SystemTime, u64)>;

fn changed(path: &Path) -> Seen {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// The files of secrets that the configuration names.
fn changed_secrets(server: &Server) -> Vec<Seen> {
    let config = server.config();
    config.serve.secret_files().into_iter().map(|file| changed(&config.folder.join(file))).collect()
}

fn changed_tls(server: &Server) -> [Seen; 2] {
    let config = server.config();
    let file = |file: &Path| changed(&config.folder.join(file));
    config.serve.tls.as_ref().map_or([None, None], |tls| [file(&tls.certificate), file(&tls.key)])
}

fn reload(server: &Server, path: &Path) {
    let taken = config::load(Some(path)).and_then(|loaded| {
        let loaded = Arc::new(loaded);
        server.reconfigure(loaded.clone()).map(|()| loaded)
    });
    match taken {
        Ok(loaded) => {
            server.say(&format!("{FILE_NAME} was read again: {}", counted(&loaded.serve)));
            for (key, was, is) in fixed(&server.started.serve, &loaded.serve) {
                server.say(&format!("{key} stays {was} until the server is started again (the file says {is})"));
            }
            server.metrics.config_holds.store(1, Ordering::Relaxed);
        }
        Err(error) => {
            server.metrics.config_holds.store(0, Ordering::Relaxed);
            server.say("the configuration stays as it was:");
            error.lines().iter().for_each(|line| server.say(line));
        }
    }
}
