//! docs/reliability.md names tests that exist, for every fault and attack, and the fuzz targets that there are.

use std::path::Path;

const PAGE: &str = include_str!("../../docs/reliability.md");

/// The cells of each row of the page's tables.
fn rows() -> Vec<Vec<&'static str>> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The file that a test is said to be in, and its name.
fn place(said: &str) -> (String, &str) {
    let (kind, path) = said.split_once(' ').unwrap();
    let (file, name) = path.split_once("::").unwrap();
    let name = name.split_whitespace().next().unwrap();
    let candidates = match kind {
        "it" => vec![format!("tests/it/{file}.rs")],
        "real" => vec![format!("tests/real/{file}.rs")],
        "unit" => vec![format!("src/{file}.rs"), format!("src/{file}/mod.rs")],
        other => panic!("{other:?} is no kind of test: {said}"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = candidates.iter().find(|path| root.join(path).exists());
    (found.unwrap_or_else(|| panic!("there is no {candidates:?}")).clone(), name)
}

#[test]
fn every_fault_and_attack_has_tests_that_exist() {
    let mut known = 0;
    for row in rows().iter().filter(|row| row.len() == 4) {
        for said in row[3].split(", ") {
            let (file, name) = place(said);
            let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
            assert!(text.contains(&format!("fn {name}(")), "{}: there is no {name} in {file}", row[0]);
            known += 1;
        }
    }
    assert!(known > 90, "{known}");
    let ids: Vec<&str> = rows().iter().map(|row| row[0]).collect();
    for id in [1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 30, 31, 32, 33, 34, 35, 37] {
        assert!(ids.contains(&format!("F{id}").as_str()), "F{id}");
    }
    for id in ["A1–A4", "A6", "A8", "A9", "A10", "A12", "A13", "A14", "A15", "A16", "A18", "A19", "A21", "A23", "A24", "A25"] {
        assert!(ids.contains(&id), "{id}");
    }
}

#[test]
fn every_fuzz_target_is_described_and_has_a_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = std::fs::read_to_string(root.join("src/fuzz.rs")).unwrap();
    let targets: Vec<&str> =
        code.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"').map(|(name, _)| name)).collect();
    assert_eq!(targets.len(), 9);
    for target in targets {
        assert!(PAGE.contains(&format!("\n| `{target}` | ")), "{target} is not in docs/reliability.md");
        assert!(root.join("fuzz/corpus").join(target).is_dir(), "{target} has no corpus");
    }
}

/// A guard's edit has to fit, or `tests/guards` shows nothing; here only its file and its test are looked for.
#[test]
fn every_guard_names_a_file_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("tests/guards.txt")).unwrap();
    let guards: Vec<Vec<&str>> =
        list.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(guards.len() > 25);
    for guard in guards {
        let [name, file, edit, test] = guard.as_slice() else { panic!("{guard:?} has not four parts") };
        assert!(!name.is_empty() && root.join(file).is_file() && edit.starts_with("s/"), "{guard:?}");
        assert!(test.starts_with("it:") || test.starts_with("lib:"), "{guard:?}");
    }
}
