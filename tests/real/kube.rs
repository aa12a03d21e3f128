//! The Kubernetes stories on a real API server with its controllers and scheduler; kwok plays the nodes.
//!
//! The word in a version's tag says how its pods fare: `1.1.0-crashes` crashes (see kube/stages.yaml).

use crate::parts::part;
use crate::world::{OLD, Ran, World};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

struct Cluster {
    world: World,
    client: Client,
    namespace: String,
}

/// A namespace of its own, with the workloads that a story needs, and merges by hand into it.
fn cluster(namespace: &str, target: &str, workloads: &[(&str, &str)]) -> Cluster {
    let mut world = World::new();
    let path = part("TIDEGATE_REAL_KUBECONFIG");
    let client = world.runtime().block_on(async {
        let file = Kubeconfig::read_from(&path).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        let _set_already = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_from(config).unwrap();
        let spaces: Api<Namespace> = Api::all(client.clone());
        let space = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        spaces.create(&PostParams::default(), &space).await.unwrap();
        client
    });
    world.var("KUBECONFIG", path);
    world.deploy_dev_by(&format!("kubernetes: {{namespace: {namespace}, image: app, timeout: 45s, {target}}}"));
    world.pushed();
    let cluster = Cluster { world, client, namespace: namespace.to_owned() };
    for (kind, name) in workloads {
        cluster.create(kind, name);
        cluster.until_runs(kind, name, OLD);
    }
    cluster
}

fn workload(kind: &str, name: &str) -> Value {
    let labels = json!({"app": name});
    let mut spec = json!({
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": name, "image": OLD, "env": [{"name": "KEEP", "value": "me"}]}]},
        },
    });
    if kind != "DaemonSet" {
        spec["replicas"] = json!(2);
    }
    if kind == "StatefulSet" {
        spec["serviceName"] = json!(name);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

impl Cluster {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn create(&self, kind: &str, name: &str) {
        let value = workload(kind, name);
        self.world.runtime().block_on(async {
            let params = PostParams::default();
            match kind {
                "Deployment" => drop(self.api::<Deployment>().create(&params, &serde_json::from_value(value).unwrap()).await.unwrap()),
                "StatefulSet" => drop(self.api::<StatefulSet>().create(&params, &serde_json::from_value(value).unwrap()).await.unwrap()),
                _daemon_set => drop(self.api::<DaemonSet>().create(&params, &serde_json::from_value(value).unwrap()).await.unwrap()),
            }
        });
    }

    fn images(&self, name: &str) -> Vec<String> {
        let pods: Api<Pod> = self.api();
        let listed =
            self.world.runtime().block_on(async { pods.list(&ListParams::default().labels(&format!("app={name}"))).await.unwrap() });
        let alive = listed.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let ready =
            |pod: &Pod| pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
        alive.filter(ready).map(|pod| pod.spec.unwrap().containers[0].image.clone().unwrap()).collect()
    }

    #[track_caller]
    fn until_runs(&self, kind: &str, name: &str, image: &str) {
        let what = format!("{kind} {name} runs {image}");
        self.world.until(&what, |_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            self.images(name) == [image, image]
        });
    }

    /// A version by hand; its tag is in the repository.
    fn deploy(&self, version: &str) -> Ran {
        let head = self.world.head();
        self.world.sandbox.with(|outside| outside.github.tags.push((version.into(), head)));
        self.world.run(&["deploy", "dev", version])
    }
}

const ALL: [(&str, &str); 3] = [("Deployment", "web"), ("StatefulSet", "db"), ("DaemonSet", "agent")];

#[test]
fn all_kinds_roll_out_and_are_proven_by_their_pods() {
    let cluster = cluster("all-kinds", "workloads: [deployment/web, statefulset/db, daemonset/agent]", &ALL);
    let ran = cluster.deploy("1.1.0");
    ran.must(0, "deploy.done");
    for (kind, name) in ALL {
        assert!(ran.err.contains(&format!("{}/{name}: 2 of 2 pods run sha256:", kind.to_lowercase())), "{}", ran.err);
        assert!(cluster.images(name).iter().all(|image| image.ends_with(&ran.outputs["digest"])));
    }
    let again = cluster.deploy("1.1.0");
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before"), "{}", again.err);
}

