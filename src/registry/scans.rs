//! What ECR's scan of an image has found: basic scanning (started on push or by us) and enhanced scanning (by Inspector).
//!
//! <https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_DescribeImageScanFindings.html>

use super::ecr::Ecr;
use crate::config::Severity;
use crate::error::{Error, Reason, Result};
use aws_sdk_ecr::error::ProvideErrorMetadata;
use aws_sdk_ecr::types::{EnhancedImageScanFinding, ImageIdentifier, ImageScanFinding, ImageScanFindings};
use jiff::Timestamp;

/// How a scan stands.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// As ECR says it, as COMPLETE; nothing where there is no scan.
    pub status: Option<String>,
    /// What ECR says about that.
    pub description: String,
    /// What was found.
    pub findings: Vec<Finding>,
    /// When the scan ended.
    pub completed: Option<Timestamp>,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is; nothing while nobody has said so (UNDEFINED, UNTRIAGED).
    pub severity: Option<Severity>,
    /// Its name, as CVE-2026-1234.
    pub name: String,
    /// What it is in, as `openssl 3.0.1`.
    pub package: String,
    /// The version without it, where there is one.
    pub fixed_in: Option<String>,
}

/// What became of the wish for a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// ECR scans.
    Now,
    /// It is scanned without being asked.
    ByItself,
}

impl Ecr {
    /// How the scan of an image stands, with everything that it found.
    pub async fn scan(&self, digest: &str) -> Result<Look> {
        let mut look = Look::default();
        let mut next: Option<String> = None;
        loop {
            let image = ImageIdentifier::builder().image_digest(digest).build();
            let request = self.client.describe_image_scan_findings().registry_id(&self.host.account);
            let request = request.repository_name(&self.repository.path).image_id(image).max_results(1000).set_next_token(next);
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) if error.code() == Some("ScanNotFoundException") => return Ok(look),
                Err(error) => return Err(self.failure("its scan cannot be read", "ecr:DescribeImageScanFindings", &error)),
            };
            if let Some(status) = answer.image_scan_status() {
                look.status = status.status().map(|status| status.as_str().to_owned());
                status.description().unwrap_or_default().clone_into(&mut look.description);
            }
            look.add(answer.image_scan_findings());
            next = answer.next_token().map(str::to_owned);
            if next.is_none() {
                return Ok(look);
            }
        }
    }

    /// Asks for a basic scan.
    pub async fn start_scan(&self, digest: &str) -> Result<Begun> {
        let image = ImageIdentifier::builder().image_digest(digest).build();
        let request = self.client.start_image_scan().registry_id(&self.host.account).repository_name(&self.repository.path);
        match request.image_id(image).send().await {
            Ok(_begun) => Ok(Begun::Now),
            // Enhanced scanning is never asked for: "This feature is disabled".
            Err(error) if error.code() == Some("ValidationException") => Ok(Begun::ByItself),
            Err(error) if error.code() == Some("LimitExceededException") => Ok(Begun::ByItself), // it was asked for a moment ago
            Err(error) if error.code() == Some("UnsupportedImageTypeException") => {
                let sentence =
                    format!("ECR cannot scan {}@{digest}: {}", self.repository, error.message().unwrap_or("unsupported image type"));
                Err(Error { gone: true, ..Error::new(Reason::GateScan, sentence) })
            }
            Err(error) => Err(self.failure("a scan cannot be started", "ecr:StartImageScan", &error)),
        }
    }
}

impl Look {
    fn add(&mut self, found: Option<&ImageScanFindings>) {
        let Some(found) = found else { return };
        let completed = found.image_scan_completed_at().map(aws_smithy_types::DateTime::secs);
        self.completed = self.completed.or_else(|| Timestamp::from_second(completed?).ok());
        self.findings.extend(found.findings().iter().map(basic));
        // What is suppressed or closed does not count any more.
        let active = |finding: &&EnhancedImageScanFinding| finding.status().is_none_or(|status| status == "ACTIVE");
        self.findings.extend(found.enhanced_findings().iter().filter(active).map(enhanced));
    }
}

fn basic(finding: &ImageScanFinding) -> Finding {
    let attribute = |name: &str| finding.attributes().iter().find(|attribute| attribute.key() == name).and_then(|found| found.value());
    let package = [attribute("package_name"), attribute("package_version")];
    Finding {
        severity: finding.severity().and_then(|severity| severity_of(severity.as_str())),
        name: finding.name().unwrap_or("unnamed").to_owned(),
        package: package.into_iter().flatten().collect::<Vec<_>>().join(" "),
        fixed_in: None,
    }
}

fn enhanced(finding: &EnhancedImageScanFinding) -> Finding {
    let details = finding.package_vulnerability_details();
    let package = details.and_then(|details| details.vulnerable_packages().first());
    let named = details.and_then(|details| details.vulnerability_id()).or(finding.title());
    let shown = package.map(|package| [package.name(), package.version()].into_iter().flatten().collect::<Vec<_>>().join(" "));
    Finding {
        severity: finding.severity().and_then(severity_of),
        name: named.unwrap_or("unnamed").to_owned(),
        package: shown.unwrap_or_default(),
        fixed_in: package.and_then(|package| package.fixed_in_version()).filter(|version| *version != "NotAvailable").map(str::to_owned),
    }
}

fn severity_of(text: &str) -> Option<Severity> {
    Some(match text {
        "INFORMATIONAL" => Severity::Informational,
        "LOW" => Severity::Low,
        "MEDIUM" => Severity::Medium,
        "HIGH" => Severity::High,
        "CRITICAL" => Severity::Critical,
        _unrated => return None,
    })
}
