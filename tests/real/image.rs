//! A real Dockerfile, a real engine, a real registry: built once, pushed once, promoted byte for byte.

use crate::parts::{moto, part, program};
use crate::world::{Ran, World};
use tidegate::registry::oci::digest_of;

const ECR: &str = "123456789012.dkr.ecr.us-west-2.amazonaws.com";

const DOCKERFILE: &str = r#"FROM tidegate-test-base AS build
ARG MODE=slow
COPY app /app
RUN --mount=type=secret,id=npm test "$(cat /run/secrets/npm)" && echo "$MODE" > /mode
FROM build AS unused
RUN exit 9
FROM build AS runtime
CMD ["cat", "/mode"]
"#;

/// A world whose images are real; the cluster and the forge are the sandbox's.
pub fn world(repository: &str, mutability: &str) -> World {
    let mut world = World::new();
    let host = part("TIDEGATE_REAL_ECR");
    world.runtime().block_on(async {
        let ecr = aws_sdk_ecr::Client::new(&moto("us-west-2").await);
        let mutability = aws_sdk_ecr::types::ImageTagMutability::from(mutability);
        ecr.create_repository().repository_name(repository).image_tag_mutability(mutability).send().await.unwrap();
    });
    world.var("AWS_ENDPOINT_URL_ECR", part("TIDEGATE_REAL_MOTO"));
    world.var("TIDEGATE_REGISTRY_ENDPOINTS", format!("{ECR}=http://{host}"));
    world.var("DOCKER_HOST", part("TIDEGATE_REAL_DOCKER"));
    world.var("NPM_TOKEN", "npm_verysecret");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let image = format!(
        "{ECR}/{repository}\n    args: {{MODE: fast}}\n    target: runtime\n    secrets: {{npm: {{env: NPM_TOKEN}}}}\n    labels: {{team: ui}}"
    );
    world.write("tidegate.yml", &text.replace(&format!("{ECR}/demo"), &image));
    world.write("Dockerfile", DOCKERFILE);
    world.commit("real");
    world.pushed();
    world
}

/// What the registry was asked about one repository, from the `seen`th request on.
fn front_log(repository: &str, seen: usize) -> Vec<String> {
    let text = program(&["curl", "-fsS", &format!("http://{}/lab/log", part("TIDEGATE_REAL_ECR"))]);
    let ours = format!("/v2/{repository}/");
    text.lines().filter(|line| line.contains(&ours)).skip(seen).map(str::to_owned).collect()
}

/// What another client reads back.
pub fn skopeo(repository: &str, tag: &str) -> (String, serde_json::Value) {
    let reference = format!("docker://{}/{repository}:{tag}", part("TIDEGATE_REAL_ECR"));
    let login = program(&[
        &part("TIDEGATE_REAL_PYTHON"),
        "-c",
        &format!(
            "import boto3,base64; t=boto3.client('ecr',region_name='us-west-2',endpoint_url='{}',aws_access_key_id='x',aws_secret_access_key='x').get_authorization_token(); print(base64.b64decode(t['authorizationData'][0]['authorizationToken']).decode())",
            part("TIDEGATE_REAL_MOTO")
        ),
    ]);
    let raw = program(&["skopeo", "inspect", "--tls-verify=false", "--creds", &login, "--raw", &reference]);
    let config = program(&["skopeo", "inspect", "--tls-verify=false", "--creds", &login, "--config", &reference]);
    (raw, serde_json::from_str(&config).unwrap())
}

fn requests(log: &[String], method: &str) -> usize {
    log.iter().filter(|line| line.starts_with(method)).count()
}

