//! Stories of `tidegate init`: what it writes works without an edit, on both hosts, and nothing is overwritten unasked.

use crate::world::{World, tidegate};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

const PIN: &str = "0123456789abcdef0123456789abcdef01234567";

/// A new user's repository: a Dockerfile, and a remote.
fn project(remote: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY app /app\n").unwrap();
    std::fs::write(folder.path().join("app"), "one\n").unwrap();
    for args in [&["init", "--quiet", "--initial-branch=trunk"][..], &["remote", "add", "origin", remote]] {
        assert!(std::process::Command::new("git").args(args).current_dir(folder.path()).status().unwrap().success());
    }
    folder
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            match path.is_dir() {
                true if name != ".git" => folders.push(path),
                true => {}
                false => _ = found.insert(name, std::fs::read_to_string(&path).unwrap()),
            }
        }
    }
    found
}

#[track_caller]
fn works(folder: &Path) {
    let away = [("DOCKER_HOST", "unix:///nowhere.sock")];
    for args in [
        &["check"][..],
        &["rehearse", "merge"],
        &["rehearse", "release"],
        &["rehearse", "pr-opened"],
        &["rehearse", "pr-closed"],
        &["rehearse", "deploy", "production", "1.4.2"],
    ] {
        let (code, _, err) = tidegate(folder, args, &away);
        assert!(code == 0 && !err.contains("warning:"), "{args:?}: {code} {err}");
    }
}

#[test]
fn a_github_project_works_without_an_edit() {
    let folder = project("https://github.com/acme/Web_Shop.git");
    let (code, out, err) = tidegate(
        folder.path(),
        &[
            "init",
            "--preset",
            "neuro-ui",
            "--forks",
            "--pin",
            PIN,
            "--account",
            "210987654321",
            "--region",
            "eu-central-1",
            "--format",
            "json",
        ],
        &[],
    );
    assert_eq!(code, 0, "{err}");
    let written = files(folder.path());
    for name in [
        "tidegate.yml",
        ".github/workflows/deliver.yml",
        ".github/workflows/production.yml",
        ".github/workflows/hotfix.yml",
        ".github/workflows/forks.yml",
    ] {
        assert!(out.contains(name) && err.contains(name) && written.contains_key(name), "{name}: {out}{err}");
    }
    let config = &written["tidegate.yml"];
    assert!(
        config.contains("project: web-shop") && config.contains("210987654321.dkr.ecr.eu-central-1.amazonaws.com/web-shop"),
        "{config}"
    );
    assert!(written[".github/workflows/deliver.yml"].contains("branches: [\"trunk\"]"), "{}", written[".github/workflows/deliver.yml"]);
    for (name, text) in written.iter().filter(|(name, _)| name.starts_with(".github")) {
        let uses: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")).collect();
        assert!(uses.iter().all(|uses| uses.split(['@', ' ']).nth(1).is_some_and(|sha| sha.len() == 40)), "{name}: {uses:?}");
        assert!(text.contains(&format!("tidegate/tidegate@{PIN} # v{}", env!("CARGO_PKG_VERSION"))), "{name}");
        assert!(text.contains("permissions: {}") && text.contains("persist-credentials: false") && text.contains("concurrency:"), "{name}");
    }
    works(folder.path());
}

#[test]
fn a_gitlab_project_works_without_an_edit_and_is_known_by_its_remote() {
    let folder = project("git@gitlab.acme.io:web/shop.git");
    let (code, _, err) = tidegate(folder.path(), &["init"], &[]);
    assert_eq!(code, 0, "{err}");
    let written = files(folder.path());
    assert!(written.contains_key(".gitlab-ci.yml") && !written.keys().any(|name| name.starts_with(".github")), "{written:?}");
    assert!(written[".gitlab-ci.yml"].contains(concat!("tidegate/tidegate/tidegate@v", env!("CARGO_PKG_VERSION"))));
    works(folder.path());
    let (_, _, err) = tidegate(folder.path(), &["rehearse", "merge"], &[("DOCKER_HOST", "unix:///nowhere.sock")]);
    assert!(err.contains("as a GitLab job") && err.contains("merge request !12"), "{err}");
}

