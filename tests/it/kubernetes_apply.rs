//! `apply:`: manifests with an inventory; previews that come with their namespace and go with it.

use crate::world::World;
use serde_json::{Value, json};

pub const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - {name: web, image: \"{image.app}\", env: [{name: VERSION, value: \"{version}\"}]}
";
const MORE: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {json: '{\"a\": {\"b\": 1}}', helm: \"{{ .Values.x }}\", odd: \"{versoin}\"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// A repository whose dev environment is made of manifests.
fn applied(keys: &str) -> World {
    let world = World::new();
    world.write("k8s/web.yaml", WEB);
    world.write("k8s/more.yaml", MORE);
    world.deploy_dev_by(&format!(
        "kubernetes: {{namespace: dev, apply: [\"k8s/*.yaml\"], workloads: [deployment/web], image: app, timeout: 5s{keys}}}"
    ));
    world
}

/// A repository whose previews are made of manifests.
fn previews() -> World {
    let world = World::new();
    world.write("k8s/web.yaml", WEB);
    world.write("k8s/more.yaml", MORE);
    world.configure(
        "workloads: [deployment/web], image: app, timeout: 5s}\n",
        "workloads: [deployment/web], image: app, timeout: 5s, apply: [k8s/*.yaml]}\n",
    );
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, tail) = text.split_once("  preview:").unwrap();
    world.write("tidegate.yml", &format!("{}  preview:{tail}", head.replace(", apply: [k8s/*.yaml]", "")));
    world.commit("manifests");
    world.sandbox.with(|outside| outside.cluster.objects.retain(|(_, namespace, _), _| namespace != "demo-pr-12"));
    world
}

fn object(world: &World, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    world.sandbox.with(|outside| outside.cluster.objects.get(&(plural.into(), namespace.into(), name.into())).cloned())
}

#[test]
fn manifests_are_applied_with_the_digest_and_proven() {
    let mut world = applied("");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("deployment/web: 2 of 2 pods run sha256:"), "{}", ran.err);
    let web = object(&world, "deployments", "dev", "web").unwrap();
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    assert!(container["image"].as_str().unwrap().ends_with(&ran.outputs["digest"]));
    assert_eq!(container["env"][0]["value"], json!(ran.outputs["version"]));
    assert_eq!(web["metadata"]["labels"]["tidegate.dev/owner"], "demo.dev");
    let settings = object(&world, "configmaps", "dev", "settings").unwrap();
    assert_eq!(settings["data"], json!({"json": "{\"a\": {\"b\": 1}}", "helm": "{{ .Values.x }}", "odd": "{versoin}"}));
    assert!(ran.err.contains("{versoin} is no placeholder and stays as it is; did you mean {version}?"), "{}", ran.err);
    assert_eq!(
        ran.count("PATCH /kube/apis/apps/v1/namespaces/dev/deployments/web?"),
        2,
        "a dry run, and one change: {}",
        ran.log.join("\n")
    );
    // A run again finds all of it, and writes nothing.
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before"), "{}", again.err);
    assert!(again.log.iter().all(|line| !line.starts_with("PATCH") || line.contains("dryRun")), "{}", again.log.join("\n"));
}

#[test]
fn what_is_in_no_manifest_any_more_goes_and_nothing_else() {
    let mut world = applied("");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| {
        let key = ("configmaps".to_owned(), "dev".to_owned(), "settings".to_owned());
        let mut foreign = outside.cluster.objects[&key].clone();
        foreign["metadata"]["name"] = json!("foreign");
        outside.cluster.objects.insert(("configmaps".into(), "dev".into(), "foreign".into()), foreign);
    });
    world.write("k8s/more.yaml", MORE.split("---").nth(1).unwrap());
    world.write("app", "two\n");
    world.commit("no settings any more");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("configmap/settings was in no manifest any more and is deleted"), "{}", ran.err);
    assert!(object(&world, "configmaps", "dev", "settings").is_none());
    assert!(object(&world, "configmaps", "dev", "foreign").is_some(), "it has our label, but we did not apply it");
    assert!(object(&world, "services", "dev", "web").is_some());
    // Taken over by somebody else meanwhile: left alone.
    world.sandbox.with(|outside| {
        let key = ("services".to_owned(), "dev".to_owned(), "web".to_owned());
        outside.cluster.objects.get_mut(&key).unwrap()["metadata"]["labels"]["tidegate.dev/owner"] = json!("another");
    });
    world.write("k8s/more.yaml", "");
    world.write("app", "three\n");
    world.commit("no service either");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("service/web is not ours any more") && object(&world, "services", "dev", "web").is_some(), "{}", ran.err);
}

