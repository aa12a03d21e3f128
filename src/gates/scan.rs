//! `gates: [{scan: …}]`: the registry's scan of the image must have ended, and have found nothing too severe.

use crate::config::{AllowedFinding, OnUnsupported, Severity};
use crate::error::{Error, Reason, Result};
use crate::registry::ecr::Ecr;
use crate::registry::scans::{Begun, Finding, Look};
use crate::tools::wait::spoken;
use crate::world::World;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use std::time::Duration;

/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// How many looks in a row may fail.
const LOST: u32 = 5;
/// How many findings are named.
const SHOWN: usize = 10;

/// What is asked of the scan of one image.
#[derive(Clone, Debug, Serialize)]
pub struct Scan {
    /// The image's key.
    pub image: String,
    /// The highest severity that is let through.
    pub max: Severity,
    /// How long to wait.
    pub timeout: Duration,
    /// How long findings must stay the same.
    pub settle: Duration,
    /// What an image means that cannot be scanned.
    pub on_unsupported: OnUnsupported,
    /// What is let through.
    pub allow: Vec<Allowed>,
}

/// A finding that is let through.
#[derive(Clone, Debug, Serialize)]
pub struct Allowed {
    /// Its name.
    pub finding: String,
    /// The last day.
    pub until: Date,
    /// Why.
    pub reason: String,
}

impl Allowed {
    /// As tidegate.yml says it; `check` has looked at the date.
    pub fn of(entry: &AllowedFinding) -> Result<Self> {
        let until = Date::strptime("%Y-%m-%d", &entry.until)
            .map_err(|why| Error::new(Reason::ConfigInvalid, format!("{:?} is no day: {why}", entry.until)))?;
        Ok(Self { finding: entry.finding.clone(), until, reason: entry.reason.clone() })
    }
}

impl Scan {
    /// What may be found, for people.
    pub fn limit(&self) -> String {
        if self.max == Severity::None { "nothing".into() } else { format!("nothing above {}", name(Some(self.max))) }
    }
}

/// What a look means.
enum Next {
    /// There is no scan.
    Begin,
    /// It goes on.
    Wait(String),
    /// It has ended.
    Judge,
    /// It cannot be done.
    Unsupported(String),
    /// It will not end.
    Never(String, &'static str),
}

/// Waits for the scan of an image, all of its platforms, and judges what it found; `name` is for people.
pub async fn wait(world: &World, ecr: &Ecr, (name, digests): (&str, &[String]), scan: &Scan) -> Result<String> {
    let mut said = Vec::new();
    for digest in digests {
        let one = Watch { world, ecr, name, digest, scan, deadline: world.clock.now().saturating_add(scan.timeout) };
        let text = one.watch().await?;
        if !said.contains(&text) {
            said.push(text);
        }
    }
    Ok(said.join("; "))
}

struct Watch<'a> {
    world: &'a World,
    ecr: &'a Ecr,
    name: &'a str,
    digest: &'a str,
    scan: &'a Scan,
    deadline: Duration,
}

impl Watch<'_> {
    async fn watch(&self) -> Result<String> {
        let Self { world, ecr, name, scan, .. } = self;
        let (mut settled, mut begun, mut lost) = (Settling::default(), false, 0);
        let mut seen = "no scan yet".to_owned();
        loop {
            match ecr.scan(self.digest).await {
                Err(error) if error.reason == Reason::AuthDenied || lost >= LOST => return Err(error),
                Err(error) => {
                    lost += 1;
                    world.console.line(&format!("  {name}: {}; asking again", error.sentence));
                }
                Ok(look) => {
                    lost = 0;
                    match next(&look) {
                        Next::Begin if begun => {}
                        Next::Begin => {
                            begun = true;
                            match ecr.start_scan(self.digest).await {
                                Ok(Begun::Now) => world.console.line(&format!("  {name}: ECR begins a scan")),
                                Ok(Begun::ByItself) => world.console.line(&format!("  {name}: ECR scans it by itself; waiting")),
                                Err(error) if error.gone => return self.unsupported(&error.sentence),
                                Err(error) => return Err(error),
                            }
                        }
                        Next::Wait(what) => seen = what,
                        Next::Unsupported(why) => return self.unsupported(&why),
                        Next::Never(why, hint) => return Err(refused(format!("{name}: {why}")).hint(hint)),
                        Next::Judge => {
                            let verdict = judge(&look.findings, scan, today()).map_err(|error| self.named(error))?;
                            if settled.is_over(&look, world.clock.now(), scan.settle) {
                                return Ok(verdict);
                            }
                            seen = format!("{}: {verdict}; believed when it stays so for {}", status(&look), spoken(scan.settle));
                        }
                    }
                }
            }
            if world.clock.now() >= self.deadline {
                let sentence = format!("the scan of {name} did not end within {}; seen last: {seen}", spoken(scan.timeout));
                return Err(Error::new(Reason::ScanTimeout, sentence).hint(
                    "is scanning on for this repository (scan on push, or enhanced scanning)? `timeout:` of the gate may be longer",
                ));
            }
            world.clock.sleep(PAUSE.min(scan.settle / 2).max(Duration::from_millis(200))).await;
        }
    }

    fn unsupported(&self, why: &str) -> Result<String> {
        let said = format!("{}: ECR cannot scan it ({})", self.name, if why.is_empty() { "no reason is given" } else { why });
        match self.scan.on_unsupported {
            OnUnsupported::Warn => {
                self.world.console.warning(&said);
                Ok("cannot be scanned, and is let through (on-unsupported: warn)".into())
            }
            OnUnsupported::Fail => Err(refused(said).hint(
                "an image from scratch has no packages that ECR knows: build it from a distribution, use enhanced scanning, or write `on-unsupported: warn`",
            )),
        }
    }

    fn named(&self, error: Error) -> Error {
        Error { sentence: format!("{} {}", self.name, error.sentence), ..error }
    }
}

