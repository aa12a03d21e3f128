//! A repository, a sandbox and the variables of a GitHub job; runs the built binary in them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use tidegate::rehearse::gitlab::{ACCESS_TOKEN, JOB_TOKEN, MergeRequest, PROJECT};
use tidegate::rehearse::sandbox::{self, Sandbox};

/// The configuration that most stories use.
pub const CONFIG: &str = r#"schema: 1
project: demo
aws: {region: us-west-2}
images:
  app:
    repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/demo
environments:
  dev:
    when: merge
    tags: [latest]
    deploy:
      - kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}
  staging:
    when: release
    deploy:
      - kubernetes: {namespace: staging, workloads: [deployment/web], image: app, timeout: 5s}
  production:
    when: manual
    gates:
      - drain: {queues: [jobs], regions: [us-west-2, us-east-2], quiet: 1s, timeout: 10s}
    deploy:
      - kubernetes: {namespace: production, workloads: [deployment/web], image: app, timeout: 5s}
  preview:
    when: pull-request
    name: "{project}-pr-{pr}"
    deploy:
      - kubernetes: {namespace: "{project}-pr-{pr}", workloads: [deployment/web], image: app, timeout: 5s}
"#;

/// The image that everything runs before the story begins.
pub const OLD: &str =
    "123456789012.dkr.ecr.us-west-2.amazonaws.com/demo:old@sha256:1111111111111111111111111111111111111111111111111111111111111111";

pub struct World {
    #[allow(dead_code)] // it keeps the sandbox alive
    runtime: tokio::runtime::Runtime,
    pub sandbox: Sandbox,
    pub folder: tempfile::TempDir,
    /// Damages what the store holds, where that is not the pretend forge.
    pub damage: Option<Box<dyn Fn()>>,
    /// What has to live as long as the world: other programs.
    #[allow(dead_code)] // it keeps them alive
    pub beside: Vec<Box<dyn std::any::Any>>,
    vars: BTreeMap<String, String>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
    /// What the outside saw during this run.
    pub log: Vec<String>,
    pub outputs: BTreeMap<String, String>,
}

impl World {
    /// A repository with one commit on main, workloads that run the old image, and quiet queues.
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut outside = sandbox::World::default();
        outside.repositories.insert("demo".into(), Default::default());
        outside.cluster.first_image = OLD.into();
        outside.cluster.log = "panic: no database\n".into();
        for namespace in ["dev", "staging", "production", "demo-pr-12"] {
            outside.cluster.add_workload("deployments", namespace, "web", &[("web", OLD)]);
        }
        for region in ["us-west-2", "us-east-2"] {
            outside.queues.insert((region.into(), "jobs".into()), [[0, 0, 0]].into_iter().collect());
        }
        let sandbox = runtime.block_on(Sandbox::start(outside)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self { runtime, sandbox, folder, damage: None, beside: Vec::new(), vars: BTreeMap::new() };
        world.surround();
        world.write("tidegate.yml", CONFIG);
        world.write("Dockerfile", "FROM scratch\nCOPY app /app\n");
        world.write("app", "one\n");
        world.git(&["init", "--quiet", "--initial-branch=main"]);
        world.commit("one");
        world
    }

