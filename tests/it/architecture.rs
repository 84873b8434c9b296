//! The layout of ARCHITECTURE.md as data: who may import whom, and how files are laid out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A crate of the workspace, the crates of the workspace that it may import, and, where it is to stay small, the only
/// outside crates that it may import.
struct Room {
    folder: &'static str,
    inside: &'static [&'static str],
    outside: Option<&'static [&'static str]>,
}

const ROOMS: &[Room] = &[
    Room {
        folder: "event-schemas",
        inside: &[],
        outside: Some(&["bytes", "schemars", "serde", "serde_json", "thiserror", "time", "uuid"]),
    },
    Room {
        folder: "domain",
        inside: &["event-schemas"],
        outside: Some(&["serde", "serde_json", "thiserror", "uuid"]),
    },
    Room { folder: "event-log", inside: &["event-schemas"], outside: None },
    Room { folder: "web", inside: &["event-schemas"], outside: None },
    Room { folder: "commands", inside: &["domain", "event-log", "event-schemas", "web"], outside: None },
    Room { folder: "projections", inside: &["domain", "event-log", "event-schemas"], outside: None },
    Room {
        folder: "read-api",
        inside: &["domain", "event-log", "event-schemas", "projections", "web"],
        outside: None,
    },
    // A worker knows the server by its HTTP API alone.
    Room { folder: "examples/analyst", inside: &[], outside: None },
    Room { folder: "examples/arena", inside: &[], outside: None },
    Room { folder: "examples/matcher", inside: &[], outside: None },
];

/// Words that the pure core must not contain: each is a way to time, chance or the outside world.
const IMPURE: &[&str] = &[
    "SystemTime",
    "Instant::now",
    "Uuid::now",
    "Uuid::new_v4",
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "async fn",
    "println!",
    "eprintln!",
];

/// The longest hand-written file, in lines. The aim is 400.
const FILE_LINES_MAX: usize = 450;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn dependencies(folder: &str, section: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    manifest
        .get(section)
        .and_then(toml::Value::as_table)
        .map(|table| table.keys().cloned().collect())
        .unwrap_or_default()
}

/// Every Rust file of the repository that is written by hand, tests and examples included.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir()
            && !["target", "run-data", "generated"].contains(&name.as_str())
            && !name.starts_with('.')
        {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_crate_imports_only_what_its_room_allows() {
    let workspace: BTreeSet<&str> = ROOMS.iter().map(|room| room.folder).collect();
    for room in ROOMS {
        for dependency in dependencies(room.folder, "dependencies") {
            if workspace.contains(dependency.as_str()) {
                assert!(
                    room.inside.contains(&dependency.as_str()),
                    "{} must not import {dependency}; see ARCHITECTURE.md",
                    room.folder
                );
            } else if let Some(outside) = room.outside {
                assert!(outside.contains(&dependency.as_str()), "{} must not need {dependency}", room.folder);
            }
        }
    }
}

#[test]
fn every_crate_of_the_workspace_has_a_room() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let members: BTreeSet<&str> = manifest["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    assert_eq!(members, ROOMS.iter().map(|room| room.folder).collect());
}

#[test]
fn the_pure_core_reaches_for_nothing_outside() {
    for folder in ["domain/src", "event-schemas/src"] {
        // Tests may read their fixtures.
        let is_test = |file: &PathBuf| file.ends_with("tests.rs") || file.iter().any(|part| part == "tests");
        for file in rust_files(&root().join(folder)).into_iter().filter(|file| !is_test(file)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in
                text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for word in IMPURE {
                    // The epoch arithmetic of `Timestamp` converts a `SystemTime` that it is handed.
                    let allowed = file.ends_with("event-schemas/src/time.rs") && *word == "SystemTime";
                    assert!(allowed || !line.contains(word), "{}:{}: {word}", file.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn a_module_lives_in_the_file_of_its_name() {
    for file in rust_files(&root()) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let banned = ["mod", "utils", "util", "common", "helpers", "types", "misc"];
        assert!(!banned.contains(&name.as_str()), "{}: name it after what it holds", file.display());
    }
}

#[test]
fn a_file_starts_with_what_it_is() {
    // Tests in a file of their own belong to the file beside it, which says it.
    let is_tests = |file: &PathBuf| {
        file.to_string_lossy().ends_with("tests.rs") || file.iter().any(|part| part == "tests")
    };
    for file in rust_files(&root()).into_iter().filter(|file| !is_tests(file)) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not begin with a //! line", file.display());
    }
}

#[test]
fn no_file_grows_beyond_reading() {
    for file in rust_files(&root()) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; split it", file.display());
    }
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let text = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let named = |name: &str| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).any(|word| word == name)
    };
    for (name, value) in manifest["workspace"]["dependencies"].as_table().unwrap() {
        let ours = value.as_table().is_some_and(|table| table.contains_key("path"));
        assert!(ours || named(name), "docs/dependencies.md does not say why {name} is needed");
    }
}

/// A test that is passed over by a name that no longer is one would be run where it cannot hold, or never.
#[test]
fn what_is_passed_over_on_a_log_elsewhere_is_there_and_says_why() {
    let list = std::fs::read_to_string(root().join("tests/embedded-only.txt")).unwrap();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (name, why) = line.split_once("  # ").unwrap();
        assert!(!why.is_empty(), "{name}");
        let parts: Vec<&str> = name.trim_end_matches("::").split("::").collect();
        let is_file =
            |parts: &[&str]| root().join("tests/it").join(parts.join("/")).with_extension("rs").exists();
        let found = is_file(&parts)
            || parts.split_last().is_some_and(|(test, file)| {
                let file = root().join("tests/it").join(file.join("/")).with_extension("rs");
                std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}")))
            });
        assert!(found, "tests/embedded-only.txt names {name}, which is not there");
    }
}
