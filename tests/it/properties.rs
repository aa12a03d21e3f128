//! What holds for every version, text, history and event, not only for examples.

use proptest::prelude::*;
use std::cmp::Ordering;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tidegate::checkout::{Ancestry, Checkout};
use tidegate::context::{self, Facts, Request};
use tidegate::event::github;
use tidegate::tools::redact::Redactor;
use tidegate::tools::secret::{STARS, Secret};
use tidegate::variables::Variables;
use tidegate::vars::Vars;
use tidegate::version::{Version, check_image_tag, slug};
use tidegate::{config, plan};

fn semver() -> impl Strategy<Value = String> {
    (0_u64..30, 0_u64..30, 0_u64..30, prop::option::of("(rc|beta|alpha)\\.[0-9]{1,2}")).prop_map(|(major, minor, patch, pre)| {
        let pre = pre.map(|pre| format!("-{}", pre.replace(".0", ".").trim_end_matches('.'))).unwrap_or_default();
        format!("{major}.{minor}.{patch}{pre}")
    })
}

proptest! {
    /// An order: the same in both directions, and without circles; numbers are numbers, and a pre-release comes before its release.
    #[test]
    fn versions_have_one_order(a in semver(), b in semver(), c in semver()) {
        let (a, b, c) = (Version::parse(&a).unwrap(), Version::parse(&format!("v{b}")).unwrap(), Version::parse(&c).unwrap());
        let order = |one: &Version, other: &Version| one.order(other).unwrap();
        prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
        if order(&a, &b) != Ordering::Greater && order(&b, &c) != Ordering::Greater {
            prop_assert_ne!(order(&a, &c), Ordering::Greater);
        }
        prop_assert!(a.numbers() >= b.numbers() || order(&a, &b) == Ordering::Less);
        let release = Version::parse(a.as_str().split('-').next().unwrap()).unwrap();
        prop_assert_eq!(order(&a, &release) == Ordering::Less, a.is_prerelease());
    }

    /// The grammar of the distribution specification, and nothing else.
    #[test]
    fn a_version_is_a_tag(text in prop_oneof!["[A-Za-z0-9_.\\-]{0,140}", "\\PC{0,20}", "[ -~\n\t]{0,10}"]) {
        let grammar = regex::Regex::new("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\\z").unwrap();
        prop_assert_eq!(check_image_tag(&text, &text).is_ok(), grammar.is_match(&text));
        if let Ok(version) = Version::parse(&text) {
            prop_assert!(grammar.is_match(version.as_str()) && text.ends_with(version.as_str()));
        }
    }

    /// Two names never become one, and each is a name for a host, a label and an image.
    #[test]
    fn slugs_are_apart(one in "\\PC{1,80}", other in "\\PC{1,80}", limit in 16_usize..63) {
        let fine = regex::Regex::new("^[a-z0-9]([a-z0-9-]*[a-z0-9])?\\z").unwrap();
        prop_assert!(fine.is_match(&slug(&one, limit)) && slug(&one, limit).len() <= limit);
        prop_assert_eq!(slug(&one, limit) == slug(&other, limit), one == other);
    }

    /// However a secret is written and wherever a write ends in the midst of it, nothing of it is shown, and nothing else is lost.
    #[test]
    fn no_form_of_a_secret_is_shown(
        secret in "[!-)+-~]{12,40}", before in "[a-z ]{0,20}", after in "[a-z ]{0,20}", form in 0_usize..7, offset in 0_usize..3,
        cuts in prop::collection::vec(1_usize..9, 1..40),
    ) {
        use base64::Engine;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE};
        let shown = match form {
            0 => secret.clone(),
            1 => url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            2 => serde_json::to_string(&secret).unwrap().strip_prefix('"').unwrap().strip_suffix('"').unwrap().to_owned(),
            3 => STANDARD.encode(format!("{}{secret}", &"abc"[..offset])),
            4 => URL_SAFE.encode(format!("{}{secret}tail", &"abc"[..offset])),
            5 => STANDARD.encode(format!("{}{secret}", &"abc"[..offset])).as_bytes().chunks(7).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect(),
            _upper => secret.bytes().map(|byte| match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            }).collect(),
        };
        let text = format!("{before}<{shown}>{after}");
        let redactor = Redactor::default();
        redactor.learn(&Secret::new(secret.clone()));
        let whole = redactor.clean(&text);
        prop_assert!(whole.contains(STARS) && whole.len() + 4 < text.len() + STARS.len(), "{text:?} {whole:?}");
        prop_assert!(whole.starts_with(&format!("{before}<")) && whole.ends_with(&format!(">{after}")), "{text:?} {whole:?}");
        let (mut stream, mut streamed, mut rest) = (redactor.stream(), Vec::new(), text.as_bytes());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            stream.push(piece, &mut streamed);
            rest = more;
        }
        stream.finish(&mut streamed);
        let streamed = String::from_utf8(streamed).unwrap();
        // The last digit of base64 says less than a byte: where a write ends before it, it may stand alone.
        prop_assert!(streamed.contains(STARS) && streamed.len() <= whole.len() + 2 && !streamed.contains(&secret), "{streamed:?} {whole:?}");
        prop_assert!(streamed.starts_with(&format!("{before}<")) && streamed.ends_with(&format!(">{after}")), "{streamed:?} {whole:?}");
    }
}

