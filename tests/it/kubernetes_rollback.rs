//! `rollback: auto` in a cluster, pods that no controller replaces, and the strategy OnDelete.

use crate::world::{OLD, World};
use serde_json::json;
use tidegate::rehearse::sandbox::ClusterMood;

fn under(mood: ClusterMood, workloads: &str, keys: &str) -> World {
    let world = World::new();
    world.deploy_dev_by(&format!("kubernetes: {{namespace: dev, workloads: [{workloads}], image: app, timeout: 8s{keys}}}"));
    world.sandbox.with(|outside| {
        outside.cluster.add_workload("statefulsets", "dev", "worker", &[("worker", OLD)]);
        outside.cluster.add_workload("daemonsets", "dev", "agent", &[("agent", OLD)]);
        outside.mood = mood;
    });
    world
}

fn image(world: &World, plural: &str, name: &str) -> String {
    world.sandbox.with(|outside| outside.cluster.image_of(plural, "dev", name)).unwrap()
}

#[test]
fn every_kind_goes_back_to_the_revision_that_served() {
    for (plural, name, workload) in
        [("deployments", "web", "deployment/web"), ("statefulsets", "worker", "sts/worker"), ("daemonsets", "agent", "ds/agent")]
    {
        let mut world = under(ClusterMood::CrashLoop, workload, ", rollback: auto");
        let ran = world.pushed().run(&["run"]);
        ran.must(1, "target.rolled-back");
        assert_eq!(ran.outputs["verdict"], "rolled-back");
        let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
        assert!(
            first.contains("starts and dies with exit code 3")
                && first.contains("rolled back: ")
                && first.contains("2 of 2 pods run sha256:1111"),
            "{first}"
        );
        assert!(ran.err.contains("on failure back to revision") && ran.err.contains("(rollback: auto, to what ran before)"), "{}", ran.err);
        assert!(ran.err.contains("cause: target.crash-loop"), "{}", ran.err);
        assert_eq!(image(&world, plural, name), OLD, "{workload}");
        assert_eq!(world.deployments(), [["in_progress", "failure"]]);
    }
}

/// https://github.com/kubernetes/kubernetes/issues/67250
#[test]
fn a_wedged_pod_of_a_stateful_set_is_deleted() {
    let mut world = under(ClusterMood::ImagePull, "sts/worker", ", rollback: auto");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert!(ran.count("DELETE /kube/api/v1/namespaces/dev/pods/worker-") >= 1, "{}", ran.log.join("\n"));
    // Without a rollback the next good version frees it.
    let mut world = under(ClusterMood::CrashLoop, "sts/worker", "");
    world.pushed().run(&["run"]).must(1, "target.crash-loop");
    world.sandbox.with(|outside| outside.mood = ClusterMood::Honest);
    world.write("app", "two\n");
    world.commit("two");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("deleting the pod worker-"), "{}", ran.err);
}

#[test]
fn all_workloads_of_a_target_go_back_together() {
    let mut world = under(ClusterMood::Probe, "deployment/web, sts/worker", ", rollback: auto");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert_eq!((image(&world, "deployments", "web"), image(&world, "statefulsets", "worker")), (OLD.to_owned(), OLD.to_owned()));
}

#[test]
fn never_leaves_what_failed_and_a_migration_forbids_the_way_back() {
    let mut world = under(ClusterMood::CrashLoop, "deployment/web", ", rollback: never");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.crash-loop");
    assert_ne!(image(&world, "deployments", "web"), OLD);
    let mut world = under(ClusterMood::CrashLoop, "deployment/web", ", rollback: auto");
    world.configure("  dev:\n    when: merge\n", "  dev:\n    when: merge\n    migrate: {run: {command: {run: [\"true\"]}}}\n");
    world.commit("migrate");
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.crash-loop");
    assert!(ran.err.contains("(rollback: never, the version before may not work with the migrated database)"), "{}", ran.err);
    world.configure("[\"true\"]}}}", "[\"true\"]}}, backward-compatible: true}");
    world.sandbox.with(|outside| outside.cluster.add_workload("deployments", "dev", "web", &[("web", OLD)]));
    world.commit("compatible");
    world.pushed().run(&["run"]).must(1, "target.rolled-back");
}

/// Lying twin: the cluster takes the way back, and does not go it.
#[test]
fn a_way_back_that_is_not_gone_is_not_called_so() {
    let mut world = under(ClusterMood::NeverObserves, "deployment/web", ", rollback: auto");
    world.sandbox.with(|outside| outside.cluster.first_image = "nobody runs this".into());
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert_eq!(ran.outputs["verdict"], "timed-out");
    assert!(ran.err.contains("going back failed as well"), "{}", ran.err);
}

#[test]
fn on_delete_is_refused_or_done_pod_by_pod() {
    let strategy = |world: &World| {
        world.sandbox.with(|outside| {
            let key = ("statefulsets".to_owned(), "dev".to_owned(), "worker".to_owned());
            outside.cluster.objects.get_mut(&key).unwrap()["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        });
    };
    let mut world = under(ClusterMood::Honest, "sts/worker", "");
    strategy(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("update strategy OnDelete") && ran.count("PATCH /kube") == 0, "{}", ran.err);
    let mut world = under(ClusterMood::Honest, "sts/worker", ", on-delete: replace");
    strategy(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let deleted: Vec<&String> = ran.log.iter().filter(|line| line.starts_with("DELETE /kube")).collect();
    assert!(deleted.len() == 2 && deleted[0].contains("worker-old-1") && deleted[1].contains("worker-old-0"), "{deleted:?}");
    let mut world = under(ClusterMood::CrashLoop, "sts/worker", ", on-delete: replace");
    strategy(&world);
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.crash-loop");
    assert_eq!(ran.count("DELETE /kube"), 1, "the first one that fails is the last one that is touched");
}
