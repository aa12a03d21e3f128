//! The pretend scans of ECR: basic ones, started on push or when asked for, and enhanced ones, which come by themselves.

use super::aws::error;
use super::sandbox::json_answer;
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// How scans behave.
#[derive(Clone, Debug, Default)]
pub struct Scans {
    /// What each look shows; the last one stays. Empty: nothing is scanned until it is asked for, and then there are no findings.
    pub script: VecDeque<Scanned>,
    /// Whether Inspector scans, and nobody else may.
    pub enhanced: bool,
    /// Whether images cannot be scanned.
    pub unsupported: bool,
    /// How many findings a page shows.
    pub page: Option<usize>,
    /// Digests for which a scan was asked for.
    pub started: Vec<String>,
}

/// What a look shows.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// The status; there is no scan where it is empty.
    pub status: &'static str,
    /// Severities and names.
    pub findings: Vec<(&'static str, &'static str)>,
    /// When it ended, in seconds since 1970.
    pub completed: Option<i64>,
}

/// Answers a request about scans, if it is one.
pub(super) fn answer(scans: &mut Scans, generous: bool, action: &str, body: &Value) -> Option<Response> {
    let digest = body.pointer("/imageId/imageDigest").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(match action {
        "StartImageScan" if scans.enhanced => error(400, "ValidationException", "This feature is disabled"),
        "StartImageScan" if scans.unsupported => {
            error(400, "UnsupportedImageTypeException", "The operating system and/or package manager are not supported.")
        }
        "StartImageScan" => {
            scans.started.push(digest);
            json_answer(200, &json!({"imageScanStatus": {"status": "IN_PROGRESS"}}))
        }
        "DescribeImageScanFindings" => {
            let ended = Scanned { status: "COMPLETE", completed: Some(1_767_225_600), ..Scanned::default() };
            let look = match scans.script.front().cloned() {
                Some(look) => look,
                None if generous || scans.started.contains(&digest) => ended,
                None => Scanned::default(),
            };
            let page = scans.page.unwrap_or(1000);
            let start: usize = body.get("nextToken").and_then(Value::as_str).and_then(|token| token.parse().ok()).unwrap_or(0);
            let is_last = start + page >= look.findings.len();
            if is_last && scans.script.len() > 1 {
                scans.script.pop_front();
            }
            if look.status.is_empty() {
                return Some(error(400, "ScanNotFoundException", &format!("Image scan does not exist for the image {digest}")));
            }
            let shown: Vec<Value> = look.findings.iter().skip(start).take(page).map(|finding| shown(finding, scans.enhanced)).collect();
            let list = if scans.enhanced { "enhancedFindings" } else { "findings" };
            let mut answer = json!({
                "imageScanStatus": {"status": look.status, "description": "as the sandbox says"},
                "imageScanFindings": {list: shown, "imageScanCompletedAt": look.completed},
            });
            if !is_last {
                crate::targets::set(&mut answer, &["nextToken"], json!((start + page).to_string()));
            }
            json_answer(200, &answer)
        }
        _other => return None,
    })
}

fn shown((severity, name): &(&str, &str), enhanced: bool) -> Value {
    if !enhanced {
        let attribute = |key: &str, value: &str| json!({"key": key, "value": value});
        return json!({
            "name": name, "severity": severity, "uri": format!("https://example.com/{name}"),
            "attributes": [attribute("package_name", "openssl"), attribute("package_version", "3.0.1")],
        });
    }
    let (status, name) = name.strip_prefix("suppressed ").map_or(("ACTIVE", *name), |name| ("SUPPRESSED", name));
    json!({
        "severity": severity, "status": status, "title": format!("{name} - openssl"), "type": "PACKAGE_VULNERABILITY",
        "packageVulnerabilityDetails": {
            "vulnerabilityId": name,
            "vulnerablePackages": [{"name": "openssl", "version": "3.0.1", "fixedInVersion": "3.0.2", "packageManager": "OS"}],
        },
    })
}
