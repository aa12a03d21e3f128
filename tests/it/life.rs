//! Whole lives, on both forges: pull request, merge, release, production, hot fix, rollback; and the digests on the way.
//! What each step says on GitHub is what docs/lifecycle.md shows.

use crate::kubernetes_apply::WEB;
use crate::world::{Ran, World};
use serde_json::json;
use std::path::Path;

/// What ran last on which environment, by the registry's own word.
fn digest_on(world: &World, namespace: &str) -> String {
    let image = world.runs_on(namespace);
    let (name, digest) = image.split_once('@').unwrap();
    let tag = name.rsplit_once(':').unwrap().1;
    assert_eq!(world.digest_of(tag), digest, "{image}: the registry has it under this version");
    digest.to_owned()
}

/// Whether anything of the preview is in the cluster.
fn has_preview(world: &World) -> bool {
    world
        .sandbox
        .with(|outside| outside.cluster.objects.keys().any(|(_, namespace, name)| namespace == "demo-pr-12" || name == "demo-pr-12"))
}

fn life() -> World {
    let world = World::new();
    world.configure("environments:\n", "hotfix: {branches: [\"hotfix/*\"], to: staging}\nenvironments:\n");
    world.configure("  production:\n    when: manual\n", "  production:\n    when: manual\n    after: staging\n");
    world.configure(
        "namespace: \"{project}-pr-{pr}\", workloads",
        "namespace: \"{project}-pr-{pr}\", apply: [\"preview/*.yaml\"], workloads",
    );
    world.write("preview/web.yaml", WEB);
    world.git(&["add", "preview"]);
    world.sandbox.with(|outside| outside.cluster.objects.retain(|(_, namespace, _), _| namespace != "demo-pr-12"));
    world.commit("how it is delivered");
    world.real_git();
    world
}

