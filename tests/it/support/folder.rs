//! Data folders as files: reading, copying and damaging them while no server runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::server::{Server, program};

/// A stopped server's data folder with a few sealed segments.
pub(crate) async fn stopped_server() -> Server {
    let mut server = Server::start(&["--segment-bytes=60000"]).await;
    for n in 0..20 {
        let body = json!({ "name": format!("job-{n}"), "metadata": { "text": "x".repeat(8_000) } });
        server.post("/jobs", &body).await.expect(201);
    }
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    server
}

/// The content of every file of a folder and its subfolders.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs a command of the program over a data folder.
pub(crate) fn matchbook(arguments: &[&str], data: &Path) -> Output {
    let output = Command::new(program())
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env("MATCHBOOK_RESERVE_BYTES", "1000000")
        .stdin(Stdio::null())
        .output();
    output.unwrap()
}

/// Everything that a command has printed.
pub(crate) fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Flips one bit.
pub(crate) fn flip_bit(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The segments of a data folder, oldest first.
pub(crate) fn segments(data: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = contents(&data.join("events")).into_keys().collect();
    found.retain(|path| path.extension().is_some_and(|of| of == "segment"));
    found
}
