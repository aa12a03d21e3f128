//! The README's first command.

use crate::world::{steady, tidegate};
use std::path::Path;

#[test]
fn the_first_command_runs_the_main_job_in_forty_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, out, err) = tidegate(root, &["rehearse", "merge"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "", "stdout is for machines");
    assert!(err.lines().count() <= 40, "{} lines", err.lines().count());
    assert!(!err.contains("warning"), "{err}");
    let commit = regex::Regex::new(r"\b[0-9a-f]{7}([0-9a-f]{33})?\b").unwrap();
    let text = steady(&err);
    let text = commit.replace_all(&text, "[commit]");
    // Steps run side by side; a snapshot must not depend on who ends first.
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains("pods are") && !line.contains("to take the change")).collect();
    let end = lines.iter().position(|line| line.starts_with("✓ deploy")).unwrap();
    lines[5..end].sort_unstable();
    insta::assert_snapshot!("rehearse_merge", lines.join("\n"));
}

#[test]
fn every_event_can_be_rehearsed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (args, words) in [
        (vec!["rehearse", "release"], "promoted from"),
        (vec!["rehearse", "pr-opened"], "runs on tidegate-demo-pr-12"),
        (vec!["rehearse", "pr-closed"], "tidegate-demo-pr-12 is closed"),
        (vec!["rehearse", "deploy", "production", "1.4.2"], "1.4.2 runs on production"),
    ] {
        let (code, _, err) = tidegate(root, &args, &[("DOCKER_HOST", "unix:///nowhere.sock")]);
        assert!(code == 0 && err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn a_rehearsal_shows_commands_and_runs_none() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = "pause: {command: [touch, paused-for-real]}, resume: {command: [touch, resumed-for-real]}, quiet: 1s";
    let config = crate::world::CONFIG.replace("quiet: 1s", hooks);
    std::fs::write(folder.path().join("tidegate.yml"), config).unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let (code, _, err) =
        tidegate(folder.path(), &["rehearse", "deploy", "production", "1.0.0"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert!(code == 0 && err.contains("pause: would run touch paused-for-real"), "{err}");
    assert!(!folder.path().join("paused-for-real").exists() && !folder.path().join("resumed-for-real").exists());
}

#[test]
fn a_rehearsal_of_an_unknown_environment_fails_like_the_real_thing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, _, err) = tidegate(root, &["rehearse", "deploy", "prod", "1.4.2"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert!(code == 2 && err.contains("did you mean \"production\"?"), "{err}");
}