#[test]
fn what_crashes_goes_back_by_revision_in_every_kind() {
    for (kind, name) in ALL {
        let space = format!("back-{name}");
        let target = format!("workloads: [{}/{name}], rollback: auto", kind.to_lowercase());
        let cluster = cluster(&space, &target, &[(kind, name)]);
        let ran = cluster.deploy("1.1.0-crashes");
        ran.must(1, "target.rolled-back");
        assert!(ran.err.contains("starts and dies") && ran.err.contains("2 of 2 pods run sha256:1111"), "{kind}: {}", ran.err);
        cluster.until_runs(kind, name, OLD);
        let keep = cluster.world.runtime().block_on(async { cluster.api::<Pod>().list(&ListParams::default()).await.unwrap() });
        assert!(keep.items.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].env.as_ref().unwrap()[0].name == "KEEP"));
        // And the next good version rolls out as if nothing had happened.
        cluster.deploy("1.2.0").must(0, "deploy.done");
    }
}

/// <https://github.com/kubernetes/kubernetes/issues/67250>
#[test]
fn a_stateful_set_that_a_crash_wedged_is_freed_by_the_next_version() {
    let cluster = cluster("wedged", "workloads: [sts/db]", &[("StatefulSet", "db")]);
    cluster.deploy("1.1.0-pull-fails").must(1, "target.image-pull");
    let ran = cluster.deploy("1.2.0");
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("deleting the pod db-1"), "{}", ran.err);
}

#[test]
fn causes_and_lies_have_their_words() {
    let cluster = cluster("causes", "workloads: [deployment/web], container: web", &[("Deployment", "web")]);
    for (version, reason, words) in [
        ("2.0.0-pull-fails", "target.image-pull", "cannot pull its image"),
        ("2.1.0-bad-config", "target.container-config", "cannot be created"),
        ("2.2.0-crashes", "target.crash-loop", "the last line of the log"),
        ("2.3.0-other-digest", "target.wrong-digest", "says it rolled out, but 0 of 2 pods run"),
    ] {
        let ran = cluster.deploy(version);
        ran.must(1, reason);
        assert!(ran.err.contains(words), "{version}: {}", ran.err);
    }
}

#[test]
fn on_delete_is_replaced_pod_by_pod() {
    let cluster = cluster("on-delete", "workloads: [sts/db], on-delete: replace", &[("StatefulSet", "db")]);
    cluster.world.runtime().block_on(async {
        let strategy = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
        cluster.api::<StatefulSet>().patch("db", &PatchParams::default(), &Patch::Merge(strategy)).await.unwrap();
    });
    let ran = cluster.deploy("1.1.0");
    ran.must(0, "deploy.done");
    let at = |pod: &str| ran.err.find(&format!("deleting the pod {pod}")).unwrap();
    assert!(at("db-1") < at("db-0"), "{}", ran.err);
}

