//! A real swarm: healthy, crashing and unhealthy images, and a docker command line that calls a rollback a success.

use crate::parts::{part, program};
use crate::world::{Ran, World};
use serde_json::Value;
use std::process::Command;

struct Swarm {
    world: World,
    service: String,
}

fn docker(args: &[&str]) -> String {
    let engine = part("TIDEGATE_REAL_DOCKER");
    program(&[&["docker", "-H", &engine][..], args].concat())
}

/// A service that runs the test base, and merges that update it. `create` are flags of `docker service create`.
fn swarm(name: &str, create: &[&str], keys: &str) -> Swarm {
    let mut world = World::new();
    let service = format!("tidegate-{name}-{}", std::process::id());
    let mut args = vec!["service", "create", "--quiet", "--detach=false", "--no-resolve-image", "--name", &service, "--replicas", "2"];
    args.extend(["--network", "host", "--update-monitor", "2s", "--stop-grace-period", "1s"]);
    args.extend(create);
    args.extend(["tidegate-test-base", "sleep", "100000"]);
    docker(&args);
    let engine = part("TIDEGATE_REAL_DOCKER");
    world.deploy_dev_by(&format!("swarm: {{host: \"{engine}\", services: [{service}], image: app, timeout: 60s{keys}}}"));
    let repository = format!("{}/swarm-{name}", part("TIDEGATE_REAL_REGISTRY"));
    world.configure("123456789012.dkr.ecr.us-west-2.amazonaws.com/demo", &repository);
    world.var("DOCKER_HOST", engine);
    Swarm { world, service }
}

impl Swarm {
    /// A merge with this image.
    fn merge(&mut self, dockerfile: &str) -> Ran {
        self.world.write("Dockerfile", &format!("FROM tidegate-test-base\nCOPY app /app\n{dockerfile}\n"));
        self.world.commit("another image");
        // The service was made with arguments of its own, which go over those of the image.
        docker(&["service", "update", "--quiet", "--detach=true", "--no-resolve-image", "--args", "", &self.service]);
        self.world.pushed().run(&["run"])
    }

    fn inspect(&self) -> Value {
        let text = docker(&["service", "inspect", &self.service]);
        serde_json::from_str::<Value>(&text).unwrap()[0].clone()
    }

    fn image(&self) -> String {
        self.inspect()["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap().to_owned()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        let engine = part("TIDEGATE_REAL_DOCKER");
        let _gone = Command::new("docker").args(["-H", &engine, "service", "rm", &self.service]).output();
    }
}

const HEALTHY: &str = "CMD [\"sleep\", \"100000\"]";

#[test]
fn a_healthy_image_is_proven_by_its_tasks_and_containers() {
    let mut swarm = swarm("healthy", &["--update-order", "start-first"], "");
    let ran = swarm.merge(HEALTHY);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("2 of 2 tasks run sha256:"), "{}", ran.err);
    assert!(swarm.image().ends_with(&ran.outputs["digest"]), "{}", swarm.image());
    let labels = &swarm.inspect()["Spec"]["Labels"];
    assert!(labels["tidegate.dev/lease"].as_str().unwrap().contains('#'), "{labels}");
    let again = swarm.world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before"), "{}", again.err);
}

#[test]
fn a_crashing_image_pauses_with_its_exit_code_and_goes_back_when_asked() {
    let mut swarm = swarm("crashing", &["--restart-condition", "any", "--restart-delay", "200ms"], ", rollback: auto");
    swarm.merge(HEALTHY).must(0, "deploy.done");
    let good = swarm.image();
    let ran = swarm.merge("CMD [\"sh\", \"-c\", \"echo no database; exit 3\"]");
    ran.must(1, "target.rolled-back");
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(first.contains("starts and dies with exit code 3") && first.contains("rolled back"), "{first}");
    assert!(ran.err.contains("no database"), "the task's last lines: {}", ran.err);
    assert_eq!(swarm.image(), good);
}