    fn surround(&mut self) {
        std::fs::write(self.path(".kubeconfig"), self.sandbox.kubeconfig(&["sandbox".into()])).unwrap();
        let address = self.sandbox.address.clone();
        for (name, value) in [
            ("PATH", env_path()),
            ("HOME", self.path("home").display().to_string()),
            ("GITHUB_ACTIONS", "true".into()),
            ("GITHUB_REPOSITORY", "acme/demo".into()),
            ("GITHUB_ACTOR", "octocat".into()),
            ("GITHUB_SERVER_URL", "https://github.com".into()),
            ("GITHUB_API_URL", self.sandbox.url("github")),
            ("GITHUB_RUN_ID", "77".into()),
            ("GITHUB_RUN_ATTEMPT", "1".into()),
            ("GITHUB_TOKEN", "ghs_storytoken".into()),
            ("GITHUB_EVENT_PATH", self.path(".event.json").display().to_string()),
            ("GITHUB_OUTPUT", self.path(".outputs").display().to_string()),
            ("GITHUB_STEP_SUMMARY", self.path(".summary").display().to_string()),
            ("AWS_ENDPOINT_URL", self.sandbox.url("aws")),
            ("AWS_ACCESS_KEY_ID", "AKIASTORY".into()),
            ("AWS_SECRET_ACCESS_KEY", "storysecretstorysecret".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("KUBECONFIG", self.path(".kubeconfig").display().to_string()),
            ("DOCKER_HOST", format!("tcp://{address}")),
            ("TIDEGATE_REGISTRY_ENDPOINTS", format!("123456789012.dkr.ecr.us-west-2.amazonaws.com=http://{address}")),
        ] {
            self.vars.insert(name.into(), value);
        }
    }

    /// A job of a GitLab pipeline in place of the GitHub job: job 501 of the project acme/demo.
    pub fn on_gitlab(&mut self, source: &str) -> &mut Self {
        self.vars.retain(|name, _| !name.starts_with("GITHUB_"));
        let (api, sha) = (format!("{}/api/v4", self.sandbox.url("gitlab")), self.head());
        for (name, value) in [
            ("CI", "true"),
            ("GITLAB_CI", "true"),
            ("NO_COLOR", "1"),
            ("CI_API_V4_URL", api.as_str()),
            ("CI_SERVER_URL", "https://gitlab.com"),
            ("CI_PROJECT_PATH", "acme/demo"),
            ("CI_PROJECT_ID", "7"),
            ("CI_DEFAULT_BRANCH", "main"),
            ("CI_PIPELINE_SOURCE", source),
            ("CI_COMMIT_SHA", sha.as_str()),
            ("CI_JOB_ID", "501"),
            ("CI_JOB_URL", "https://gitlab.com/acme/demo/-/jobs/501"),
            ("CI_JOB_STARTED_AT", "2026-11-21T10:00:00Z"),
            ("CI_JOB_TOKEN", JOB_TOKEN),
            ("GITLAB_TOKEN", ACCESS_TOKEN),
            ("GITLAB_USER_LOGIN", "ada"),
            ("TIDEGATE_RESOURCE_GROUP", "demo/dev"),
        ] {
            self.var(name, value);
        }
        self.sandbox.with(|outside| {
            let merged = MergeRequest { state: "merged".into(), sha: "f".repeat(40), merge_commit: Some(sha), source_project: PROJECT };
            outside.gitlab.merge_requests.insert(3, merged);
            outside.gitlab.resource_groups.insert("demo/dev".into(), 501);
        });
        self
    }

    /// The job is of a merge request's pipeline, whose head is the checked-out commit, in a resource group of its own.
    pub fn merge_request(&mut self, number: u64) -> &mut Self {
        let (sha, group) = (self.head(), format!("demo/mr-{number}"));
        for (name, value) in [
            ("CI_PIPELINE_SOURCE", "merge_request_event"),
            ("CI_MERGE_REQUEST_IID", number.to_string().as_str()),
            ("CI_MERGE_REQUEST_EVENT_TYPE", "detached"),
            ("CI_MERGE_REQUEST_PROJECT_ID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "acme/demo"),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "change"),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", ""),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
            ("CI_MERGE_REQUEST_REF_PATH", format!("refs/merge-requests/{number}/head").as_str()),
            ("CI_COMMIT_REF_NAME", "change"),
            ("CI_COMMIT_SHA", sha.as_str()),
            ("TIDEGATE_RESOURCE_GROUP", group.as_str()),
        ] {
            self.var(name, value);
        }
        self.sandbox.with(|outside| {
            let open = MergeRequest { state: "opened".into(), sha, merge_commit: None, source_project: PROJECT };
            outside.gitlab.merge_requests.insert(number, open);
            outside.gitlab.resource_groups.insert(group, 501);
        });
        self
    }

    /// The job is of no merge request any more.
    pub fn no_merge_request(&mut self) -> &mut Self {
        self.vars.retain(|name, _| !name.starts_with("CI_MERGE_REQUEST_"));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn var(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.vars.insert(name.into(), value.into());
        self
    }

    pub fn get(&self, name: &str) -> &str {
        &self.vars[name]
    }

    pub fn without(&mut self, name: &str) -> &mut Self {
        self.vars.remove(name);
        self
    }

    /// Merges go to this target instead of the cluster, and that is committed.
    pub fn deploy_dev_by(&self, target: &str) {
        let text = std::fs::read_to_string(self.path("tidegate.yml")).unwrap();
        let (head, rest) = text.split_once("    deploy:\n      - ").unwrap();
        let (_, tail) = rest.split_once('\n').unwrap();
        self.write("tidegate.yml", &format!("{head}    deploy:\n      - {target}\n{tail}"));
        self.commit("another target");
    }

    /// Changes the configuration by replacing a piece of it.
    pub fn configure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("tidegate.yml")).unwrap();
        assert!(text.contains(from), "{from:?} is not in the configuration");
        self.write("tidegate.yml", &text.replace(from, to));
    }

