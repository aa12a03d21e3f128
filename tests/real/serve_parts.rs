//! The CD server against programs that others wrote: the original client, SQS, a TLS client, a client of the API's description.

use crate::cd::{Cd, OPERATOR, PASSWORD, PATIENCE, SECRET, VIEWER};
use crate::parts::{moto, part, program};
use std::process::Command;
use std::time::Instant;

/// Exit code and output of the original client.
fn client(cd: &Cd, secret: &str, timeout: &str) -> (i32, String, String) {
    let script = format!("{}/tests/real/enac_client.py", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.args([&script, &format!("http://{}", cd.address), "my-app", "0.05", timeout]).env("DEPLOYMENT_SECRET", secret);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_original_client_deploys_by_this_server() {
    let cd = Cd::new("");
    cd.job("echo one; sleep 0.2; echo two");
    let (code, out, err) = client(&cd, SECRET, "60");
    assert_eq!((code, out.as_str()), (0, "deploying my-inventory\none\ntwo\nProcess terminated with return code: 0\n"), "{err}");
    cd.job("echo one; exit 2");
    let (code, out, _) = client(&cd, SECRET, "60");
    assert!(code == 1 && out.ends_with("Process terminated with return code: 2\n"), "{code}: {out}");
    let (code, _, err) = client(&cd, "wrong", "60");
    assert!(code == 1 && err.trim() == "App not found", "{code}: {err}");
    cd.job("sleep 600");
    let (code, _, err) = client(&cd, SECRET, "1");
    assert!(code == 2 && err.contains("the job is left running"), "{code}: {err}");
}

#[test]
fn tidegates_own_target_deploys_by_this_server() {
    for dialect in ["current", "old"] {
        let cd = Cd::new(&format!("enac: {dialect}\n"));
        let mut world = crate::world::World::new();
        let target = |cd: &Cd| {
            format!(
                "app_deploy: {{url: \"http://{}\", deployment-id: my-app, deployment-secret: {{env: CD_SECRET}}, interval: 50ms, timeout: 60s}}",
                cd.address
            )
        };
        world.deploy_dev_by(&target(&cd));
        let ran = world.var("CD_SECRET", SECRET).pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert!(ran.err.contains("cd | deploying my-inventory"), "{}", ran.err);
        cd.job("exit 3");
        let mut world = crate::world::World::new();
        world.deploy_dev_by(&target(&cd));
        world.var("CD_SECRET", SECRET).pushed().run(&["run"]).must(1, "target.failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_to_ecr_come_by_a_real_queue() {
    let sdk = moto("us-west-2").await;
    let client = aws_sdk_sqs::Client::new(&sdk);
    let name = format!("ecr-{}-{}", std::process::id(), Instant::now().elapsed().as_nanos());
    let url = client.create_queue().queue_name(&name).send().await.unwrap().queue_url.unwrap();
    let event = |id: &str, result: &str| {
        serde_json::json!({"id": id, "detail-type": "ECR Image Action", "account": "123456789012", "region": "us-west-2",
            "detail": {"result": result, "repository-name": "web", "image-tag": "1.4", "action-type": "PUSH"}})
        .to_string()
    };
    let endpoint = part("TIDEGATE_REAL_MOTO");
    let sender = client.clone();
    let queue = url.clone();
    let cd = tokio::task::spawn_blocking(move || {
        let mut cd = Cd::prepared(&format!(
            "runners:\n  script: {{process: {{command: [sh, script, \"{{tag}}\"]}}}}\napps:\n  my-app: {{busy: queue}}\ntokens: {{ops: {{secret: {{env: OPS}}, role: operator}}}}\n\
             webhooks:\n  ecr: {{ecr: {{queue: {name}, region: us-west-2, rules: [{{repository: web, image: 127.0.0.1:1/web, tags: [\"9.*\"], app: my-app}}, {{repository: web, app: my-app}}]}}}}\n"
        ));
        cd.var("AWS_ENDPOINT_URL", &endpoint).var("AWS_ACCESS_KEY_ID", "AKIASTORY").var("AWS_SECRET_ACCESS_KEY", "storysecretstorysecret");
        cd.var("TIDEGATE_REGISTRY_ENDPOINTS", &format!("123456789012.dkr.ecr.us-west-2.amazonaws.com={}", has_everything()));
        cd.start();
        cd
    })
    .await
    .unwrap();
    for body in [event("e-1", "SUCCESS"), event("e-1", "SUCCESS"), event("e-2", "FAILURE"), "nonsense".to_owned()] {
        sender.send_message().queue_url(&queue).message_body(body).send().await.unwrap();
    }
    let (cd, left) = tokio::task::spawn_blocking(move || {
        let since = Instant::now();
        while !cd.said().contains("no event of EventBridge") || !cd.said().contains("ended: success") {
            assert!(since.elapsed() < PATIENCE, "{}", cd.said());
        }
        let jobs = cd.api("GET", "/jobs", OPERATOR).json()["jobs"].as_array().unwrap().len();
        (cd, jobs)
    })
    .await
    .unwrap();
    assert_eq!((left, cd.ran().len()), (1, 1), "{}", cd.said());
    assert!(cd.said().contains("a delivery that came before") && cd.said().contains("no push that went well"), "{}", cd.said());
    let since = Instant::now();
    loop {
        let asked = client
            .get_queue_attributes()
            .queue_url(&url)
            .attribute_names(aws_sdk_sqs::types::QueueAttributeName::All)
            .send()
            .await
            .unwrap();
        let count = |name| asked.attributes().unwrap().get(&name).cloned().unwrap_or_default();
        if count(aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages) == "0"
            && count(aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessagesNotVisible) == "0"
        {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "messages stay in the queue");
    }
    tokio::task::spawn_blocking(move || drop(cd)).await.unwrap();
}

/// A registry that has every tag.
fn has_everything() -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _asked = stream.read(&mut [0; 4096]);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDocker-Content-Digest: sha256:{}\r\nConnection: close\r\n\r\n",
                "7".repeat(64)
            );
            stream.write_all(answer.as_bytes()).ok();
        }
    });
    format!("http://{address}")
}

