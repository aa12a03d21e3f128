//! The swarm target: followed past "converged" to tasks that run the digest; a rollback is a failure, whoever does it.

use crate::world::{OLD, World};
use base64::Engine;
use serde_json::{Value, json};
use tidegate::rehearse::sandbox::Fault;
use tidegate::rehearse::swarm::SwarmMood;

/// A repository whose merges update two services.
fn swarm(mood: SwarmMood, keys: &str) -> World {
    let world = World::new();
    let address = world.sandbox.address.clone();
    world.deploy_dev_by(&format!("swarm: {{host: \"tcp://{address}\", services: [demo_web, demo_worker], image: app, timeout: 5s{keys}}}"));
    world.sandbox.with(|outside| {
        outside.swarm.add_service("demo_web", OLD);
        outside.swarm.add_service("demo_worker", OLD);
        outside.swarm.mood = mood;
    });
    world
}

fn spec(world: &World, name: &str) -> Value {
    world.sandbox.with(|outside| outside.swarm.services[name].spec.clone())
}

#[test]
fn services_are_updated_by_digest_and_keep_everything_else() {
    let mut world = swarm(SwarmMood::Honest, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    for name in ["demo_web", "demo_worker"] {
        assert!(ran.err.contains(&format!("{name}: 2 of 2 tasks run sha256:")), "{}", ran.err);
        let spec = spec(&world, name);
        let image = spec["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap();
        assert_eq!(
            image,
            format!("123456789012.dkr.ecr.us-west-2.amazonaws.com/demo:{}@{}", ran.outputs["version"], ran.outputs["digest"])
        );
        assert_eq!(spec["TaskTemplate"]["ContainerSpec"]["Env"], json!(["KEEP=me"]));
        assert_eq!(spec["TaskTemplate"]["NotOfOurs"], json!({"newer": "engine"}), "what we do not know is not lost");
        assert_eq!(spec["Labels"]["com.docker.stack.namespace"], "demo");
        assert!(spec["Labels"]["tidegate.dev/lease"].as_str().unwrap().contains("demo/dev#"), "{spec}");
    }
    let auth = world.sandbox.with(|outside| outside.swarm.auth.clone());
    let auth: Value = serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE.decode(auth).unwrap()).unwrap();
    assert_eq!(
        (auth["username"].as_str(), auth["serveraddress"].as_str()),
        (Some("AWS"), Some("123456789012.dkr.ecr.us-west-2.amazonaws.com"))
    );
}

/// Lying twins: the engine says yes, and the old thing keeps running.
#[test]
fn a_swarm_that_forgets_or_keeps_its_tasks_fails() {
    let ran = swarm(SwarmMood::Forgets, "").pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("another update set it to") && ran.err.contains(":old@"), "{}", ran.err);
    let ran = swarm(SwarmMood::KeepsTasks, "").pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("0 of 2 new tasks run, 2 old ones are still there (completed)"), "{}", ran.err);
    let ran = swarm(SwarmMood::OtherContainer, "").pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("but its container runs sha256:9999"), "{}", ran.err);
}

#[test]
fn a_paused_update_begins_with_its_cause() {
    for (mood, reason, words) in [
        (SwarmMood::Paused, "target.crash-loop", "starts and dies with exit code 3: task: non-zero exit (3)"),
        (SwarmMood::NoImage, "target.image-pull", "cannot pull its image: No such image: demo"),
    ] {
        let ran = swarm(mood, "").pushed().run(&["run"]);
        ran.must(1, reason);
        let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
        assert!(first.contains(words) && first.contains("the swarm paused the update"), "{first}");
        assert!(ran.err.contains("panic: no database"), "the task's last lines: {}", ran.err);
    }
}

/// The docker CLI ends with exit code 0 here.
#[test]
fn a_swarm_that_goes_back_by_itself_failed() {
    let mut world = swarm(SwarmMood::RollsBack, "");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert_eq!(ran.outputs["verdict"], "rolled-back");
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(
        first.contains("starts and dies") && first.contains("the swarm went back by itself") && first.contains("runs 123456789012"),
        "{first}"
    );
    assert_eq!(world.sandbox.with(|outside| outside.swarm.runs("demo_web")), [OLD, OLD]);
}