#[test]
fn a_life_on_github() {
    let (mut world, mut page) = (life(), Page::default());
    // A pull request gets its preview, and loses it when it is merged.
    world.branch("change", "main");
    world.write("app", "a change\n");
    world.commit("a change");
    let ran = world.pull_request("opened", |_| {}).run(&["run"]);
    ran.must(0, "deploy.done");
    page.shows("preview", "tidegate run", &ran);
    let preview = digest_on(&world, "demo-pr-12");
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--no-ff", "--no-edit", "change"]);
    let merged = world.head();
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    page.shows("merge", "tidegate run", &ran);
    let built = digest_on(&world, "dev");
    assert_ne!(preview, built, "the preview was of the branch");
    let closed = world.pull_request("closed", |payload| payload["pull_request"]["merged"] = json!(true)).run(&["run"]);
    closed.must(0, "preview.removed");
    page.shows("preview removed", "tidegate run", &closed);
    assert!(!has_preview(&world));
    // The release is the merge's image; production takes what staging had.
    world.git(&["tag", "v1.4.2", &merged]);
    let ran = world.released("v1.4.2", &merged).run(&["run"]);
    ran.must(0, "deploy.done");
    page.shows("release", "tidegate run", &ran);
    let refused = world.run(&["deploy", "production", &merged]);
    refused.must(0, "deploy.done"); // it is the same image, by another name
    let ran = world.run(&["deploy", "production", "1.4.2"]);
    ran.must(0, "deploy.done");
    page.shows("production", "tidegate deploy production 1.4.2", &ran);
    assert_eq!((digest_on(&world, "staging"), digest_on(&world, "production")), (built.clone(), built.clone()));
    // The hot fix.
    world.write("app", "something new\n");
    world.commit("something new");
    world.branch("hotfix/1.4.3", "v1.4.2");
    world.write("app", "a change, and its fix\n");
    world.commit("the fix");
    let early = world.run(&["deploy", "production", &world.head()]);
    early.must(4, "gate.after");
    page.shows("after", "tidegate deploy production COMMIT", &early);
    let ran = world.run(&["hotfix", "1.4.3", "--branch", "hotfix/1.4.3"]);
    ran.must(0, "deploy.done");
    page.shows("hotfix", "tidegate hotfix 1.4.3 --branch hotfix/1.4.3", &ran);
    world.run(&["deploy", "production", "1.4.3"]).must(0, "deploy.done");
    let fixed = digest_on(&world, "production");
    assert!(fixed != built && fixed == digest_on(&world, "staging"));
    assert_eq!((world.digest_of("env-production"), world.digest_of("env-production-prev")), (fixed.clone(), built.clone()));
    // It was worse: back, and never again.
    let ran = world.run(&["rollback", "production"]);
    ran.must(0, "deploy.done");
    page.shows("rollback", "tidegate rollback production", &ran);
    assert_eq!(digest_on(&world, "production"), built);
    assert_eq!((world.digest_of("env-production"), world.digest_of("env-production-prev")), (built, fixed));
    let ran = world.run(&["quarantine", "1.4.3", "--reason", "loses orders"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = world.run(&["deploy", "production", "1.4.3"]);
    ran.must(4, "gate.quarantined");
    page.shows("quarantine", "tidegate deploy production 1.4.3", &ran);
}

#[test]
fn a_life_on_gitlab() {
    let mut world = life();
    world.on_gitlab("merge_request_event");
    let place = |world: &mut World, environment: &str| {
        let group = format!("demo/{environment}");
        world.sandbox.with(|outside| outside.gitlab.resource_groups.insert(group.clone(), 501));
        world.var("TIDEGATE_RESOURCE_GROUP", group);
    };
    let well = |ran: Ran| assert_eq!(ran.code, 0, "{}", ran.err);
    // A merge request.
    world.branch("change", "main");
    world.write("app", "a change\n");
    world.commit("a change");
    world.merge_request(12);
    well(world.run(&["run"]));
    let preview = digest_on(&world, "demo-pr-12");
    // The merge.
    world.git(&["switch", "--quiet", "main"]);
    world.git(&["merge", "--quiet", "--no-ff", "--no-edit", "change"]);
    let merged = world.head();
    // GitLab starts the stop job of its preview.
    assert!(has_preview(&world));
    world.sandbox.with(|outside| outside.gitlab.merge_requests.get_mut(&12).unwrap().state = "merged".into());
    well(world.var("CI_ENVIRONMENT_ACTION", "stop").run(&["run"]));
    assert!(!has_preview(&world));
    world.without("CI_ENVIRONMENT_ACTION").no_merge_request();
    world.var("CI_PIPELINE_SOURCE", "push").var("CI_COMMIT_BRANCH", "main").var("CI_COMMIT_SHA", &merged);
    place(&mut world, "dev");
    well(world.run(&["run"]));
    let built = digest_on(&world, "dev");
    assert_ne!(preview, built);
    // The tag.
    world.git(&["tag", "v1.4.2", &merged]);
    world.without("CI_COMMIT_BRANCH").var("CI_COMMIT_TAG", "v1.4.2");
    place(&mut world, "staging");
    well(world.run(&["run"]));
    assert_eq!(digest_on(&world, "staging"), built);
    // Production, by hand; then the fix on its branch.
    world.without("CI_COMMIT_TAG").var("CI_PIPELINE_SOURCE", "web").var("CI_COMMIT_BRANCH", "main");
    place(&mut world, "production");
    well(world.run(&["deploy", "production", "1.4.2"]));
    assert_eq!(digest_on(&world, "production"), built);
    world.branch("hotfix/1.4.3", "v1.4.2");
    world.write("app", "a change, and its fix\n");
    let fix = world.commit("the fix");
    world.var("CI_COMMIT_BRANCH", "hotfix/1.4.3").var("CI_COMMIT_SHA", fix);
    place(&mut world, "staging");
    // As the job of the component has it.
    world.var("TIDEGATE_INPUT_COMMAND", "hotfix").var("TIDEGATE_INPUT_BRANCH", "hotfix/1.4.3").var("TIDEGATE_INPUT_VERSION", "1.4.3");
    world.var("TIDEGATE_INPUT_ENVIRONMENT", "staging");
    well(world.run(&[]));
    for name in ["COMMAND", "BRANCH", "VERSION", "ENVIRONMENT"] {
        world.without(&format!("TIDEGATE_INPUT_{name}"));
    }
    place(&mut world, "production");
    well(world.run(&["deploy", "production", "1.4.3"]));
    let fixed = digest_on(&world, "production");
    assert!(fixed != built && fixed == digest_on(&world, "staging"));
    well(world.run(&["rollback", "production"]));
    assert_eq!(digest_on(&world, "production"), built);
    well(world.run(&["quarantine", "1.4.3", "--reason", "loses orders"]));
    let ran = world.run(&["deploy", "production", "1.4.3"]);
    assert!(ran.code == 4 && ran.err.contains("(gate.quarantined)"), "{}", ran.err);
}

/// docs/lifecycle.md.
#[derive(Default)]
pub struct Page {
    /// The beginnings of the digests so far: each is shown by a name of its own.
    digests: Vec<String>,
}

impl Page {
    /// The page shows what a command says, but for what differs from run to run. `TIDEGATE_UPDATE_DOCS=1` writes it anew.
    #[track_caller]
    pub fn shows(&mut self, name: &str, command: &str, ran: &Ran) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lifecycle.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = format!("<!-- {name} -->\n```text\n$ {command}\n{}\n```\n", self.named(&told(&ran.err)));
        let block = regex::Regex::new(&format!("(?s)<!-- {name} -->\n```text\n.*?\n```\n")).unwrap();
        let shown = block.find(&page).expect("docs/lifecycle.md has a place for it");
        if std::env::var("TIDEGATE_UPDATE_DOCS").is_ok() {
            std::fs::write(&path, format!("{}{wanted}{}", &page[..shown.start()], &page[shown.end()..])).unwrap();
            return;
        }
        assert_eq!(shown.as_str(), wanted, "run: TIDEGATE_UPDATE_DOCS=1 cargo test --test it life::");
    }

    fn named(&mut self, text: &str) -> String {
        let digest = regex::Regex::new("sha256:([0-9a-f]{12})[0-9a-f]*…?").unwrap();
        let name = |found: &regex::Captures<'_>| {
            let known = self.digests.iter().position(|known| *known == found[1]).unwrap_or_else(|| {
                self.digests.push(found[1].to_owned());
                self.digests.len() - 1
            });
            format!("sha256:{}…", ["4f1c9e2", "b907d3a", "c85e610", "1d7f02b"][known])
        };
        digest.replace_all(text, name).into_owned()
    }
}

fn told(text: &str) -> String {
    // Masks are for GitHub, and how far something has come between two looks is chance.
    let passing = |line: &&str| line.starts_with("::") || line.starts_with("  deployment/web: ") || line.contains("queues at zero");
    let lines = text.lines().filter(|line| !passing(line));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for (pattern, with) in [
        (r" +\d+\.\ds  ", "     0.4s  "),
        (r"(?m) +\d+\.\ds$", "     0.4s"),
        (r"\(\d+\.\ds\)", "(1.2s)"),
        (r"plan [0-9a-f]{12}", "plan 4c1f0a9b2d3e"),
        (r"\d+(\.\d+)? kB", "2.5 kB"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "2026-01-05 10:00 UTC"),
        (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) 2026-01-05", "Mon 2026-01-05"),
    ] {
        text = regex::Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}
