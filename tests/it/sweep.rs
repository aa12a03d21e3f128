//! `tidegate sweep`: what is left of closed pull requests goes, what has had its time goes, and nothing else.

use crate::kubernetes_apply::WEB;
use crate::life::Page;
use crate::world::{Ran, World};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use tidegate::rehearse::heroku::{App, KEY, Mood};

/// Previews with a namespace of their own; `keys` are more keys of their environment.
fn clusters(keys: &str) -> World {
    let world = World::new();
    world.write("preview/web.yaml", WEB);
    rest_of_preview(
        &world,
        keys,
        "kubernetes: {namespace: \"{project}-pr-{pr}\", apply: [\"preview/*.yaml\"], workloads: [deployment/web], image: app, timeout: 5s}",
    );
    world.sandbox.with(|outside| outside.cluster.objects.retain(|(_, namespace, _), _| namespace != "demo-pr-12"));
    world
}

/// Previews with an app of their own on Heroku.
fn apps(keys: &str) -> World {
    let mut world = World::new();
    rest_of_preview(&world, keys, "heroku: {app: \"{project}-pr-{pr}\", create: {team: acme}, timeout: 5s}");
    let address = world.sandbox.address.clone();
    world.var("HEROKU_API_URL", world.sandbox.url("heroku")).var("HEROKU_API_KEY", KEY);
    let registry = "123456789012.dkr.ecr.us-west-2.amazonaws.com";
    world.var("TIDEGATE_REGISTRY_ENDPOINTS", format!("{registry}=http://{address},registry.heroku.com=http://{address}"));
    world
}

fn rest_of_preview(world: &World, keys: &str, target: &str) {
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    let (head, _) = text.split_once("  preview:\n").unwrap();
    let preview = format!("  preview:\n    when: pull-request\n    name: \"{{project}}-pr-{{pr}}\"\n{keys}    deploy:\n      - {target}\n");
    world.write("tidegate.yml", &format!("{head}{preview}"));
    world.commit("previews");
    days_ago(world, 0);
}