/// The docker command line ends with exit code 0 here, which is shown first.
#[test]
fn an_unhealthy_image_that_the_swarm_sends_back_is_a_failure() {
    let mut swarm = swarm("unhealthy", &["--update-failure-action", "rollback", "--update-order", "start-first"], "");
    swarm.merge(HEALTHY).must(0, "deploy.done");
    let good = swarm.image();
    let unhealthy = "HEALTHCHECK --interval=500ms --timeout=1s --retries=1 CMD [\"false\"]\nCMD [\"sleep\", \"100000\"]";
    let ran = swarm.merge(unhealthy);
    ran.must(1, "target.rolled-back");
    assert_eq!(ran.outputs["verdict"], "rolled-back");
    assert!(ran.err.contains("the swarm went back by itself") && ran.err.contains("runs"), "{}", ran.err);
    assert_eq!(swarm.image(), good);
    let bad = format!("{}/swarm-unhealthy:{}", part("TIDEGATE_REAL_REGISTRY"), &swarm.world.head()[..7]);
    let engine = part("TIDEGATE_REAL_DOCKER");
    let cli = Command::new("docker").args(["-H", &engine, "service", "update", "--image", &bad, &swarm.service]).output().unwrap();
    println!("docker service update of the same image ended with {:?}", cli.status.code());
    assert_eq!(swarm.image(), good, "what the command line did was sent back too");
}

/// Somebody else sets another image while ours is on its way.
#[test]
fn another_digest_is_told() {
    let mut swarm = swarm("other", &["--update-monitor", "6s", "--update-parallelism", "1"], "");
    swarm.merge(HEALTHY).must(0, "deploy.done");
    let first = swarm.image();
    swarm.world.write("Dockerfile", "FROM tidegate-test-base\nCOPY app /app2\nCMD [\"sleep\", \"200000\"]\n");
    swarm.world.commit("two");
    let run = swarm.world.pushed().start(&["run"]);
    let (service, before) = (swarm.service.clone(), first.clone());
    let looks = || docker(&["service", "inspect", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", &service]) != before;
    swarm.world.until("our update has begun", |_| looks());
    docker(&["service", "update", "--quiet", "--detach=true", "--no-resolve-image", "--image", &first, &swarm.service]);
    let ran = swarm.world.ran(run.wait_with_output().unwrap());
    ran.must(1, "target.wrong-digest");
    assert!(ran.err.contains("another update set it to"), "{}", ran.err);
}

#[test]
fn configs_are_rotated_where_the_engine_checks_it() {
    let base = format!("tidegate-conf-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("old"), "level = old\n").unwrap();
    docker(&["config", "create", &base, &folder.path().join("old").display().to_string()]);
    let config = format!("source={base},target=/app.conf,mode=0444");
    let mut swarm = swarm("config", &["--config", &config], &format!(", configs: {{{base}: {{file: app.conf}}}}"));
    swarm.world.write("app.conf", "level = new\n");
    swarm.merge(HEALTHY).must(0, "deploy.done");
    let held = &swarm.inspect()["Spec"]["TaskTemplate"]["ContainerSpec"]["Configs"][0];
    assert_eq!((held["ConfigName"].as_str(), held["File"]["Name"].as_str()), (Some(format!("{base}-1").as_str()), Some("/app.conf")));
    let names = docker(&["config", "ls", "--format", "{{.Name}}"]);
    assert!(names.lines().any(|name| name == format!("{base}-1")) && !names.lines().any(|name| name == base), "{names}");
    drop(swarm);
    let _gone = Command::new("docker").args(["-H", &part("TIDEGATE_REAL_DOCKER"), "config", "rm", &format!("{base}-1")]).output();
}

#[test]
fn a_manager_is_reached_through_ssh() {
    let mut swarm = swarm("ssh", &[], ", ssh: {key: {env: SWARM_KEY}, known-hosts: {env: SWARM_HOSTS}}");
    let engine = part("TIDEGATE_REAL_DOCKER");
    let host = format!("ssh://root@{}", part("TIDEGATE_REAL_SSH"));
    swarm.world.configure(&format!("host: \"{engine}\""), &format!("host: \"{host}\""));
    let read = |name: &str| std::fs::read_to_string(part(name)).unwrap();
    swarm.world.var("SWARM_KEY", read("TIDEGATE_REAL_SSH_KEY")).var("SWARM_HOSTS", read("TIDEGATE_REAL_SSH_HOSTS"));
    let ran = swarm.merge(HEALTHY);
    ran.must(0, "deploy.done");
    assert!(!ran.err.contains("BEGIN OPENSSH PRIVATE KEY") || ran.err.contains("::add-mask::"), "{}", ran.err);
    // A host whose key is another than the one that was named is not trusted.
    swarm.world.var("SWARM_HOSTS", read("TIDEGATE_REAL_SSH_HOSTS").replace("AAAA", "AAAB"));
    let ran = swarm.merge("CMD [\"sleep\", \"300000\"]");
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("cannot be reached by SSH") && ran.err.contains("known-hosts"), "{}", ran.err);
}
