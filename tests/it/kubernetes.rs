//! The Kubernetes target: honest rollouts, every way to fail with its cause first, and clusters that lie.

use crate::world::{OLD, World};
use tidegate::rehearse::sandbox::ClusterMood;

fn under(mood: ClusterMood) -> World {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.mood = mood);
    world.pushed();
    world
}

#[test]
fn every_cause_has_its_own_words() {
    for (mood, code, reason, words) in [
        (ClusterMood::ImagePull, 1, "target.image-pull", "cannot pull its image: Back-off pulling image: manifest unknown"),
        (ClusterMood::CrashLoop, 1, "target.crash-loop", "starts and dies with exit code 3: 2 restarts"),
        (ClusterMood::ContainerConfig, 1, "target.container-config", "secret \"web\" not found"),
        (ClusterMood::Quota, 1, "target.quota", "exceeded quota"),
        (ClusterMood::Unschedulable, 1, "target.unschedulable", "Insufficient memory"),
        (ClusterMood::Probe, 1, "target.probe", "Readiness probe failed: HTTP probe failed with statuscode: 503"),
    ] {
        let world = under(mood);
        let ran = world.run(&["run"]);
        ran.must(code, reason);
        let line = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
        assert!(line.contains(words), "the cause is in the first line: {line}");
        assert_eq!(world.deployments(), [["in_progress", "failure"]], "{reason}");
    }
}

#[test]
fn a_crash_shows_the_last_log_lines() {
    let ran = under(ClusterMood::CrashLoop).run(&["run"]);
    assert!(ran.err.contains("panic: no database"), "{}", ran.err);
    insta::assert_snapshot!(
        "crash_loop",
        ran.shown().lines().skip_while(|line| !line.starts_with("error:")).collect::<Vec<_>>().join("\n")
    );
}

/// Lying twins: the API says yes, and the old thing keeps running.
#[test]
fn a_cluster_that_keeps_the_old_template_fails() {
    let world = under(ClusterMood::KeepsTemplate);
    world.run(&["run"]).must(1, "target.wrong-digest");
    assert_eq!(world.runs_on("dev"), OLD);
}

#[test]
fn a_cluster_whose_pods_run_something_else_fails() {
    let ran = under(ClusterMood::KeepsPods).run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("0 of 2 pods run sha256:") && ran.err.contains("runs sha256:1111"), "{}", ran.err);
}

#[test]
fn a_cluster_that_never_takes_the_change_times_out() {
    let ran = under(ClusterMood::NeverObserves).run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("did not settle within 5s: waiting for the cluster to take the change"), "{}", ran.err);
}

#[test]
fn nothing_is_changed_when_one_of_the_workloads_is_missing() {
    let mut world = World::new();
    world.configure("{namespace: dev, workloads: [deployment/web]", "{namespace: dev, workloads: [deployment/web, statefulset/worker]");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert_eq!(ran.count("PATCH /kube"), 0);
    assert!(ran.err.contains("statefulset/worker in dev"), "{}", ran.err);
}

#[test]
fn all_three_kinds_roll_out_together() {
    let mut world = World::new();
    world.sandbox.with(|outside| {
        outside.cluster.add_workload("statefulsets", "dev", "worker", &[("worker", OLD)]);
        outside.cluster.add_workload("daemonsets", "dev", "agent", &[("agent", OLD)]);
    });
    world.configure("{namespace: dev, workloads: [deployment/web]", "{namespace: dev, workloads: [deployment/web, sts/worker, ds/agent]");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    for workload in ["deployment/web", "statefulset/worker", "daemonset/agent"] {
        assert!(ran.err.contains(&format!("{workload}: 2 of 2 pods run sha256:")), "{}", ran.err);
    }
}

#[test]
fn the_container_of_our_repository_is_chosen_among_several() {
    let mut world = World::new();
    let containers = [("proxy", "envoy:1"), ("web", OLD)];
    world.sandbox.with(|outside| outside.cluster.add_workload("deployments", "dev", "web", &containers));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let image = world.sandbox.with(|outside| outside.cluster.objects[&("deployments".into(), "dev".into(), "web".into())].clone());
    let images: Vec<&str> =
        image["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| c["image"].as_str().unwrap()).collect();
    assert_eq!(images[0], "envoy:1");
    assert!(images[1].ends_with(&ran.outputs["digest"]));
}

#[test]
fn an_unclear_container_is_asked_for_by_name() {
    let mut world = World::new();
    world.sandbox.with(|outside| outside.cluster.add_workload("deployments", "dev", "web", &[("a", "x:1"), ("b", "y:1")]));
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.missing");
    assert!(ran.err.contains("name one with `container:`: a, b"), "{}", ran.err);
}

#[test]
fn a_partition_that_keeps_every_pod_is_refused_before_anything_changes() {
    let mut world = World::new();
    world.sandbox.with(|outside| {
        outside.cluster.add_workload("statefulsets", "dev", "worker", &[("worker", OLD)]);
        let key = ("statefulsets".to_owned(), "dev".to_owned(), "worker".to_owned());
        outside.cluster.objects.get_mut(&key).unwrap()["spec"]["updateStrategy"] = serde_json::json!({"rollingUpdate": {"partition": 2}});
    });
    world.configure("{namespace: dev, workloads: [deployment/web]", "{namespace: dev, workloads: [deployment/web, sts/worker]");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("partition") && ran.count("PATCH /kube") == 0, "{}", ran.err);
}

#[test]
fn a_failing_credential_plugin_keeps_its_secrets() {
    let mut world = World::new();
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", "echo sekret-out; exit 3"],
            "env": [{"name": "VAULT_TOKEN", "value": "topsecretvalue"}],
        }}}],
    });
    world.write("exec.yml", &config.to_string());
    let path = world.path("exec.yml").display().to_string();
    let ran = world.var("KUBECONFIG", path).pushed().run(&["run"]);
    ran.must(5, "auth.missing");
    let told = format!("{}{}", ran.err.replace("::add-mask::topsecretvalue", ""), world.comments().join("\n"));
    assert!(!told.contains("topsecretvalue") && !told.contains("sekret-out"), "{told}");
}

#[test]
fn an_unchanged_image_can_be_restarted() {
    let mut world = World::new();
    world.configure("image: app, timeout: 5s}\n  staging", "image: app, timeout: 5s, restart: when-unchanged}\n  staging");
    world.commit("restart");
    let first = world.pushed().run(&["run"]);
    first.must(0, "deploy.done");
    let annotation = |world: &World| {
        let object = world.sandbox.with(|outside| outside.cluster.objects[&("deployments".into(), "dev".into(), "web".into())].clone());
        object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].as_str().map(str::to_owned)
    };
    assert_eq!(annotation(&world), None, "a changed image restarts by itself");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(annotation(&world).is_some() && again.count("PATCH /kube") == 1);
}
