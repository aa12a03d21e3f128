//! What must hold for any bytes from outside: the targets of `fuzz/`, which the unit tests run on the corpus as well.
//!
//! Each takes what a stranger can send and panics when a promise is broken. A panic elsewhere is a find too.

use crate::context::{self, Facts, Outcome, Request};
use crate::event::{Kind, directives, github, is_full_sha};
use crate::forge::comments;
use crate::registry::oci::{Manifest, next_page, parameters};
use crate::serve::{config as serve_config, payload};
use crate::targets::awx::Heard;
use crate::targets::kubernetes::manifest;
use crate::tools::redact::Redactor;
use crate::tools::secret::Secret;
use crate::variables::Variables;
use crate::vars::Vars;
use crate::{config, version};
use serde_json::Value;
use std::path::Path;

/// A target of `fuzz/`, by its name.
pub type Target = fn(&[u8]);

/// All of them.
pub const TARGETS: &[(&str, Target)] = &[
    ("awx", awx),
    ("comment", comment),
    ("config", config),
    ("manifests", manifests),
    ("names", names),
    ("payloads", payloads),
    ("redaction", redaction),
    ("registry", registry),
    ("webhooks", webhooks),
];

/// How long a message to people may be, in characters.
const SENTENCE_LIMIT: usize = 200_000;

/// `tidegate.yml` and `tidegate-serve.yml`: refused with a sentence, or the same each time.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse(text, "tidegate.yml", Path::new("/nowhere")) {
        Ok(first) => {
            let again = config::parse(text, "tidegate.yml", Path::new("/nowhere")).map(|loaded| format!("{:?}", loaded.config));
            assert_eq!(again.ok(), Some(format!("{:?}", first.config)));
        }
        Err(error) => assert!((1..SENTENCE_LIMIT).contains(&error.to_string().len()), "{error}"),
    }
    if let Err(error) = serve_config::parse(text, Path::new("tidegate-serve.yml")) {
        assert!((1..SENTENCE_LIMIT).contains(&error.to_string().len()), "{error}");
    }
}

const EVENTS: &[&str] = &[
    "push",
    "create",
    "delete",
    "release",
    "pull_request",
    "pull_request_target",
    "merge_group",
    "workflow_dispatch",
    "repository_dispatch",
    "schedule",
    "workflow_run",
    "deployment",
    "issue_comment",
    "star",
];

const RULES: &str = "schema: 1\nproject: demo\nimages: {app: {repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/demo}}\nenvironments:\n  dev: {when: merge, deploy: [{command: {run: [./deploy]}}]}\n  staging: {when: release, deploy: [{command: {run: [./deploy]}}]}\n  production: {when: manual, deploy: [{command: {run: [./deploy]}}]}\n  preview: {when: pull-request, name: \"{project}-pr-{pr}\", deploy: [{command: {run: [./deploy]}}]}\n";

/// A line with the event's name, then its payload: what a stranger caused deploys nothing; what deploys has a commit and a name
/// that can be a tag.
pub fn payloads(data: &[u8]) {
    let (name, payload) = split_line(data);
    let name = EVENTS.iter().find(|event| event.as_bytes() == name).copied().unwrap_or("push");
    let Ok(payload) = serde_json::from_slice::<Value>(payload) else { return };
    let vars = Vars::from([("GITHUB_SHA", "dddddddddddddddddddddddddddddddddddddddd"), ("GITHUB_REF", "refs/heads/main")]);
    let Ok(event) = github::parse(name, &payload, &vars) else { return };
    assert!(event.sha.as_deref().is_none_or(is_full_sha), "{event:?}");
    let loaded = config::parse(RULES, "tidegate.yml", Path::new("/nowhere"));
    assert!(loaded.is_ok(), "the rules do not hold");
    let Ok(loaded) = loaded else { return };
    let Ok(variables) = Variables::resolve(&loaded.config, &[], &vars) else { return };
    let facts = Facts { on_default_branch: Some(true), ..Facts::default() };
    let Ok(decision) = context::decide(&event, &loaded, &Request::Event, &variables, &facts) else { return };
    if decision.outcome == Outcome::Deploy {
        let strange = event.is_fork == Some(true) || matches!(event.kind, Kind::PullRequestTarget | Kind::WorkflowRun | Kind::IssueComment);
        assert!(!strange, "{event:?} deploys");
        let version = decision.version.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(version::check_image_tag(&version, &version).is_ok(), "{event:?} deploys {version:?}");
    }
}

/// Bodies that come to the CD server. Their signature is looked at first; whoever has the secret may still be hostile.
pub fn webhooks(data: &[u8]) {
    let (name, body) = split_line(data);
    let name = String::from_utf8_lossy(name);
    for said in [
        payload::docker_hub(body, &["hub.docker.com".into()]),
        payload::github(body, &name, Some(&name)),
        payload::gitlab(body, Some(&name)),
        payload::plain(body, &name),
        payload::ecr_image_action(body),
    ] {
        if let payload::Said::Delivery(delivery) = said {
            assert!(!delivery.repository.is_empty() && delivery.names.iter().all(|name| (1..=256).contains(&name.len())));
        }
    }
}