    pub fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.folder.path()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "A")
                .env(format!("GIT_{who}_EMAIL"), "a@example.com")
                .env(format!("GIT_{who}_DATE"), "2026-01-02T03:04:05Z");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Commits everything that git follows; the pretend GitHub learns the commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "tidegate.yml", "Dockerfile", "app"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        let sha = self.git(&["rev-parse", "HEAD"]);
        let merged = std::fs::read_to_string(self.path("tidegate.yml")).unwrap();
        self.sandbox.with(|outside| {
            outside.github.history.push(sha.clone());
            outside.github.files.insert("tidegate.yml".into(), merged);
        });
        sha
    }

    /// The pretend forges show the history of this very repository.
    pub fn real_git(&self) {
        let folder = self.folder.path().to_owned();
        self.sandbox.with(|outside| outside.github.git = Some(folder));
    }

    /// A new branch that starts there, checked out, and on the forge.
    pub fn branch(&self, name: &str, start: &str) {
        self.git(&["switch", "--quiet", "-c", name, start]);
        self.sandbox.with(|outside| outside.github.branches.push(name.to_owned()));
    }

    /// The digest that the registry has for a tag.
    pub fn digest_of(&self, tag: &str) -> String {
        self.sandbox.with(|outside| outside.repositories["demo"].tags[tag].clone())
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// The job's event.
    pub fn event(&mut self, name: &str, payload: &Value) -> &mut Self {
        self.write(".event.json", &payload.to_string());
        self.var("GITHUB_EVENT_NAME", name)
    }

    /// A push of the checked-out commit to main, merged by pull request 12.
    pub fn pushed(&mut self) -> &mut Self {
        let sha = self.head();
        self.sandbox.with(|outside| outside.github.pulls.push((sha.clone(), 12)));
        let payload = json!({
            "ref": "refs/heads/main", "before": "0".repeat(40), "after": sha, "created": false, "deleted": false, "forced": false,
            "head_commit": {"id": sha}, "repository": repository(), "sender": {"login": "octocat"},
        });
        self.var("GITHUB_SHA", sha).var("GITHUB_REF", "refs/heads/main");
        self.event("push", &payload)
    }

    /// A published release of a commit.
    pub fn released(&mut self, tag: &str, sha: &str) -> &mut Self {
        self.sandbox.with(|outside| outside.github.tags.push((tag.into(), sha.into())));
        let release =
            json!({"tag_name": tag, "target_commitish": "main", "draft": false, "prerelease": false, "author": {"login": "octocat"}});
        self.var("GITHUB_SHA", sha).var("GITHUB_REF", format!("refs/tags/{tag}"));
        self.event(
            "release",
            &json!({"action": "published", "release": release, "repository": repository(), "sender": {"login": "octocat"}}),
        )
    }

    /// Something happened to pull request 12, whose head is the checked-out commit.
    pub fn pull_request(&mut self, action: &str, change: impl Fn(&mut Value)) -> &mut Self {
        let sha = self.head();
        let side = |name: &str| json!({"ref": name, "sha": sha, "repo": {"id": 1, "full_name": "acme/demo"}});
        let mut payload = json!({
            "action": action, "number": 12, "repository": repository(), "sender": {"login": "octocat"},
            "pull_request": {"number": 12, "draft": false, "merged": false, "labels": [], "user": {"login": "octocat"}, "head": side("change"), "base": side("main")},
        });
        change(&mut payload);
        let number = payload["number"].as_u64().unwrap();
        self.sandbox.with(|outside| {
            outside.github.closed.retain(|closed| *closed != number);
            outside.github.closed.extend((action == "closed").then_some(number));
        });
        self.var("GITHUB_SHA", "e".repeat(40)).var("GITHUB_REF", "refs/pull/12/merge");
        self.event("pull_request", &payload)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(args).current_dir(self.folder.path()).env_clear().envs(&self.vars).stdin(Stdio::null());
        command
    }

    /// A second checkout, on this commit: another runner's.
    pub fn checkout(&self, sha: &str) -> PathBuf {
        let folder = self.path(&format!(".checkout-{sha}"));
        if !folder.exists() {
            self.git(&["worktree", "add", "--quiet", "--detach", &folder.display().to_string(), sha]);
        }
        folder
    }

    /// A run of its own for a merge: its checkout, its run id, its event.
    pub fn merge(&self, sha: &str, run: u32) -> Command {
        let folder = self.checkout(sha);
        let payload = json!({
            "ref": "refs/heads/main", "before": "0".repeat(40), "after": sha, "created": false, "deleted": false, "forced": false,
            "head_commit": {"id": sha}, "repository": repository(), "sender": {"login": "octocat"},
        });
        let event = self.path(&format!(".event-{run}.json"));
        std::fs::write(&event, payload.to_string()).unwrap();
        let mut command = self.command(&["run"]);
        command.current_dir(folder).env("GITHUB_EVENT_NAME", "push").env("GITHUB_EVENT_PATH", event).env("GITHUB_SHA", sha);
        command.env("GITHUB_REF", "refs/heads/main").env("GITHUB_RUN_ID", run.to_string());
        command.env("GITHUB_OUTPUT", self.path(&format!(".outputs-{run}"))).env("GITHUB_STEP_SUMMARY", "/dev/null");
        command
    }

    /// Waits until something is so; a test that hangs here fails after a minute.
    #[track_caller]
    pub fn until(&self, what: &str, mut so: impl FnMut(&mut sandbox::World) -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !self.sandbox.with(&mut so) {
            assert!(std::time::Instant::now() < deadline, "never happened: {what}");
            std::thread::yield_now();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a run and reads what it says until these words.
    #[track_caller]
    pub fn run_until(&self, args: &[&str], words: &str) -> Going {
        let mut going = Going::start(self.command(args));
        going.until(words);
        going
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.sandbox.with(|outside| outside.log.clear());
        let _old = std::fs::remove_file(self.path(".outputs"));
        let output = self.command(args).output().unwrap();
        self.ran(output)
    }

    pub fn ran(&self, output: Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let outputs = std::fs::read_to_string(self.path(".outputs")).unwrap_or_default();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
            log: self.sandbox.with(|outside| outside.log.clone()),
            outputs: parse_outputs(&outputs),
        }
    }

    pub fn comments(&self) -> Vec<String> {
        self.sandbox.with(|outside| outside.github.comments.iter().map(|comment| comment.body.clone()).collect())
    }

    /// The states of every deployment record.
    pub fn deployments(&self) -> Vec<Vec<String>> {
        self.sandbox.with(|outside| outside.github.deployments.iter().map(|deployment| deployment.states.clone()).collect())
    }

    /// Writes nonsense over every lease.
    pub fn damage_leases(&self) {
        match &self.damage {
            Some(damage) => damage(),
            None => self.sandbox.with(|outside| outside.github.messages.values_mut().for_each(|message| message.truncate(9))),
        }
    }

    pub fn runs_on(&self, namespace: &str) -> String {
        self.sandbox.with(|outside| outside.cluster.image_of("deployments", namespace, "web")).unwrap()
    }

    /// For stories that speak to real parts themselves.
    #[allow(dead_code)]
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }
}

