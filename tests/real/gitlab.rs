//! GitLab: the component in gitlab-ci-local, and GitLab's own description (by Prism) between us and the sandbox.

use crate::parts::part;
use crate::prism::Prism;
use crate::world::World;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tidegate::rehearse::gitlab::{ACCESS_TOKEN, JOB_TOKEN, MergeRequest, PROJECT};

/// What a project needs that uses the component: nothing but this. The last job shows what it inherits.
const PIPELINE: &str = r#"stages: [deploy, report]
include:
  - component: $CI_SERVER_FQDN/$CI_PROJECT_PATH/tidegate@$CI_COMMIT_SHA
    inputs: {image: "tidegate:test"}
told:
  stage: report
  rules: [{when: always}]
  script:
    - echo "told $TIDEGATE_VERDICT $TIDEGATE_ENVIRONMENT $TIDEGATE_VERSION $TIDEGATE_DIGEST"
"#;

/// A project whose GitLab is the sandbox.
struct Project {
    world: World,
    variables: BTreeMap<String, String>,
    /// Shell on this machine, or a container of this image.
    image: Option<String>,
}

struct Pipeline {
    code: i32,
    said: String,
}

impl Project {
    fn new() -> Self {
        let world = World::new();
        let template = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/tidegate.yml")).unwrap();
        world.write("templates/tidegate.yml", &template);
        world.write(".gitlab-ci.yml", PIPELINE);
        world.write(".gitignore", ".kubeconfig\n.gitlab-ci-local/\nhome/\n");
        world.git(&["remote", "add", "origin", "git@gitlab.test:acme/demo.git"]);
        world.git(&["add", "templates", ".gitlab-ci.yml", ".gitignore"]);
        world.commit("use the component");
        let mut project = Self { world, variables: BTreeMap::new(), image: None };
        project.surround();
        project
    }

