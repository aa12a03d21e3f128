//! What goes across keys of `tidegate-serve.yml`.

use super::{Hook, Rule, Runner, Serve};
use crate::config::problem::did_you_mean;
use crate::config::template::names;
use crate::tools::glob::Glob;

/// Placeholders of commands.
pub const PLACEHOLDERS: [&str; 13] =
    ["app", "inventory", "job", "repository", "name", "namespace", "tag", "digest", "image", "branch", "sha", "actor", "pusher"];

type Problems = Vec<(String, String, String)>;

/// All mistakes: path, what is wrong, what to write.
pub fn check(serve: &Serve) -> Problems {
    let mut problems = Vec::new();
    server(serve, &mut problems);
    for (name, runner) in &serve.runners {
        command(&format!("runners.{name}.{}.command", kind(runner)), runner.command(), &mut problems);
        if matches!(runner, Runner::Process(process) if process.command.is_empty()) {
            problem(&mut problems, format!("runners.{name}.process.command"), "there is no program in it", "name the program first");
        }
    }
    apps(serve, &mut problems);
    for (name, hook) in &serve.webhooks {
        webhook(serve, name, hook, &mut problems);
    }
    problems
}

fn kind(runner: &Runner) -> &'static str {
    match runner {
        Runner::Process(_) => "process",
        Runner::Docker(_) => "docker",
    }
}

fn problem(problems: &mut Problems, path: String, message: impl Into<String>, hint: impl Into<String>) {
    problems.push((path, message.into(), hint.into()));
}

fn server(serve: &Serve, problems: &mut Problems) {
    if serve.limits.lease.0 < std::time::Duration::from_secs(3) {
        problem(
            problems,
            "limits.lease".into(),
            "a lease of less than 3s ends while a healthy server is busy",
            "write 3s or more; 15s is usual",
        );
    }
    if serve.tls.is_some() && serve.public_url.as_deref().is_some_and(|url| url.starts_with("http://")) {
        problem(problems, "public-url".into(), "the server speaks HTTPS itself, and this begins with http://", "write https://");
    }
    if !serve.users.is_empty() && serve.public_url.is_none() && !serve.listen.ip().is_loopback() && serve.tls.is_none() {
        let hint = "add `tls:`, or `public-url: https://…` where a proxy does it";
        problem(problems, "users".into(), "people would log in over plain HTTP", hint);
    }
    for name in serve.users.keys().chain(serve.tokens.keys()) {
        let fits = !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "._@-".contains(c));
        if !fits {
            let path = if serve.users.contains_key(name) { "users" } else { "tokens" };
            problem(problems, path.into(), format!("{name:?} is not usable as a name"), "use letters, digits and . _ @ -");
        }
    }
}

fn apps(serve: &Serve, problems: &mut Problems) {
    if let Some(runner) = &serve.defaults.runner {
        runner_exists(serve, "defaults.runner", runner, problems);
    }
    if let Some(announce) = &serve.announce {
        runner_exists(serve, "announce.runner", &announce.runner, problems);
        command("announce.command", &announce.command, problems);
    }
    for (id, app) in &serve.apps {
        if id == super::ANNOUNCE {
            problem(problems, format!("apps.{id}"), "this id is the announcing job's own", "rename the app");
        }
        if !is_id(id) {
            problem(problems, format!("apps.{id}"), "an app's id has 1 to 128 of A-Z a-z 0-9 . _ -", "rename it");
        }
        match app.runner.as_ref().or(serve.defaults.runner.as_ref()) {
            Some(runner) if app.runner.is_some() => runner_exists(serve, &format!("apps.{id}.runner"), runner, problems),
            None if serve.runners.len() != 1 => {
                let known = serve.runners.keys().cloned().collect::<Vec<_>>().join(", ");
                let hint = if known.is_empty() { "add `runners:`".into() } else { format!("write `runner:` with one of {known}") };
                problem(problems, format!("apps.{id}"), "it is not said which runner runs it", hint);
            }
            Some(_) | None => {}
        }
    }
}

