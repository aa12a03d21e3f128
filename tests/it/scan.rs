//! `gates: [{scan: …}]`: what ECR's scan found, in every state that a scan can be in.

use crate::life::Page;
use crate::world::World;
use tidegate::rehearse::scans::{Scanned, Scans};

/// A repository whose merges go to dev behind a scan.
fn scanned(keys: &str, scans: Scans) -> World {
    let world = World::new();
    let gate = format!("    gates:\n      - scan: {{max: high, timeout: 3s, settle: 1s{keys}}}\n");
    world.configure("    when: merge\n", &format!("    when: merge\n{gate}"));
    world.commit("a scan");
    world.sandbox.with(|outside| outside.scans = scans);
    world
}

fn script(looks: &[(&'static str, &[(&'static str, &'static str)])]) -> Scans {
    let look = |(status, findings): &(&'static str, &[(&'static str, &'static str)])| Scanned {
        status,
        findings: findings.to_vec(),
        completed: None,
    };
    Scans { script: looks.iter().map(look).collect(), ..Scans::default() }
}

#[test]
fn a_basic_scan_is_begun_waited_for_and_judged() {
    let looks = script(&[("", &[]), ("IN_PROGRESS", &[]), ("COMPLETE", &[("HIGH", "CVE-2026-1"), ("UNDEFINED", "CVE-2026-2")])]);
    let mut world = scanned("", looks);
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert_eq!(ran.count("StartImageScan"), 1, "{}", ran.log.join("\n"));
    assert!(ran.err.contains("scan.app") && ran.err.contains("1 high, 1 unrated findings"), "{}", ran.err);
    assert!(world.comments()[0].contains("| scan.app | 1 high, 1 unrated findings |"), "{}", world.comments()[0]);
    assert!(ran.err.contains("gate    scan.app  the scan of app found nothing above high, within 3s"), "{}", ran.err);
}

/// Nothing is switched, nothing is tagged, and no lease is taken.
#[test]
fn what_is_too_severe_is_refused() {
    let found: &[(&str, &str)] = &[("CRITICAL", "CVE-2026-1"), ("LOW", "CVE-2026-2"), ("CRITICAL", "CVE-2025-3")];
    let mut world = scanned("", script(&[("COMPLETE", found)]));
    world.sandbox.with(|outside| outside.scans.page = Some(2)); // the second critical one is on another page
    let before = world.runs_on("dev");
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "gate.scan");
    assert!(ran.err.contains("has 2 critical findings, and at most high is let through"), "{}", ran.err);
    assert!(ran.err.contains("critical: CVE-2025-3 in openssl 3.0.1") && ran.err.contains("--override scan --reason TEXT"), "{}", ran.err);
    Page::default().shows("scan", "tidegate run", &ran);
    assert_eq!(world.runs_on("dev"), before);
    assert!(world.sandbox.with(|outside| !outside.repositories["demo"].tags.contains_key("latest")));
    assert_eq!(ran.count("/git/refs"), 0, "no lease: {}", ran.log.join("\n"));
    // A person lifts it by hand, and the reason stays.
    let head = world.head();
    let ran = world.run(&["deploy", "dev", &head, "--override", "scan", "--reason", "fire"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("lifted  scan: fire") && ran.count("DescribeImageScanFindings") == 0, "{}", ran.err);
}

/// Lying twin: ECR says COMPLETE, and shows what it found a moment later.
#[test]
fn a_complete_scan_without_findings_is_not_believed_at_once() {
    let mut world = scanned("", script(&[("COMPLETE", &[]), ("COMPLETE", &[]), ("COMPLETE", &[("CRITICAL", "CVE-2026-1")])]));
    world.pushed().run(&["run"]).must(4, "gate.scan");
    let mut world = scanned("", script(&[("COMPLETE", &[])]));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.count("DescribeImageScanFindings") >= 3 && ran.err.contains("no findings"), "{}", ran.log.join("\n"));
    // One that ended long ago is believed at once.
    let mut world = scanned("", Scans::default());
    world.sandbox.with(|outside| {
        outside.scans.script = [Scanned { status: "COMPLETE", completed: Some(1_767_225_600), ..Scanned::default() }].into()
    });
    assert_eq!(world.pushed().run(&["run"]).count("DescribeImageScanFindings"), 1);
}

#[test]
fn enhanced_scans_come_by_themselves() {
    let found: &[(&str, &str)] = &[("UNTRIAGED", "CVE-2026-1"), ("CRITICAL", "suppressed CVE-2026-2"), ("HIGH", "CVE-2026-3")];
    let looks = script(&[("", &[]), ("PENDING", &[]), ("ACTIVE", found)]);
    let mut world = scanned("", Scans { enhanced: true, ..looks });
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("ECR scans it by itself; waiting") && ran.err.contains("1 high, 1 unrated findings"), "{}", ran.err);
    let mut world = scanned("", Scans { enhanced: true, ..script(&[("ACTIVE", &[("CRITICAL", "CVE-2026-1")])]) });
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "gate.scan");
    assert!(ran.err.contains("critical: CVE-2026-1 in openssl 3.0.1, fixed in 3.0.2"), "{}", ran.err);
}