#[test]
fn built_once_pushed_once_promoted_byte_for_byte() {
    let mut world = world("story", "MUTABLE");
    let sha = world.head();
    let merge = world.run(&["run"]);
    merge.must(0, "deploy.done");
    assert!(merge.err.contains("RUN --mount=type=secret"), "the builder's steps are shown: {}", merge.err);
    assert!(!merge.err.replace("::add-mask::npm_verysecret", "").contains("npm_verysecret"));
    let log = front_log("story", 0);
    assert!(requests(&log, "PUT") > 0, "{log:?}");

    // Another client reads the same digest and our labels.
    let (raw, config) = skopeo("story", &sha[..7]);
    assert_eq!(digest_of(raw.as_bytes()), merge.outputs["digest"]);
    let labels = &config["config"]["Labels"];
    assert_eq!((labels["org.opencontainers.image.revision"].as_str(), labels["team"].as_str()), (Some(sha.as_str()), Some("ui")));
    assert!(labels["dev.tidegate.recipe"].as_str().is_some_and(|recipe| recipe.len() == 32));
    assert_eq!(labels["org.opencontainers.image.created"], "2026-01-02T03:04:05Z", "the commit's time, not the build's");
    assert!(!config.to_string().contains("npm_verysecret"), "the secret is nowhere in the image");

    // The same again: no build, no push.
    let seen = front_log("story", 0).len();
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before by run 77"), "{}", again.err);
    let log = front_log("story", seen);
    assert_eq!((requests(&log, "PUT"), requests(&log, "POST"), requests(&log, "PATCH")), (0, 0, 0), "{log:?}");

    // A release: the same bytes under another name, without the builder.
    let seen = front_log("story", 0).len();
    let docker = world.var("DOCKER_HOST", "unix:///nowhere.sock");
    let release = docker.released("v1.4.2", &sha).run(&["run"]);
    release.must(0, "deploy.done");
    assert_eq!(release.outputs["digest"], merge.outputs["digest"]);
    let log = front_log("story", seen);
    assert_eq!(log.iter().filter(|line| line.contains("/manifests/")).count(), 0, "tags are read and written through ECR's API: {log:?}");
    let (promoted, _) = skopeo("story", "1.4.2");
    assert_eq!(promoted, raw, "byte for byte");
}

#[test]
fn what_runs_is_what_was_built() {
    let world = world("runs", "MUTABLE");
    let sha = world.head();
    world.run(&["run"]).must(0, "deploy.done");
    let image = format!("{}/runs:{}", part("TIDEGATE_REAL_ECR"), &sha[..7]);
    let mode = program(&["docker", "-H", &part("TIDEGATE_REAL_DOCKER"), "run", "--rm", "--network=none", &image]);
    assert_eq!(mode, "fast", "args and target reached the builder");
}

#[test]
fn an_immutable_repository_is_respected() {
    let mut world = world("fixed", "IMMUTABLE");
    world.configure("    tags: [latest]\n", "");
    world.commit("no alias");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.run(&["run"]).must(0, "deploy.done");
    world.configure("MODE: fast", "MODE: faster");
    let refused: Ran = world.run(&["run"]);
    refused.must(2, "version.conflict");
    assert_eq!(requests(&front_log("fixed", 0), "PUT /v2/fixed/manifests"), 1, "only the first push wrote a tag");
}

#[test]
fn a_failed_step_is_named_and_nothing_is_pushed() {
    let mut world = world("broken", "MUTABLE");
    world.write("Dockerfile", "FROM tidegate-test-base\nRUN echo about to fail && exit 7\n");
    world.configure("    target: runtime\n", "");
    world.commit("broken");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "build.failed");
    assert!(ran.err.contains("exit 7") && ran.err.contains("exit code: 7") && ran.err.contains("about to fail"), "{}", ran.err);
    assert_eq!(requests(&front_log("broken", 0), "PUT"), 0);
}

#[test]
fn the_ssh_agent_is_there_for_one_step() {
    let mut world = world("agent", "MUTABLE");
    let socket = world.path("agent.sock");
    let mut agent = std::process::Command::new("ssh-agent")
        .args(["-D", "-a", socket.to_str().unwrap()])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    world.write("Dockerfile", "FROM tidegate-test-base\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\"\nRUN test -z \"$SSH_AUTH_SOCK\"\n");
    world.configure("    target: runtime\n", "    ssh: true\n");
    world.commit("agent");
    let without = world.pushed().run(&["run"]);
    without.must(5, "auth.missing");
    let ran = world.var("SSH_AUTH_SOCK", socket.to_str().unwrap().to_owned()).run(&["run"]);
    agent.kill().unwrap();
    agent.wait().unwrap();
    ran.must(0, "deploy.done");
}