#[test]
fn what_the_cluster_would_not_take_changes_nothing() {
    let mut world = applied("");
    world.sandbox.with(|outside| outside.cluster.owned = vec!["web".into()]);
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "target.input");
    assert!(
        ran.err.contains("conflict with \"kubectl-edit\" using apps/v1: .spec.replicas") && ran.err.contains("--force-conflicts"),
        "{}",
        ran.err
    );
    assert!(ran.log.iter().all(|line| !line.starts_with("PATCH /kube") || line.contains("dryRun")), "{}", ran.log.join("\n"));
    for (text, words) in [
        ("apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n", "the cluster does not know Nonsense of v1"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: prod}\n", "is in the namespace prod, and the target's is dev"),
    ] {
        let mut world = applied("");
        world.write("k8s/more.yaml", text);
        let ran = world.pushed().run(&["run"]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("k8s/more.yaml: ") && ran.err.contains(words), "{}", ran.err);
        assert_eq!(ran.count("PATCH /kube"), 0);
    }
    let mut world = applied("");
    world.write("k8s/more.yaml", "a: [\n");
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "config.invalid");
    assert!(ran.err.contains("k8s/more.yaml: this is not YAML") && ran.count("POST /build") == 0, "known before the build: {}", ran.err);
}

/// Lying twin: the apply is answered with success, and the old template stays.
#[test]
fn an_apply_that_is_forgotten_fails() {
    let mut world = applied("");
    world.sandbox.with(|outside| outside.mood = tidegate::rehearse::sandbox::ClusterMood::KeepsTemplate);
    world.pushed().run(&["run"]).must(1, "target.wrong-digest");
}

#[test]
fn a_preview_comes_with_its_namespace_and_goes_with_it() {
    let mut world = previews();
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the namespace demo-pr-12 is made"), "{}", ran.err);
    assert_eq!(object(&world, "namespaces", "", "demo-pr-12").unwrap()["metadata"]["labels"]["tidegate.dev/owner"], "demo.demo-pr-12");
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(0, "preview.removed");
    assert_eq!(ran.outputs["verdict"], "removed");
    assert!(ran.err.contains("the namespace demo-pr-12 is gone"), "{}", ran.err);
    assert!(world.sandbox.with(|outside| outside.cluster.objects.keys().all(|(_, namespace, _)| namespace != "demo-pr-12")));
    // Closed twice: nothing is left, nothing is done.
    let again = world.run(&["run"]);
    assert_eq!((again.code, again.count("DELETE /kube")), (0, 0), "{}", again.err);
}

#[test]
fn a_namespace_that_we_did_not_make_stays() {
    let mut world = previews();
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo-pr-12", "uid": "u", "labels": {}}});
    world.sandbox.with(|outside| outside.cluster.objects.insert(("namespaces".into(), String::new(), "demo-pr-12".into()), made));
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("3 objects in demo-pr-12: gone"), "{}", ran.err);
    assert!(object(&world, "namespaces", "", "demo-pr-12").is_some());
    assert!(object(&world, "deployments", "demo-pr-12", "web").is_none());
}

/// Lying twin: the deletion is confirmed, and the namespace stays.
#[test]
fn a_preview_that_only_seems_to_go_is_not_called_removed() {
    let mut world = previews();
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    world.sandbox.with(|outside| outside.cluster.keeps = vec!["namespaces".into()]);
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("the namespace demo-pr-12 was deleted and is still there"), "{}", ran.err);
}

#[test]
fn a_preview_owns_nothing_that_the_whole_cluster_shares() {
    let mut world = previews();
    world.write("k8s/more.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: x}\n");
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(2, "config.invalid");
    assert!(ran.err.contains("clusterrole/x is not in any namespace"), "{}", ran.err);
}