    fn surround(&mut self) {
        let sandbox = &self.world.sandbox;
        let address = sandbox.address.clone();
        // gitlab-ci-local keeps no resource groups: GitLab would start the job that holds its group.
        sandbox.with(|outside| {
            for group in ["demo/dev", "demo/staging", "demo/mr-12", "demo/production"] {
                outside.gitlab.resource_groups.insert(group.into(), 501);
            }
        });
        for (name, value) in [
            ("GITLAB_CI", "true".to_owned()),
            ("CI_API_V4_URL", format!("{}/api/v4", sandbox.url("gitlab"))),
            ("CI_PROJECT_ID", PROJECT.to_string()),
            ("CI_JOB_ID", "501".to_owned()),
            ("CI_JOB_TOKEN", JOB_TOKEN.to_owned()),
            ("GITLAB_TOKEN", ACCESS_TOKEN.to_owned()),
            ("AWS_ENDPOINT_URL", sandbox.url("aws")),
            ("AWS_ACCESS_KEY_ID", "AKIASTORY".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "storysecretstorysecret".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("DOCKER_HOST", format!("tcp://{address}")),
            ("TIDEGATE_REGISTRY_ENDPOINTS", format!("123456789012.dkr.ecr.us-west-2.amazonaws.com=http://{address}")),
        ] {
            self.variables.insert(name.into(), value);
        }
        let kubeconfig = sandbox.kubeconfig(&["sandbox".into()]);
        // As a file variable of a project arrives: a path that the job can read.
        self.world.write("home/kubeconfig", &kubeconfig);
        self.variables.insert("KUBECONFIG".into(), self.world.path("home/kubeconfig").display().to_string());
    }

    /// A pipeline, or one job of it that a person or GitLab starts.
    fn pipeline(&self, source: &str, more: &[(&str, &str)], job: Option<&str>) -> Pipeline {
        let tool = PathBuf::from(part("TIDEGATE_REAL_GITLAB_CI_LOCAL"));
        let own = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().display().to_string();
        let path = format!("{own}:{}", std::env::var("PATH").unwrap());
        let mut command = Command::new(tool);
        command.current_dir(self.world.folder.path()).env("PATH", path).env("HOME", self.world.path("home")).stdin(Stdio::null());
        command.args([
            "--ignore-predefined-vars",
            "CI_PIPELINE_SOURCE,CI_PROJECT_ID,CI_JOB_ID,CI_API_V4_URL,GITLAB_CI,CI_COMMIT_TAG,CI_COMMIT_SHA,CI_ENVIRONMENT_ACTION",
        ]);
        match &self.image {
            None => _ = command.args(["--force-shell-executor", "--shell-isolation"]),
            Some(_) => {
                let kubeconfig = format!("{0}:{0}:ro", self.variables["KUBECONFIG"]);
                command.args([
                    "--pull-policy",
                    "if-not-present",
                    "--helper-image",
                    "tidegate-test-rsync",
                    "--network",
                    "host",
                    "--volume",
                    &kubeconfig,
                ]);
            }
        }
        let given = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in given.chain([("CI_PIPELINE_SOURCE", source)]).chain(more.iter().copied()) {
            command.args(["--variable", &format!("{name}={value}")]);
        }
        let output = command.args(job).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Pipeline { code: output.status.code().unwrap_or(-1), said }
    }

    /// A merge, a tag, a merge request, its stop job: the life of a version.
    fn lives(&self) {
        let world = &self.world;
        let sha = world.head();
        let version = &sha[..7];
        world.sandbox.with(|outside| {
            let merged =
                MergeRequest { state: "merged".into(), sha: "f".repeat(40), merge_commit: Some(sha.clone()), source_project: PROJECT };
            let open = MergeRequest { state: "opened".into(), sha: sha.clone(), merge_commit: None, source_project: PROJECT };
            outside.gitlab.merge_requests.extend([(3, merged), (12, open)]);
        });
        self.pipeline("push", &[], None).must(0, &format!("told deployed dev {version} sha256:"));
        assert!(world.runs_on("dev").contains(&format!("demo:{version}@sha256:")), "{}", world.runs_on("dev"));
        let merged = world.runs_on("dev");

        world.git(&["tag", "v1.4.2"]);
        world.sandbox.with(|outside| outside.github.tags.push(("v1.4.2".into(), sha.clone())));
        self.pipeline("push", &[("CI_COMMIT_TAG", "v1.4.2"), ("CI_COMMIT_BRANCH", "")], None)
            .must(0, "told deployed staging 1.4.2 sha256:");
        assert_eq!(world.runs_on("staging").split('@').nth(1), merged.split('@').nth(1));

        let preview = [
            ("CI_MERGE_REQUEST_IID", "12"),
            ("CI_MERGE_REQUEST_EVENT_TYPE", "detached"),
            ("CI_MERGE_REQUEST_PROJECT_ID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "change"),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"),
            ("CI_MERGE_REQUEST_REF_PATH", "refs/merge-requests/12/head"),
        ];
        self.pipeline("merge_request_event", &preview, None).must(0, &format!("told deployed preview mr-12-{version} sha256:"));
        assert!(world.runs_on("demo-pr-12").contains(&format!("mr-12-{version}@")), "{}", world.runs_on("demo-pr-12"));

        world.sandbox.with(|outside| outside.gitlab.merge_requests.get_mut(&12).unwrap().state = "merged".into());
        self.pipeline("merge_request_event", &preview, Some("tidegate:preview-stop")).must(0, "was not made by tidegate");

        let notes = world.sandbox.with(|outside| outside.gitlab.notes.clone());
        assert_eq!(
            notes.iter().map(|note| note.merge_request).collect::<Vec<_>>(),
            [3, 12],
            "one note each: the release adds a section to its merge's"
        );
        let tag = [("CI_COMMIT_TAG", "v1.4.2"), ("CI_COMMIT_BRANCH", "")];
        self.pipeline("push", &tag, Some("tidegate:production")).must(0, "1.4.2 runs on production");
        assert_eq!(
            world.runs_on("production").split('@').nth(1),
            merged.split('@').nth(1),
            "by hand, by pressing play in the tag's pipeline"
        );
    }
}

impl Pipeline {
    #[track_caller]
    fn must(&self, code: i32, said: &str) {
        assert!(self.code == code && self.said.contains(said), "wanted {code} and {said:?}, got {}\n{}", self.code, self.said);
    }
}

#[test]
fn the_component_delivers_merge_tag_merge_request_and_stop() {
    Project::new().lives();
}

/// The same in the image that ships, with the entrypoint taken away and a shell around it, as the docker executor does.
#[test]
fn in_the_image_the_component_delivers_as_well() {
    let mut project = Project::new();
    project.image = Some("tidegate:test".into());
    project.lives();
}

/// A job that fails must fail the pipeline, and its dotenv is there all the same.
#[test]
fn a_pipeline_whose_deploy_lies_fails() {
    let project = Project::new();
    project.world.sandbox.with(|outside| outside.mood = tidegate::rehearse::sandbox::ClusterMood::KeepsPods);
    let ran = project.pipeline("push", &[], None);
    ran.must(1, "says it rolled out, but 0 of 2 pods run");
    assert!(!ran.said.contains("told deployed"), "{}", ran.said);
}

mod described {
    use super::*;