/// What one service did is not said of all.
#[test]
fn a_swarm_that_takes_back_one_of_two_services_is_not_called_rolled_back() {
    let ran = swarm(SwarmMood::WorkerRollsBack, "").pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert_eq!(ran.outputs["verdict"], "failed");
    assert!(ran.err.contains("not all went back: demo_web: 2 of 2 tasks run sha256:"), "{}", ran.err);
}

#[test]
fn a_rollback_that_is_asked_for_brings_the_old_tasks_back() {
    let mut world = swarm(SwarmMood::Paused, ", rollback: auto");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert!(ran.err.contains("(rollback: auto, to what ran before)"), "{}", ran.err);
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(first.contains("starts and dies") && first.contains("rolled back: ") && first.contains("(2 of 2 tasks)"), "{first}");
    for name in ["demo_web", "demo_worker"] {
        assert_eq!(world.sandbox.with(|outside| outside.swarm.runs(name)), [OLD, OLD], "{name}");
    }
}

#[test]
fn an_update_that_never_ends_times_out_and_a_cancel_says_what_goes_on() {
    let ran = swarm(SwarmMood::Stuck, "").pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("did not settle within 5s: 0 of 2 new tasks run"), "{}", ran.err);
    let mut world = swarm(SwarmMood::Stuck, "");
    world.configure("timeout: 5s}\n  staging", "timeout: 10m}\n  staging");
    world.commit("long");
    let run = world.pushed().run_until(&["run"], "(updating)");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("the swarm goes on with the update of demo_web, demo_worker"), "{said}");
}

fn fault(on: &'static str, status: u16, message: &str, after_effect: bool) -> Fault {
    Fault { on, times: 1, status, headers: vec![], body: json!({"message": message}), after_effect }
}

#[test]
fn a_service_that_changes_meanwhile_is_read_again() {
    let mut world = swarm(SwarmMood::Honest, "");
    world.sandbox.with(|outside| {
        outside.faults.push(fault("POST /services/", 500, "rpc error: code = Unknown desc = update out of sequence", false))
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("POST /services/"), 3, "one of three was refused");
}

#[test]
fn a_lost_answer_updates_nothing_twice() {
    let mut world = swarm(SwarmMood::Honest, ", restart: always");
    world.sandbox.with(|outside| outside.faults.push(Fault { status: 0, ..fault("POST /services/", 0, "", true) }));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("POST /services/"), 2, "{}", ran.log.join("\n"));
    assert_eq!(spec(&world, "demo_web")["TaskTemplate"]["ForceUpdate"], 1);
}

#[test]
fn what_is_missing_is_named_before_anything_changes() {
    let mut world = swarm(SwarmMood::Honest, "");
    world.sandbox.with(|outside| outside.swarm.services.remove("demo_worker"));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("has no service demo_worker") && ran.count("POST /services/") == 0, "{}", ran.err);
    let mut world = swarm(SwarmMood::Honest, "");
    world.sandbox.with(|outside| outside.swarm.is_worker = true);
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("is not a manager of a swarm"), "{}", ran.err);
}