const MANIFESTS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {version: \"{version}\"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: web, image: \"{image.app}\"}]
";

#[test]
fn manifests_are_applied_pruned_and_conflicts_are_told() {
    let cluster = cluster("applied", "workloads: [deployment/web], apply: [k8s/*.yaml], rollback: auto", &[]);
    cluster.world.write("k8s/all.yaml", MANIFESTS);
    let first = cluster.deploy("1.0.0");
    first.must(0, "deploy.done");
    let maps = |cluster: &Cluster| {
        cluster.world.runtime().block_on(async { cluster.api::<ConfigMap>().list(&ListParams::default()).await.unwrap() })
    };
    let settings = maps(&cluster).items.into_iter().find(|map| map.metadata.name.as_deref() == Some("settings")).unwrap();
    assert_eq!(settings.data.unwrap()["version"], "1.0.0");
    cluster.deploy("1.0.0").must(0, "deploy.done");
    // A failing version goes back; what is ours in the template stays ours to change afterwards.
    cluster.deploy("1.1.0-crashes").must(1, "target.rolled-back");
    cluster.world.write("k8s/all.yaml", MANIFESTS.split("---\n").nth(1).unwrap());
    let ran = cluster.deploy("1.2.0");
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("configmap/settings was in no manifest any more and is deleted"), "{}", ran.err);
    assert!(maps(&cluster).items.iter().all(|map| map.metadata.name.as_deref() != Some("settings")));
    // Somebody scales by hand: that field is theirs now.
    cluster.world.runtime().block_on(async {
        let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
        let params = PatchParams::apply("kubectl-scale").force();
        cluster.api::<Deployment>().patch("web", &params, &Patch::Apply(scaled)).await.unwrap();
    });
    let ran = cluster.deploy("1.3.0");
    ran.must(2, "target.input");
    assert!(
        ran.err.contains("\"kubectl-scale\"") && ran.err.contains(".spec.replicas") && ran.err.contains("--force-conflicts"),
        "{}",
        ran.err
    );
    cluster.world.write("k8s/all.yaml", "apiVersion: v1\nkind: Nonsense\nmetadata: {name: x}\n");
    cluster.deploy("1.4.0").must(2, "target.input");
}

#[test]
fn a_preview_brings_its_namespace_and_takes_it_away() {
    let mut cluster = cluster("not-the-preview", "workloads: [deployment/web]", &[]);
    cluster.world.write("k8s/all.yaml", MANIFESTS);
    let text = std::fs::read_to_string(cluster.world.path("tidegate.yml")).unwrap();
    let preview = text.replace(
        "workloads: [deployment/web], image: app, timeout: 5s}\n",
        "workloads: [deployment/web], image: app, timeout: 60s, apply: [k8s/*.yaml]}\n",
    );
    let (head, tail) = preview.split_once("  preview:").unwrap();
    cluster.world.write("tidegate.yml", &format!("{}  preview:{tail}", head.replace(", apply: [k8s/*.yaml]", "")));
    cluster.world.commit("preview");
    let ran = cluster.world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    let ran = cluster.world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("the namespace demo-pr-12 is gone"), "{}", ran.err);
    let spaces: Api<Namespace> = Api::all(cluster.client.clone());
    assert!(cluster.world.runtime().block_on(async { spaces.get_opt("demo-pr-12").await.unwrap() }).is_none());
    // Its closing goes unnoticed, and its records are lost: the marks in the cluster are enough.
    cluster.world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    cluster.world.sandbox.with(|outside| {
        outside.github.deployments.clear();
        outside.github.closed.push(12);
    });
    let ran = cluster.world.run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("the namespace demo-pr-12 is gone"), "{}", ran.err);
    assert!(cluster.world.runtime().block_on(async { spaces.get_opt("demo-pr-12").await.unwrap() }).is_none());
}

#[test]
fn a_migration_has_its_true_exit_code() {
    let cluster = cluster("migrate", "workloads: [deployment/web]", &[("Deployment", "web")]);
    let run = "kubernetes-job: {namespace: migrate, from: deployment/web, command: [./migrate], timeout: 40s}";
    cluster.world.configure("  dev:\n    when: merge\n", &format!("  dev:\n    when: merge\n    migrate: {{run: {{{run}}}}}\n"));
    cluster.world.commit("migrate");
    let ran = cluster.deploy("1.1.0");
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ended with exit code 0") && ran.err.contains("job | the last line of the log"), "{}", ran.err);
    let ran = cluster.deploy("1.2.0-exits-4");
    ran.must(1, "migration.failed");
    assert!(ran.err.contains("ended with exit code 4"), "{}", ran.err);
    let jobs = cluster.world.runtime().block_on(async { cluster.api::<Job>().list(&ListParams::default()).await.unwrap() });
    assert_eq!(jobs.items.len(), 2);
    assert!(cluster.images("web").iter().all(|image| image.contains(":1.1.0@")), "the failed migration switched nothing");
}
