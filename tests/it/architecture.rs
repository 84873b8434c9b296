//! The rules of ARCHITECTURE.md as tests: allowed imports, the layout of files, test names and vocabulary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The imports that a crate of the workspace may have.
struct CrateRules {
    folder: &'static str,
    /// The allowed crates of the workspace.
    internal: &'static [&'static str],
    /// The allowed external crates, or `None` if there is no limit.
    external: Option<&'static [&'static str]>,
}

const CRATES: &[CrateRules] = &[
    CrateRules {
        folder: "event-schemas",
        internal: &[],
        external: Some(&[
            "base64",
            "bytes",
            "schemars",
            "serde",
            "serde_json",
            "sha1",
            "strum",
            "thiserror",
            "time",
            "unicode-normalization",
            "unicode-properties",
            "uuid",
        ]),
    },
    CrateRules {
        folder: "domain",
        internal: &["event-schemas"],
        external: Some(&[
            "schemars",
            "serde",
            "serde_json",
            "strum",
            "thiserror",
            "unicode-normalization",
            "uuid",
        ]),
    },
    // It knows no events and no HTTP.
    CrateRules { folder: "encoder", internal: &[], external: None },
    CrateRules { folder: "event-log", internal: &["event-schemas"], external: None },
    CrateRules { folder: "event-log/embedded", internal: &["event-log", "event-schemas"], external: None },
    CrateRules {
        folder: "event-log/esdb",
        internal: &["event-log", "event-log-embedded", "event-schemas"],
        external: None,
    },
    CrateRules { folder: "web", internal: &["event-schemas"], external: None },
    CrateRules { folder: "vault", internal: &["event-schemas"], external: None },
    CrateRules {
        folder: "commands",
        internal: &["domain", "event-log", "event-schemas", "vault", "web"],
        external: None,
    },
    CrateRules { folder: "projections", internal: &["domain", "event-log", "event-schemas"], external: None },
    CrateRules {
        folder: "read-api",
        internal: &["domain", "event-log", "event-schemas", "projections", "vault", "web"],
        external: None,
    },
    // The examples use only the server's HTTP API.
    CrateRules { folder: "examples/analyst", internal: &[], external: None },
    CrateRules { folder: "examples/arena", internal: &[], external: None },
    CrateRules { folder: "examples/embedder", internal: &["matchbook-worker"], external: None },
    CrateRules { folder: "examples/matcher", internal: &[], external: None },
    CrateRules { folder: "examples/shop", internal: &[], external: None },
    CrateRules { folder: "examples/worker", internal: &[], external: None },
];

/// The systems of the write side, and the paths that their files must not import: a system knows the engine and itself.
const SYSTEMS: &[(&str, &[&str])] = &[
    (
        "engine",
        &["crate::jobs", "crate::matchmaking", "crate::catalogue", "crate::processes", "crate::Commands"],
    ),
    ("jobs", &["crate::matchmaking", "crate::catalogue", "crate::processes", "crate::Commands"]),
    ("matchmaking", &["crate::jobs", "crate::catalogue", "crate::Commands"]),
    ("catalogue", &["crate::jobs", "crate::matchmaking", "crate::processes", "crate::Commands"]),
];

/// Words that the pure core must not contain, because they give access to a clock, randomness or I/O.
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

/// The longest name of a test function.
const TEST_NAME_MAX: usize = 60;

/// Terms that the repository does not use, and the standard terms for them.
const REPLACED_TERMS: &[(&str, &str)] = &[
    ("anew", "again, or rebuilt"),
    ("whoever", "the caller, the client or the task"),
    ("whomever", "the caller, the client or the task"),
    ("whereabouts", "activity or position"),
    ("those who", "the players, the clients or the tasks that"),
    ("nobody", "no player, no caller or no task"),
    ("somebody", "a player, a caller or another process"),
    ("by itself", "automatically, or alone"),
    ("comes to nothing", "fails"),
    ("of before", "previous"),
    ("goes on", "continues or resumes"),
    ("put together", "paired, or assembled"),
    ("left alone", "not changed, or its circuit breaker is open"),
    ("is told", "receives or is sent"),
];