fn refused(sentence: String) -> Error {
    Error::new(Reason::GateScan, sentence)
}

fn today() -> Date {
    Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn status(look: &Look) -> &str {
    look.status.as_deref().unwrap_or("no scan")
}

/// Every status that ECR has, and those that it may get.
fn next(look: &Look) -> Next {
    let told = |what: &str| match look.description.as_str() {
        "" => what.to_owned(),
        description => format!("{what} ({description})"),
    };
    match look.status.as_deref() {
        None => Next::Begin,
        Some("COMPLETE" | "ACTIVE") => Next::Judge,
        Some("UNSUPPORTED_IMAGE") => Next::Unsupported(look.description.clone()),
        Some("FAILED") => Next::Never(told("its scan failed"), "push it again, or start a scan by hand and look at what ECR says"),
        Some("SCAN_ELIGIBILITY_EXPIRED") => Next::Never(
            told("ECR does not scan it any more, so what it says is old"),
            "set a longer re-scan duration in Inspector, or build the version anew",
        ),
        Some("LIMIT_EXCEEDED") => {
            Next::Never(told("ECR's limit of scans is reached"), "an image is scanned once in 24 hours: run this again then")
        }
        Some("IMAGE_ARCHIVED") => Next::Never(told("the image is archived"), "restore it, or deploy another version"),
        Some(other) => Next::Wait(told(other)), // IN_PROGRESS, PENDING, FINDINGS_UNAVAILABLE, and what is new
    }
}

/// ECR says that a scan has ended before it shows all that it found: only what stays the same is believed.
#[derive(Default)]
struct Settling {
    seen: Option<(Vec<Finding>, Duration)>,
}

impl Settling {
    fn is_over(&mut self, look: &Look, now: Duration, settle: Duration) -> bool {
        let age = look.completed.and_then(|at| Duration::try_from(Timestamp::now().duration_since(at)).ok());
        if age.is_some_and(|age| age >= settle) {
            return true; // it ended long ago
        }
        let mut findings = look.findings.clone();
        findings.sort();
        match &self.seen {
            Some((known, since)) if *known == findings => now.saturating_sub(*since) >= settle,
            Some(_) | None => {
                self.seen = Some((findings, now));
                settle.is_zero()
            }
        }
    }
}

/// What was found, in a few words; or what is too severe, without the name of the image.
fn judge(findings: &[Finding], scan: &Scan, today: Date) -> Result<String> {
    let entry = |finding: &Finding| scan.allow.iter().find(|allowed| allowed.finding.eq_ignore_ascii_case(&finding.name));
    let allowed = |finding: &Finding| entry(finding).is_some_and(|allowed| today <= allowed.until);
    let too_severe = |finding: &Finding| match finding.severity {
        Some(severity) => severity > scan.max,
        None => scan.max == Severity::None,
    };
    let mut bad: Vec<&Finding> = findings.iter().filter(|finding| too_severe(finding) && !allowed(finding)).collect();
    if bad.is_empty() {
        let mut excused: Vec<&str> = findings.iter().filter(|f| too_severe(f)).map(|finding| finding.name.as_str()).collect();
        excused.sort_unstable();
        excused.dedup();
        let excused = if excused.is_empty() { String::new() } else { format!("; allowed: {}", excused.join(", ")) };
        return Ok(format!("{}{excused}", counted(findings)));
    }
    bad.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.name.cmp(&b.name)));
    let counts = bad.iter().map(|finding| (*finding).clone()).collect::<Vec<_>>();
    let mut detail: Vec<String> = bad.iter().take(SHOWN).map(|finding| shown(finding, entry(finding))).collect();
    if bad.len() > SHOWN {
        detail.push(format!("… and {} more", bad.len() - SHOWN));
    }
    let limit = if scan.max == Severity::None { "nothing".to_owned() } else { format!("at most {}", name(Some(scan.max))) };
    let sentence = format!("has {}, and {limit} is let through", counted(&counts));
    Err(refused(sentence).detail(detail).hint(
        "update what they are in; or let one through for a time: `allow: [{finding: …, until: DATE, reason: …}]`; in an emergency by hand: --override scan --reason TEXT",
    ))
}