    /// A job whose every request to GitLab goes through GitLab's description.
    fn job() -> (World, Prism) {
        let mut world = World::new();
        world.on_gitlab("push").var("CI_COMMIT_BRANCH", "main");
        let prism = Prism::between(&world, "gitlab.openapi.json", &world.sandbox.url("gitlab"));
        world.var("CI_API_V4_URL", format!("{}/api/v4", prism.address));
        (world, prism)
    }

    #[test]
    fn our_requests_and_the_sandboxs_answers_fit_gitlabs_description() {
        let (mut world, prism) = job();
        let ran = world.run(&["run"]);
        assert!(ran.code == 0 && !ran.err.contains("warning:"), "{}\n{}", ran.err, prism.said().join("\n"));
        world.write("app", "two\n");
        let second = world.commit("two");
        let first = world.git(&["rev-parse", "HEAD~1"]);
        // A shallow clone does not know how commits relate, so GitLab is asked.
        let shallow = world.path("shallow");
        world.git(&[
            "clone",
            "--quiet",
            "--depth",
            "1",
            &format!("file://{}", world.folder.path().display()),
            &shallow.display().to_string(),
        ]);
        world.var("CI_COMMIT_SHA", second.clone());
        let output = world.command(&["run"]).current_dir(&shallow).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("warning:"), "{said}\n{}", prism.said().join("\n"));
        // A version by hand, of another commit than the pipeline's: its commit gets a status.
        world.var("TIDEGATE_INPUT_ENVIRONMENT", "production").var("TIDEGATE_INPUT_VERSION", first);
        let ran = world.run(&["run"]);
        assert!(ran.code == 0 && !ran.err.contains("warning:"), "{}\n{}", ran.err, prism.said().join("\n"));
        assert_eq!(world.sandbox.with(|outside| outside.gitlab.statuses.len()), 1);
        prism.must_have_seen(&["merge_base", "/notes", "/statuses/", "PUT /gitlab/api/v4/projects/7/deployments/"], &world);
    }

    #[test]
    fn releases_are_read_and_previews_closed_as_described() {
        use tidegate::event::{Event, Kind};
        use tidegate::forge::gitlab::GitLab;
        use tidegate::tools::wait::Clock;
        use tidegate::vars::Vars;
        let (world, prism) = job();
        let mut event = Event::of(Kind::PushBranch);
        event.more.repository = Some("acme/demo".into());
        event.more.gitlab = Some(format!("{}/api/v4", prism.address));
        world.runtime().block_on(async {
            for vars in [Vars::from([("CI_JOB_TOKEN", JOB_TOKEN)]), Vars::from([("GITLAB_TOKEN", ACCESS_TOKEN)])] {
                let (gitlab, _) = GitLab::of(&vars, &event, Clock::real()).unwrap().unwrap();
                assert_eq!(gitlab.release("v1.4.2").await.unwrap(), None);
                world.sandbox.with(|outside| outside.gitlab.environments = vec![("review/12".into(), false)]);
                assert!(gitlab.stop_environment("review/12").await.unwrap());
                assert!(!gitlab.stop_environment("review/12").await.unwrap(), "it is stopped already");
            }
        });
    }
}
