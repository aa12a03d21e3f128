//! Several images in one repository: `paths` says which of them a commit changes; the others keep their digest.

use crate::life::Page;
use crate::world::{Ran, World};
use serde_json::json;

const CONFIG: &str = r#"schema: 1
project: demo
aws: {region: us-west-2}
images:
  ui:
    repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/ui
    context: ui
    paths: ["ui/**", "shared/**", "!**/*.md"]
  api:
    repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/api
    context: api
    paths: ["api/**", "shared/**"]
environments:
  dev:
    when: merge
    tags: [latest]
    deploy:
      - kubernetes: {namespace: dev, workloads: [deployment/ui], image: ui, timeout: 5s}
      - kubernetes: {namespace: dev, workloads: [deployment/api], image: api, timeout: 5s}
  staging:
    when: release
    deploy:
      - kubernetes: {namespace: staging, workloads: [deployment/ui], image: ui, timeout: 5s}
      - kubernetes: {namespace: staging, workloads: [deployment/api], image: api, timeout: 5s}
  preview:
    when: pull-request
    deploy:
      - kubernetes: {namespace: demo-pr-12, workloads: [deployment/ui], image: ui, timeout: 5s}
      - kubernetes: {namespace: demo-pr-12, workloads: [deployment/api], image: api, timeout: 5s}
"#;

fn world() -> World {
    let world = World::new();
    world.write("tidegate.yml", CONFIG);
    for part in ["ui", "api"] {
        world.write(&format!("{part}/Dockerfile"), "FROM scratch\nCOPY app /app\n");
        world.write(&format!("{part}/app"), "one\n");
    }
    world.write("shared/lib", "one\n");
    world.git(&["add", "ui", "api", "shared"]);
    world.commit("two parts");
    world.sandbox.with(|outside| {
        for part in ["ui", "api"] {
            outside.repositories.insert(part.into(), Default::default());
            for namespace in ["dev", "staging", "demo-pr-12"] {
                outside.cluster.add_workload("deployments", namespace, part, &[(part, crate::world::OLD)]);
            }
        }
    });
    world
}

fn change(world: &World, file: &str, text: &str) -> String {
    world.write(file, text);
    world.git(&["add", file]);
    world.commit(&format!("{file}: {}", text.trim()))
}

fn runs(world: &World, namespace: &str, part: &str) -> String {
    world.sandbox.with(|outside| outside.cluster.image_of("deployments", namespace, part).unwrap())
}

fn digest(reference: &str) -> &str {
    reference.rsplit_once('@').unwrap().1
}

fn tag(world: &World, part: &str, tag: &str) -> Option<String> {
    world.sandbox.with(|outside| outside.repositories[part].tags.get(tag).cloned())
}

/// How many images were built.
fn builds(ran: &Ran) -> usize {
    ran.err.matches("built by").count()
}

#[test]
fn only_what_changed_is_built_and_restarted() {
    let mut world = world();
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(builds(&ran), 2);
    let first = (runs(&world, "dev", "ui"), runs(&world, "dev", "api"));
    let head = change(&world, "ui/app", "two\n");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(builds(&ran), 1, "{}", ran.err);
    assert!(ran.err.contains("nothing in its `paths` changed since"), "{}", ran.err);
    let images: Vec<&str> =
        ran.err.lines().filter(|line| line.contains("image.") || line.contains("amazonaws.com/") && line.contains('@')).collect();
    let pair = |part: &str| {
        let at = images.iter().position(|line| line.contains(&format!("image.{part} "))).unwrap();
        images[at..at + 2].join("\n")
    };
    let shown = Ran { err: format!("…\n{}\n{}\n…", pair("ui"), pair("api")), ..ran };
    Page::default().shows("monorepo", "tidegate run", &shown);
    assert_ne!(digest(&runs(&world, "dev", "ui")), digest(&first.0));
    assert_eq!(runs(&world, "dev", "api"), first.1, "the very same reference: nothing restarts");
    // Its version has both, and so has `latest`.
    assert_eq!(tag(&world, "api", &head[..7]).as_deref(), Some(digest(&first.1)));
    assert_eq!(tag(&world, "ui", "latest").as_deref(), Some(digest(&runs(&world, "dev", "ui"))));
    // The same run again finds all done.
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("delivered before by") && builds(&again) == 0, "{}", again.err);
    // A release of it is both digests.
    world.git(&["tag", "v1.0.0"]);
    let ran = world.released("v1.0.0", &head).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((builds(&ran), digest(&runs(&world, "staging", "api"))), (0, digest(&first.1)));
    assert_eq!(runs(&world, "staging", "ui").rsplit_once('@').unwrap().1, digest(&runs(&world, "dev", "ui")));
    // Documentation is no part of it, what both share is part of both, and what was there before is found again.
    change(&world, "ui/README.md", "words\n");
    assert_eq!(builds(&world.pushed().run(&["run"])), 0);
    change(&world, "shared/lib", "two\n");
    assert_eq!(builds(&world.pushed().run(&["run"])), 2);
    change(&world, "shared/lib", "one\n");
    change(&world, "ui/app", "one\n");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!((builds(&ran), runs(&world, "dev", "ui")), (0, first.0), "a revert is what it was");
    // How it is built counts as well.
    world.configure("    context: ui\n", "    context: ui\n    args: {MODE: fast}\n");
    world.commit("faster");
    assert_eq!(builds(&world.pushed().run(&["run"])), 1);
}

