//! Webhooks: who is believed, what is looked up, and that a delivery starts its jobs once.

use crate::cd::{Cd, PATIENCE};
use crate::serve::wait_for;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const HOOK_SECRET: &str = "webhook-secret-0001";
const HOOKS: &str = r#"
webhooks:
  hub:
    docker-hub:
      secret-path: {env: HUB}
      login: {password: {file: hub.password}}
      callback-hosts: ["CALLBACK"]
      rules:
        - {repository: jincor/frontend, tags: [stage, production], app: my-app}
        - {repository: "jincor/*", tags: ["cmd-*"], command: [sh, command, "{repository}", "{tag}", "{digest}", "{pusher}"]}
  forge: {github: {secret: {env: HUB}, rules: [{events: push, branches: [main], app: my-app}, {events: release.published, app: other-app}]}}
  lab: {gitlab: {secret: {env: HUB}, rules: [{events: tag_push, app: my-app}]}}
  own: {signed: {secret: {env: HUB}, rules: [{app: my-app}]}}
"#;

/// A registry that has one tag of each repository.
fn registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap_or(0);
            let head = String::from_utf8_lossy(&piece[..count]).into_owned();
            let is_there = head.contains("/manifests/stage") || head.contains("/manifests/cmd-1");
            let digest = format!("sha256:{}", "7".repeat(64));
            let answer = match is_there {
                true => format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDocker-Content-Digest: {digest}\r\nConnection: close\r\n\r\n"),
                false => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    address
}

/// Somebody who hears JSON, and answers so.
fn sink(answer: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            let mut piece = [0; 65536];
            while !text.trim_end().ends_with('}') {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => text.push_str(&String::from_utf8_lossy(&piece[..count])),
                }
            }
            stream.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).ok();
            sender.send(text).ok();
        }
    });
    (address, receiver)
}

fn server() -> (Cd, Receiver<String>) {
    let (address, called) = sink("307 Temporary Redirect\r\nLocation: http://169.254.169.254/");
    let base = "runners:\n  script: {process: {command: [sh, script, \"{inventory}\"]}}\napps:\n  my-app: {busy: queue}\n  other-app: {busy: queue}\n\
                tokens: {ops: {secret: {env: OPS}, role: operator}}\n";
    let mut cd = Cd::prepared(&format!("{base}{}", HOOKS.replace("CALLBACK", &address)));
    cd.write("hub.password", &format!("user:{HOOK_SECRET}-login\n"));
    cd.write("command", "echo \"$TIDEGATE_JOB\" >> ran\nprintf '%s\\n' \"$@\"\nenv | grep ^TIDEGATE_ | grep -v JOB | sort\n");
    cd.var("HUB", HOOK_SECRET).var("TIDEGATE_REGISTRY_ENDPOINTS", &format!("docker.io=http://{}", registry()));
    cd.start();
    (cd, called)
}

fn pushed(repository: &str, tag: &str, callback: &str) -> String {
    json!({"callback_url": callback, "push_data": {"pushed_at": 1, "pusher": "ada", "tag": tag}, "repository": {"repo_name": repository}})
        .to_string()
}

fn hub(cd: &Cd, body: &str) -> crate::cd::Answer {
    cd.ask("POST", &format!("/autodock/v1/{HOOK_SECRET}"), &[], body)
}

#[track_caller]
fn job(answer: &crate::cd::Answer) -> String {
    answer.text("/jobs/0")
}

