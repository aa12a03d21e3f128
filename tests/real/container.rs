//! The image that ships, run the way GitHub's runner and GitLab's run it: mounts, owner, environment, arguments, PID 1.

use crate::image;
use crate::parts::{part, program};
use crate::tls::{NAME, tls_in_front_of};
use crate::world::{Ran, World};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The runner's user: never root, and never the one in the container.
const RUNNER: u32 = 1001;

/// A GitHub job on a runner whose step is our action.
struct Job {
    world: World,
    temp: tempfile::TempDir,
    inputs: Vec<(&'static str, String)>,
    more: Vec<String>,
}

impl Job {
    fn of(world: World) -> Self {
        let temp = tempfile::tempdir().unwrap();
        for folder in ["_runner_file_commands", "_github_home", "_github_workflow", "_temp"] {
            std::fs::create_dir(temp.path().join(folder)).unwrap();
        }
        let job = Self { world, temp, inputs: Vec::new(), more: Vec::new() };
        chown_all(job.world.folder.path());
        chown_all(job.temp.path());
        job
    }

    /// `docker run` as actions/runner writes it (ContainerActionHandler.cs). The sandbox is on loopback, hence the network.
    fn command(&self, args: &[&str]) -> Command {
        let temp = |name: &str| self.temp.path().join(name).display().to_string();
        std::fs::copy(self.world.path(".event.json"), self.temp.path().join("_github_workflow/event.json")).ok();
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", part("TIDEGATE_REAL_DOCKER")).stdin(Stdio::null());
        command.args(["run", "--rm", "--workdir", "/github/workspace", "--network", "host"]);
        let socket = part("TIDEGATE_REAL_DOCKER").trim_start_matches("unix://").to_owned();
        for (host, inside) in [
            (socket, "/var/run/docker.sock"),
            (temp("_runner_file_commands"), "/github/file_commands"),
            (temp("_github_home"), "/github/home"),
            (temp("_github_workflow"), "/github/workflow"),
            (temp("_temp"), "/github/runner_temp"),
            (self.world.folder.path().display().to_string(), "/github/workspace"),
        ] {
            command.args(["-v", &format!("{host}:{inside}")]);
        }
        let mut environment: Vec<(String, String)> = Vec::new();
        for (name, value) in self.world.command(&[]).get_envs() {
            let (name, value) = (name.to_str().unwrap(), value.unwrap().to_str().unwrap());
            if !matches!(name, "PATH" | "HOME" | "DOCKER_HOST" | "GITHUB_TOKEN") {
                environment.push((name.into(), value.into()));
            }
        }
        for (name, value) in [
            ("HOME", "/github/home"),
            ("GITHUB_EVENT_PATH", "/github/workflow/event.json"),
            ("GITHUB_OUTPUT", "/github/file_commands/set_output_1"),
            ("GITHUB_STEP_SUMMARY", "/github/file_commands/step_summary_1"),
            ("GITHUB_WORKSPACE", "/github/workspace"),
            ("RUNNER_WORKSPACE", "/home/runner/work/demo"),
            ("RUNNER_TEMP", "/github/runner_temp"),
            ("KUBECONFIG", "/github/workspace/.kubeconfig"),
            ("INPUT_TOKEN", "ghs_storytoken"),
        ] {
            environment.push((name.into(), value.into()));
        }
        let declared: serde_yaml::Value =
            serde_yaml::from_str(&std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/action.yml")).unwrap()).unwrap();
        for (name, input) in declared["inputs"].as_mapping().unwrap() {
            let name = name.as_str().unwrap();
            let given = self.inputs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            let value = given.unwrap_or_else(|| input["default"].as_str().unwrap().to_owned());
            if name != "token" {
                environment.push((format!("INPUT_{}", name.to_uppercase()), value));
            }
        }
        for (name, value) in environment {
            command.args(["-e", &name]).env(&name, value); // by name: newlines survive
        }
        command.args(&self.more).arg("tidegate:test").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.world.sandbox.with(|outside| outside.log.clear());
        let outputs = self.temp.path().join("_runner_file_commands/set_output_1");
        let _old = std::fs::remove_file(&outputs);
        let output = self.command(args).output().unwrap();
        std::fs::copy(&outputs, self.world.path(".outputs")).ok();
        self.world.ran(output)
    }
}

fn chown_all(path: &Path) {
    chown(path, Some(RUNNER), Some(RUNNER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| chown_all(&entry.unwrap().path()));
    }
}

fn owned_by_root(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        found.extend((metadata.uid() == 0).then(|| path.clone()));
        if metadata.is_dir() {
            found.extend(owned_by_root(&path));
        }
    }
    found
}

/// The main job in the image: real engine through the socket, real registry behind the ECR front, moto.
#[test]
fn the_main_job_runs_as_githubs_runner_runs_it() {
    let world = image::world("container", "MUTABLE");
    let head = world.head(); // before the folder belongs to somebody else
    let mut job = Job::of(world);
    job.inputs = vec![("report-file", "/home/runner/work/demo/demo/report.json".into()), ("set", String::new())];
    let ran = job.run(&[]);
    ran.must(0, "deploy.done");
    let (raw, _) = image::skopeo("container", &head[..7]);
    assert_eq!(tidegate::registry::oci::digest_of(raw.as_bytes()), ran.outputs["digest"]);
    assert!(job.world.runs_on("dev").contains(&ran.outputs["digest"]));
    assert_eq!(job.world.comments().len(), 1);
    let summary = std::fs::read_to_string(job.temp.path().join("_runner_file_commands/step_summary_1")).unwrap();
    assert!(summary.contains("runs on dev"), "{summary}");
    assert!(job.world.path("report.json").exists(), "the host's path is the container's");
    let mut left = owned_by_root(job.world.folder.path());
    left.retain(|path| !path.ends_with(".outputs")); // the story's own copy
    assert_eq!(left, [] as [PathBuf; 0], "the runner has to clean up");
    assert!(!ran.err.contains("dubious"), "{}", ran.err);
    // Again, with the words that a runner makes of empty arguments.
    let again = job.run(&["", ""]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before by run 77"), "{}", again.err);
}

/// The lying twin: the cluster says yes and runs the old image.
#[test]
fn a_lie_fails_the_step_in_the_image_too() {
    let job = Job::of(image::world("containerlie", "MUTABLE"));
    job.world.sandbox.with(|outside| outside.mood = tidegate::rehearse::sandbox::ClusterMood::KeepsPods);
    job.run(&[]).must(1, "target.wrong-digest");
}

/// As PID 1 nothing handles signals but we; the runner sends SIGINT and waits 7.5 s.
#[test]
fn a_cancelled_step_ends_in_order_as_pid_1() {
    let mut job = Job::of(image::world("containercancel", "MUTABLE"));
    job.world.sandbox.with(|outside| outside.holds.push("PATCH /kube".into()));
    let name = format!("tidegate-cancel-{}", std::process::id());
    job.more = vec!["--name".into(), name.clone()];
    let child = job.command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    job.world.until("the switch begins", |outside| outside.held > 0);
    program(&["docker", "-H", &part("TIDEGATE_REAL_DOCKER"), "kill", "--signal", "INT", &name]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(job.world.deployments().last().unwrap().last().map(String::as_str), Some("error"));
}

/// Name resolution and TLS of the very binary that ships: a name that only a DNS server knows, a private authority.
#[test]
fn the_static_binary_resolves_names_and_trusts_what_it_is_told_to() {
    let mut world = World::new();
    let (port, authority) = tls_in_front_of(&world);
    world.write("ca.pem", &authority);
    let server = dns();
    world.write("resolv.conf", &format!("nameserver {server}\noptions timeout:1 attempts:2\n"));
    world.pushed();
    world.var("GITHUB_API_URL", format!("https://{NAME}:{port}/github")).var("AWS_ENDPOINT_URL", format!("https://{NAME}:{port}/aws"));
    let resolv = format!("{}:/etc/resolv.conf:ro", world.path("resolv.conf").display());
    let mut job = Job::of(world);
    job.inputs = vec![("command", "status".into())];
    let blind = job.run(&[]);
    assert!(blind.code != 0 && blind.err.contains("lookup"), "nobody knows that name: {}", blind.err);
    job.more = vec!["-v".into(), resolv];
    let stranger = job.run(&[]);
    assert!(stranger.code != 0 && stranger.err.to_lowercase().contains("certificate"), "{}", stranger.err);
    job.world.var("AWS_CA_BUNDLE", "/github/workspace/ca.pem");
    let ran = job.run(&[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.count("/github/repos/acme/demo") > 0);
}

/// A name server on loopback that knows one name.
fn dns() -> String {
    let socket = (2..250).find_map(|last| UdpSocket::bind((format!("127.0.53.{last}"), 53)).ok()).expect("port 53 on loopback");
    let address = socket.local_addr().unwrap().ip().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0_u8; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = &buffer[..length];
            let mut name = Vec::new();
            let mut at = 12;
            while at < length && asked[at] != 0 {
                let size = usize::from(asked[at]);
                name.push(String::from_utf8_lossy(&asked[at + 1..at + 1 + size]).into_owned());
                at += size + 1;
            }
            let question = &asked[12..at + 5];
            let wants_ipv4 = asked[at + 1..at + 3] == [0, 1];
            let known = name.join(".") == NAME;
            let mut answer =
                vec![asked[0], asked[1], 0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(known && wants_ipv4), 0, 0, 0, 0];
            answer.extend(question);
            if known && wants_ipv4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _gone = socket.send_to(&answer, from);
        }
    });
    address
}

/// GitLab wraps each job in a shell; steps call these programs.
#[test]
fn the_image_has_a_shell_and_the_tools_that_steps_call() {
    let inside = |script: &str| {
        program(&["docker", "-H", &part("TIDEGATE_REAL_DOCKER"), "run", "--rm", "--entrypoint", "sh", "tidegate:test", "-c", script])
    };
    for tool in ["git --version", "pg_dump --version", "pg_restore --version", "psql --version", "tidegate --version"] {
        assert!(!inside(tool).is_empty(), "{tool}");
    }
    assert!(inside("grep -c BEGIN /etc/ssl/certs/ca-certificates.crt").parse::<u32>().unwrap() > 100);
    assert_eq!(inside("id -u"), "0", "GitHub's mounts belong to a user that the image cannot know");
    let inspected = program(&["docker", "-H", &part("TIDEGATE_REAL_DOCKER"), "inspect", "tidegate:test"]);
    for label in ["org.opencontainers.image.source", "org.opencontainers.image.licenses", "org.opencontainers.image.version"] {
        assert!(inspected.contains(label), "{label}");
    }
}
