//! Outputs for later steps, the job summary, and the report file.

use super::{Report, markdown};
use crate::error::{Error, Reason, Result};
use crate::inputs::Inputs;
use crate::tools::redact::Redactor;
use crate::vars::Vars;
use crate::version::hex;
use crate::world::World;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Component, Path, PathBuf};

/// The action's outputs, by name.
pub fn outputs(report: &Report, report_file: Option<&Path>) -> Vec<(&'static str, String)> {
    let first = report.images.first();
    let images: Vec<serde_json::Value> =
        report.images.iter().map(|image| serde_json::json!({"name": image.name, "ref": image.r#ref, "digest": image.digest})).collect();
    let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    vec![
        ("outcome", name(serde_json::json!(report.outcome))),
        ("reason", report.reason.name().to_owned()),
        ("environment", report.environment.clone().unwrap_or_default()),
        ("version", report.version.clone().unwrap_or_default()),
        ("image", first.map(|image| image.r#ref.clone()).unwrap_or_default()),
        ("digest", first.map(|image| image.digest.clone()).unwrap_or_default()),
        ("images", serde_json::Value::Array(images).to_string()),
        ("verdict", report.verdict.name().to_owned()),
        ("url", report.urls.get("environment").cloned().or_else(|| report.target_url()).unwrap_or_default()),
        ("deployment-id", report.deployment_id.map(|id| id.to_string()).unwrap_or_default()),
        ("report", report_file.map(|path| path.display().to_string()).unwrap_or_default()),
    ]
}

/// Writes outputs and summary where the CI system wants them. What fails is returned as warnings: telling is best effort.
pub fn write(report: &Report, report_file: Option<&Path>, world: &World) -> Vec<String> {
    let vars = &world.vars;
    let mut warnings = Vec::new();
    // Later steps see the workspace elsewhere: its own part of a path says nothing to them.
    let workspace = vars.get("GITHUB_WORKSPACE").or_else(|| vars.get("CI_PROJECT_DIR")).map(Path::new);
    let report_file = report_file.map(|path| workspace.and_then(|folder| path.strip_prefix(folder).ok()).unwrap_or(path));
    let cleaned = report.cleaned(world.console.redactor());
    if let Some(path) = vars.get("GITHUB_OUTPUT") {
        let text: String = outputs(&cleaned, report_file).iter().map(|(name, value)| heredoc(name, value)).collect();
        if let Err(error) = append(path, &text) {
            warnings.push(format!("the outputs cannot be written to {path}: {error}"));
        }
    }
    if vars.is_true("GITLAB_CI") && !world.rehearsal {
        let folder = vars.get("CI_PROJECT_DIR").map(Path::new).filter(|folder| folder.is_dir()).unwrap_or(Path::new(""));
        let path = folder.join(vars.get("TIDEGATE_DOTENV").unwrap_or("tidegate.env"));
        let (text, left_out) = dotenv(&outputs(report, report_file), world.console.redactor());
        if let Err(error) = write_file(&path, &text, vars) {
            warnings.push(format!("the outputs cannot be written to {}: {error}", path.display()));
        }
        if !left_out.is_empty() {
            let names = left_out.join(", ");
            let them = if report_file.is_some() { "the report file has them" } else { "`--report FILE` has them" };
            world.console.dim(&format!("  outputs that a dotenv report cannot hold are left out ({names}): {them}"));
        }
    }
    if let Some(path) = vars.get("GITHUB_STEP_SUMMARY")
        && Inputs::of(vars).flag("summary", true).unwrap_or(true)
        && let Err(error) = append(path, &format!("{}\n", world.console.redactor().clean(&markdown::summary(&cleaned))))
    {
        warnings.push(format!("the summary cannot be written to {path}: {error}"));
    }
    warnings
}

/// The report as JSON, free of secrets.
pub fn report_json(report: &Report, world: &World) -> String {
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    format!("{}\n", world.console.redactor().clean(&text))
}

/// Writes `--report FILE`. The file was asked for by name, so this failure counts.
pub fn write_report(report: &Report, path: &Path, world: &World) -> Result<()> {
    write_file(path, &report_json(report, world), &world.vars)
        .map_err(|error| Error::new(Reason::InputInvalid, format!("the report cannot be written to {}: {error}", path.display())))
}

/// Writes a file. In a workspace it belongs to the owner of its folder (in a container we are root, and the runner has to
/// clean up) and no link of the checkout leads out of there; elsewhere the path is the user's own affair.
fn write_file(path: &Path, text: &str, vars: &Vars) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, lchown};
    let whole = plain_path(&std::env::current_dir()?.join(path));
    let folder = whole.parent().unwrap_or(Path::new("/"));
    let here = std::env::current_dir()?;
    let roots = ["GITHUB_WORKSPACE", "CI_PROJECT_DIR"].into_iter().filter_map(|name| vars.get(name)).map(Path::new);
    let Some(root) = roots.chain([here.as_path()]).find(|root| folder.starts_with(root)) else {
        return std::fs::write(&whole, text); // /dev/stdout, a pipe, a mounted file
    };
    if !std::fs::canonicalize(folder)?.starts_with(std::fs::canonicalize(root)?) {
        return Err(std::io::Error::other(format!("a link in {} leads out of {}", folder.display(), root.display())));
    }
    let there = std::fs::symlink_metadata(&whole);
    if there.as_ref().is_ok_and(std::fs::Metadata::is_symlink) {
        std::fs::remove_file(&whole)?; // the checkout's, not ours
    }
    std::fs::write(&whole, text)?;
    let owner = std::fs::metadata(folder)?;
    if !there.is_ok_and(|there| there.is_file()) && std::fs::metadata(&whole)?.uid() != owner.uid() {
        let _not_root = lchown(&whole, Some(owner.uid()), Some(owner.gid()));
    }
    Ok(())
}

/// The path without `.` and `..`, by its words alone.
fn plain_path(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

fn append(path: &str, text: &str) -> std::io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes())
}

/// GitLab refuses a dotenv report above this many bytes as a whole.
const DOTENV_LIMIT: usize = 5 * 1024;

/// The outputs as GitLab's dotenv report takes them, and the names of those that it would refuse the whole report for.
/// <https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv>
fn dotenv(outputs: &[(&'static str, String)], redactor: &Redactor) -> (String, Vec<&'static str>) {
    let mut text = String::new();
    let mut left_out = Vec::new();
    for (name, value) in outputs.iter().filter(|(_, value)| !value.is_empty()) {
        let value = redactor.clean(value);
        let line = format!("TIDEGATE_{}={value}\n", name.to_ascii_uppercase().replace('-', "_"));
        let plain = !value.chars().any(|c| c.is_control() || matches!(c, '"' | '\'' | '`' | '\\' | '$' | '#'));
        match plain && value.trim() == value && text.len() + line.len() <= DOTENV_LIMIT {
            true => text.push_str(&line),
            false => left_out.push(*name),
        }
    }
    (text, left_out)
}

/// A value between random delimiters, so that no value can end itself and start another output.
fn heredoc(name: &str, value: &str) -> String {
    loop {
        let delimiter = format!("tidegate_{}", random());
        if !value.contains(&delimiter) {
            return format!("{name}<<{delimiter}\n{value}\n{delimiter}\n");
        }
    }
}

/// 128 random bits as hex.
pub fn random() -> String {
    let mut bytes = [0_u8; 16];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => hex(&bytes),
        Err(_unspecified) => hex(&std::process::id().to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotenv_report_holds_only_what_gitlab_takes() {
        let all = [
            ("version", "1.4.2".to_owned()),
            ("deployment-id", "7".to_owned()),
            ("images", r#"[{"name":"ui"}]"#.to_owned()),
            ("url", "x\nTIDEGATE_VERSION=evil".to_owned()),
            ("image", "x".repeat(DOTENV_LIMIT)),
            ("digest", String::new()),
            ("reason", "deploy.done".to_owned()),
        ];
        let (text, left_out) = dotenv(&all, &Redactor::default());
        assert_eq!(text, "TIDEGATE_VERSION=1.4.2\nTIDEGATE_DEPLOYMENT_ID=7\nTIDEGATE_REASON=deploy.done\n");
        assert_eq!(left_out, ["images", "url", "image"]);
    }

    #[test]
    fn a_value_cannot_end_itself() {
        let text = heredoc("version", "x\nEOF\ndigest<<EOF\nevil\nEOF");
        let delimiter = text.lines().next().unwrap().strip_prefix("version<<").unwrap().to_owned();
        assert_eq!(text.lines().filter(|line| *line == delimiter).count(), 1);
        assert!(text.ends_with(&format!("\n{delimiter}\n")) && delimiter.len() > 32);
    }
}
