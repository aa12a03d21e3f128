//! Whether a release is on the default branch, on real histories: merges, squashes, rebases, force pushes, depth 1, many tags.

use crate::hotfix::shallow;
use crate::world::{Ran, World};
use std::io::Write;
use std::process::{Command, Stdio};

/// The pretend GitHub shows the world's own history; commits change a file.
fn history() -> World {
    let world = World::new();
    world.real_git();
    world
}

fn change(world: &World, text: &str) -> String {
    world.write("app", &format!("{text}\n"));
    world.commit(text)
}

/// What a release of this commit leads to, with the whole history at hand and with one commit of it.
fn decided(world: &mut World, tag: &str, sha: &str) -> [Ran; 2] {
    world.git(&["tag", "--force", tag, sha]);
    let whole = world.released(tag, sha).run(&["plan"]);
    let folder = shallow(world, "main");
    let output = world.command(&["plan"]).current_dir(&folder).output().unwrap();
    let alone = world.ran(output);
    std::fs::remove_dir_all(folder).unwrap();
    [whole, alone]
}

#[track_caller]
fn must_say(world: &mut World, tag: &str, sha: &str, words: &str) {
    for ran in decided(world, tag, sha) {
        assert!(ran.code == 0 && ran.err.contains(words), "{tag} wants {words:?}: {}", ran.err);
    }
}

const IS_RELEASE: &str = "(a release, ";
const IS_BESIDE: &str = "is not on main";

#[test]
fn merged_and_squashed_and_rebased_work_is_told_apart() {
    let mut world = history();
    change(&world, "base");
    // A merge commit: both sides are on main.
    world.branch("merged", "main");
    let side = change(&world, "side");
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["commit", "--quiet", "--allow-empty", "-m", "meanwhile"]);
    world.git(&["merge", "--quiet", "--no-ff", "--no-edit", "merged"]);
    let merge = world.head();
    must_say(&mut world, "v1.0.0", &merge, IS_RELEASE);
    must_say(&mut world, "v1.0.1", &side, IS_RELEASE);
    // A squash: main has the work, and not the commit.
    world.branch("squashed", "main");
    change(&world, "work 1");
    let head = change(&world, "work 2");
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--squash", "squashed"]);
    let squash = world.commit("work, squashed");
    must_say(&mut world, "v1.1.0", &squash, IS_RELEASE);
    must_say(&mut world, "v1.1.1", &head, IS_BESIDE);
    // A rebase: main has copies.
    world.branch("rebased", "main~1");
    world.write("other", "other\n");
    world.git(&["add", "other"]);
    world.git(&["commit", "--quiet", "-m", "other"]);
    let before = world.head();
    world.git(&["rebase", "--quiet", "main"]);
    let after = world.head();
    assert_ne!(before, after);
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--ff-only", "rebased"]);
    must_say(&mut world, "v1.2.0", &after, IS_RELEASE);
    must_say(&mut world, "v1.2.1", &before, IS_BESIDE);
}

#[test]
fn what_a_force_push_took_off_main_is_beside_it() {
    let mut world = history();
    change(&world, "base");
    let dropped = change(&world, "dropped");
    must_say(&mut world, "v1.0.0", &dropped, IS_RELEASE);
    world.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let kept = change(&world, "instead");
    must_say(&mut world, "v1.0.1", &dropped, IS_BESIDE);
    must_say(&mut world, "v1.0.2", &kept, IS_RELEASE);
}

/// Nobody can be asked: git fetches as much of the history as it takes, and no more.
#[test]
fn a_shallow_clone_is_deepened_as_needed() {
    let mut world = history();
    change(&world, "first");
    for n in 0..80 {
        world.git(&["commit", "--quiet", "--allow-empty", "-m", &format!("{n}")]);
    }
    let old = change(&world, "old");
    for n in 0..20 {
        world.git(&["commit", "--quiet", "--allow-empty", "-m", &format!("{n}")]);
    }
    world.branch("beside", "main");
    let beside = change(&world, "beside");
    world.git(&["switch", "--quiet", "main"]);
    change(&world, "new");
    let mut planned = |tag: &str, sha: &str, branch: &str| {
        world.git(&["tag", "--force", tag, sha]);
        world.released(tag, sha);
        let folder = shallow(&world, branch);
        let output = world.command(&["plan"]).env_remove("GITHUB_TOKEN").current_dir(&folder).output().unwrap();
        let shallow_still = folder.join(".git/shallow").exists();
        std::fs::remove_dir_all(folder).unwrap();
        (world.ran(output), shallow_still)
    };
    let (ran, shallow_still) = planned("v1.0.0", &old, "main");
    assert!(ran.err.contains(IS_RELEASE) && shallow_still, "fifty commits were enough: {}", ran.err);
    let (ran, shallow_still) = planned("v1.0.1", &beside, "beside");
    assert!(ran.err.contains(IS_BESIDE) && !shallow_still, "only all of it says no: {}", ran.err);
}

#[test]
fn a_shallow_clone_that_can_ask_nobody_says_so() {
    let mut world = history();
    let old = change(&world, "old");
    change(&world, "new");
    world.git(&["tag", "v1.0.0", &old]);
    world.released("v1.0.0", &old);
    let folder = shallow(&world, "main");
    let gone = Command::new("git").args(["remote", "set-url", "origin", "file:///nowhere"]).current_dir(&folder).status();
    assert!(gone.unwrap().success());
    let output = world.command(&["plan"]).env_remove("GITHUB_TOKEN").current_dir(folder).output().unwrap();
    let ran = world.ran(output);
    assert!(
        ran.err.contains("it cannot be said whether v1.0.0 is on the default branch") && ran.err.contains("(input.event)"),
        "{}",
        ran.err
    );
}

#[test]
fn fifty_thousand_tags_are_not_all_asked_for() {
    let world = history();
    world.configure("environments:\n", "hotfix: {branches: [\"hotfix/*\"], to: staging}\nenvironments:\n");
    let base = change(&world, "base");
    let mut refs = Command::new("git");
    refs.args(["update-ref", "--stdin"]).current_dir(world.folder.path()).stdin(Stdio::piped());
    let mut refs = refs.spawn().unwrap();
    let mut text = String::new();
    for n in 0..50_000_u32 {
        text.push_str(&format!("create refs/tags/v{}.{}.{} {base}\n", 2 + n / 10_000, n / 100 % 100, n % 100));
    }
    refs.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(refs.wait().unwrap().success());
    world.git(&["pack-refs", "--all"]);
    world.git(&["tag", "v1.4.2"]);
    world.branch("hotfix/1.4.3", "v1.4.2");
    change(&world, "the fix");
    let mut world = world;
    let ran = world.pushed().run(&["hotfix", "1.4.3", "--branch", "hotfix/1.4.3"]);
    ran.must(0, "deploy.done");
    let asked: Vec<&String> = ran.log.iter().filter(|line| line.contains("matching-refs/tags")).collect();
    assert_eq!(asked.len(), 2, "one for each spelling: {asked:?}");
    assert!(asked.iter().all(|line| line.contains("1.4.")), "{asked:?}");
    // The highest of a series is found among many, by number and not by letters.
    world.git(&["switch", "--quiet", "main"]);
    world.branch("hotfix/6", "main");
    change(&world, "another fix");
    let ran = world.run(&["plan", "hotfix", "6.99.100", "--branch", "hotfix/6"]);
    assert!(ran.err.contains("a hot fix of v6.99.99 from hotfix/6"), "{}", ran.err);
}