#[test]
fn an_unchanged_image_is_proven_and_can_be_restarted() {
    let mut world = swarm(SwarmMood::Honest, "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.count("POST /services/") == 0 && again.err.contains("delivered before"), "{}", again.err);
    world.configure("timeout: 5s}\n  staging", "timeout: 5s, restart: when-unchanged}\n  staging");
    world.commit("restart");
    let sha = world.git(&["rev-parse", "HEAD~1"]);
    let ran = world.run(&["deploy", "dev", &sha]);
    ran.must(0, "deploy.done");
    assert_eq!(spec(&world, "demo_web")["TaskTemplate"]["ForceUpdate"], 1);
}

#[test]
fn configs_and_secrets_get_a_new_name_and_the_old_ones_go() {
    let mut world = swarm(SwarmMood::Honest, ", configs: {app-config: {file: app.conf}}, secrets: {db-password: {env: DB_PASSWORD}}");
    world.write("app.conf", "level = new\n");
    world.var("DB_PASSWORD", "hunter2hunter2");
    world.sandbox.with(|outside| {
        let config = outside.swarm.add_held("configs", "app-config", "b2xk");
        let secret = outside.swarm.add_held("secrets", "db-password", "b2xk");
        // Somebody else's, although its name looks like one of ours.
        outside.swarm.add_held("secrets", "db-password-1", "c29tZWJvZHk=");
        outside.swarm.add_service("other", "other:1");
        for (name, list, id, field) in [("demo_web", "Configs", config, "Config"), ("other", "Secrets", secret, "Secret")] {
            let held = if field == "Config" { "app-config" } else { "db-password" };
            let entry = json!([{"File": {"Name": "target", "Mode": 292}, format!("{field}ID"): id, format!("{field}Name"): held}]);
            outside.swarm.services.get_mut(name).unwrap().spec["TaskTemplate"]["ContainerSpec"][list] = entry;
        }
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let config = &spec(&world, "demo_web")["TaskTemplate"]["ContainerSpec"]["Configs"][0];
    assert_eq!((&config["ConfigName"], &config["File"]["Mode"]), (&json!("app-config-1"), &json!(292)));
    let other = spec(&world, "other");
    assert_eq!(other["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretName"], "db-password-2");
    assert_eq!(other["TaskTemplate"]["ContainerSpec"]["Image"], "other:1", "only its secret changes");
    let names = |world: &World| -> Vec<String> {
        let mut names: Vec<String> =
            world.sandbox.with(|outside| outside.swarm.held.values().map(|(_, spec)| spec["Name"].as_str().unwrap().to_owned()).collect());
        names.sort();
        names
    };
    assert_eq!(names(&world), ["app-config-1", "db-password-1", "db-password-2"]);
    // The same content again makes no new name.
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.count("/create") == 0 && again.err.contains("delivered before"), "{}", again.err);
    // Another secret does, although nothing else has changed.
    let third = world.var("DB_PASSWORD", "correct-horse-battery").run(&["run"]);
    third.must(0, "deploy.done");
    assert_eq!(names(&world), ["app-config-1", "db-password-1", "db-password-3"]);
}

#[test]
fn what_no_service_uses_is_not_rotated() {
    let mut world = swarm(SwarmMood::Honest, ", configs: {app-config: {file: app.conf}}");
    world.write("app.conf", "x");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("no service of the swarm uses the config app-config") && ran.count("/create") == 0, "{}", ran.err);
}

#[test]
fn engines_are_reached_safely_or_not_at_all() {
    let world = World::new();
    for (host, words) in [
        ("tcp://10.0.0.7:2375", "an engine without TLS lets everybody in"),
        ("http://manager:2375", "is not the address of an engine"),
        ("tcp://user:pass@manager:2376", "a login stands in the address"),
    ] {
        world.deploy_dev_by(&format!("swarm: {{host: \"{host}\", services: [a], image: app}}"));
        let ran = world.run(&["check"]);
        assert!(ran.code == 2 && ran.err.contains(words), "{host}: {}", ran.err);
        assert!(!ran.err.contains("user:pass"), "{}", ran.err);
    }
}

/// An engine that only lets in whom its authority knows.
#[test]
fn an_engine_behind_tls_wants_our_certificate() {
    use rcgen::{CertificateParams, KeyPair};
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig};
    let mut world = swarm(SwarmMood::Honest, ", tls: {ca: {env: SWARM_CA}, cert: {env: SWARM_CERT}, key: {env: SWARM_TLS_KEY}}");
    let authority = crate::tls::authority();
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap(), key)
    };
    let ((server, server_key), (client, client_key)) = (signed("localhost"), signed("tidegate"));
    let provider = std::sync::Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let config =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_client_cert_verifier(verifier);
    let config = config.with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(server_key.serialize_der()).unwrap()).unwrap();
    let port = crate::tls::relay(&world, &world.sandbox.address, config);
    let address = world.sandbox.address.clone();
    world.configure(&format!("tcp://{address}\", services"), &format!("tcp://localhost:{port}\", services"));
    world.commit("tls");
    world.var("SWARM_CA", authority.pem()).var("SWARM_CERT", client.pem()).var("SWARM_TLS_KEY", client_key.serialize_pem());
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("2 of 2 tasks run sha256:"), "{}", ran.err);
    // Somebody else's certificate is not let in.
    let stranger = CertificateParams::new(vec!["x".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    world.var("SWARM_CERT", stranger.self_signed(&key).unwrap().pem()).var("SWARM_TLS_KEY", key.serialize_pem());
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    assert!(ran.code == 1 && ran.err.contains(&format!("tcp://localhost:{port}")), "{}", ran.err);
}
