//! GitOps: a commit to a manifest repository, and the cluster's own word that it followed.

use crate::world::{OLD, World};
use tidegate::rehearse::sandbox::ClusterMood;

const VALUES: &str = "# dev\nui:\n  image:\n    tag: \"old\"   # by tidegate\n    pullPolicy: Always\nother: 'x'\n";
const REPOSITORY: &str = "123456789012.dkr.ecr.us-west-2.amazonaws.com/demo";

fn gitops(keys: &str, follows: bool) -> World {
    let mut world = World::new();
    world.deploy_dev_by(&format!(
        "kubernetes: {{namespace: dev, workloads: [deployment/web], image: app, timeout: 5s, gitops: {{repository: acme/manifests, edit: [{{file: \"apps/values-{{environment}}.yaml\", key: ui.image.tag}}], token: {{env: MANIFEST_TOKEN}}{keys}}}}}"
    ));
    world.sandbox.with(|outside| {
        outside.manifests.write("apps/values-dev.yaml", VALUES);
        outside.manifests.token = "manifest-token-1".into();
        if follows {
            outside.manifests.followed =
                Some(("apps/values-dev.yaml".into(), "ui.image.tag".into(), ("dev".into(), "web".into()), REPOSITORY.into()));
        }
    });
    world.var("MANIFEST_TOKEN", "manifest-token-1");
    world
}

fn values(world: &World) -> String {
    world.sandbox.with(|outside| outside.manifests.read("main", "apps/values-dev.yaml"))
}

#[test]
fn one_value_is_committed_and_the_cluster_proves_it() {
    let mut world = gitops("", true);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(values(&world), VALUES.replace("\"old\"", &format!("\"{}\"", ran.outputs["version"])), "comments and quotes stay");
    let message = world.sandbox.with(|outside| outside.manifests.messages[0].clone());
    assert!(
        message.starts_with(&format!("Deploy demo {} to demo/dev\n", ran.outputs["version"])) && message.contains(&ran.outputs["digest"]),
        "{message}"
    );
    assert!(ran.err.contains("deployment/web: 2 of 2 pods run sha256:") && ran.count("PATCH /kube") == 0, "{}", ran.err);
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before") && again.count("POST /github/repos/acme/manifests") == 0, "{}", again.err);
}

#[test]
fn others_who_commit_meanwhile_lose_nothing() {
    let mut world = gitops("", true);
    world.sandbox.with(|outside| outside.manifests.others = 2);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("main moved on; the change is made anew on top of it"), "{}", ran.err);
    assert_eq!(world.sandbox.with(|outside| outside.manifests.read("main", "OTHER.md")), "0\n");
    assert!(values(&world).contains(&ran.outputs["version"]));
}

/// Lying twin: the commit is taken, and nothing follows it.
#[test]
fn a_repository_that_nobody_follows_times_out() {
    let ran = gitops("", false).pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("is in acme/manifests, but deployment/web still shows") && ran.err.contains("Argo CD or Flux"), "{}", ran.err);
}

#[test]
fn a_failing_rollout_is_reverted_in_the_repository() {
    let mut world = gitops("", true);
    world.configure("timeout: 5s, gitops", "timeout: 5s, rollback: auto, gitops");
    world.commit("auto");
    world.sandbox.with(|outside| {
        let old = OLD.split('@').next().unwrap().to_owned();
        outside.cluster.first_image.clone_from(&old);
        outside.cluster.add_workload("deployments", "dev", "web", &[("web", &old)]);
        outside.mood = ClusterMood::CrashLoop;
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert_eq!(values(&world), VALUES);
    assert!(world.sandbox.with(|outside| outside.manifests.messages[1].starts_with("Revert \"Deploy demo")));
}

#[test]
fn a_pull_request_is_opened_and_waited_for() {
    let mut world = gitops(", pull-request: true", true);
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(
        ran.err.contains("https://github.com/acme/manifests/pull/1") && ran.err.contains("Was the pull request merged?"),
        "{}",
        ran.err
    );
    assert_eq!(values(&world), VALUES, "main is not touched");
    let mut world = gitops(", pull-request: true", true);
    world.configure("timeout: 5s, gitops", "timeout: 10m, gitops");
    world.commit("long");
    let run = world.pushed().start(&["run"]);
    world.until("it is opened", |outside| outside.manifests.pulls.len() == 1);
    world.sandbox.with(|outside| outside.manifests.pulls[0].1 = true);
    let ran = world.ran(run.wait_with_output().unwrap());
    ran.must(1, "target.failed");
    assert!(ran.err.contains("was closed without being merged"), "{}", ran.err);
}

#[test]
fn what_cannot_be_edited_changes_nothing() {
    let mut world = gitops("", true);
    world.configure("ui.image.tag", "ui.image.tagg");
    world.commit("typo");
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(ran.err.contains("apps/values-dev.yaml in acme/manifests on main: there is no key ui.image.tagg"), "{}", ran.err);
    let mut world = gitops("", true);
    let ran = world.var("MANIFEST_TOKEN", "wrong-manifest-token").pushed().run(&["run"]);
    ran.must(5, "auth.denied");
    assert_eq!(values(&world), VALUES);
}

#[test]
fn gitlab_takes_the_same_commit() {
    let mut world = gitops("", true);
    world.on_gitlab("push").var("CI_COMMIT_BRANCH", "main");
    world.sandbox.with(|outside| outside.manifests.others = 1);
    let ran = world.run(&["run"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(values(&world).contains(&world.head()[..7]), "{}", values(&world));
    assert!(ran.err.contains("moved on"), "{}", ran.err);
}
