//! The command target: its exit code is believed only as far as its output and its proof let it.

use crate::world::World;
use std::os::unix::fs::PermissionsExt;

/// A repository whose merges run this script; `keys` are more keys of the target.
fn script(text: &str, keys: &str) -> World {
    let world = World::new();
    write(&world, "deploy", text);
    world.deploy_dev_by(&format!("command: {{run: [./deploy, \"{{environment}}\", \"{{image.app}}\"]{keys}}}"));
    world
}

pub fn write(world: &World, name: &str, text: &str) {
    world.write(name, &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(world.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.commit(name);
}

#[test]
fn a_command_gets_the_image_by_digest_and_only_what_it_may_see() {
    let mut world =
        script("echo args: $*; env | sort > seen", ", env: {TOKEN: {env: DEPLOY_TOKEN}, WHERE: \"{environment}\"}, pass: [SHARED]");
    world.var("DEPLOY_TOKEN", "hunter2hunter2").var("SHARED", "yes").var("OTHER_SECRET", "nobody sees this");
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    let image = format!("args: dev 123456789012.dkr.ecr.us-west-2.amazonaws.com/demo:{}@{}", ran.outputs["version"], ran.outputs["digest"]);
    assert!(ran.err.contains(&image), "{}", ran.err);
    let seen = std::fs::read_to_string(world.path("seen")).unwrap();
    for line in ["TOKEN=hunter2hunter2", "SHARED=yes", "WHERE=dev", "TIDEGATE_ENVIRONMENT=dev", "TIDEGATE_PROJECT=demo"] {
        assert!(seen.lines().any(|known| known == line), "{line}: {seen}");
    }
    for name in ["OTHER_SECRET", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DEPLOY_TOKEN"] {
        assert!(!seen.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}: {seen}");
    }
    assert_eq!(world.deployments(), [["in_progress", "in_progress", "success"]], "switching, done");
}

#[test]
fn what_it_says_is_shown_without_secrets() {
    let mut world = script("echo the token is $TOKEN; echo '::error::forged'", ", env: {TOKEN: {env: DEPLOY_TOKEN}}");
    let ran = world.var("DEPLOY_TOKEN", "hunter2hunter2").pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("the token is ***"), "{}", ran.err);
    let shown = ran.err.replace("::add-mask::hunter2hunter2", "");
    assert!(!shown.contains("hunter2hunter2") && !shown.lines().any(|line| line.starts_with("::error::forged")), "{}", ran.err);
}

#[test]
fn an_exit_code_is_a_failure_with_the_last_lines() {
    let ran = script("echo connecting; echo 'no route to host' >&2; exit 7", "").pushed().run(&["run"]);
    ran.must(1, "target.failed");
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(first.contains("`./deploy` ended with exit code 7"), "{first}");
    assert!(ran.err.contains("  no route to host"), "{}", ran.err);
}

/// Lying twins: exit code 0, and nothing was done.
#[test]
fn a_marker_in_the_output_is_a_failure_whatever_the_exit_code() {
    for text in ["echo MIGRATION_EXIT_STATUS_ERROR; exit 0", "printf 'MIGRATION_EXIT_' ; sleep 0.1; printf 'STATUS_ERROR'"] {
        let ran = script(text, ", failure-marker: MIGRATION_EXIT_STATUS_ERROR").pushed().run(&["run"]);
        ran.must(1, "target.failed");
        assert!(ran.err.contains("ended with exit code 0, but its output says MIGRATION_EXIT_STATUS_ERROR"), "{}", ran.err);
    }
}

#[test]
fn a_proof_that_says_otherwise_is_a_failure() {
    let keys = ", timeout: 2s, proof: {command: {run: [./running], contains: \"{digest.app}\"}}";
    let world = script("echo done", keys);
    write(&world, "running", "echo sha256:0000");
    world.commit("proof");
    let mut world = world;
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.wrong-digest");
    assert!(
        ran.err.contains("the proof says otherwise: `./running` does not say sha256:") && ran.err.contains("\"sha256:0000\""),
        "{}",
        ran.err
    );
}

#[test]
fn a_proof_that_holds_makes_the_next_run_change_nothing() {
    let world = script("echo $2 > live; echo ran >> runs", ", proof: {command: {run: [cat, live], contains: \"{digest.app}\"}}");
    let mut world = world;
    world.pushed().run(&["run"]).must(0, "deploy.done");
    let again = world.run(&["run"]);
    again.must(0, "deploy.done");
    assert!(again.err.contains("`cat` says sha256:") && again.err.contains("delivered before"), "{}", again.err);
    assert_eq!(std::fs::read_to_string(world.path("runs")).unwrap(), "ran\n");
    // Somebody put another version there: the record is not believed.
    world.write("live", "other\n");
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(std::fs::read_to_string(world.path("runs")).unwrap(), "ran\nran\n");
}

#[test]
fn without_a_proof_the_journal_says_that_it_was_done() {
    let mut world = script("echo ran >> runs", "");
    world.pushed().run(&["run"]).must(0, "deploy.done");
    world.run(&["run"]).must(0, "deploy.done");
    assert_eq!(std::fs::read_to_string(world.path("runs")).unwrap(), "ran\n");
}

#[test]
fn at_its_limit_it_ends_with_all_that_it_started() {
    let ran_world = script("sh -c 'echo $$ > child; exec sleep 1000' & echo waiting; sleep 1000", ", timeout: 1s");
    let mut world = ran_world;
    let ran = world.pushed().run(&["run"]);
    ran.must(3, "target.timeout");
    assert!(ran.err.contains("did not end within 1s; it was ended with all that it had started"), "{}", ran.err);
    let child = std::fs::read_to_string(world.path("child")).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", child.trim())).exists() || is_zombie(child.trim()), "the grandchild is gone");
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_cancelled_run_ends_the_whole_group() {
    let mut world = script("trap '' TERM; sh -c 'echo $$ > child; exec sleep 1000' & echo begun; sleep 1000; sleep 1000", "");
    let run = world.pushed().run_until(&["run"], "| begun");
    run.signal("-TERM");
    let said = run.ends(143);
    assert!(said.contains("was ended, with all that it had started, because the run was cancelled"), "{}", said);
    let child = std::fs::read_to_string(world.path("child")).unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{}", child.trim())).exists() || is_zombie(child.trim()));
}

#[test]
fn a_failure_is_undone_where_that_is_possible() {
    let world = script("echo broken > live; exit 3", ", undo: [./undo, \"{version}\"]");
    write(&world, "undo", "echo old > live");
    world.commit("undo");
    let mut world = world;
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.rolled-back");
    assert_eq!(ran.outputs["verdict"], "rolled-back");
    let first = ran.err.lines().find(|line| line.starts_with("error:")).unwrap();
    assert!(first.contains("`./deploy` ended with exit code 3; rolled back: `./undo` ended with exit code 0"), "{first}");
    assert!(ran.err.contains("(rollback: auto, by its `undo`)") && ran.err.contains("cause: target.failed"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(world.path("live")).unwrap(), "old\n");
}

#[test]
fn a_failing_undo_is_told_with_both_causes() {
    let world = script("exit 3", ", undo: [\"false\"]");
    let mut world = world;
    let ran = world.pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(
        ran.err.contains("exit code 3") && ran.err.contains("going back failed as well: `false` ended with exit code 1"),
        "{}",
        ran.err
    );
}

#[test]
fn what_is_missing_is_known_before_anything_is_built() {
    for (text, code, reason, words) in [
        ("{run: [./nowhere]}", 2, "tool.missing", "there is no program ./nowhere"),
        ("{run: [no-such-program-anywhere]}", 2, "tool.missing", "there is no program no-such-program-anywhere"),
        ("{run: [./deploy], directory: nowhere}", 2, "config.invalid", "there is no folder"),
        ("{run: [./deploy], env: {TOKEN: {env: DEPLOY_TOKEN}}}", 5, "auth.missing", "(DEPLOY_TOKEN)"),
    ] {
        let world = script("true", "");
        world.deploy_dev_by(&format!("command: {text}"));
        let mut world = world;
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words) && ran.count("POST /build") == 0, "{}", ran.err);
    }
}

#[test]
fn much_output_is_bounded_and_its_end_is_kept() {
    let ran = script("yes 0123456789012345678901234567890123456789 | head -n 400000; echo the end; exit 1", "").pushed().run(&["run"]);
    ran.must(1, "target.failed");
    assert!(ran.err.contains("the rest of the output is not shown") && ran.err.contains("  the end"), "{} bytes", ran.err.len());
    assert!(ran.err.len() < 16 * 1024 * 1024, "{} bytes", ran.err.len());
}

/// What a command made for a pull request, a command takes away; there is no version any more, and nothing asks for one.
#[test]
fn a_preview_is_removed_by_a_command() {
    let mut world = World::new();
    write(&world, "preview", "echo \"$*\" >> did; echo \"$VERSION|$WHERE\" >> did; test ! -e stuck");
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, _) = text.split_once("  preview:\n").unwrap();
    let keys = "run: [./preview, make, \"{pr}\", \"{version}\"], remove: [./preview, unmake, \"{pr}\"], env: {VERSION: \"{version}\", WHERE: \"{branch}\"}";
    let target = format!("  preview:\n    when: pull-request\n    deploy:\n      - command: {{{keys}}}\n");
    world.write("tidegate.yml", &format!("{head}{target}"));
    let head = world.commit("previews");
    world.git(&["add", "preview"]);
    // Nothing was made yet, so there is nothing to take away.
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(0, "preview.kept");
    assert!(!world.path("did").exists(), "{}", ran.err);
    world.pull_request("opened", |_| {}).run(&["run"]).must(0, "deploy.done");
    // Lying twin: it does not end well, so nothing is removed, and the record stays open.
    world.write("stuck", "");
    let ran = world.pull_request("closed", |_| {}).run(&["run"]);
    ran.must(1, "target.failed");
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("success"));
    std::fs::remove_file(world.path("stuck")).unwrap();
    let ran = world.run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("`./preview` ended with exit code 0"), "{}", ran.err);
    let did = std::fs::read_to_string(world.path("did")).unwrap();
    let version = format!("pr-12-{}", &head[..7]);
    let removal = "unmake 12\n|change\n";
    assert_eq!(did, format!("make 12 {version}\n{version}|change\n{removal}{removal}"));
    // Nothing else is removed by commands.
    world.configure("when: pull-request", "when: {branch: x}");
    let ran = world.run(&["check"]);
    assert!(ran.code == 2 && ran.err.contains("only previews are removed"), "{}", ran.err);
}
