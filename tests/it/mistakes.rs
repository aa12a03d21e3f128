//! The exact text and exit code of user errors. One snapshot per family; read it as the person who made the mistake.

use crate::world::{CONFIG, World, steady, tidegate};

/// Every configuration mistake with its text.
#[test]
fn mistakes_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Vec<(&str, String)> = vec![
        ("an unknown key", CONFIG.replace("    when: merge", "    whne: merge")),
        ("an unknown top key", format!("{CONFIG}imges: {{}}\n")),
        ("an unknown target", CONFIG.replace("- kubernetes: {namespace: dev", "- kubernets: {namespace: dev")),
        (
            "two inventories in one namespace",
            CONFIG.replace(
                "      - kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}\n",
                &"      - kubernetes: {namespace: dev, workloads: [deployment/web], image: app, apply: [k8s/*.yaml]}\n".repeat(2),
            ),
        ),
        (
            "an AWX dry run",
            CONFIG.replace(
                "kubernetes: {namespace: dev, workloads: [deployment/web], image: app, timeout: 5s}",
                "awx: {host: \"https://awx.example.com\", template: x, token: {env: T}, job-type: check}",
            ),
        ),
        ("a number for a version", CONFIG.replace("tags: [latest]", "tags: [1.10]")),
        ("a list for text", CONFIG.replace("namespace: dev,", "namespace: [dev],")),
        ("a wrong event", CONFIG.replace("when: merge", "when: merged")),
        ("a wrong time", CONFIG.replace("quiet: 1s", "quiet: 1 second")),
        ("a missing key", CONFIG.replace("namespace: dev, ", "")),
        ("a wrong schema version", CONFIG.replace("schema: 1", "schema: 2")),
        ("a wrong image", CONFIG.replace("image: app, timeout: 5s}\n  staging", "image: ap, timeout: 5s}\n  staging")),
        (
            "a wrong workload",
            CONFIG.replace(
                "workloads: [deployment/web], image: app, timeout: 5s}\n  staging",
                "workloads: [web], image: app, timeout: 5s}\n  staging",
            ),
        ),
        ("an unknown placeholder", CONFIG.replace("\"{project}-pr-{pr}\"\n    deploy", "\"{project}-{prr}-{pr}\"\n    deploy")),
        ("an unclosed placeholder", CONFIG.replace("tags: [latest]", "tags: [\"{version\"]")),
        ("a preview without its number", CONFIG.replace("name: \"{project}-pr-{pr}\"", "name: \"{project}\"")),
        ("a repository with a tag", CONFIG.replace("amazonaws.com/demo", "amazonaws.com/demo:latest")),
        ("upper case in a repository", CONFIG.replace("amazonaws.com/demo", "amazonaws.com/Demo")),
        ("two environments for one event", CONFIG.replace("when: release", "when: merge")),
        ("a version baked in", CONFIG.replace("  app:\n", "  app:\n    args: {VERSION: \"{version}\"}\n")),
        ("an undeclared condition", CONFIG.replace("    when: merge", "    when: merge\n    if: {var: namespace}")),
        ("an unknown store", CONFIG.replace("images:", "state: mysql://x\nimages:")),
        ("a login in the file", CONFIG.replace("images:", "state: \"redis://:hunter2@cache\"\nimages:")),
        ("a key twice", CONFIG.replace("project: demo", "project: demo\nproject: other")),
        ("a tab", CONFIG.replace("    when: merge", "\twhen: merge")),
        ("an alias bomb", alias_bomb()),
        ("too deep", format!("schema: 1\nproject: {}", "[".repeat(200))),
        ("two documents", format!("{CONFIG}---\nschema: 1\n")),
        ("nothing", String::new()),
        ("a tag", CONFIG.replace("project: demo", "project: !!str demo")),
        (
            "not yet supported",
            CONFIG.replace(
                "    when: manual",
                "    when: manual\n    verify: [{http: \"https://x.example.com\", expect: 200}]",
            ),
        ),
        (
            "backups that cannot be",
            CONFIG.replace(
                "    when: manual",
                "    when: manual\n    backup:\n      - {to: \"s3://b\"}\n      - {postgres: {url: {env: A}, args: [\"--file=x\", table]}, mysql: {url: {env: B}}, to: \"s3://acme/../x\", name: \"{app}.{ext}\", keep: {}}\n      - {heroku-postgres: {app: x}, to: \"s3://acme/\", compress: gzip, endpoint: \"http://minio.internal\"}\n    restore: {from: staging, scrub: [{sql: ../x.sql}]}\n    archive: {folder: /etc, to: \"s3://acme\"}\n    migrate: [{run: {command: {run: [a]}}, on-failure: rollback}]",
            ),
        ),
        (
            "backups of two environments that look alike",
            CONFIG
                .replace("    when: manual", "    when: manual\n    backup: {postgres: {url: {env: A}}, app: shop, to: \"s3://acme/\"}")
                .replace("    when: release", "    when: release\n    backup: {postgres: {url: {env: B}}, app: shop, to: \"s3://acme/\"}"),
        ),
        (
            "only previews go by themselves",
            CONFIG.replace("    when: manual", "    when: manual\n    ttl: 7d\n    max: 10\n    url: example.com"),
        ),
        (
            "several at once",
            CONFIG.replace("when: merge", "when: merged").replace("quiet: 1s", "quiet: soon").replace("when: manual", "whenn: manual"),
        ),
    ];
    let mut told = String::new();
    for (name, text) in cases {
        std::fs::write(folder.path().join("tidegate.yml"), text).unwrap();
        let (code, out, err) = tidegate(folder.path(), &["check"], &[]);
        assert!(code == 2 && out.is_empty() && !err.contains("panicked"), "{name}: {code} {err}");
        told.push_str(&format!("## {name}\n{err}\n"));
    }
    insta::assert_snapshot!("configuration", steady(&told));
}