/// A comment as somebody left it, and a new section: found again, within GitHub's limit, and the same when it is said again.
pub fn comment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (body, said) = text.split_once('\u{1}').unwrap_or(("", &text));
    let body = format!("<!-- tidegate:p -->\n{body}");
    let section = comments::Section { project: "p", environment: "dev", text: said, create: true, keep: comments::Keep::Nothing };
    let once = comments::merge(&body, &section);
    assert!(once.starts_with("<!-- tidegate:p -->") && once.chars().count() <= 65_536, "{} characters", once.chars().count());
    assert!(once.contains("<!-- tidegate:section:dev -->"));
    assert_eq!(comments::merge(&once, &section), once, "the same text changes nothing");
    let inside = once.split_once("<!-- tidegate:section:dev -->").map(|(_, rest)| rest).unwrap_or_default();
    let inside = inside.split_once("<!-- tidegate:end -->").map(|(inside, _)| inside).unwrap_or_default();
    assert!(!inside.contains("<!--"), "a section holds a marker: {inside:?}");
    assert!(inside.lines().all(|line| !line.trim_start().starts_with('/')), "a quick action: {inside:?}");
}

/// A header line, then a body, as a registry sends them: pages stay on the host, digests are of the bytes.
pub fn registry(data: &[u8]) {
    let (head, body) = split_line(data);
    let head = String::from_utf8_lossy(head);
    let _fields = parameters(&head);
    if let Some(next) = next_page(&head, "https://registry.example/v2/demo/tags/list?n=1000") {
        assert!(next.starts_with("https://registry.example/"), "{next}");
    }
    for kind in ["application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"] {
        let manifest = Manifest::new(bytes::Bytes::copy_from_slice(body), kind);
        assert!(manifest.digest.starts_with("sha256:"));
        for digest in manifest.platforms().unwrap_or_default() {
            assert!(crate::registry::oci::is_digest(&digest), "{digest:?} is in an address next");
        }
    }
}

/// Pages of AWX's events, one a line: lines are shown once and in order.
pub fn awx(data: &[u8]) {
    let mut heard = Heard::default();
    for page in data.split(|byte| *byte == b'\n').take(50) {
        let Ok(page) = serde_json::from_slice::<Value>(page) else { continue };
        // Out of order, each look brings at least one event further; then there is nothing new.
        let events = page.pointer("/results").and_then(Value::as_array).map_or(0, Vec::len);
        (0..events).for_each(|_look| drop(heard.next_lines(&page)));
        assert!(heard.next_lines(&page).is_empty(), "the same page has new lines for ever");
        heard.changed_nodes(&page);
        assert!(heard.changed_nodes(&page).is_empty(), "the same nodes changed twice");
    }
}

/// Manifests of Kubernetes, which a pull request may bring.
pub fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(documents) = manifest::documents_of(text, "k8s.yaml") else { return };
    let mut found = Vec::new();
    for document in documents {
        let _refused = manifest::flatten(document, "k8s.yaml", &mut found);
    }
    assert!(found.iter().all(|manifest| !manifest.text("/metadata/name").is_empty()));
}

/// Names and texts that people write: versions, placeholders, directives.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(version) = version::Version::parse(&text) {
        assert!(version::check_image_tag(version.as_str(), &text).is_ok());
        assert_eq!(version::Version::parse(version.as_str()).ok().as_ref(), Some(&version));
    }
    for limit in [20, 63] {
        let slug = version::slug(&text, limit);
        let fine = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        assert!((1..=limit).contains(&slug.len()) && slug.chars().all(fine) && !slug.starts_with('-') && !slug.ends_with('-'), "{slug:?}");
    }
    assert!(directives::parse(&text).len() <= 20);
    let mut values = config::template::Values::default();
    values.set("version", Some("{sha}".into()));
    if let Ok(filled) = values.fill(&text) {
        assert!(filled.len() <= text.len() + 5 * text.len(), "{filled:?}");
    }
}

/// Two secrets, then a text, cut anywhere: no part of a secret's forms is shown, and nothing else is lost.
pub fn redaction(data: &[u8]) {
    let (secret, rest) = split_line(data);
    let (other, text) = split_line(rest);
    let secrets = [secret, other].map(|bytes| Secret::new(String::from_utf8_lossy(bytes)));
    let redactor = Redactor::default();
    secrets.iter().for_each(|secret| drop(redactor.learn(secret)));
    let (mut stream, mut shown) = (redactor.stream(), Vec::new());
    let step = 1 + usize::from(data.first().copied().unwrap_or_default() % 7);
    text.chunks(step).for_each(|piece| stream.push(piece, &mut shown));
    stream.finish(&mut shown);
    for secret in &secrets {
        let value = secret.expose().trim();
        // Stars are what stands there instead.
        if value.len() >= 4 && !"***".contains(value) && !value.contains("***") {
            let found = memchr::memmem::find(&shown, value.as_bytes());
            assert!(found.is_none() || value.contains('*'), "{value:?} in {:?}", String::from_utf8_lossy(&shown));
        }
    }
    if secrets.iter().all(|secret| secret.expose().trim().len() < 4) {
        assert_eq!(shown, text, "without secrets nothing is changed");
    }
}

fn split_line(data: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', data) {
        Some(at) => (data.get(..at).unwrap_or_default(), data.get(at + 1..).unwrap_or_default()),
        None => (data, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that fuzzing has found, and a good and a bad example of each kind.
    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let cases: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(cases.len() >= 5, "{name} has {} cases", cases.len());
            for case in cases {
                let bytes = std::fs::read(&case).unwrap();
                let held = std::panic::catch_unwind(|| target(&bytes));
                assert!(held.is_ok(), "{}", case.display());
            }
        }
    }
}