/// The names of files with prose: code, documents and scripts, but no licences.
fn has_prose(name: &str) -> bool {
    let extensions = [".rs", ".md", ".js", ".html", ".sh", ".toml", ".sql"];
    let is_known = ["run", "test"].contains(&name) || extensions.iter().any(|end| name.ends_with(end));
    is_known && !name.starts_with("LICENSE")
}

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

/// The files of the repository whose name is accepted, tests and examples included.
fn files(folder: &Path, accepts: fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let is_source = name == ".ci"
                || !name.starts_with('.')
                    && !["target", "node_modules", "run-data", "generated"].contains(&name.as_str());
            if is_source {
                found.extend(files(&path, accepts));
            }
        } else if accepts(&name) {
            found.push(path);
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder, |name| name.ends_with(".rs"))
}

#[test]
fn crates_import_only_what_their_rules_allow() {
    // A package is named after its folder: `event-log-embedded` is in `event-log/embedded`.
    let workspace: BTreeSet<String> = CRATES.iter().map(|rules| rules.folder.replace('/', "-")).collect();
    for rules in CRATES {
        for dependency in dependencies(rules.folder, "dependencies") {
            if workspace.contains(&dependency) {
                assert!(
                    rules.internal.contains(&dependency.as_str()),
                    "{} must not import {dependency}; see ARCHITECTURE.md",
                    rules.folder
                );
            } else if let Some(external) = rules.external {
                assert!(
                    external.contains(&dependency.as_str()),
                    "{} must not depend on {dependency}",
                    rules.folder
                );
            }
        }
    }
}

#[test]
fn systems_of_commands_import_only_the_engine() {
    for (system, forbidden) in SYSTEMS {
        let source = root().join("commands/src");
        let files = rust_files(&source.join(system));
        assert!(!files.is_empty(), "{system} has moved; change SYSTEMS");
        for file in files.into_iter().chain([source.join(system).with_extension("rs")]) {
            let text = std::fs::read_to_string(&file).unwrap();
            for path in *forbidden {
                assert!(!text.contains(path), "{}: {system} must not import {path}", file.display());
            }
        }
    }
}

#[test]
fn every_crate_has_import_rules() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let members: BTreeSet<&str> = manifest["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    assert_eq!(members, CRATES.iter().map(|rules| rules.folder).collect());
}

