//! What docs/serve.md and the files beside it show holds, and a new user can do it.

use crate::cd::Cd;
use std::path::{Path, PathBuf};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(docs().join(name)).unwrap()
}

/// The blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    page.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Whether a configuration holds, with every secret there.
#[track_caller]
fn holds(text: &str, words: &str) {
    let mut cd = Cd::prepared("");
    cd.write("http-auth", "user:password-of-docker-hub\n");
    let text = text.replace("/etc/tidegate/http-auth", "http-auth");
    cd.write("tidegate-serve.yml", &text);
    for piece in text.split("env: ").skip(1) {
        let name: String = piece.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        if !name.is_empty() {
            cd.var(&name, "a-secret-of-the-example");
        }
    }
    let (code, said) = cd.refused(&["--check"]);
    assert!(code == 0 && said.contains(words), "{code}: {said}\n{text}");
}

#[test]
fn the_examples_hold() {
    let page = read("serve.md");
    let yaml = blocks(&page, "yaml");
    assert_eq!(yaml.len(), 2);
    holds(&yaml[0], "1 app, 1 runner, 0 webhooks");
    holds(&format!("{}{}", yaml[0], yaml[1]), "1 app, 1 runner, 5 webhooks");
    holds(&read("serve/enac.yml"), "0 apps, 1 runner, 0 webhooks");
    holds(&read("serve/jincor.yml"), "0 apps, 1 runner, 1 webhook");
    let map = read("serve/kubernetes.yml");
    let inner = map.split("tidegate-serve.yml: |\n").nth(1).unwrap().split("---").next().unwrap();
    let inner: String = inner.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    holds(&inner, "1 app, 1 runner, 0 webhooks");
}

#[test]
fn the_page_names_every_key_and_every_placeholder() {
    let page = read("serve.md");
    let schema: serde_json::Value = serde_json::from_str(&read("tidegate-serve.schema.json")).unwrap();
    let mut maps: Vec<&serde_json::Value> = vec![&schema["properties"]];
    maps.extend(schema["definitions"].as_object().unwrap().values().map(|definition| &definition["properties"]));
    for map in maps {
        for key in map.as_object().into_iter().flat_map(|map| map.keys()).filter(|key| *key != "schema") {
            assert!(page.contains(key.as_str()), "{key} is not in docs/serve.md");
        }
    }
}

#[test]
fn the_first_steps_of_the_page_work_as_they_stand() {
    let page = read("serve.md");
    let script = blocks(&page, "sh").into_iter().next().unwrap();
    let curl = script.lines().find(|line| line.starts_with("curl ")).unwrap();
    let mut cd = Cd::prepared("");
    cd.write("tidegate-serve.yml", &format!("{}data: data\nlisten: 127.0.0.1:0\n", blocks(&page, "yaml")[0]));
    let made = std::process::Command::new("sh").args(["-c", script.lines().next().unwrap()]).current_dir(cd.folder.path()).status();
    assert!(made.unwrap().success());
    cd.var("MY_APP_SECRET", crate::cd::SECRET).var("ADA_PASSWORD", crate::cd::PASSWORD);
    cd.start();
    let asked = curl.replace("127.0.0.1:8080", &cd.address).replace("$MY_APP_SECRET", crate::cd::SECRET);
    let output = std::process::Command::new("sh").args(["-c", &asked]).output().unwrap();
    let job: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let id = job["id"].as_str().unwrap();
    let since = std::time::Instant::now();
    loop {
        let job = cd.api("GET", &format!("/apps/my-app/jobs/{id}?wait=5"), crate::cd::SECRET).must(200).json();
        if job["status"] == "success" {
            break;
        }
        assert!(since.elapsed() < crate::cd::PATIENCE, "{job}\n{}", cd.said());
    }
    let log = cd.api("GET", &format!("/apps/my-app/jobs/{id}/log"), crate::cd::SECRET).body;
    assert_eq!(log, "deployed my-app-production\nProcess terminated with return code: 0\n");
    assert_eq!(cd.ask("GET", "/ui/login", &[], "").must(200).body.matches("<form").count(), 1);
}