/// Every event that a preset handles, played without an edit: what it leads to, and what the log must say.
#[test]
fn the_founding_presets_play_every_event_they_handle() {
    let away = [
        ("DOCKER_HOST", "unix:///nowhere.sock"),
        ("PUBLISH_IMAGES", "yes"),
        ("TRIGGER_AWX", "yes"),
        ("AWX_DEV_JOB_NAME", "User (Ada) Stack"),
        ("TRIGGER_DOWNSTREAM", "yes"),
        ("TRIGGER_LOADER", "yes"),
        ("TRIGGER_TRAVIS", "yes"),
        ("TRIGGER_TRAVIS_LOADER", "yes"),
        ("APP_DEPLOY", "yes"),
        ("ARGO_REPOSITORY", "acme/manifests"),
    ];
    let fragalysis: &[(&[&str], &[&str])] = &[
        (
            &["merge"],
            &[
                "Staging Fragalysis Stack (Version Change)",
                "User (Ada) Stack",
                "latest →",
                "trigger.github ",
                "xchem/fragalysis-stack",
                "trigger.github.2",
                "xchem/fragalysis-loader",
                "trigger.travis ",
                "trigger.travis.2",
                "runs on staging",
            ],
        ),
        (&["release", "1.10"], &["Production Fragalysis Stack (Version Change)", "stable →", "1.10 runs on production"]),
        (&["release", "1.0.3"], &["Production Fragalysis Stack (Version Change)", "1.0.3 runs on production"]),
        (&["release", "2023.11.1-1"], &["2023.11.1-1 is built and tagged for tagged"]),
        (&["release", "2023"], &["2023 is built and tagged for tagged"]),
    ];
    let jincor: &[(&[&str], &[&str])] = &[
        (
            &["merge"],
            &["swarm ssh://deploy@swarm.example.com: app_web  (rollback: auto", "app_web: 2 of 2 tasks run sha256:", "production →"],
        ),
        (&["push", "develop"], &["would POST", "https://swarm-stage.example.com/autodock/v1/", "runs on stage"]),
        (&["push", "feature/x"], &["is built and tagged for dev", "dev-"]),
    ];
    let joplin: &[(&[&str], &[&str])] = &[
        (
            &["merge"],
            &[
                "the app shop-staging is created",
                "stage staging",
                "heroku-postgresql",
                "shop-staging runs v3",
                "exit code 0",
                "runs on staging",
            ],
        ),
        (
            &["push", "production"],
            &["shop is in the pipeline shop, stage production", "shop runs v4", "run.1 of shop ended with exit code 0"],
        ),
        (
            &["pr-opened"],
            &["the app shop-pr-change is created", "stage review", "sets DEPLOYMENT_MODE, APPLICATION_NAME", "runs on shop-pr-12"],
        ),
        (&["pr-closed"], &["the Heroku app shop-pr-change is deleted, with its add-ons", "shop-pr-12 is removed"]),
    ];
    let enac: &[(&[&str], &[&str])] = &[
        (
            &["release", "v1.2.3"],
            &["app_deploy https://cd-prod.example.com", "ended with success", "update-manifest", "1.2.3 runs on prod"],
        ),
        (&["push", "test"], &["app_deploy https://cd-test.example.com", "ended with success", "update-manifest", "runs on test"]),
        (&["push", "develop"], &["update-manifest", "acme/manifests", "the pipelines of dev were started"]),
        (&["push", "dev"], &["update-manifest", "the pipelines of dev were started"]),
        (&["push", "stage"], &["update-manifest", "the pipelines of stage were started"]),
        (&["push", "feature/x"], &["is built and tagged for build"]),
        (&["merge"], &["is built and tagged for build"]),
    ];
    for (preset, events) in [("fragalysis", fragalysis), ("jincor", jincor), ("joplin", joplin), ("enac", enac)] {
        for ci in ["github", "gitlab"] {
            let folder = project("https://github.com/acme/shop.git");
            let pin: &[&str] = if ci == "github" { &["--pin", PIN] } else { &[] };
            let (code, _, err) =
                tidegate(folder.path(), &[&["init", "--preset", preset, "--ci", ci, "--branch", "main"], pin].concat(), &[]);
            assert_eq!(code, 0, "{err}");
            let (code, _, err) = tidegate(folder.path(), &["check"], &[]);
            assert_eq!(code, 0, "{preset}: {err}");
            for (event, words) in events {
                let (code, _, err) = tidegate(folder.path(), &[&["rehearse"], *event].concat(), &away);
                assert!(code == 0 && !err.contains("warning:"), "{preset} on {ci}, {event:?}: {code} {err}");
                for word in *words {
                    assert!(err.contains(word), "{preset} on {ci}, {event:?} lacks {word:?}: {err}");
                }
            }
        }
    }
}

