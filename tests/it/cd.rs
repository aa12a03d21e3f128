//! A CD server in a folder of its own: the built binary, a client without any library, and the jobs' own notes.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const SECRET: &str = "my-app-secret-0001";
pub const OTHER: &str = "other-app-secret-0002";
pub const OPERATOR: &str = "operator-token-0003";
pub const VIEWER: &str = "viewer-token-0000004";
pub const PASSWORD: &str = "correct-horse-battery";
/// How long anything may take that is waited for: only hangs reach it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Jobs note their id in `ran`, say what they are, and do what `do` in the folder says.
const RUNNERS: &str = r#"runners:
  script: {process: {command: [sh, script, "{inventory}"], env: {JOB_SECRET: {env: JOB_SECRET}}}}
defaults: {runner: script}
"#;
const SCRIPT: &str = "echo \"$TIDEGATE_JOB\" >> ran\necho \"deploying $1\"\n. ./do\n";
const APPS: &str = r#"apps:
  my-app: {secret: {env: MY_APP}, inventory: my-inventory}
  other-app: {secret: {env: OTHER_APP}}
tokens:
  ops: {secret: {env: OPS}, role: operator}
  eyes: {secret: {env: EYES}, role: viewer}
users:
  ada: {password: {env: ADA}, role: operator}
  bob: {password: {env: BOB}}
"#;

pub struct Cd {
    pub folder: tempfile::TempDir,
    pub address: String,
    child: Option<Child>,
    said: Arc<Mutex<String>>,
    vars: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    #[track_caller]
    pub fn text(&self, pointer: &str) -> String {
        self.json().pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}: {self:?}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    #[track_caller]
    pub fn must(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Cd {
    /// A server that runs `script` for two apps, with more configuration.
    pub fn new(more: &str) -> Self {
        let mut cd = Self::prepared(&format!("{RUNNERS}{APPS}{more}"));
        cd.start();
        cd
    }

    /// A server that is not started yet, with all of its configuration but where it listens and keeps things.
    pub fn prepared(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut vars =
            BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap()), ("HOME".to_owned(), folder.path().display().to_string())]);
        for (name, value) in [
            ("MY_APP", SECRET),
            ("OTHER_APP", OTHER),
            ("OPS", OPERATOR),
            ("EYES", VIEWER),
            ("ADA", PASSWORD),
            ("BOB", "battery-horse-correct"),
            ("JOB_SECRET", "hunter2hunter2"),
        ] {
            vars.insert(name.into(), value.into());
        }
        let store = crate::cd_store(&mut vars);
        let text = format!("schema: 1\nlisten: 127.0.0.1:0\ndata: data\n{store}{config}");
        let cd = Self { folder, address: String::new(), child: None, said: Arc::default(), vars };
        cd.write("tidegate-serve.yml", &text);
        cd.write("script", SCRIPT);
        cd.job("");
        cd
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// What jobs do from now on, in shell.
    pub fn job(&self, lines: &str) {
        self.write("do.new", &format!("{lines}\n"));
        std::fs::rename(self.path("do.new"), self.path("do")).unwrap();
    }

