//! The CD server's page in a real browser, headless.

use crate::cd::{Cd, PASSWORD};
use crate::parts::part;
use std::process::Command;

/// What jobs do while somebody looks: markup and colours among their words, and time to see them come.
pub const STEPS: &str = r#"echo "<script>document.title='taken'</script>"
for step in 1 2 3; do printf '\033[32mstep %s\033[0m\n' $step; sleep 1; done"#;

#[test]
fn people_deploy_look_and_cancel() {
    let cd = Cd::new("");
    cd.job(STEPS);
    let script = format!("{}/tests/real/page.mjs", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("node");
    command.args([&script, &format!("http://{}", cd.address), &part("TIDEGATE_REAL_BROWSER")]);
    let output = command.env("PASSWORD", PASSWORD).env("BOB", "battery-horse-correct").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{}", String::from_utf8_lossy(&output.stdout), cd.said());
}