fn shown(finding: &Finding, expired: Option<&Allowed>) -> String {
    let fixed = finding.fixed_in.as_ref().map(|version| format!(", fixed in {version}")).unwrap_or_default();
    let was = expired.map(|allowed| format!(" (was allowed until {}: {})", allowed.until, allowed.reason)).unwrap_or_default();
    let package = if finding.package.is_empty() { String::new() } else { format!(" in {}", finding.package) };
    format!("{}: {}{package}{fixed}{was}", name(finding.severity), finding.name)
}

/// "2 critical, 1 low" or "no findings".
fn counted(findings: &[Finding]) -> String {
    let all =
        [Some(Severity::Critical), Some(Severity::High), Some(Severity::Medium), Some(Severity::Low), Some(Severity::Informational), None];
    let count = |severity: Option<Severity>| findings.iter().filter(|finding| finding.severity == severity).count();
    let parts = all.into_iter().map(|severity| (count(severity), name(severity))).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, name)| format!("{count} {name}")).collect();
    match parts.as_slice() {
        [] => "no findings".into(),
        some => format!("{} {}", some.join(", "), if findings.len() == 1 { "finding" } else { "findings" }),
    }
}

fn name(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Critical) => "critical",
        Some(Severity::High) => "high",
        Some(Severity::Medium) => "medium",
        Some(Severity::Low) => "low",
        Some(Severity::Informational) => "informational",
        Some(Severity::None) => "none",
        None => "unrated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(max: Severity, allow: &[(&str, &str)]) -> Scan {
        let allow = allow.iter().map(|(finding, until)| Allowed {
            finding: (*finding).into(),
            until: Date::strptime("%Y-%m-%d", until).unwrap(),
            reason: "not reachable".into(),
        });
        Scan {
            image: "app".into(),
            max,
            timeout: Duration::ZERO,
            settle: Duration::ZERO,
            on_unsupported: OnUnsupported::Fail,
            allow: allow.collect(),
        }
    }

    fn finding(name: &str, severity: Option<Severity>) -> Finding {
        Finding { severity, name: name.into(), package: "openssl 3.0.1".into(), fixed_in: Some("3.0.2".into()) }
    }

    #[test]
    fn the_highest_that_is_let_through_is_the_limit() {
        let today = Date::strptime("%Y-%m-%d", "2026-06-01").unwrap();
        let found = [finding("CVE-1", Some(Severity::Critical)), finding("CVE-2", Some(Severity::High)), finding("CVE-3", None)];
        let judged = |max, allow: &[(&str, &str)]| judge(&found, &scan(max, allow), today).map_err(|error| (error.sentence, error.detail));
        assert_eq!(judged(Severity::Critical, &[]).unwrap(), "1 critical, 1 high, 1 unrated findings");
        let (sentence, detail) = judged(Severity::High, &[]).unwrap_err();
        assert_eq!(sentence, "has 1 critical finding, and at most high is let through");
        assert_eq!(detail, ["critical: CVE-1 in openssl 3.0.1, fixed in 3.0.2"]);
        assert!(judged(Severity::None, &[]).unwrap_err().0.contains("1 unrated findings, and nothing is let through"));
        // Allowed to the end of the day, and no longer.
        assert!(judged(Severity::High, &[("cve-1", "2026-06-01")]).unwrap().ends_with("; allowed: CVE-1"));
        let (_, detail) = judged(Severity::High, &[("CVE-1", "2026-05-31")]).unwrap_err();
        assert!(detail[0].contains("was allowed until 2026-05-31: not reachable"), "{detail:?}");
    }

    #[test]
    fn only_what_stays_the_same_is_believed() {
        let look = |findings: Vec<Finding>| Look { status: Some("COMPLETE".into()), findings, ..Look::default() };
        let settle = Duration::from_secs(30);
        let mut settling = Settling::default();
        assert!(!settling.is_over(&look(Vec::new()), Duration::from_secs(0), settle));
        assert!(!settling.is_over(&look(vec![finding("CVE-1", None)]), Duration::from_secs(29), settle), "more came");
        assert!(!settling.is_over(&look(vec![finding("CVE-1", None)]), Duration::from_secs(58), settle));
        assert!(settling.is_over(&look(vec![finding("CVE-1", None)]), Duration::from_secs(59), settle));
        let old = Look { completed: Some(Timestamp::from_second(1).unwrap()), ..look(Vec::new()) };
        assert!(Settling::default().is_over(&old, Duration::ZERO, settle), "it ended long ago");
    }
}