/// One commit of history is enough: files are compared, not histories.
#[test]
fn a_shallow_clone_of_another_runner_says_the_same() {
    let mut world = world();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let head = change(&world, "ui/app", "two\n");
    world.pushed();
    let clone = tempfile::tempdir().unwrap();
    let folder = clone.path().join("demo");
    let source = format!("file://{}", world.folder.path().display());
    world.git(&["clone", "--quiet", "--depth=1", &source, folder.to_str().unwrap()]);
    let mut command = world.command(&["run"]);
    command.current_dir(&folder);
    let ran = world.ran(command.output().unwrap());
    ran.must(0, "deploy.done");
    assert_eq!(builds(&ran), 1, "{}", ran.err);
    assert!(tag(&world, "api", &head[..7]).is_some());
}

/// A pull request uses what merges built; what it builds itself no merge uses.
#[test]
fn what_a_pull_request_builds_is_its_own() {
    let mut world = world();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.git(&["switch", "--quiet", "-c", "change"]);
    change(&world, "ui/app", "two\n");
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(builds(&ran), 1, "{}", ran.err);
    assert_eq!(digest(&runs(&world, "demo-pr-12", "api")), digest(&runs(&world, "dev", "api")));
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--no-ff", "--no-edit", "change"]);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(builds(&ran), 1, "the merge builds it again: {}", ran.err);
}

/// Lying twin: the tag of the files is of something else.
#[test]
fn a_tag_that_lies_is_not_believed() {
    let mut world = world();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let before = runs(&world, "dev", "api");
    change(&world, "ui/app", "two\n");
    world.sandbox.with(|outside| {
        let ui = outside.repositories["ui"].clone();
        let (digest, manifest) = ui.manifests.iter().next().map(|(digest, manifest)| (digest.clone(), manifest.clone())).unwrap();
        let api = outside.repositories.get_mut("api").unwrap();
        api.manifests.insert(digest.clone(), manifest);
        api.blobs.extend(ui.blobs.clone());
        let named: Vec<String> = api.tags.keys().filter(|tag| tag.starts_with("recipe-")).cloned().collect();
        assert_eq!(named.len(), 1);
        api.tags.insert(named[0].clone(), digest);
    });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("is of something else") && builds(&ran) == 2, "{}", ran.err);
    assert_ne!(runs(&world, "dev", "api"), before);
}

#[test]
fn globs_that_name_nothing_are_a_mistake() {
    let mut world = world();
    world.configure("paths: [\"api/**\", \"shared/**\"]", "paths: [\"apis/**\"]");
    world.commit("a slip");
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "config.invalid");
    assert!(ran.err.contains("`paths` of the image api names no file of"), "{}", ran.err);
    world.configure("paths: [\"apis/**\"]", "paths: [\"api/{a\"]");
    let ran = world.run(&["check"]);
    assert!(ran.code == 2 && ran.err.contains("is no glob"), "{}", ran.err);
}

/// What an image is made of beside its globs, and what keeps its tag away.
#[test]
fn all_that_is_built_counts() {
    let mut world = world();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.write("ui/Dockerfile.dockerignore", "secret\n");
    world.configure("paths: [\"ui/**\", \"shared/**\", \"!**/*.md\"]", "paths: [\"ui/app\", \"shared/**\", \"uix/**\"]");
    world.commit("fewer globs");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("images.ui.paths: \"uix/**\" names no file of"), "{}", ran.err);
    change(&world, "ui/Dockerfile.dockerignore", "secret\nmore\n");
    assert_eq!(builds(&world.pushed().run(&["run"])), 1, "what is left out of the context is part of it");
    // What is not committed is in the image, and in no commit: nobody takes it for theirs.
    world.write("ui/leftover", "x\n");
    change(&world, "ui/app", "three\n");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ui/leftover is changed or not committed"), "{}", ran.err);
    std::fs::remove_file(world.path("ui/leftover")).unwrap();
    world.commit("nothing");
    assert_eq!(builds(&world.pushed().run(&["run"])), 1, "it is built again, without the leftover");
}

/// By hand a version is what its tag stands for, whatever is checked out.
#[test]
fn an_older_version_is_deployed_from_anywhere() {
    let mut world = world();
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let first = runs(&world, "dev", "ui");
    let old = world.head();
    let head = change(&world, "ui/app", "two\n");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.configure("paths: [\"ui/**\", \"shared/**\", \"!**/*.md\"]", "paths: [\"elsewhere/**\"]\n    args: {MODE: new}");
    let now = world.commit("all is different now");
    world.sandbox.with(|outside| outside.github.history = vec![old.clone(), head, now]);
    world.event("workflow_dispatch", &json!({"ref": "refs/heads/main", "inputs": {}, "repository": crate::world::repository()}));
    let ran = world.run(&["deploy", "dev", &old]);
    ran.must(0, "deploy.done");
    assert_eq!((builds(&ran), digest(&runs(&world, "dev", "ui"))), (0, digest(&first)));
}

/// A version by hand is what its tag stands for, unless git says by now that it stands for something else.
#[test]
fn a_moved_tag_is_not_taken_for_an_unchanged_image() {
    let mut world = world();
    world.real_git();
    let old = change(&world, "ui/app", "two\n");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.git(&["tag", "v1.0.0", &old]);
    world.released("v1.0.0", &old).run(&["run"]).must(0, "deploy.done");
    // Somebody moves it to work that does not contain what the image was built from.
    world.git(&["switch", "--quiet", "-c", "other", &format!("{old}~1")]);
    let moved = change(&world, "ui/app", "three\n");
    world.git(&["tag", "--force", "v1.0.0", &moved]);
    let payload = json!({"ref": "refs/heads/main", "inputs": {}, "repository": crate::world::repository(), "sender": {"login": "octocat"}});
    let ran = world.event("workflow_dispatch", &payload).run(&["deploy", "dev", "1.0.0"]);
    ran.must(2, "version.conflict");
}