#[test]
fn https_by_file_and_the_certificate_is_read_again() {
    let mut cd = Cd::prepared("tls: {certificate: cert.pem, key: key.pem}\napps: {}\n");
    let write = |cd: &Cd| {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        cd.write("key.pem", &made.signing_key.serialize_pem());
        cd.write("cert.pem", &made.cert.pem());
    };
    write(&cd);
    cd.start();
    let get = |cd: &Cd| {
        let url = format!("https://{}/health/", cd.address);
        program(&["curl", "-sS", "--cacert", &cd.path("cert.pem").display().to_string(), &url])
    };
    assert_eq!(get(&cd), r#"{"status":"ok"}"#);
    write(&cd);
    crate::serve::wait_for(&cd, "the certificate was read again");
    assert_eq!(get(&cd), r#"{"status":"ok"}"#);
    cd.write("key.pem", "no key");
    crate::serve::wait_for(&cd, "the certificate stays as it was");
    assert_eq!(get(&cd), r#"{"status":"ok"}"#);
}

#[test]
fn spans_of_jobs_reach_a_collector() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = listener.local_addr().unwrap();
    let mut cd = Cd::prepared(
        "runners:\n  script: {process: {command: [sh, script, x]}}\napps:\n  my-app: {secret: {env: MY_APP}}\ntokens: {ops: {secret: {env: OPS}, role: operator}}\n",
    );
    cd.job("echo \"$TRACEPARENT\"");
    cd.var("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{collector}")).var("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=demo");
    cd.start();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("authorization", format!("Bearer {SECRET}")), ("traceparent", parent.to_owned())];
    let id = cd
        .ask("POST", "/api/v1/apps/my-app/jobs", &headers.each_ref().map(|(name, value)| (*name, value.as_str())), "")
        .must(202)
        .text("/id");
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    while !text.trim_end().ends_with('}') {
        let mut piece = [0; 65536];
        let count = stream.read(&mut piece).unwrap();
        text.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    assert!(text.starts_with("POST /v1/traces ") && text.contains("x-tenant: demo"), "{text}");
    let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|span| span["traceId"] == "0af7651916cd43dd8448eb211c80319c"), "{body}");
    assert!(cd.log("my-app", &id).starts_with("deploying x\n00-0af7651916cd43dd8448eb211c80319c-"));
}

#[test]
fn the_api_is_as_it_is_described() {
    let cd = Cd::new("limits: {wrong-secrets: 100000}\n");
    let id = cd.deploy();
    cd.ended("my-app", &id);
    for token in [OPERATOR, VIEWER, SECRET] {
        let url = format!("http://{}/openapi.json", cd.address);
        let mut command = Command::new(part("TIDEGATE_REAL_SCHEMATHESIS"));
        command.args(["run", &url, "--url", &format!("http://{}", cd.address), "--header", &format!("Authorization: Bearer {token}")]);
        command.args([
            "--checks",
            "all",
            "--exclude-checks",
            "ignored_auth,positive_data_acceptance",
            "--max-examples",
            "25",
            "--seed",
            "7",
            "--suppress-health-check",
            "all",
            "--no-color",
        ]);
        let output = command.current_dir(cd.folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!cd.said().contains("panicked") && !PASSWORD.is_empty());
}