#[test]
fn a_finding_is_let_through_for_a_time() {
    let critical: &[(&str, &str)] = &[("CRITICAL", "CVE-2026-1")];
    let allow = |until: &str| format!(", allow: [{{finding: CVE-2026-1, until: {until:?}, reason: not reachable}}]");
    let mut world = scanned(&allow("2999-12-31"), script(&[("COMPLETE", critical)]));
    let ran = world.pushed().run(&["run"]);
    ran.must(0, "deploy.done");
    assert!(ran.err.contains("1 critical finding; allowed: CVE-2026-1"), "{}", ran.err);
    let mut world = scanned(&allow("2026-01-31"), script(&[("COMPLETE", critical)]));
    let ran = world.pushed().run(&["run"]);
    ran.must(4, "gate.scan");
    assert!(ran.err.contains("was allowed until 2026-01-31: not reachable"), "{}", ran.err);
    let mut world = scanned(&allow("2026-02-31"), script(&[("COMPLETE", critical)]));
    let ran = world.pushed().run(&["run"]);
    ran.must(2, "config.invalid");
    assert!(ran.err.contains("is no day"), "{}", ran.err);
}

#[test]
fn every_other_state_says_what_to_do() {
    for (status, code, reason, words) in [
        ("FAILED", 4, "gate.scan", "its scan failed (as the sandbox says)"),
        ("SCAN_ELIGIBILITY_EXPIRED", 4, "gate.scan", "ECR does not scan it any more, so what it says is old"),
        ("LIMIT_EXCEEDED", 4, "gate.scan", "ECR's limit of scans is reached"),
        ("IMAGE_ARCHIVED", 4, "gate.scan", "the image is archived"),
        ("UNSUPPORTED_IMAGE", 4, "gate.scan", "ECR cannot scan it (as the sandbox says)"),
        ("FINDINGS_UNAVAILABLE", 3, "scan.timeout", "seen last: FINDINGS_UNAVAILABLE (as the sandbox says)"),
        ("PENDING", 3, "scan.timeout", "did not end within 3.0s"),
        ("SOMETHING_NEW", 3, "scan.timeout", "seen last: SOMETHING_NEW"),
    ] {
        let mut world = scanned("", script(&[(status, &[])]));
        let ran = world.pushed().run(&["run"]);
        ran.must(code, reason);
        assert!(ran.err.contains(words), "{status}: {}", ran.err);
    }
}

#[test]
fn an_image_that_cannot_be_scanned_may_be_let_through() {
    for unsupported in [script(&[("UNSUPPORTED_IMAGE", &[])]), Scans { unsupported: true, ..Scans::default() }] {
        let mut world = scanned("", unsupported.clone());
        world.pushed().run(&["run"]).must(4, "gate.scan");
        let mut world = scanned(", on-unsupported: warn", unsupported);
        let ran = world.pushed().run(&["run"]);
        ran.must(0, "deploy.done");
        assert!(ran.err.contains("ECR cannot scan it") && ran.err.contains("let through (on-unsupported: warn)"), "{}", ran.err);
    }
}

#[test]
fn a_scan_is_ecrs() {
    let world = scanned("", Scans::default());
    world.configure("123456789012.dkr.ecr.us-west-2.amazonaws.com/demo", "ghcr.io/acme/demo");
    let ran = world.run(&["check"]);
    assert!(ran.code == 2 && ran.err.contains("the findings are those of ECR, and the image app is at ghcr.io/acme/demo"), "{}", ran.err);
}