impl Ran {
    /// The run must have ended so; otherwise everything it said is shown.
    #[track_caller]
    pub fn must(&self, code: i32, reason: &str) -> &Self {
        let said = self.outputs.get("reason").cloned().unwrap_or_default();
        let named = said == reason || self.err.contains(&format!("({reason})"));
        assert!(self.code == code && named, "wanted {code} {reason}, got {} {said}\n{}\n{}", self.code, self.err, self.log.join("\n"));
        self
    }

    /// It must have ended so, and said this.
    #[track_caller]
    pub fn must_say(&self, code: i32, words: &str) -> &Self {
        assert!(
            self.code == code && self.err.contains(words),
            "wanted {code} {words:?}, got {}\n{}\n{}",
            self.code,
            self.err,
            self.log.join("\n")
        );
        self
    }

    /// How many requests of the log contain this text.
    pub fn count(&self, text: &str) -> usize {
        self.log.iter().filter(|line| line.contains(text)).count()
    }

    /// stderr with times, ports, folders and digests made the same.
    pub fn shown(&self) -> String {
        steady(&self.err)
    }
}

/// Text with everything that varies from run to run replaced.
pub fn steady(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, with) in [
        (r" +\d+\.\ds  ", " [time]  "),
        (r"\b\d+\.\ds\b", "[time]"),
        (r"sha256:[0-9a-f]{64}", "sha256:[64]"),
        (r"sha256:[0-9a-f]{12}…", "sha256:[12]…"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
        (r"/tmp/\.tmp\w+", "[folder]"),
        (r"plan `?[0-9a-f]{12}", "plan [hash]"),
        (r"\d+(\.\d+)? k?B", "[size]"),
    ] {
        text = regex::Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}

pub fn repository() -> Value {
    json!({"full_name": "acme/demo", "default_branch": "main", "id": 1})
}

fn env_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}

