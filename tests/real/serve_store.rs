//! A store that fails under the CD server: a disk that is full, a Redis that is away, one that was emptied.

use crate::cd::{Cd, OPERATOR, PATIENCE, SECRET};
use crate::parts::part;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_full_disk_accepts_nothing_and_loses_nothing() {
    let small = part("TIDEGATE_REAL_SMALL_DISK");
    let mut cd = Cd::prepared("");
    let data = format!("{small}/cd-{}", std::process::id());
    let config = "schema: 1\nlisten: 127.0.0.1:0\nrunners:\n  script: {process: {command: [sh, script, \"{inventory}\"]}}\n\
                  apps:\n  my-app: {secret: {env: MY_APP}, busy: queue}\n  other-app: {secret: {env: OTHER_APP}, busy: queue}\ntokens: {ops: {secret: {env: OPS}, role: operator}}\nlimits: {queue: 10000, running: 1}\n";
    cd.write("tidegate-serve.yml", &format!("{config}data: {data}\n"));
    cd.job("until [ -e go ]; do sleep 0.02; done; echo it ended");
    cd.start();
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    let filler = format!("{small}/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // What is still free inside the store's own file may be used; then it says no.
    let mut accepted = vec![id.clone()];
    let since = Instant::now();
    loop {
        let answer = cd.api("POST", "/apps/my-app/jobs", SECRET);
        match answer.status {
            202 => accepted.push(answer.text("/id")),
            503 => {
                assert!(answer.header("retry-after").is_some() && answer.body.contains("nothing is promised"), "{answer:?}");
                break;
            }
            other => panic!("{other}: {answer:?}"),
        }
        assert!(since.elapsed() < PATIENCE);
    }
    cd.write("go", "");
    let ends = |id: &str| std::path::Path::new(&format!("{data}/jobs/{id}/run-1/end")).exists();
    let since = Instant::now();
    while !ends(&id) {
        assert!(since.elapsed() < PATIENCE, "the job that ran could not write its end");
    }
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    for id in &accepted {
        assert_eq!(cd.ended("my-app", id)["status"], "success", "what was accepted is kept");
    }
    cd.kill();
    cd.start();
    assert_eq!(cd.job_of("my-app", &id)["status"], "success", "the store is whole");
    assert_eq!(cd.api("POST", "/apps/my-app/jobs", SECRET).status, 202);
    cd.kill();
    std::fs::remove_dir_all(&data).ok();
}

/// A way to Redis that can be closed.
struct Gate {
    address: String,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn new(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(AtomicBool::new(true));
        let gate = open.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                if !gate.load(Ordering::Relaxed) {
                    continue; // closed at once
                }
                let server = TcpStream::connect(&to).unwrap();
                for (from, to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                    let gate = gate.clone();
                    std::thread::spawn(move || pass(from, to, &gate));
                }
            }
        });
        Self { address, open }
    }

    fn set(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, open: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut piece = [0; 65536];
    while open.load(Ordering::Relaxed) {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) if to.write_all(&piece[..count]).is_err() => break,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _closed = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

fn behind(gate: &Gate, more: &str) -> Cd {
    let cd = Cd::prepared("");
    let text = std::fs::read_to_string(cd.path("tidegate-serve.yml")).unwrap();
    let text = text.replace(&part("TIDEGATE_REAL_REDIS"), &gate.address);
    let config = "runners:\n  script: {process: {command: [sh, script, \"{inventory}\"]}}\napps:\n  my-app: {secret: {env: MY_APP}}\ntokens: {ops: {secret: {env: OPS}, role: operator}}\n";
    cd.write("tidegate-serve.yml", &format!("{text}{config}{more}"));
    cd
}

#[test]
fn a_redis_that_is_away_accepts_nothing_and_a_short_absence_costs_nothing() {
    let gate = Gate::new(part("TIDEGATE_REAL_REDIS"));
    let mut cd = behind(&gate, "");
    cd.job("until [ -e go ]; do sleep 0.02; done");
    cd.start();
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    gate.set(false);
    let since = Instant::now();
    while cd.api("POST", "/apps/my-app/jobs", SECRET).status != 503 {
        assert!(since.elapsed() < PATIENCE);
    }
    cd.ask("GET", "/health/", &[], "").must(503);
    cd.ask("GET", "/", &[], "").must(200);
    cd.api("GET", "/jobs", OPERATOR).must(503);
    gate.set(true);
    cd.write("go", "");
    let since = Instant::now();
    while cd.ask("GET", "/health/", &[], "").status != 200 {
        assert!(since.elapsed() < PATIENCE);
    }
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
    assert_eq!(cd.ran(), [id]);
}

#[test]
fn a_redis_that_stays_away_ends_jobs_before_another_replica_may_take_over() {
    let gate = Gate::new(part("TIDEGATE_REAL_REDIS"));
    let mut cd = behind(&gate, "limits: {lease: 3s}\n");
    cd.job("until [ -e go ]; do sleep 0.02; done; echo too late > late");
    cd.start();
    let id = cd.deploy();
    cd.until("my-app", &id, |status| status == "running");
    gate.set(false);
    let end = cd.path(&format!("data/jobs/{id}/run-1/end"));
    let since = Instant::now();
    while !end.exists() {
        assert!(since.elapsed() < PATIENCE, "{}", cd.said());
    }
    gate.set(true);
    cd.write("go", "");
    let job = cd.ended("my-app", &id);
    assert!(job["status"] == "lost" && job["detail"].as_str().unwrap().contains("could not reach the store"), "{job}");
    assert!(!cd.path("late").exists());
}

#[test]
fn a_redis_that_was_emptied_ends_what_it_has_forgotten() {
    let cd = Cd::new("");
    cd.job("echo $$ > program.new; mv program.new program; until [ -e go ]; do sleep 0.02; done; echo too late > late");
    cd.deploy();
    let since = Instant::now();
    while !cd.path("program").exists() {
        assert!(since.elapsed() < PATIENCE);
    }
    let text = std::fs::read_to_string(cd.path("tidegate-serve.yml")).unwrap();
    let prefix = text.split("store-prefix: ").nth(1).unwrap().lines().next().unwrap();
    let (host, port) = part("TIDEGATE_REAL_REDIS").split_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let script = format!("for _, key in ipairs(redis.call('KEYS', '{{{prefix}}}:*')) do redis.call('DEL', key) end return 1");
    let password = part("TIDEGATE_REAL_REDIS_PASSWORD");
    crate::parts::program(&["redis-cli", "--no-auth-warning", "-h", &host, "-p", &port, "-a", &password, "EVAL", &script, "0"]);
    let program: u32 = std::fs::read_to_string(cd.path("program")).unwrap().trim().parse().unwrap();
    let since = Instant::now();
    while std::fs::read_to_string(format!("/proc/{program}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    {
        assert!(since.elapsed() < PATIENCE, "a job that nobody knows runs on\n{}", cd.said());
    }
    assert!(!cd.path("late").exists());
    cd.job("");
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
}

/// A Redis that speaks TLS alone, ended with this value.
struct Encrypted(std::process::Child);

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_redis_behind_tls_is_believed_by_its_certificate() {
    let mut cd = Cd::prepared("");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    cd.write("key.pem", &made.signing_key.serialize_pem());
    cd.write("cert.pem", &made.cert.pem());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let password = part("TIDEGATE_REAL_REDIS_PASSWORD");
    cd.write(
        "redis.conf",
        &format!("bind 127.0.0.1\nport 0\ntls-port {port}\ntls-cert-file cert.pem\ntls-key-file key.pem\ntls-auth-clients no\nrequirepass {password}\nsave \"\"\n"),
    );
    let mut command = std::process::Command::new("redis-server");
    let _redis = Encrypted(command.arg("redis.conf").current_dir(cd.folder.path()).stdout(std::process::Stdio::null()).spawn().unwrap());
    let since = Instant::now();
    while TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(since.elapsed() < PATIENCE);
    }
    let config = "runners:\n  script: {process: {command: [sh, script, \"{inventory}\"]}}\napps:\n  my-app: {secret: {env: MY_APP}}\ntokens: {ops: {secret: {env: OPS}, role: operator}}\n";
    cd.write("tidegate-serve.yml", &format!("schema: 1\nlisten: 127.0.0.1:0\ndata: data\nstore: rediss://localhost:{port}\n{config}"));
    let (code, said) = cd.refused(&[]);
    assert!(code != 0 && said.to_lowercase().contains("certificate"), "who is nobody's is not believed: {code}: {said}");
    cd.var("SSL_CERT_FILE", &cd.path("cert.pem").display().to_string());
    cd.start();
    let id = cd.deploy();
    assert_eq!(cd.ended("my-app", &id)["status"], "success");
}