/// What happens now happens so long ago, by the forge's clock.
fn days_ago(world: &World, days: i64) {
    let time = Timestamp::now().checked_sub((days * 24).hours()).unwrap();
    world.sandbox.with(|outside| outside.github.time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
}

/// An app that some run has made a preview.
fn marked(owner: &str, repository: &str) -> App {
    let mut app = of_team();
    app.config.insert("TIDEGATE_OWNER".into(), owner.into());
    app.config.insert("TIDEGATE_REPOSITORY".into(), repository.into());
    app
}

fn number(number: u64) -> impl Fn(&mut Value) {
    move |payload| {
        payload["number"] = json!(number);
        payload["pull_request"]["number"] = json!(number);
    }
}

fn opened(world: &mut World, pr: u64) -> Ran {
    let ran = world.pull_request("opened", number(pr)).run(&["run"]);
    ran.must(0, "deploy.done");
    ran
}

/// A job that a schedule started.
fn scheduled(world: &mut World) -> &mut World {
    let head = world.head();
    world.var("GITHUB_SHA", head).var("GITHUB_REF", "refs/heads/main");
    world.event("schedule", &json!({"schedule": "0 4 * * *", "repository": crate::world::repository()}))
}

fn namespaces(world: &World) -> Vec<String> {
    let all = |outside: &mut tidegate::rehearse::sandbox::World| {
        let names = outside.cluster.objects.keys().filter(|(plural, _, _)| plural == "namespaces").map(|(_, _, name)| name.clone());
        names.collect::<Vec<_>>()
    };
    world.sandbox.with(all)
}

fn of_team() -> App {
    let mut app = App::running();
    app.team = Some("acme".into());
    app
}

fn apps_of(world: &World) -> Vec<String> {
    world.sandbox.with(|outside| outside.heroku.apps.keys().cloned().collect())
}

/// The closing event was lost: the pull request is closed, with conflicts, so that GitHub started nothing for it.
#[test]
fn a_leaked_preview_goes() {
    let mut world = clusters("");
    opened(&mut world, 7);
    opened(&mut world, 8);
    world.sandbox.with(|outside| outside.github.closed.push(7));
    let ran = scheduled(&mut world).run(&["plan", "sweep"]);
    assert_eq!((ran.code, ran.count("DELETE ")), (0, 0), "{}", ran.err);
    Page::default().shows("plan sweep", "tidegate plan sweep", &ran);
    let ran = world.run(&["sweep"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    Page::default().shows("sweep", "tidegate sweep", &ran);
    assert_eq!(namespaces(&world), ["demo-pr-8"]);
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("inactive"));
    assert_eq!(world.deployments()[1].last().map(String::as_str), Some("success"));
    let told = world.sandbox.with(|outside| outside.github.comments.iter().find(|comment| comment.pr == 7).unwrap().body.clone());
    assert!(told.contains("demo-pr-7 is removed: pull request \\#7 is closed"), "{told}");
    // Once more there is nothing to do.
    let ran = world.run(&["sweep"]);
    assert!(ran.code == 0 && ran.count("DELETE ") == 0 && ran.err.contains("swept: 0 removed, 1 kept"), "{}", ran.err);
}

/// It was closed when it was judged, and is open again when the lease is ours.
#[test]
fn a_pull_request_that_is_open_again_keeps_its_preview() {
    let mut world = clusters("");
    opened(&mut world, 7);
    world.sandbox.with(|outside| outside.github.closed.push(7));
    world.sandbox.with(|outside| outside.github.reopens = Some((7, 2))); // asked twice: by the look, and under the lease
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("pull request #7 is open: its preview stays"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-7"]);
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("success"));
}

/// A forge that does not say whether a pull request is open says nothing.
#[test]
fn what_nobody_knows_stays() {
    let mut world = clusters("    ttl: 1s\n    max: 1\n");
    opened(&mut world, 7);
    days_ago(&world, 0);
    world.sandbox.with(|outside| outside.github.closed.push(7));
    world.sandbox.with(|outside| outside.github.silent_about.push(7));
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert!(ran.code == 1 && ran.err.contains("whether pull request #7 is open cannot be said"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-7"]);
}

/// The records are lost; the targets still say whose what is.
#[test]
fn what_only_a_target_knows_goes_when_its_mark_proves_it() {
    let mut world = apps("");
    for pr in [7, 8] {
        opened(&mut world, pr);
    }
    world.sandbox.with(|outside| {
        outside.github.deployments.clear();
        outside.github.closed.extend([7, 9, 10, 11]);
        outside.heroku.page = Some(2);
        // Another project with a similar name, the same name in another repository, one made by hand, another of ours.
        outside.heroku.apps.insert("demo-pr-9".into(), marked("demo-pr/demo-pr-9", "acme/demo-pr"));
        outside.heroku.apps.insert("demo-pr-10".into(), marked("demo/demo-pr-10", "acme/elsewhere"));
        outside.heroku.apps.insert("demo-pr-11".into(), of_team());
        outside.heroku.apps.insert("demo-pr-old-name".into(), marked("demo/demo-pr-9", "acme/demo"));
        outside.heroku.apps.insert("demo-pr-staging".into(), marked("demo/staging", "acme/demo"));
    });
    let ran = scheduled(&mut world).run(&["sweep", "--format", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(apps_of(&world), ["demo-pr-10", "demo-pr-11", "demo-pr-8", "demo-pr-9", "demo-pr-staging"]);
    let said: Value = serde_json::from_str(&ran.out).unwrap();
    let rows: Vec<(u64, &str, &str)> = said["previews"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["pr"].as_u64().unwrap(), row["action"].as_str().unwrap(), row["verdict"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(rows, [(7, "remove", "removed"), (8, "keep", "-"), (9, "remove", "removed")], "{}", ran.out);
    assert!(
        ran.err.contains("demo-pr-9 was not made by tidegate for this pull request"),
        "the present name is another project's: {}",
        ran.err
    );
}

#[test]
fn what_only_a_cluster_knows_goes_too() {
    let mut world = clusters("");
    for pr in [7, 8] {
        opened(&mut world, pr);
    }
    world.sandbox.with(|outside| {
        outside.github.deployments.clear();
        outside.github.closed.extend([7, 30, 31]);
        let made = |name: &str, label: &str, repository: &str| {
            let labels = json!({"tidegate.dev/owner": label});
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": name, "labels": labels, "annotations": {"tidegate.dev/repository": repository}}})
        };
        // A run was killed right after it made this one; and one of another repository.
        outside.cluster.objects.insert(("namespaces".into(), String::new(), "demo-pr-30".into()), made("demo-pr-30", "demo.demo-pr-30", "acme/demo"));
        outside.cluster.objects.insert(("namespaces".into(), String::new(), "demo-pr-31".into()), made("demo-pr-31", "demo.demo-pr-31", "acme/other"));
    });
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-31", "demo-pr-8"]);
    // Who may not list cannot say that there is nothing.
    world.sandbox.with(|outside| outside.cluster.denied.push("list configmaps".into()));
    let ran = world.run(&["sweep"]);
    assert!(
        ran.code == 5 && ran.err.contains("not looked at: preview, kubernetes: the inventories of previews cannot be listed"),
        "{}",
        ran.err
    );
}

/// `ttl` counts from the last change; a push makes it anew.
#[test]
fn old_previews_go_and_come_back_with_the_next_push() {
    let mut world = clusters("    ttl: 7d\n");
    days_ago(&world, 2);
    opened(&mut world, 8);
    days_ago(&world, 9);
    opened(&mut world, 7);
    days_ago(&world, 0);
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("pull request #7 is open, but its preview was last changed 9d ago, and previews live 7d (`ttl`)"),
        "{}",
        ran.err
    );
    assert_eq!(namespaces(&world), ["demo-pr-8"]);
    opened(&mut world, 7);
    assert_eq!(namespaces(&world), ["demo-pr-7", "demo-pr-8"]);
}

/// Everything that was delivered of it failed or was cancelled: something may have been made all the same.
#[test]
fn a_preview_that_never_came_up_goes_too() {
    let mut world = apps("");
    world.sandbox.with(|outside| outside.heroku.mood = Mood::PhaseFails);
    let ran = world.pull_request("opened", number(7)).run(&["run"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!(apps_of(&world), ["demo-pr-7"]);
    world.sandbox.with(|outside| outside.heroku.mood = Mood::Honest);
    world.pull_request("closed", number(7)).run(&["run"]).must(0, "preview.removed");
    assert_eq!(apps_of(&world), [] as [&str; 0]);
    let again = world.run(&["run"]);
    assert_eq!((again.code, again.count("/heroku")), (0, 0), "it is known to be gone: {}", again.err);
    // Where no record tells, the target is asked.
    opened(&mut world, 8);
    world.sandbox.with(|outside| outside.github.deployments.clear());
    world.pull_request("closed", number(8)).run(&["run"]).must(0, "preview.removed");
    assert_eq!(apps_of(&world), [] as [&str; 0]);
}

/// Two repositories have a project of the same name, and an account together; both have a pull request 7.
#[test]
fn another_repositorys_preview_of_the_same_name_stays() {
    let mut world = apps("");
    opened(&mut world, 7);
    world.sandbox.with(|outside| {
        outside.heroku.apps.insert("demo-pr-bobs".into(), marked("demo/demo-pr-7", "bob/demo"));
        outside.github.closed.push(7);
    });
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert_eq!((ran.code, apps_of(&world)), (0, vec!["demo-pr-bobs".to_owned()]), "{}", ran.err);
    // Not even under the very name that this one would have.
    world.sandbox.with(|outside| outside.heroku.apps.insert("demo-pr-9".into(), marked("demo/demo-pr-9", "bob/demo")));
    let ran = world.run(&["pr-closed", "--pr", "9"]);
    assert!(ran.err.contains("pull request #9 is open: its preview stays"), "{}", ran.err);
    let ran = world.pull_request("closed", number(9)).run(&["run"]);
    ran.must(0, "preview.kept");
    assert!(
        ran.err.contains("the app demo-pr-9 (config var TIDEGATE_REPOSITORY) was made by bob/demo, not by acme/demo: it stays"),
        "{}",
        ran.err
    );
}

/// What a pull request writes into its own tidegate.yml decides about no other one's preview.
#[test]
fn a_pull_request_does_not_decide_about_others() {
    let mut world = clusters("    max: 3\n");
    for (pr, days) in [(7, 3), (8, 9)] {
        days_ago(&world, days);
        opened(&mut world, pr);
    }
    let merged = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.configure("    max: 3\n", "    max: 1\n    ttl: 1h\n");
    world.commit("my own rules");
    world.sandbox.with(|outside| outside.github.files.insert("tidegate.yml".into(), merged));
    days_ago(&world, 0);
    opened(&mut world, 9);
    assert_eq!(namespaces(&world), ["demo-pr-7", "demo-pr-8", "demo-pr-9"]);
    // One that goes needs no room.
    opened(&mut world, 10);
    assert_eq!(namespaces(&world), ["demo-pr-10", "demo-pr-7", "demo-pr-9"]);
    world.sandbox.with(|outside| outside.github.closed.push(8));
    world.pull_request("closed", number(8)).run(&["run"]);
    assert_eq!(namespaces(&world), ["demo-pr-10", "demo-pr-7", "demo-pr-9"]);
    // Where what was merged cannot be read, nothing goes.
    world.sandbox.with(|outside| outside.github.files.clear());
    let ran = opened(&mut world, 11);
    assert!(ran.err.contains("old previews are not looked for"), "{}", ran.err);
    assert_eq!(namespaces(&world).len(), 4);
}

/// The environment got another key since: its previews are known by their names.
#[test]
fn a_renamed_environment_still_has_its_previews() {
    let mut world = clusters("");
    opened(&mut world, 7);
    world.configure("  preview:\n", "  review:\n");
    world.commit("another name");
    world.sandbox.with(|outside| outside.github.closed.push(7));
    assert_eq!(scheduled(&mut world).run(&["sweep"]).code, 0);
    assert_eq!(namespaces(&world), [] as [&str; 0]);
}

/// Room is made by the rules of the default branch, in the folder where their programs are.
#[test]
fn a_command_makes_room_too() {
    let mut world = World::new();
    let target = "command: {run: [./preview, make, \"{pr}\"], remove: [./preview, unmake, \"{pr}\"]}";
    rest_of_preview(&world, "    max: 1\n", target);
    crate::command::write(&world, "preview", "echo \"$*\" >> did");
    for (pr, days) in [(7, 3), (8, 0)] {
        days_ago(&world, days);
        opened(&mut world, pr);
    }
    assert_eq!(std::fs::read_to_string(world.path("did")).unwrap(), "make 7\nunmake 7\nmake 8\n");
}

/// Several repositories have previews in one namespace: what this one applied goes, the namespace stays.
#[test]
fn what_was_applied_into_anothers_namespace_goes() {
    let mut world = clusters("");
    let annotations = json!({"tidegate.dev/repository": "acme/other"});
    let metadata =
        json!({"name": "demo-pr-7", "uid": "u", "labels": {"tidegate.dev/owner": "other.other-pr-7"}, "annotations": annotations});
    let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    world.sandbox.with(|outside| outside.cluster.objects.insert(("namespaces".into(), String::new(), "demo-pr-7".into()), made));
    opened(&mut world, 7);
    let ran = world.pull_request("closed", number(7)).run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("1 object in demo-pr-7: gone"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-7"]);
}

/// A new preview makes itself room, without a schedule.
#[test]
fn the_oldest_makes_room_for_a_new_one() {
    let mut world = clusters("    max: 2\n");
    for (pr, days) in [(7, 3), (8, 9)] {
        days_ago(&world, days);
        opened(&mut world, pr);
    }
    days_ago(&world, 0);
    let ran = opened(&mut world, 9);
    assert!(ran.err.contains("sweep   first, previews go that are more than 2, the oldest first"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-7", "demo-pr-9"]);
    let told = world.sandbox.with(|outside| outside.github.comments.iter().find(|comment| comment.pr == 8).unwrap().body.clone());
    assert!(told.contains("it is the oldest of 3 previews, and 2 may live at once"), "{told}");
    // A change of one that is there needs no room.
    world.write("app", "two\n");
    world.commit("two");
    world.pull_request("synchronize", number(7)).run(&["run"]).must(0, "deploy.done");
    assert_eq!(namespaces(&world), ["demo-pr-7", "demo-pr-9"]);
    // Strangers sweep nothing.
    let ran = world
        .pull_request("opened", |payload| payload["pull_request"]["head"]["repo"] = json!({"id": 2, "full_name": "mallory/demo"}))
        .run(&["run"]);
    ran.must(0, "event.fork");
    assert_eq!(ran.log, Vec::<String>::new());
}

/// The records are packages there; the job is in a resource group of its own.
#[test]
fn on_gitlab_a_scheduled_job_sweeps() {
    let mut world = clusters("");
    world.on_gitlab("merge_request_event");
    for number in [7, 8] {
        let ran = world.merge_request(number).run(&["run"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    world.no_merge_request().var("CI_PIPELINE_SOURCE", "schedule").var("CI_COMMIT_BRANCH", "main");
    world.var("TIDEGATE_RESOURCE_GROUP", "demo/sweep");
    world.sandbox.with(|outside| {
        outside.gitlab.resource_groups.insert("demo/sweep".into(), 501);
        outside.gitlab.resource_groups.extend([("demo/mr-7".into(), 502), ("demo/mr-8".into(), 0)]);
        outside.gitlab.merge_requests.get_mut(&7).unwrap().state = "closed".into();
    });
    // Its own job is at work on it, in a resource group of its own.
    let ran = world.run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("job 502 is at work on it (resource group demo/mr-7)"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-7", "demo-pr-8"]);
    world.sandbox.with(|outside| outside.gitlab.resource_groups.insert("demo/mr-7".into(), 0));
    let ran = world.run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("merge request !7 is closed"), "{}", ran.err);
    assert_eq!(namespaces(&world), ["demo-pr-8"]);
    // The job's own token may ask, and may not tell.
    world.sandbox.with(|outside| outside.gitlab.merge_requests.get_mut(&8).unwrap().state = "merged".into());
    let ran = world.without("GITLAB_TOKEN").run(&["sweep"]);
    assert!(ran.code == 0 && ran.err.contains("merge request !8 is not told"), "{}", ran.err);
    assert_eq!(namespaces(&world), [] as [&str; 0]);
}

/// Lying twin: the deletion is confirmed, and the app is there. The others go all the same.
#[test]
fn a_preview_that_only_seems_to_go_fails_the_sweep() {
    let mut world = apps("");
    opened(&mut world, 7);
    world.sandbox.with(|outside| {
        outside.github.closed.push(7);
        outside.heroku.mood = Mood::KeepsApps;
    });
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert!(
        ran.code == 1 && ran.err.contains("1 of 1 previews could not be removed; the first: Heroku says that the app demo-pr-7 is deleted"),
        "{}",
        ran.err
    );
    assert_eq!(world.deployments()[0].last().map(String::as_str), Some("success"), "its record says that it is there");
}

/// GitHub lists environments for ever: with the right token they go, with the job's own it is said why not.
#[test]
fn the_environment_of_a_preview_goes_when_the_token_may() {
    let mut world = clusters("");
    opened(&mut world, 7);
    let ran = world.pull_request("closed", number(7)).run(&["run"]);
    ran.must(0, "preview.removed");
    assert!(ran.err.contains("deleting it takes a token with `administration: write`"), "{}", ran.err);
    opened(&mut world, 8);
    world.sandbox.with(|outside| outside.github.person = Some("octocat".into()));
    world.pull_request("closed", number(8)).run(&["run"]).must(0, "preview.removed");
    assert_eq!(world.sandbox.with(|outside| outside.github.deleted.clone()), ["demo-pr-8"]);
    // What somebody has given rules stays.
    world.sandbox.with(|outside| outside.github.guarded.push("demo-pr-9".into()));
    opened(&mut world, 9);
    world.pull_request("closed", number(9)).run(&["run"]).must(0, "preview.removed");
    assert_eq!(world.sandbox.with(|outside| outside.github.deleted.clone()), ["demo-pr-8"]);
}

#[test]
fn without_previews_there_is_nothing_to_sweep() {
    let mut world = World::new();
    let text = std::fs::read_to_string(world.path("tidegate.yml")).unwrap();
    world.write("tidegate.yml", text.split_once("  preview:\n").unwrap().0);
    let ran = scheduled(&mut world).run(&["sweep"]);
    assert!(ran.code == 2 && ran.err.contains("no environment of tidegate.yml is made by pull requests"), "{}", ran.err);
}