fn parse_outputs(text: &str) -> BTreeMap<String, String> {
    let mut outputs = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let (name, delimiter) = line.split_once("<<").expect("every output is a heredoc");
        let value: Vec<&str> = lines.by_ref().take_while(|line| *line != delimiter).collect();
        outputs.insert(name.to_owned(), value.join("\n"));
    }
    outputs
}

/// Runs the binary without any sandbox.
pub fn tidegate(folder: &Path, args: &[&str], vars: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(args).current_dir(folder).env_clear().env("PATH", env_path()).env("HOME", folder).envs(vars.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// A run that goes on, read line by line.
pub struct Going {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Going {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line with these words.
    #[track_caller]
    pub fn until(&mut self, words: &str) -> String {
        let mut said = Vec::new();
        let found = self.lines.by_ref().map_while(Result::ok).inspect(|line| said.push(line.clone())).find(|line| line.contains(words));
        assert!(found.is_some(), "it never said {words:?}:\n{}", said.join("\n"));
        found.unwrap_or_default()
    }

    /// Reads until all of these words were said, in whatever order.
    #[track_caller]
    pub fn until_all(&mut self, words: &[&str]) {
        let mut said = String::new();
        while !words.iter().all(|word| said.contains(word)) {
            let line = self.lines.next().and_then(Result::ok);
            assert!(line.is_some(), "it never said all of {words:?}:\n{said}");
            said.push_str(&line.unwrap_or_default());
            said.push('\n');
        }
    }

    #[track_caller]
    pub fn signal(&self, name: &str) {
        signal(name, &self.child);
    }

    /// Without a word more.
    #[track_caller]
    pub fn kill(mut self) {
        self.signal("-KILL");
        self.child.wait().unwrap();
    }

    /// Its end, and what it said until then.
    #[track_caller]
    pub fn ends(mut self, code: i32) -> String {
        let said: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        let said = said.join("\n");
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{said}");
        said
    }
}

#[track_caller]
pub fn signal(name: &str, child: &Child) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}