#[test]
fn pure_core_uses_no_clock_randomness_or_io() {
    for folder in ["domain/src", "event-schemas/src"] {
        // Tests may read their fixtures.
        let is_test = |file: &PathBuf| file.ends_with("tests.rs") || file.iter().any(|part| part == "tests");
        for file in rust_files(&root().join(folder)).into_iter().filter(|file| !is_test(file)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in
                text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for word in IMPURE {
                    // `Timestamp` converts a `SystemTime` that it receives.
                    let allowed = file.ends_with("event-schemas/src/time.rs") && *word == "SystemTime";
                    assert!(allowed || !line.contains(word), "{}:{}: {word}", file.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn modules_have_specific_names_and_no_mod_files() {
    for file in rust_files(&root()) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let banned = ["mod", "utils", "util", "common", "helpers", "types", "misc"];
        assert!(!banned.contains(&name.as_str()), "{}: name it for its content", file.display());
    }
}

#[test]
fn every_file_starts_with_a_module_comment() {
    // Tests in a separate file are described by the file that they test.
    let is_tests = |file: &PathBuf| {
        file.to_string_lossy().ends_with("tests.rs") || file.iter().any(|part| part == "tests")
    };
    for file in rust_files(&root()).into_iter().filter(|file| !is_tests(file)) {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not start with a //! line", file.display());
    }
}

#[test]
fn no_file_exceeds_the_line_limit() {
    for file in rust_files(&root()) {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines; split it", file.display());
    }
}

#[test]
fn every_dependency_is_explained() {
    let text = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let named = |name: &str| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).any(|word| word == name)
    };
    for (name, value) in manifest["workspace"]["dependencies"].as_table().unwrap() {
        let internal = value.as_table().is_some_and(|table| table.contains_key("path"));
        assert!(internal || named(name), "docs/dependencies.md does not explain {name}");
    }
}

#[test]
fn every_event_is_in_the_catalogue_of_the_documents() {
    let text = std::fs::read_to_string(root().join("docs/concepts.md")).unwrap();
    for schema in files(&root().join("event-schemas/schemas"), |name| name.ends_with(".json")) {
        let name = schema.file_name().unwrap().to_string_lossy().into_owned();
        let event = name.split('.').next().unwrap();
        assert!(text.contains(&format!("| `{event}` | ")), "docs/concepts.md does not explain {event}");
    }
}

/// A skip with an outdated name would run a test that cannot pass on a remote log.
#[test]
fn embedded_only_tests_exist_and_have_reasons() {
    let list = std::fs::read_to_string(root().join("tests/embedded-only.txt")).unwrap();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (name, reason) = line.split_once("  # ").unwrap();
        assert!(!reason.is_empty(), "{name}");
        let parts: Vec<&str> = name.trim_end_matches("::").split("::").collect();
        let is_file =
            |parts: &[&str]| root().join("tests/it").join(parts.join("/")).with_extension("rs").exists();
        let found = is_file(&parts)
            || parts.split_last().is_some_and(|(test, file)| {
                let file = root().join("tests/it").join(file.join("/")).with_extension("rs");
                std::fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {test}")))
            });
        assert!(found, "tests/embedded-only.txt names {name}, which does not exist");
    }
}

/// The test functions of a file, with their line numbers.
fn test_functions(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_test = false;
    for (index, line) in text.lines().enumerate() {
        if let Some(attribute) = line.trim_start().strip_prefix("#[") {
            let path = attribute.split(|c: char| !c.is_alphanumeric() && c != ':' && c != '_').next();
            is_test |= path.is_some_and(|path| path.contains("test"));
        }
        let mut words = line.split_whitespace().skip_while(|word| *word != "fn").skip(1);
        if let Some(signature) = words.next() {
            let name = signature.split(['(', '<']).next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                found.push((index + 1, name.to_owned()));
            }
        }
    }
    found
}

#[test]
fn names_of_tests_have_at_most_60_letters() {
    let mut count = 0;
    for file in rust_files(&root()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, name) in test_functions(&text) {
            let letters = name.chars().count();
            let location = format!("{}:{line}", file.display());
            assert!(letters <= TEST_NAME_MAX, "{location}: {name} has {letters} letters; shorten it");
            count += 1;
        }
    }
    assert!(count > 1_000, "found only {count} tests");
}

/// The text in lower case, without comment markers at the start of lines and with single spaces, so that a term is found
/// across a line break; and the offset of each line in it.
fn flattened<'a>(lines: impl Iterator<Item = &'a str>) -> (String, Vec<usize>) {
    let (mut text, mut offsets) = (String::new(), Vec::new());
    for line in lines {
        offsets.push(text.len());
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "/!#*-|>".contains(c));
        for word in line.split_whitespace() {
            text.push_str(&word.to_ascii_lowercase());
            text.push(' ');
        }
    }
    (text, offsets)
}

/// The offsets at which a term occurs as whole words.
fn occurrences(text: &str, term: &str) -> Vec<usize> {
    let is_boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    let is_whole = |at: usize| {
        is_boundary(text[..at].chars().next_back()) && is_boundary(text[at + term.len()..].chars().next())
    };
    text.match_indices(term).map(|(at, _)| at).filter(|at| is_whole(*at)).collect()
}

#[test]
fn prose_uses_standard_terms() {
    let mut findings = Vec::new();
    for file in files(&root(), has_prose) {
        let text = std::fs::read_to_string(&file).unwrap();
        // The entries of the list itself are exempt.
        let is_list = file.ends_with("tests/it/architecture.rs");
        let lines =
            text.lines().map(|line| if is_list && line.trim_start().starts_with("(\"") { "" } else { line });
        let (text, offsets) = flattened(lines);
        for (term, standard) in REPLACED_TERMS {
            for at in occurrences(&text, term) {
                let line = offsets.partition_point(|offset| *offset <= at);
                findings.push(format!("{}:{line}: \"{term}\": write {standard}", file.display()));
            }
        }
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
