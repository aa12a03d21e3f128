//! GitHub's own description, as a proxy between us and the sandbox: it checks our requests and the sandbox's answers.

use crate::parts::part;
use crate::world::World;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub struct Prism {
    child: Child,
    log: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

impl Prism {
    /// Starts on a free port in front of the sandbox, and waits until it listens.
    pub fn before(world: &mut World) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let description = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/github.openapi.json");
        let mut child = Command::new(part("TIDEGATE_REAL_PRISM"))
            .args(["proxy", "--errors", "--host", "127.0.0.1", "--port", &port.to_string(), description, &world.sandbox.url("github")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("is listening")), "Prism did not start");
        let kept = log.clone();
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        world.var("GITHUB_API_URL", format!("http://127.0.0.1:{port}"));
        Self { child, log }
    }

    fn said(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn passes(world: &World, prism: &Prism, args: &[&str], reason: &str) {
    let ran = world.run(args);
    ran.must(0, reason);
    assert!(!ran.err.contains("::warning"), "{}\n{}", ran.err, prism.said().join("\n"));
    let bad: Vec<String> = prism.said().into_iter().filter(|line| line.to_lowercase().contains("violation")).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn our_requests_and_the_sandboxs_answers_fit_githubs_description() {
    let mut world = World::new();
    // As in a job: the clone has a remote and does not know its branches, so the forge is asked.
    world.git(&["remote", "add", "origin", "https://github.com/acme/demo.git"]);
    let prism = Prism::before(&mut world);
    passes(world.pushed(), &prism, &["run"], "deploy.done");
    world.write("app", "two\n");
    world.commit("two");
    passes(world.pushed(), &prism, &["run"], "deploy.done"); // asks how latest relates: compare
    let sha = world.head();
    passes(world.released("v1.0.0", &sha), &prism, &["run"], "deploy.done");
    passes(&world, &prism, &["deploy", "production", "1.0.0"], "deploy.done"); // asks for a tag's commit
    passes(world.pull_request("opened", |_| {}), &prism, &["run"], "deploy.done");
    let merged = |payload: &mut serde_json::Value| payload["pull_request"]["merged"] = json!(true);
    passes(world.pull_request("closed", merged), &prism, &["run"], "preview.kept");
    let said = prism.said().join("\n");
    let looked = world.run(&["status", "--format", "json"]);
    assert_eq!(looked.code, 0, "{}", looked.err);
    for asked in
        ["/issues/12/comments", "/deployments", "/statuses", "/pulls", "/compare/", "/git/refs", "/git/matching-refs", "/git/commits"]
    {
        assert!(said.contains(asked), "{asked} was never asked for:\n{said}");
    }
}

/// Lying twin: the proxy does find a wrong answer, so its silence means something.
#[test]
fn a_wrong_answer_of_the_sandbox_would_be_seen() {
    let mut world = World::new();
    let prism = Prism::before(&mut world);
    let fault = tidegate::rehearse::sandbox::Fault {
        on: "POST /github/repos/acme/demo/issues",
        times: 99,
        status: 201,
        headers: vec![],
        body: json!({"id": "not a number"}),
        after_effect: false,
    };
    world.sandbox.with(|outside| outside.faults.push(fault));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("pull request #12 is not told"), "{}\n{}", ran.err, prism.said().join("\n"));
}