fn alias_bomb() -> String {
    let levels = (1..=9).map(|n| format!("x-{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", ")));
    format!("schema: 1\nproject: demo\nx-0: &a0 [lol]\n{}", levels.collect::<String>())
}

#[test]
fn keys_of_ones_own_are_free() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tidegate.yml"), format!("{CONFIG}x-mine: {{anything: [1, 2]}}\n")).unwrap();
    let (code, _, err) = tidegate(folder.path(), &["check"], &[]);
    assert_eq!(code, 0, "{err}");
}

/// Every mistake on the command line and in the surroundings with its text.
#[test]
fn mistakes_around_the_command() {
    let mut world = World::new();
    world.pushed();
    let mut told = String::new();
    let mut tell = |name: &str, code: i32, ran: crate::world::Ran| {
        assert_eq!(ran.code, code, "{name}: {}", ran.err);
        let shown = ran.shown();
        let lines = shown.lines().filter(|line| !line.starts_with("::")).collect::<Vec<_>>().join("\n");
        told.push_str(&format!("## {name}: exit {code}\n{lines}\n\n"));
    };
    tell("an unknown environment", 2, world.run(&["deploy", "prodution", "1.0.0"]));
    tell("an impossible version", 2, world.run(&["deploy", "production", "a b"]));
    tell("build metadata", 2, world.run(&["deploy", "production", "1.0.0+7"]));
    tell("a preview by hand", 2, world.run(&["deploy", "preview", "1.0.0"]));
    tell("--set without =", 2, world.run(&["run", "--set", "namespace"]));
    tell("--set of nothing declared", 2, world.run(&["run", "--set", "namespace=x"]));
    tell("a short commit", 2, world.run(&["merge", "--sha", "abc1234"]));
    tell("a repository that is none", 2, world.run(&["merge", "--repository", "../x"]));
    tell("an event that is none", 2, world.run(&["plan", "merged"]));
    tell("a version without an environment", 2, world.run(&["run", "--version", "1.0.0"]));
    tell("quiet longer than the timeout", 2, world.run(&["drain", "jobs", "--quiet", "5m", "--timeout", "1m"]));
    tell("no such configuration", 2, world.run(&["run", "--config", "nowhere.yml"]));
    tell("a release without a tag", 2, world.run(&["release"]));
    tell("a pull request without a number", 2, world.run(&["pr-opened"]));
    world.var("GITLAB_CI", "true");
    tell("two CI systems", 2, world.run(&["run"]));
    world.without("GITHUB_ACTIONS");
    world.var("NO_COLOR", "1");
    tell("GitLab", 2, world.run(&["run"]));
    world.without("NO_COLOR").without("GITLAB_CI").var("GITHUB_ACTIONS", "true").var("GITHUB_EVENT_PATH", "/nowhere.json");
    tell("no event file", 2, world.run(&["run"]));
    world.without("GITHUB_EVENT_NAME");
    tell("no event name", 2, world.run(&["run"]));
    insta::assert_snapshot!("around_the_command", told);
}