/// Every side effect of the founding systems is opt-in: a variable that is not set, or says no, leaves it out and is named.
#[test]
fn what_is_not_asked_for_is_left_out() {
    let away = ("DOCKER_HOST", "unix:///nowhere.sock");
    let folder = project("https://github.com/acme/shop.git");
    assert_eq!(tidegate(folder.path(), &["init", "--preset", "fragalysis", "--pin", PIN, "--branch", "main"], &[]).0, 0);
    let rehearse = |set: &[(&str, &str)]| {
        let (code, _, err) = tidegate(folder.path(), &["rehearse", "merge"], &[&[away], set].concat());
        assert_eq!(code, 0, "{err}");
        err
    };
    let err = rehearse(&[]);
    assert!(err.contains("nothing to do: the variable `publish_images` is not \"yes\" (event.condition)"), "{err}");
    let err = rehearse(&[("PUBLISH_IMAGES", "yes"), ("TRIGGER_AWX", "no")]);
    assert!(err.contains("is built and tagged for staging"), "{err}");
    assert!(err.contains("  without the target awx: the variable `trigger_awx` is not \"yes\"") && !err.contains("deploy.awx"), "{err}");
    for (variable, step, place) in [
        ("TRIGGER_AWX", "deploy.awx", "Staging Fragalysis Stack"),
        ("TRIGGER_DOWNSTREAM", "trigger.github", "xchem/fragalysis-stack"),
        ("TRIGGER_LOADER", "trigger.github", "xchem/fragalysis-loader"),
        ("TRIGGER_TRAVIS", "trigger.travis", "request 500 of xchem/fragalysis-stack"),
    ] {
        let err = rehearse(&[("PUBLISH_IMAGES", "yes"), (variable, "yes")]);
        let done: Vec<&str> = err.lines().filter(|line| line.starts_with("✓ deploy.") || line.starts_with("✓ trigger.")).collect();
        assert!(done.len() == 1 && done[0].contains(step) && err.contains(place), "{variable}: {err}");
    }
    let folder = project("https://github.com/acme/shop.git");
    assert_eq!(tidegate(folder.path(), &["init", "--preset", "enac", "--pin", PIN, "--branch", "main"], &[]).0, 0);
    let (code, _, err) = tidegate(folder.path(), &["rehearse", "push", "test"], &[away]);
    assert!(code == 0 && err.contains("without the target app_deploy") && err.contains("is built and tagged for test"), "{err}");
}

/// A name of any length makes apps that Heroku takes.
#[test]
fn a_preset_takes_any_name() {
    for name in ["a-project-with-quite-a-long-name-0123456", "3d-printer"] {
        let folder = project("https://github.com/acme/shop.git");
        let init = ["init", "--preset", "joplin", "--pin", PIN, "--branch", "main", "--project", name];
        let (code, _, err) = tidegate(folder.path(), &init, &[]);
        assert_eq!(code, 0, "{err}");
        for args in [&["check"][..], &["rehearse", "merge"], &["rehearse", "pr-opened"]] {
            let (code, _, err) = tidegate(folder.path(), args, &[("DOCKER_HOST", "unix:///nowhere.sock")]);
            assert_eq!(code, 0, "{name}, {args:?}: {err}");
        }
    }
}

