//! The real `awx` command line (awxkit) against the pretend AWX: what drives that must be enough for AWX's own client.

use crate::parts::part;
use crate::world::World;
use std::process::Command;
use tidegate::rehearse::awx::{Fate, PASSWORD, TOKEN, Template};

/// Exit code and output of an `awx` command, by token and by login.
fn awx(world: &World, args: &[&str]) -> Vec<(i32, String)> {
    let logins: [&[(&str, &str)]; 2] =
        [&[("CONTROLLER_OAUTH_TOKEN", TOKEN)], &[("CONTROLLER_USERNAME", "admin"), ("CONTROLLER_PASSWORD", PASSWORD)]];
    logins
        .iter()
        .map(|login| {
            let mut command = Command::new(part("TIDEGATE_REAL_AWX"));
            command.args(args).env("CONTROLLER_HOST", format!("http://{}", world.sandbox.address)).envs(login.iter().copied());
            let output = command.env("HOME", world.folder.path()).output().unwrap();
            let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            (output.status.code().unwrap(), text)
        })
        .collect()
}

#[test]
fn the_command_line_launches_and_follows() {
    let world = World::new();
    world.sandbox.with(|outside| {
        outside.awx.templates = vec![
            Template::new(7, "Name With Spaces", Fate::Successful),
            Template::new(8, "Deploy Fails", Fate::Failed),
            Template { is_workflow: true, ..Template::new(30, "Release Workflow", Fate::Successful) },
            Template { asks: false, ..Template::new(11, "No Prompts", Fate::Successful) },
        ];
    });
    let launch =
        ["job_templates", "launch", "Name With Spaces", "--extra_vars", r#"{"stack_image_tag": "1.10"}"#, "--monitor", "-f", "json"];
    for (code, said) in awx(&world, &launch) {
        assert!(code == 0 && said.contains("\"status\": \"successful\"") && said.contains("ok: [web1]"), "{code}: {said}");
    }
    let request = world.sandbox.with(|outside| outside.awx.jobs[&42].request.clone());
    assert_eq!(request["extra_vars"]["stack_image_tag"], "1.10", "text stays text");
    for (code, said) in awx(&world, &["job_templates", "launch", "Deploy Fails", "--monitor", "-f", "json"]) {
        assert!(code == 1 && said.contains("\"status\": \"failed\""), "{code}: {said}");
    }
    for (code, said) in awx(&world, &["workflow_job_templates", "launch", "Release Workflow", "--monitor", "-f", "json"]) {
        assert!(code == 0 && said.contains("\"status\": \"successful\""), "{code}: {said}");
    }
    for (code, said) in awx(&world, &["job_templates", "launch", "No Prompts", "--limit", "web"]) {
        assert!(code == 0 && said.contains("\"limit\": \"web\"") && said.contains("ignored_fields"), "{code}: {said}");
    }
    for (code, said) in awx(&world, &["jobs", "get", "42"]) {
        assert!(code == 0 && said.contains("\"id\": 42"), "{code}: {said}");
    }
    for (code, said) in awx(&world, &["jobs", "stdout", "42"]) {
        assert!(code == 0 && said.contains("PLAY RECAP"), "{code}: {said}");
    }
    for (code, said) in awx(&world, &["job_templates", "launch", "Nope"]) {
        assert!(code == 2 && said.contains("Could not find any"), "{code}: {said}");
    }
}
