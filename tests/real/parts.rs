//! Where `tests/run` put the real parts.

use std::process::Command;

/// A part's address, or a failure that says how to get it.
#[track_caller]
pub fn part(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_unset| panic!("{name} is not set: run tests/run, which starts the real parts"))
}

/// The output of a program that must succeed.
#[track_caller]
pub fn program(args: &[&str]) -> String {
    let output = Command::new(args[0]).args(&args[1..]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An AWS client configuration that leads to moto.
pub async fn moto(region: &str) -> aws_config::SdkConfig {
    aws_config::defaults(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new(region.to_owned()))
        .credentials_provider(aws_credential_types::Credentials::new("AKIASTORY", "storysecretstorysecret", None, None, "story"))
        .endpoint_url(part("TIDEGATE_REAL_MOTO"))
        .load()
        .await
}
