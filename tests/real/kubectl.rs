//! What we send to a cluster, in the eyes of Kubernetes' own schemas; and the pretend cluster, in the eyes of kubectl.

use crate::parts::part;
use crate::world::World;
use serde_json::Value;
use std::process::Command;

const MANIFEST: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: x, env: [{name: VERSION, value: \"{version}\"}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {version: \"{version}\"}
";

/// A delivery with manifests and a migration; what the cluster was given.
fn delivered() -> World {
    let mut world = World::new();
    world.write("k8s/all.yaml", MANIFEST);
    world.deploy_dev_by("kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 10s, apply: [k8s/*.yaml]}");
    let run = "kubernetes-job: {namespace: dev, from: deployment/web, command: [./migrate], env: {A: b}}";
    world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    migrate: {{run: {{{run}}}}}\n"));
    world.commit("all");
    world.sandbox.with(|outside| outside.cluster.job_exit = Some(0));
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world
}

#[test]
fn what_is_sent_fits_the_schemas_of_kubernetes() {
    let world = delivered();
    let objects = world.sandbox.with(|outside| outside.cluster.objects.clone());
    let mut seen = Vec::new();
    for ((plural, namespace, name), mut object) in objects {
        if namespace != "dev" || !matches!(plural.as_str(), "jobs" | "deployments" | "configmaps") {
            continue;
        }
        if plural == "jobs" {
            object.as_object_mut().unwrap().remove("status"); // the pretend cluster's, not ours
        }
        if plural == "deployments" {
            object["status"] = Value::Null;
            object.as_object_mut().unwrap().remove("status");
        }
        let file = world.path(&format!("{plural}-{name}.yaml"));
        std::fs::write(&file, serde_json::to_string_pretty(&object).unwrap()).unwrap();
        let output =
            Command::new(part("TIDEGATE_REAL_VALIDATE")).args(["--strict", "--kubernetes-version", "1.33"]).arg(&file).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{plural}/{name}: {said}\n{object:#}");
        seen.push(plural);
    }
    seen.dedup();
    assert_eq!(seen, ["configmaps", "deployments", "jobs"]);
    // The validator can say no.
    let file = world.path("wrong.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatta: {}\n").unwrap();
    assert!(
        !Command::new(part("TIDEGATE_REAL_VALIDATE"))
            .args(["--strict", "--kubernetes-version", "1.33"])
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn the_command_line_sees_what_we_see() {
    let world = delivered();
    // Without TLS it sends no token.
    let (port, authority) = crate::tls::tls_in_front_of(&world);
    world.write("ca.pem", &authority);
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("https://localhost:{port}/kube"), "certificate-authority": world.path("ca.pem")}}],
        "users": [{"name": "u", "user": {"token": "sandbox-token"}}],
    });
    world.write("tls.kubeconfig", &config.to_string());
    let kubectl = |args: &[&str]| {
        let output = Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", world.path("tls.kubeconfig"))
            .env("HOME", world.folder.path())
            .output()
            .unwrap();
        (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (good, said) = kubectl(&["-n", "dev", "rollout", "status", "deployment/web", "--timeout=10s"]);
    assert!(good && said.contains("successfully rolled out"), "{said}");
    let (good, said) = kubectl(&["-n", "dev", "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
    assert!(good && said.contains("@sha256:"), "{said}");
    let (good, said) = kubectl(&["-n", "dev", "get", "jobs", "-o", "name"]);
    assert!(good && said.contains("job.batch/demo-dev-migrate-"), "{said}");
    std::fs::write(world.path("more.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {a: b}\n").unwrap();
    let (good, said) =
        kubectl(&["-n", "dev", "apply", "--server-side", "--validate=false", "-f", &world.path("more.yaml").display().to_string()]);
    assert!(good && said.contains("serverside-applied"), "{said}");
    let (good, said) = kubectl(&["-n", "dev", "delete", "configmap", "more", "--wait=false"]);
    assert!(good, "{said}");
}
