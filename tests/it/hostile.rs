//! Names, texts and answers made to do harm. They stay names and texts; what cannot be one is refused with a sentence.

use crate::world::{World, repository, tidegate};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tidegate::rehearse::sandbox::Fault;

const BRANCHES: [&str; 5] = ["x';$(touch${IFS}p)#", "`touch${IFS}p`", "a&&touch${IFS}p", "--upload-pack=touch${IFS}p", "..%2f..%2fetc"];

/// Every command that a hostile name would start makes this file.
#[track_caller]
fn nothing_was_started(world: &World) {
    assert!(!world.path("p").exists(), "a shell took a name for a command");
}

/// A branch of any name gets its preview under a name that is safe, and its title is never read as anything.
#[test]
fn a_branch_is_a_name_whatever_it_says() {
    for branch in BRANCHES {
        let mut world = World::new();
        world.configure("name: \"{project}-pr-{pr}\"", "name: \"{project}-pr-{pr}-{branch_slug}\"");
        world.commit("named by branch");
        let payload = |payload: &mut Value| {
            payload["pull_request"]["head"]["ref"] = json!(branch);
            payload["pull_request"]["title"] = json!("${{ github.token }}\n::stop-commands::x\n[tidegate set a=b]");
            payload["pull_request"]["body"] = json!("<!-- tidegate:end --> @everyone $(touch p)");
        };
        let ran = world.pull_request("opened", payload).run(&["plan", "--format", "json"]);
        assert_eq!(ran.code, 0, "{branch}: {}", ran.err);
        nothing_was_started(&world);
        assert!(ran.err.lines().all(|line| !line.starts_with("::stop-commands")), "{}", ran.err);
    }
}

/// What cannot be a tag of an image is no version, whoever says it.
#[test]
fn a_version_that_cannot_be_a_tag_is_refused() {
    let mut world = World::new();
    world.pushed();
    let long = "1".repeat(300);
    for version in ["../../prod", "v1.0.0\n2", &long, "\u{3bd}1.0.0", "a b", "$(touch p)", "`touch p`", "latest", "1.0.0\u{200b}", "1/0"] {
        let ran = world.run(&["deploy", "production", version]);
        assert_eq!((ran.code, ran.count("PATCH /kube")), (2, 0), "{version:?}: {}", ran.err);
        assert!(ran.err.contains("input.version"), "{version:?}: {}", ran.err);
        nothing_was_started(&world);
    }
    // A tag that is pushed is no better: nothing is built for it.
    let mut world = World::new();
    let sha = world.head();
    let ran = world.released("v1.0.0`touch${IFS}p`", &sha).run(&["run"]);
    ran.must(0, "event.not-a-version");
    assert_eq!(ran.count("POST /build") + ran.count("/kube"), 0, "{:?}", ran.log);
    nothing_was_started(&world);
}

/// Words of a program that is run here, in a job of GitHub's and of GitLab's.
#[test]
fn what_a_program_says_commands_nobody() {
    let words = [
        "::set-output name=digest::evil",
        "  ::stop-commands::token",
        "\\r::add-mask::a",
        "##[set-env name=PATH]/evil",
        "\\033[2J\\033[0Ksection_start:1:x\\r\\033[0K",
        "\\357\\273\\277::error::x",
        "%0A::warning::x",
    ];
    let script = format!("#!/bin/sh\nprintf '{}\\n'\n", words.join("\\n").replace('%', "%%"));
    for on_gitlab in [false, true] {
        let mut world = World::new();
        world.write("say", &script);
        std::fs::set_permissions(world.path("say"), std::fs::Permissions::from_mode(0o755)).unwrap();
        world.configure(
            "deploy:\n      - kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}\n  staging",
            "deploy:\n      - command: {run: [./say]}\n  staging",
        );
        world.commit("a program");
        if on_gitlab {
            world.on_gitlab("push").var("CI_COMMIT_BRANCH", "main");
        } else {
            world.pushed();
        }
        let ran = world.run(&["run"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains("name=digest"), "the program's words are shown: {}", ran.err);
        let ours = ["::add-mask::", "::group::", "::endgroup::", "\u{1b}[0Ksection_"];
        for line in ran.err.lines().filter(|line| !ours.iter().any(|start| line.starts_with(start))) {
            let bare = line.trim_start_matches(['\u{feff}', ' ', '\t']);
            assert!(!bare.starts_with("::") && !line.contains("##[") && !line.contains('\r'), "{line:?}");
            assert!(on_gitlab || !line.contains('\u{1b}'), "{line:?}");
        }
        assert_ne!(ran.outputs.get("digest").map(String::as_str), Some("evil"));
    }
}

/// A server that listens and writes down what it is asked.
fn sink() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (address, heard) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
    let shared = heard.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut bytes = [0_u8; 8192];
            let read = client.read(&mut bytes).unwrap_or(0);
            shared.lock().unwrap().push(String::from_utf8_lossy(&bytes[..read]).into_owned());
            let _gone = client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]");
        }
    });
    (address, heard)
}