#[test]
fn docker_hub_starts_a_job_and_is_told_how_it_ended() {
    let (cd, called) = server();
    let body = pushed("jincor/frontend", "stage", &format!("http://{}/hook/secret-of-hub", cd_callback(&cd)));
    let answer = hub(&cd, &body).must(202);
    let id = job(&answer);
    let done = cd.ended("my-app", &id);
    assert_eq!((done["status"].as_str(), done["by"].as_str()), (Some("success"), Some("webhook hub (ada)")));
    assert_eq!(done["values"]["digest"], format!("sha256:{}", "7".repeat(64)), "the registry says what it is");
    let told = called.recv_timeout(PATIENCE).unwrap();
    assert!(told.starts_with("POST /hook/secret-of-hub ") && told.contains(r#""state":"success""#), "{told}");
    wait_for(&cd, "was answered: 307");
    assert!(!cd.said().contains("secret-of-hub"), "the address is its sender's secret");
    assert_eq!(hub(&cd, &body).must(200).body, r#"{"status":"duplicate"}"#);
    let login = format!("Basic {}", STANDARD.encode(format!("user:{HOOK_SECRET}-login")));
    let body = pushed("jincor/frontend", "stage", "").replace("\"pushed_at\":1", "\"pushed_at\":2");
    cd.ask("POST", "/autodock/v1/", &[("authorization", &login)], &body).must(202);
    assert_eq!(cd.ask("POST", "/autodock/v1", &[("authorization", &login)], &body).must(200).text("/status"), "duplicate");
}

fn cd_callback(cd: &Cd) -> String {
    let text = std::fs::read_to_string(cd.path("tidegate-serve.yml")).unwrap();
    text.split("callback-hosts: [\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn what_a_push_says_is_a_hint_and_its_words_stay_words() {
    let (cd, _called) = server();
    for (repository, tag, status, why) in [
        ("jincor/frontend", "production", 200, "is not in its registry"),
        ("jincor/frontend", "dev-abc", 200, "no rule is about it"),
        ("other/frontend", "stage", 200, "no rule is about it"),
        ("jincor/../../etc", "stage", 400, "the repository cannot be one"),
        ("jincor/front end;$(touch p)", "stage", 400, "the repository cannot be one"),
        ("jincor/frontend", "x';touch p", 400, "the tag cannot be one"),
        ("jincor/frontend", "--rm", 400, "the tag cannot be one"),
    ] {
        let answer = hub(&cd, &pushed(repository, tag, "")).must(status);
        assert!(answer.body.contains(why), "{answer:?}");
    }
    for broken in ["", "{", "[]", "{}", r#"{"repository": {"repo_name": 7}}"#] {
        hub(&cd, broken).must(400);
    }
    assert!(cd.ran().is_empty() && !cd.path("p").exists());
    let body = pushed("jincor/api", "cmd-1", "http://169.254.169.254/latest").replace("\"ada\"", "\"$(id) --x\"");
    let id = job(&hub(&cd, &body).must(202));
    cd.ended("webhook:hub", &id);
    let log = cd.log("webhook:hub", &id);
    let digest = format!("sha256:{}", "7".repeat(64));
    assert!(log.starts_with(&format!("jincor/api\ncmd-1\n{digest}\nunknown\n")), "{log}");
    assert!(log.contains(&format!("TIDEGATE_IMAGE=docker.io/jincor/api:cmd-1@{digest}\n")) && !log.contains(HOOK_SECRET), "{log}");
    wait_for(&cd, "was not sent: 169.254.169.254 is none of its `callback-hosts`");
}

#[test]
fn nobody_else_is_believed() {
    let (cd, _called) = server();
    let body = pushed("jincor/frontend", "stage", "");
    let wrong = |path: &str, headers: &[(&str, &str)]| cd.ask("POST", path, headers, &body).must(401);
    assert_eq!(wrong("/autodock/v1/", &[]).header("www-authenticate").unwrap(), "Basic realm=\"PRIVATE AREA\"");
    wrong("/autodock/v1/wrong", &[]);
    wrong(&format!("/autodock/v1/{HOOK_SECRET}/x/y"), &[]);
    let basic = |login: &str| format!("Basic {}", STANDARD.encode(login));
    for login in ["user:wrong", ":", &format!("admin:{HOOK_SECRET}-login"), &format!("user:{HOOK_SECRET}-login\n")] {
        wrong("/autodock/v1/", &[("authorization", &basic(login))]);
    }
    let good = format!("sha256={}", signed(HOOK_SECRET, &body));
    let event = ("x-github-event", "push");
    let bodies: Vec<String> = [
        vec![event],
        vec![event, ("x-hub-signature-256", "")],
        vec![event, ("x-hub-signature-256", &good[..40])],
        vec![event, ("x-hub-signature-256", &good.to_uppercase())],
        vec![event, ("x-hub-signature-256", &good[7..])],
        vec![event, ("x-hub-signature", &good)],
        vec![event, ("x-hub-signature-256", &good), ("x-hub-signature-256", &good)],
        vec![event, ("x-hub-signature-256", &format!("sha256={}", signed("", &body)))],
        vec![event, ("x-hub-signature-256", &format!("sha256={}", signed(HOOK_SECRET, &format!("{body} "))))],
    ]
    .iter()
    .map(|headers| wrong("/hooks/forge", headers).body)
    .collect();
    let no_hook = wrong("/hooks/none", &[event, ("x-hub-signature-256", &good)]).body;
    assert!(bodies.iter().all(|body| *body == no_hook), "all of it is one answer: {bodies:?}");
    for token in ["", "wrong", &HOOK_SECRET.to_uppercase()] {
        wrong("/hooks/lab", &[("x-gitlab-token", token)]);
    }
    // The configuration without a secret, or with an empty one, is no configuration.
    let mut cd = cd;
    cd.kill();
    for empty in ["", "  ", "short"] {
        let (code, err) = cd.var("HUB", empty).refused(&["--check"]);
        assert!(code == 5 && err.contains("webhooks.hub.docker-hub.secret-path"), "{code}: {err}");
    }
    let (code, err) = cd.without("HUB").refused(&[]);
    assert!(
        code == 5 && err.contains("the environment variable HUB is not set, or empty") && err.contains("auth.missing"),
        "{code}: {err}"
    );
}

fn signed(secret: &str, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn github(cd: &Cd, event: &str, id: &str, body: &Value) -> crate::cd::Answer {
    let body = body.to_string();
    let signature = format!("sha256={}", signed(HOOK_SECRET, &body));
    cd.ask("POST", "/hooks/forge", &[("x-github-event", event), ("x-github-delivery", id), ("x-hub-signature-256", &signature)], &body)
}

#[test]
fn a_delivery_runs_once_however_often_and_under_whatever_name_it_comes() {
    let (mut cd, _called) = server();
    assert_eq!(github(&cd, "ping", "0", &json!({"zen": "x"})).must(200).text("/why"), "pong");
    let push =
        json!({"ref": "refs/heads/main", "after": "a".repeat(40), "repository": {"full_name": "acme/web"}, "sender": {"login": "ada"}});
    let id = job(&github(&cd, "push", "d-1", &push).must(202));
    assert_eq!(cd.ended("my-app", &id)["values"]["sha"], "a".repeat(40));
    let twice = |cd: &Cd, id: &str, body: &Value| assert_eq!(github(cd, "push", id, body).must(200).text("/status"), "duplicate");
    twice(&cd, "d-1", &push);
    twice(&cd, "d-2", &push); // nobody signed the id
    let other = json!({"ref": "refs/heads/main", "after": "b".repeat(40), "repository": {"full_name": "acme/web"}});
    twice(&cd, "d-1", &other);
    cd.kill();
    cd.start();
    twice(&cd, "d-1", &push);
    twice(&cd, "d-3", &push);
    assert_eq!(cd.ran(), [id]);
    let branch = json!({"ref": "refs/heads/feature", "repository": {"full_name": "acme/web"}});
    assert_eq!(github(&cd, "push", "d-4", &branch).must(200).text("/status"), "ignored");
    let evil = json!({"ref": "refs/heads/main\n--x", "repository": {"full_name": "acme/web"}});
    github(&cd, "push", "d-5", &evil).must(400);
    let release = json!({"action": "published", "release": {"tag_name": "v1.10"}, "repository": {"full_name": "acme/web"}});
    let id = job(&github(&cd, "release", "d-6", &release).must(202));
    assert_eq!(cd.ended("other-app", &id)["values"]["tag"], "v1.10");
}

#[test]
fn gitlab_and_signed_requests() {
    let (cd, _called) = server();
    let tag = json!({"object_kind": "tag_push", "ref": "refs/tags/v2", "after": "c", "checkout_sha": "c".repeat(40), "project": {"path_with_namespace": "acme/web"}, "user_username": "ada"}).to_string();
    let headers = [("x-gitlab-token", HOOK_SECRET), ("x-gitlab-event-uuid", "u-1")];
    let id = job(&cd.ask("POST", "/hooks/lab", &headers, &tag).must(202));
    assert_eq!(cd.ended("my-app", &id)["values"]["tag"], "v2");
    cd.ask("POST", "/hooks/lab", &headers, &tag).must(200);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let body = r#"{"repository": "acme/web", "version": "1.4"}"#;
    let send = |id: &str, time: u64, body: &str, signed_body: &str| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, HOOK_SECRET.as_bytes()), format!("{id}.{time}.{signed_body}").as_bytes());
        let signature = format!("v1,{}", STANDARD.encode(tag.as_ref()));
        cd.ask(
            "POST",
            "/hooks/own",
            &[("webhook-id", id), ("webhook-timestamp", &time.to_string()), ("webhook-signature", &signature)],
            body,
        )
    };
    let id = job(&send("m-1", now, body, body).must(202));
    assert_eq!(cd.ended("my-app", &id)["values"]["tag"], "1.4");
    send("m-1", now, body, body).must(200);
    send("m-1", now, r#"{"repository": "acme/other"}"#, r#"{"repository": "acme/other"}"#).must(200); // its id was taken
    for late in [now - 400, now + 400, 0] {
        send("m-2", late, body, body).must(401);
    }
    send("m-2", now, body, "{}").must(401);
    assert_eq!(cd.ran().len(), 2);
}

#[test]
fn a_delivery_is_kept_while_its_registry_is_away() {
    let (mut cd, _called) = server();
    cd.kill();
    cd.var("TIDEGATE_REGISTRY_ENDPOINTS", "docker.io=http://127.0.0.1:9");
    cd.start();
    let body = pushed("jincor/frontend", "stage", "");
    assert_eq!(hub(&cd, &body).must(202).text("/status"), "kept");
    wait_for(&cd, "a delivery is kept and tried again");
    cd.kill();
    cd.var("TIDEGATE_REGISTRY_ENDPOINTS", &format!("docker.io=http://{}", registry()));
    cd.start();
    wait_for(&cd, "ended: success");
    let ran = cd.ran();
    assert_eq!((ran.len(), cd.job_of("my-app", &ran[0])["values"]["tag"].as_str()), (1, Some("stage")));
    assert_eq!(hub(&cd, &body).must(200).text("/status"), "duplicate");
}

#[test]
fn every_push_is_deployed_in_its_turn() {
    let (cd, _called) = server();
    cd.configure("my-app: {busy: queue}", "my-app: {busy: merge}");
    wait_for(&cd, "was read again");
    cd.job("until [ -e go ]; do sleep 0.02; done; echo \"$TIDEGATE_TAG $TIDEGATE_NAME $TIDEGATE_NAMESPACE\" >> tags");
    let push = |time: u64| pushed("jincor/frontend", "stage", "").replace("\"pushed_at\":1", &format!("\"pushed_at\":{time}"));
    let first = job(&hub(&cd, &push(10)).must(202));
    cd.until("my-app", &first, |status| status == "running");
    let second = job(&hub(&cd, &push(11)).must(202));
    assert_ne!(first, second, "a push that comes while another one is deployed is not lost");
    cd.write("go", "");
    assert_eq!(cd.ended("my-app", &second)["status"], "success");
    assert_eq!(std::fs::read_to_string(cd.path("tags")).unwrap(), "stage frontend jincor\nstage frontend jincor\n");
    let again = cd.api("POST", &format!("/apps/my-app/jobs/{second}/redeploy"), crate::cd::OPERATOR).must(202).text("/id");
    let done = cd.ended("my-app", &again);
    assert_eq!(
        (done["values"]["tag"].as_str(), done["values"]["digest"].as_str()),
        (Some("stage"), Some(format!("sha256:{}", "7".repeat(64)).as_str())),
        "the same again"
    );
}

#[test]
fn slack_is_told_with_the_end_of_the_output_and_no_secret() {
    let (address, told) = sink("200 OK");
    let mut cd = Cd::prepared(
        "runners:\n  script: {process: {command: [sh, script, x], env: {JOB_SECRET: {env: JOB_SECRET}}}}\napps:\n  my-app: {secret: {env: MY_APP}}\ntokens: {ops: {secret: {env: OPS}, role: operator}}\nslack: {webhook: {env: SLACK}, lines: 3, on: failure}\n",
    );
    cd.var("SLACK", &format!("http://{address}/services/T0/B0/secret-path"));
    cd.start();
    let id = cd.deploy();
    cd.ended("my-app", &id);
    cd.job("echo one; echo \"<!channel> $JOB_SECRET\"; exit 4");
    let id = cd.deploy();
    cd.ended("my-app", &id);
    let message = told.recv_timeout(PATIENCE).unwrap();
    assert!(
        message.contains("error (return code 4)") && message.contains("&lt;!channel&gt; ***") && !message.contains("\\none\\n"),
        "{message}"
    );
    let since = Instant::now();
    assert!(told.try_recv().is_err() && since.elapsed() < PATIENCE, "a job that went well is not told with `on: failure`");
    assert!(!cd.said().contains("secret-path"));
}
