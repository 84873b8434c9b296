//! Files of the program are private, whatever the umask.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use crate::support::folder::output_text;
use crate::support::server::Server;

/// The files and folders within a folder, and itself, that others may use.
fn shared(path: &Path) -> Vec<String> {
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut found: Vec<String> =
        (mode & 0o077 != 0).then(|| format!("{} {mode:o}", path.display())).into_iter().collect();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(shared(&entry.unwrap().path()));
        }
    }
    found
}

/// A command that runs another one under this umask.
fn under_umask(umask: &str) -> Vec<String> {
    ["sh", "-c", &format!("umask {umask}; exec \"$@\""), "sh"].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_folder_and_copies_are_private_under_any_umask() {
    for umask in ["000", "022"] {
        let mut server = Server::start(&["--segment-bytes=60000"]).await;
        assert_eq!(server.terminate(), Some(0), "{}", server.log());
        fs::remove_dir_all(server.data()).unwrap();
        server.restart_under(&under_umask(umask)).await;
        let body = json!({ "name": "a job", "metadata": { "text": "x".repeat(8_000) } });
        for _ in 0..12 {
            server.post("/jobs", &body).await.expect(201);
        }
        let at = |name: &str| server.folder.path().join(name).display().to_string();
        for arguments in
            [["events", "backup", "--to", &at("backup")], ["vault", "backup", "--to", &at("names")]]
        {
            let output = server.cli(&arguments);
            assert!(output.status.success(), "{}", output_text(&output));
            assert_eq!(shared(Path::new(arguments[3])), Vec::<String>::new());
        }
        assert_eq!(server.terminate(), Some(0), "{}", server.log());
        assert_eq!(shared(&server.data()), Vec::<String>::new(), "umask {umask}");
        assert!(!server.log().contains("other users of this machine may read"), "{}", server.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn start_warns_about_a_shared_data_folder() {
    let mut server = Server::start(&[]).await;
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    fs::set_permissions(server.data(), fs::Permissions::from_mode(0o755)).unwrap();
    server.restart().await;
    assert!(server.log().contains("chmod -R go="), "{}", server.log());
}