/// Whether it is an id of an app or an inventory.
pub fn is_id(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    first && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn runner_exists(serve: &Serve, path: &str, runner: &str, problems: &mut Problems) {
    if serve.runners.contains_key(runner) {
        return;
    }
    let meant = did_you_mean(runner, serve.runners.keys().map(String::as_str));
    let hint = meant.map_or("add it under `runners:`".to_owned(), |name| format!("did you mean {name}?"));
    problem(problems, path.to_owned(), format!("there is no runner {runner:?}"), hint);
}

fn command(path: &str, words: &[String], problems: &mut Problems) {
    for (index, word) in words.iter().enumerate() {
        if let Err(why) = crate::config::template::split(word) {
            problem(problems, format!("{path}[{index}]"), why, "write {{ and }} for braces");
        }
        for name in names(word).into_iter().filter(|name| !PLACEHOLDERS.contains(&name.as_str())) {
            let hint = format!("use {}", PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(" "));
            problem(problems, format!("{path}[{index}]"), format!("{{{name}}} is no placeholder here"), hint);
        }
    }
}

fn webhook(serve: &Serve, name: &str, hook: &Hook, problems: &mut Problems) {
    let path = format!("webhooks.{name}.{}", hook.kind());
    if let Hook::DockerHub(hub) = hook
        && hub.login.is_none()
        && hub.secret_path.is_none()
    {
        problem(problems, path.clone(), "Docker Hub signs nothing, so anybody could start jobs", "add `secret-path:` or `login:`");
    }
    if matches!(hook, Hook::DockerHub(_)) && serve.webhooks.values().filter(|hook| matches!(hook, Hook::DockerHub(_))).count() > 1 {
        problem(problems, path.clone(), "there is one address for Docker Hub, so one webhook", "put all rules into one");
    }
    for (index, rule) in hook.rules().iter().enumerate() {
        check_rule(serve, hook, rule, &format!("{path}.rules[{index}]"), problems);
    }
    if hook.rules().is_empty() {
        problem(problems, path, "there are no rules, so it would start nothing", "add a rule with `app:` or `command:`");
    }
}

fn check_rule(serve: &Serve, hook: &Hook, rule: &Rule, path: &str, problems: &mut Problems) {
    match (&rule.app, &rule.command) {
        (Some(app), None) => {
            let comes_later = serve.announce.is_some()
                || !serve.networks.announce.is_empty()
                || serve.tokens.values().any(|token| token.role == super::Role::Announcer);
            if !serve.apps.contains_key(app) && !comes_later {
                let meant = did_you_mean(app, serve.apps.keys().map(String::as_str));
                let hint = meant.map_or("add it under `apps:`".to_owned(), |name| format!("did you mean {name}?"));
                problem(problems, format!("{path}.app"), format!("there is no app {app:?}"), hint);
            }
        }
        (None, Some(words)) if words.is_empty() => {
            problem(problems, format!("{path}.command"), "there is no program in it", "name the program first")
        }
        (None, Some(words)) => command(&format!("{path}.command"), words, problems),
        (Some(_), Some(_)) => problem(problems, path.to_owned(), "an app and a command are two things", "keep one of them"),
        (None, None) => problem(problems, path.to_owned(), "it starts nothing", "add `app:` or `command:`"),
    }
    match (&rule.runner, &rule.command) {
        (Some(runner), Some(_)) => runner_exists(serve, &format!("{path}.runner"), runner, problems),
        (Some(_), None) => problem(problems, format!("{path}.runner"), "an app has its own runner", "remove `runner:`"),
        (None, _) => {}
    }
    check_names(hook, rule, path, problems);
}

/// The globs of a rule, and where its image is.
fn check_names(hook: &Hook, rule: &Rule, path: &str, problems: &mut Problems) {
    for (key, list) in [("tags", &rule.tags), ("branches", &rule.branches)] {
        for glob in list.iter().flat_map(|list| list.as_slice()) {
            if let Err(why) = Glob::of_text(glob) {
                problem(problems, format!("{path}.{key}"), format!("{glob:?} is no glob: {why}"), "use * and ?");
            }
        }
    }
    if let Some(Err(why)) = rule.repository.as_deref().map(Glob::of_text) {
        problem(problems, format!("{path}.repository"), format!("it is no glob: {why}"), "use * and ?");
    }
    if let Some(image) = &rule.image
        && let Err(error) = crate::registry::Repository::parse(image)
    {
        problem(problems, format!("{path}.image"), error.sentence, error.hint.unwrap_or_default());
    }
    let knows_events = matches!(hook, Hook::Github(_) | Hook::Gitlab(_));
    if !knows_events && (rule.events.is_some() || rule.branches.is_some()) {
        problem(problems, path.to_owned(), format!("{} has no events and no branches", hook.kind()), "remove `events:` and `branches:`");
    }
}