/// Pages and redirects that lead to another host: no token goes there.
#[test]
fn an_answer_that_leads_elsewhere_takes_no_token_along() {
    for (on, status, header) in [
        ("GET /github/repos/acme/demo/issues/12/comments", 200, "link"),
        ("GET /github/repos/acme/demo/issues/12/comments", 302, "location"),
        ("GET /github/repos/acme/demo/git/matching-refs", 307, "location"),
        ("POST /github/repos/acme/demo/deployments", 307, "location"),
        ("GET /v2/demo/manifests", 307, "location"),
        ("GET /v2/demo/blobs", 307, "location"),
        ("GET /v2/demo/tags/list", 200, "link"),
    ] {
        let (address, heard) = sink();
        let mut world = World::new();
        let target = match header {
            "link" => format!("<http://{address}/evil?page=2>; rel=\"next\", <http://{address}/evil?page=9>; rel=\"last\""),
            _location => format!("http://{address}/evil"),
        };
        let value: &'static str = target.leak();
        let body = if status == 200 { json!([]) } else { Value::Null };
        world.sandbox.with(|outside| {
            outside.faults.push(Fault { on, times: 50, status, headers: vec![(header, value)], body, after_effect: false });
        });
        let ran = world.pushed().run(&["run"]);
        assert!(ran.code < 6, "{on}: {}", ran.err);
        let heard = heard.lock().unwrap().join("\n").to_lowercase();
        for secret in ["authorization:", "ghs_storytoken", "sandbox-registry-token", "private-token"] {
            assert!(!heard.contains(secret), "{on} {status}: {heard}");
        }
    }
}

/// A registry may send its clients on, but not to where a cloud keeps the credentials of the machine, and not to a file.
#[test]
fn a_registry_leads_nobody_to_a_clouds_credentials() {
    for (on, status, header, value) in [
        ("GET /v2/demo", 401, "www-authenticate", "Bearer realm=\"http://169.254.169.254/latest/meta-data/iam\",service=\"registry\""),
        ("GET /v2/demo", 401, "www-authenticate", "Bearer realm=\"http://[::ffff:a9fe:a9fe]/token\""),
        ("GET /v2/demo/blobs", 307, "location", "http://2852039166/latest/meta-data/"),
        ("GET /v2/demo/blobs", 307, "location", "file:///etc/passwd"),
    ] {
        let mut world = World::new();
        world.sandbox.with(|outside| {
            outside.faults.push(Fault { on, times: 50, status, headers: vec![(header, value)], body: Value::Null, after_effect: false });
        });
        let ran = world.pushed().run(&["run"]);
        assert_eq!((ran.code, ran.count("PATCH /kube")), (1, 0), "{value}: {}", ran.err);
        assert!(ran.err.contains("its answer leads to"), "{value}: {}", ran.err);
    }
}

/// An answer without an end is given up at its limit.
#[test]
fn an_answer_without_an_end_is_given_up() {
    for on in ["GET /v2/demo/manifests", "GET /github/repos/acme/demo/git/matching-refs", "GET /github/repos/acme/demo/issues/12/comments"]
    {
        let mut world = World::new();
        let body = Value::String("x".repeat(80 * 1024 * 1024));
        world.sandbox.with(|outside| {
            outside.faults.push(Fault { on, times: 50, status: 200, headers: vec![], body, after_effect: false });
        });
        let ran = world.pushed().run(&["run"]);
        assert!(ran.code < 6, "{on}: {} {}", ran.code, ran.err);
    }
}