    /// Changes the configuration by replacing a piece of it.
    #[track_caller]
    pub fn configure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("tidegate-serve.yml")).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.write("tidegate-serve.yml", &text.replace(from, to));
    }

    pub fn var(&mut self, name: &str, value: &str) -> &mut Self {
        self.vars.insert(name.into(), value.into());
        self
    }

    pub fn without(&mut self, name: &str) -> &mut Self {
        self.vars.remove(name);
        self
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("serve").args(args).current_dir(self.folder.path()).env_clear().envs(&self.vars).stdin(Stdio::null());
        command
    }

    /// Exit code and stderr of a server that is not to start.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.command(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    pub fn start(&mut self) {
        let mut child = self.command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        while !first.contains("serves on") {
            let before = first.len();
            lines.read_line(&mut first).unwrap();
            assert!(first.len() > before, "the server did not start: {first}");
        }
        let address = first.rsplit("://").next().unwrap().trim().to_owned();
        let said = self.said.clone();
        said.lock().unwrap().push_str(&first);
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
                said.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        (self.address, self.child) = (address, Some(child));
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends the server at once, as a power cut does; its jobs' supervisors are no children of this test.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the server to stop; its exit code.
    pub fn stop(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        signal(child.id(), "TERM");
        child.wait().unwrap().code().unwrap_or(-1)
    }

    /// The exit code of a server that somebody else has asked to stop.
    pub fn exited(&mut self) -> i32 {
        self.child.take().unwrap().wait().unwrap().code().unwrap_or(-1)
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// A request as it is, and the answer.
    #[track_caller]
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        answer_to(&self.address, bytes).unwrap_or_else(|error| panic!("no answer: {error}\n{}", self.said()))
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.raw(request(method, path, headers, body).as_bytes())
    }

    /// A request that may meet a server that is being killed.
    pub fn try_ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
        answer_to(&self.address, request(method, path, headers, body).as_bytes()).ok().filter(|answer| answer.status > 0)
    }

    /// A request with a secret or token.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, token: &str) -> Answer {
        self.ask(method, &format!("/api/v1{path}"), &[("authorization", &format!("Bearer {token}"))], "")
    }

    /// A request of the original client.
    #[track_caller]
    pub fn enac(&self, path: &str, id: &str, secret: &str, job: Option<&str>) -> Answer {
        let mut body = serde_json::json!({"deployment_id": id, "deployment_secret": secret});
        job.into_iter().for_each(|job| body["job_id"] = job.into());
        self.ask("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    /// A new job of my-app.
    #[track_caller]
    pub fn deploy(&self) -> String {
        self.api("POST", "/apps/my-app/jobs", SECRET).must(202).text("/id")
    }

    #[track_caller]
    pub fn job_of(&self, app: &str, id: &str) -> Value {
        self.api("GET", &format!("/apps/{app}/jobs/{id}"), OPERATOR).must(200).json()
    }

    /// The job, when it is as wanted.
    #[track_caller]
    pub fn until(&self, app: &str, id: &str, wanted: impl Fn(&str) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let job = self.job_of(app, id);
            let status = job["status"].as_str().unwrap().to_owned();
            if wanted(&status) {
                return job;
            }
            assert!(since.elapsed() < PATIENCE, "job {id} stays {status}\n{}", self.said());
            let path = format!("/apps/{app}/jobs/{id}?wait=1&status={status}");
            self.api("GET", &path, OPERATOR);
        }
    }

    #[track_caller]
    pub fn ended(&self, app: &str, id: &str) -> Value {
        self.until(app, id, |status| !matches!(status, "queued" | "starting" | "running"))
    }

    #[track_caller]
    pub fn log(&self, app: &str, id: &str) -> String {
        self.api("GET", &format!("/apps/{app}/jobs/{id}/log"), OPERATOR).must(200).body
    }

    /// The ids of the jobs that ran, in order.
    pub fn ran(&self) -> Vec<String> {
        std::fs::read_to_string(self.path("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Cd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        // Jobs that still run are told to end.
        for attempt in attempts(&self.path("data/jobs")) {
            std::fs::write(attempt.join("cancel"), "").ok();
        }
    }
}

/// The folders of all attempts below a server's jobs.
pub fn attempts(jobs: &std::path::Path) -> Vec<PathBuf> {
    let list =
        |path: &std::path::Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    list(jobs).iter().flat_map(|job| list(job)).filter(|path| path.is_dir()).collect()
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: cd\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    format!("{text}\r\n{body}")
}

/// What comes back for these bytes. A server that closes before it has read everything is fine, if it answers.
pub fn answer_to(address: &str, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let _closed_early = stream.write_all(bytes);
    let mut raw = Vec::new();
    let mut piece = [0; 65536];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => raw.extend_from_slice(&piece[..count]),
            Err(_reset) if !raw.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8_lossy(&raw).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}