#[test]
fn nothing_is_overwritten_without_consent() {
    let folder = project("https://github.com/acme/shop.git");
    let init = |more: &[&str]| tidegate(folder.path(), &[&["init", "--pin", PIN], more].concat(), &[]);
    assert_eq!(init(&[]).0, 0);
    let (code, _, err) = init(&[]);
    assert!(code == 0 && err.contains("(as it was)"), "the same again is fine: {err}");
    let path = folder.path().join(".github/workflows/deliver.yml");
    std::fs::write(&path, "mine\n").unwrap();
    std::fs::remove_file(folder.path().join("tidegate.yml")).unwrap();
    let (code, _, err) = init(&[]);
    assert!(code == 2 && err.contains("nothing was written: .github/workflows/deliver.yml is there already"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine\n");
    assert!(!folder.path().join("tidegate.yml").exists(), "all or none");
    assert_eq!(init(&["--force"]).0, 0);
    assert!(std::fs::read_to_string(&path).unwrap().contains("tidegate/tidegate@"));
}

/// The pin is the commit of this version's release, by GitHub's word.
#[test]
fn the_pin_is_asked_from_github() {
    let mut world = World::new();
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    world.sandbox.with(|outside| {
        outside.github.repository = "tidegate/tidegate".into();
        outside.github.history.push(PIN.into());
        outside.github.tags.push((version.into(), PIN.into()));
    });
    std::fs::remove_file(world.path("tidegate.yml")).unwrap();
    let ran = world.run(&["init"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(std::fs::read_to_string(world.path(".github/workflows/deliver.yml")).unwrap().contains(&format!("@{PIN} # {version}")));
    world.sandbox.with(|outside| outside.github.tags.clear());
    std::fs::remove_dir_all(world.path(".github")).unwrap();
    world.run(&["init"]).must(2, "input.invalid");
    assert!(!world.path(".github").exists());
    world.var("GITHUB_API_URL", "http://127.0.0.1:9");
    let ran = world.run(&["init"]);
    ran.must(2, "input.invalid");
    assert!(ran.err.contains("tidegate init --pin SHA"), "{}", ran.err);
}

#[test]
fn impossible_values_are_told_before_anything_is_written() {
    for args in [
        &["--ci", "gitlab", "--pin", PIN][..],
        &["--project", "1e3"],
        &["--account", "12"],
        &["--project", "Web Shop"],
        &["--region", "us west"],
        &["--pin", "main"],
    ] {
        let folder = project("https://github.com/acme/shop.git");
        let (code, _, err) = tidegate(folder.path(), &[&["init"], args].concat(), &[]);
        assert!(code == 2 && err.contains("(input.invalid)") && err.contains("→"), "{args:?}: {err}");
        assert!(!folder.path().join("tidegate.yml").exists());
    }
}

#[test]
fn odd_places_and_names_are_met_before_anything_is_written() {
    // A feature branch is not where merges go.
    let folder = project("https://github.com/acme/1e3.git");
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
        assert!(std::process::Command::new("git").args(who).args(args).current_dir(folder.path()).status().unwrap().success());
    };
    git(&["commit", "--quiet", "--allow-empty", "-m", "one"]);
    git(&["remote", "remove", "origin"]);
    git(&["branch", "-m", "main"]);
    git(&["switch", "--quiet", "-c", "add-tidegate"]);
    git(&["remote", "add", "origin", "https://github.com/acme/1e3.git"]);
    std::fs::create_dir_all(folder.path().join("services/api")).unwrap();
    let (code, _, err) = tidegate(&folder.path().join("services/api"), &["init", "--pin", PIN], &[]);
    assert!(code == 2 && err.contains("a folder inside the repository"), "{err}");
    std::fs::write(folder.path().join(".github"), "").unwrap();
    let (code, _, err) = tidegate(folder.path(), &["init", "--pin", PIN, "--force"], &[]);
    assert!(code == 2 && err.contains(".github is in the way") && !folder.path().join("tidegate.yml").exists(), "{err}");
    std::fs::remove_file(folder.path().join(".github")).unwrap();
    let (code, _, err) = tidegate(folder.path(), &["init", "--pin", PIN], &[]);
    assert!(code == 0 && err.contains("for GitHub (by the remote; --ci chooses), project app-1e3, default branch main"), "{err}");
    works(folder.path());
}