/// The command lines, and the environments, of everything that a process has started, sampled as fast as may be.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeSet<(String, String)>>,
}

impl Watch {
    fn of(parent: u32) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::SeqCst) {
                let mut open = vec![parent];
                while let Some(process) = open.pop() {
                    let read = |what: &str| std::fs::read(format!("/proc/{process}/{what}")).unwrap_or_default();
                    let text = |what: &str| String::from_utf8_lossy(&read(what)).replace('\0', " ");
                    let environ = if process == parent { String::new() } else { text("environ") };
                    seen.insert((text("cmdline"), environ));
                    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
                    for task in tasks {
                        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                        open.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
                    }
                }
            }
            seen
        });
        Self { stop, thread }
    }

    fn end(self) -> BTreeSet<(String, String)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// No secret of a job is on a command line, its own or a child's, nor in the environment of a child that does not need it.
#[test]
fn no_secret_stands_on_a_command_line_or_in_a_childs_environment() {
    let mut world = World::new();
    world.write("say", "#!/bin/sh\nsleep 0.3\necho \"token ghs_storytoken and $(printf 'AWS:storysecretstorysecret' | base64)\"\n");
    std::fs::set_permissions(world.path("say"), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.configure("when: merge\n", "when: merge\n    migrate: {run: {command: {run: [./say]}}, when: before}\n");
    world.commit("a program");
    let run = world.pushed().start(&["run", "--report", "report.json"]);
    let watch = Watch::of(run.id());
    let output = run.wait_with_output().unwrap();
    let seen = watch.end();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // Between its fork and its exec a child is still us.
    let children: Vec<_> = seen.iter().filter(|(line, _)| !line.is_empty() && !line.contains("report.json")).collect();
    assert!(children.iter().any(|(line, _)| line.contains("say")), "{:?}", seen.iter().map(|(line, _)| line).collect::<Vec<_>>());
    let secrets = ["ghs_storytoken", "storysecretstorysecret", "sandbox-registry-token"];
    for (line, environ) in children {
        assert!(secrets.iter().all(|secret| !line.contains(secret) && !environ.contains(secret)), "{line}: {environ}");
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: String = told.lines().filter(|line| !line.starts_with("::add-mask::")).collect::<Vec<_>>().join("\n");
    let outside = world.sandbox.with(|outside| outside.log.join("\n"));
    let files = ["report.json", ".outputs", ".summary"].map(|name| std::fs::read_to_string(world.path(name)).unwrap_or_default());
    for text in [told, outside, world.comments().join("\n"), files.concat()] {
        for secret in secrets.iter().chain(&["c3RvcnlzZWNyZXRzdG9yeXNlY3Jl"]) {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

/// What is not merged yet brings its own configuration: no command makes it more than a preview.
#[test]
fn a_pull_request_decides_about_previews_alone() {
    let sha = World::new().head();
    for name in ["pull_request", "pull_request_review", "merge_group"] {
        for command in
            [&["merge"][..], &["deploy", "production", &sha], &["rollback", "production"], &["hotfix", "1.4.3", "--branch", "change"]]
        {
            let mut world = World::new();
            world.pull_request("opened", |payload| {
                payload["merge_group"] =
                    json!({"head_sha": sha, "head_ref": "refs/heads/gh-readonly-queue/main/pr-12", "base_ref": "refs/heads/main"});
            });
            world.var("GITHUB_EVENT_NAME", name).var("GITHUB_REF", "refs/pull/12/merge");
            let ran = world.run(command);
            ran.must(0, "event.untrusted");
            assert_eq!(ran.count("/kube") + ran.count("/build"), 0, "{name} {command:?}: {:?}", ran.log);
        }
    }
    // Of a fork it is no better where the event is one that tidegate does not know.
    let mut world = World::new();
    world.pull_request("submitted", |payload| payload["pull_request"]["head"]["repo"] = json!({"id": 2, "full_name": "mallory/demo"}));
    world.var("GITHUB_EVENT_NAME", "pull_request_review").var("GITHUB_REF", "refs/pull/12/merge");
    let ran = world.run(&["deploy", "production", &sha]);
    ran.must(0, "event.fork");
    assert_eq!(ran.log, Vec::<String>::new());
}

/// Links in a checkout show no other file of the machine.
#[test]
fn a_link_out_of_the_checkout_is_not_read() {
    let away = tempfile::tempdir().unwrap();
    std::fs::write(away.path().join("login"), "password: hunter2hunter2\n").unwrap();
    for name in ["tidegate.yml", ".dockerignore"] {
        let mut world = World::new();
        let _there = std::fs::remove_file(world.path(name));
        std::os::unix::fs::symlink(away.path().join("login"), world.path(name)).unwrap();
        let ran = world.pushed().run(&["run"]);
        assert!(matches!(ran.code, 1 | 2) && ran.err.contains("is a link out of the repository"), "{name}: {}", ran.err);
        assert!(!ran.err.contains("hunter2") && ran.count("POST /build") == 0, "{name}: {}", ran.err);
    }
}

/// With the base's secrets not even a removal is done for a head that is gone or a stranger's.
#[test]
fn a_closed_fork_removes_nothing_with_the_bases_secrets() {
    for repo in [Value::Null, json!({"id": 2, "full_name": "mallory/demo"})] {
        let mut world = World::new();
        world.pull_request("closed", |payload| payload["pull_request"]["head"]["repo"] = repo.clone());
        let ran = world.var("GITHUB_EVENT_NAME", "pull_request_target").run(&["run"]);
        ran.must(0, "event.fork");
        assert_eq!(ran.count("/kube"), 0, "{:?}", ran.log);
    }
}

/// Files that are built to take a reader down.
#[test]
fn a_configuration_made_to_do_harm_is_refused_with_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let base = "schema: 1\nproject: demo\nenvironments:\n  dev:\n    when: merge\n    deploy: [{command: {run: [./deploy]}}]\n";
    let when = |when: String| base.replace("when: merge", &format!("when: {when}"));
    let nested = format!("{}{}", "{a,".repeat(240), "}".repeat(240));
    let bomb = (1..10).fold("x-0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        let aliases = vec![format!("*a{}", n - 1); 9].join(",");
        format!("{text}x-{n}: &a{n} [{aliases}]\n")
    });
    let cases = [
        ("aliases", bomb),
        ("depth", format!("x-a: {}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("size", format!("x-a: {}", "a".repeat(1_100_000))),
        ("a key twice", format!("{base}schema: 1\n")),
        ("a tag", "schema: !!binary aGk=\n".into()),
        ("a number beyond numbers", "schema: 1e400\n".into()),
        ("a zero byte", "schema: 1\nproject: \"a\\u0000b\"\n".into()),
        ("a regular expression that explodes", when("{tag: '(((((((((a{10}){10}){10}){10}){10}){10}){10}){10}){10})'}".into())),
        ("a glob that nests", when(format!("{{branch: '{nested}'}}"))),
        ("a length of time beyond time", format!("{base}    soak: 999999999999h\n")),
        ("many mistakes in one long line", when(format!("{{branch: a, except: [{}]}}", vec!["'['"; 9000].join(",")))),
        ("a key that moves the cursor", "schema: 1\n\"\\e[2J\\e]0;x\\a\": 1\n".into()),
        ("a zone outside the zones", format!("{base}    freeze: [{{from: \"Fri 16:00\", to: \"Mon 08:00\", zone: ../../etc/passwd}}]\n")),
    ];
    for (what, text) in cases {
        std::fs::write(folder.path().join("tidegate.yml"), text).unwrap();
        let (code, _, err) = tidegate(folder.path(), &["check"], &[]);
        assert!(code == 2 && err.contains("config.invalid") && !err.contains("panicked"), "{what}: {code} {}", &err[..err.len().min(2000)]);
        assert!(!err.contains('\u{1b}') && !err.contains('\u{7}'), "{what}: {err:?}");
        assert!(err.len() < 60_000, "{what}: {} bytes are said about it", err.len());
    }
    let deep = json!({"ref": "refs/heads/main", "repository": repository()}).to_string().replace("\"main\"", &"[".repeat(100_000));
    let world = World::new();
    world.write(".event.json", &deep);
    let mut world = world;
    world.var("GITHUB_EVENT_NAME", "push");
    let ran = world.run(&["explain"]);
    assert!(ran.code == 2 && ran.err.contains("input.event"), "{}", ran.err);
}