/// Lying twin: the registry confirms every manifest and keeps none.
#[test]
fn a_registry_that_forgets_is_found_out() {
    let world = world("lie", "MUTABLE");
    let lie = |what: &str| program(&["curl", "-fsS", "-X", "POST", "-d", what, &format!("http://{}/lab/lie", part("TIDEGATE_REAL_ECR"))]);
    lie("on");
    let ran = world.run(&["run"]);
    lie("off");
    ran.must(1, "push.failed");
    assert!(world.runs_on("dev").contains(":old@"));
}

#[test]
fn a_plain_registry_works_as_well() {
    let mut world = world("unused", "MUTABLE");
    let registry = part("TIDEGATE_REAL_REGISTRY");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.write("tidegate.yml", &text.replace(&format!("{ECR}/unused"), &format!("{registry}/plain/app")));
    world.commit("plain");
    let sha = world.head();
    let merge = world.pushed().run(&["run"]);
    merge.must(0, "deploy.done");
    let release = world.released("v1.0.0", &sha).run(&["run"]);
    release.must(0, "deploy.done");
    assert_eq!(release.outputs["digest"], merge.outputs["digest"]);
    let raw = |tag: &str| program(&["skopeo", "inspect", "--tls-verify=false", "--raw", &format!("docker://{registry}/plain/app:{tag}")]);
    assert_eq!(raw("1.0.0"), raw(&sha[..7]));
    assert_eq!(digest_of(raw("1.0.0").as_bytes()), merge.outputs["digest"]);
}

/// A second real registry gets the same bytes: another client reads the same digest there, and an engine runs it.
#[test]
fn a_copy_in_another_registry_has_the_same_digest() {
    let mut world = world("copies-story", "MUTABLE");
    let registry = part("TIDEGATE_REAL_REGISTRY");
    world.configure(&format!("    repository: {ECR}"), &format!("    copies: [mirror.example.com/team/copies]\n    repository: {ECR}"));
    world.commit("copies");
    world.var("TIDEGATE_REGISTRY_ENDPOINTS", format!("{ECR}=http://{},mirror.example.com=http://{registry}", part("TIDEGATE_REAL_ECR")));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let (built, _) = skopeo("copies-story", &ran.outputs["version"]);
    for tag in [ran.outputs["version"].as_str(), "latest"] {
        let copied = program(&["skopeo", "inspect", "--tls-verify=false", "--raw", &format!("docker://{registry}/team/copies:{tag}")]);
        assert_eq!(digest_of(copied.as_bytes()), ran.outputs["digest"], "{tag}");
        assert_eq!(copied, built);
    }
    let (docker, image) = (part("TIDEGATE_REAL_DOCKER"), format!("{registry}/team/copies:latest"));
    assert_eq!(program(&["docker", "-H", &docker, "run", "--rm", &image]), "fast");
    program(&["docker", "-H", &docker, "image", "rm", "-f", &image]);
}

/// moto answers a scan that was asked for with one finding of its own, which is HIGH.
#[test]
fn a_scan_is_begun_and_judged() {
    let mut real = world("scanned", "MUTABLE");
    let gate = |max: &str| format!("    gates:\n      - scan: {{max: {max}, timeout: 30s, settle: 1s}}\n");
    real.configure("    when: merge\n", &format!("    when: merge\n{}", gate("medium")));
    real.commit("a scan");
    let ran = real.pushed().run(&["run"]);
    ran.must(4, "gate.scan");
    assert!(ran.err.contains("ECR begins a scan") && ran.err.contains("high finding"), "{}", ran.err);
    real.configure(&gate("medium"), &gate("high"));
    real.commit("less strict");
    let ran = real.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("scan.app") && ran.err.contains("1 high"), "{}", ran.err);
}