/// A repository with these commits, each with its parents among those before it; their ids.
fn history(folder: &Path, parents: &[Vec<usize>]) -> Vec<String> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(args).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    assert!(git(&["init", "--quiet"]).wait().unwrap().success());
    let mut stream = String::new();
    for (n, parents) in parents.iter().enumerate() {
        stream.push_str(&format!(
            "commit refs/heads/b{n}\nmark :{}\ncommitter A <a@example.com> {} +0000\ndata 1\n{}\n",
            n + 1,
            1_700_000_000 + n,
            n % 10
        ));
        for (at, parent) in parents.iter().enumerate() {
            stream.push_str(&format!("{} :{}\n", if at == 0 { "from" } else { "merge" }, parent + 1));
        }
    }
    let mut import = git(&["fast-import", "--quiet"]);
    import.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    (0..parents.len()).map(|n| Checkout::at(folder).resolve(&format!("b{n}")).unwrap()).collect()
}

/// Whether a commit contains another, by walking.
fn contains(parents: &[Vec<usize>], new: usize, old: usize) -> bool {
    new == old || parents[new].iter().any(|parent| contains(parents, *parent, old))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// How two commits relate is what the history says, in both directions.
    #[test]
    fn ancestry_is_what_the_history_says(choices in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 2..8)) {
        let parents: Vec<Vec<usize>> = choices.iter().enumerate().map(|(n, choices)| {
            let mut parents: Vec<usize> = if n == 0 { Vec::new() } else { choices.iter().map(|choice| choice.index(n)).collect() };
            parents.sort_unstable();
            parents.dedup();
            parents
        }).collect();
        let folder = tempfile::tempdir().unwrap();
        let ids = history(folder.path(), &parents);
        let checkout = Checkout::at(folder.path());
        for one in 0..ids.len() {
            for other in 0..ids.len() {
                let wanted = match (one == other, contains(&parents, one, other), contains(&parents, other, one)) {
                    (true, _, _) => Ancestry::Same,
                    (false, true, _) => Ancestry::Newer,
                    (false, false, true) => Ancestry::Older,
                    (false, false, false) => Ancestry::Diverged,
                };
                // Commits of the same time and text are the same commit.
                if ids[one] != ids[other] || one == other {
                    prop_assert_eq!(checkout.ancestry(&ids[one], &ids[other]), Some(wanted));
                }
            }
        }
    }
}

const RULES: &str = "schema: 1\nproject: demo\naws: {region: us-west-2}\nimages: {app: {repository: 123456789012.dkr.ecr.us-west-2.amazonaws.com/demo}}\nenvironments:\n  dev: {when: merge, tags: [latest], deploy: [{kubernetes: {namespace: dev, workloads: [deployment/web], image: app}}]}\n  staging: {when: release, prereleases: true, deploy: [{kubernetes: {namespace: staging, workloads: [deployment/web], image: app}}]}\n";

proptest! {
    /// The same event makes the same plan, whatever the time; another commit makes another one.
    #[test]
    fn a_plan_is_the_same_each_time(sha in "[0-9a-f]{40}", tag in semver(), is_release: bool, later in 0_i64..100_000_000) {
        let planned = |sha: &str, now: i64| {
            let repository = serde_json::json!({"full_name": "acme/demo", "default_branch": "main"});
            let (name, payload) = match is_release {
                true => ("release", serde_json::json!({"action": "published", "release": {"tag_name": format!("v{tag}")}, "repository": repository})),
                false => ("push", serde_json::json!({"ref": "refs/heads/main", "after": sha, "head_commit": {"id": sha}, "repository": repository})),
            };
            let vars = Vars::from([("GITHUB_SHA", sha), ("GITHUB_REF", "refs/heads/main")]);
            let mut event = github::parse(name, &payload, &vars).unwrap();
            event.set_sha(Some(sha.to_owned()));
            let loaded = config::parse(RULES, "tidegate.yml", Path::new("/nowhere")).unwrap();
            let variables = Variables::resolve(&loaded.config, &[], &vars).unwrap();
            let facts = Facts { on_default_branch: Some(true), now: jiff::Timestamp::from_second(now).unwrap(), ..Facts::default() };
            let decision = context::decide(&event, &loaded, &Request::Event, &variables, &facts).unwrap();
            plan::plan(&event, &loaded, &Request::Event, &decision, &variables).unwrap()
        };
        let (first, second) = (planned(&sha, 1_700_000_000), planned(&sha, 1_700_000_000 + later));
        prop_assert_eq!(&first.hash, &second.hash);
        prop_assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&second).unwrap());
        let flipped = format!("{}{}", if sha.starts_with('0') { '1' } else { '0' }, &sha[1..]);
        prop_assert_ne!(&first.hash, &planned(&flipped, 1_700_000_000).hash);
    }
}
