//! A PostgreSQL server for the tests of one process, in a temporary folder on a free port, and fresh databases in it.
//!
//! It ends with the process, also if that is killed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The user that runs the server if the tests run as root, which PostgreSQL refuses. Its package creates the user.
const SYSTEM_USER: &str = "postgres";
/// The owner of all databases.
const ROLE: &str = "matchbook";

/// With the value `postgres`, the read models of all tests are in PostgreSQL.
const VARIABLE: &str = "MATCHBOOK_TEST_READ_STORE";

/// True if the tests run on PostgreSQL.
pub(crate) fn is_read_store() -> bool {
    match std::env::var(VARIABLE).as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("{VARIABLE} is sqlite or postgres, not {other}"),
    }
}

/// A running server.
pub(crate) struct PostgresServer {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// A shell that stops the server and removes its folder when its input ends.
    watcher: Child,
    _alive: ChildStdin,
}

/// A database. It is dropped with this value.
pub(crate) struct Database {
    name: String,
    port: u16,
    programs: PathBuf,
}

/// A fresh database on the server that all tests of this process share.
pub(crate) fn database() -> Database {
    static SHARED: OnceLock<PostgresServer> = OnceLock::new();
    SHARED.get_or_init(PostgresServer::start).database()
}

/// The programs of the newest installed version.
fn programs() -> PathBuf {
    let version = |folder: &PathBuf| {
        folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = installed.map(|entry| entry.unwrap().path()).max_by_key(version);
    newest.expect("PostgreSQL is missing: ./test installs it").join("bin")
}

/// A program of the server, as a user that is not root.
fn as_user(program: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--clear-groups", "--"]).arg(program);
    command
}

fn run(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

impl PostgresServer {
    pub(crate) fn start() -> Self {
        let (programs, folder) = (programs(), tempfile::tempdir().unwrap().keep());
        if rustix::process::getuid().is_root() {
            assert!(run(Command::new("chown").arg(SYSTEM_USER).arg(&folder)));
        }
        let data = folder.join("data");
        // Its texts sort differently from their bytes, as in most databases.
        let settings = [
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=icu",
            "--icu-locale=en",
        ];
        let initialised = as_user(&programs.join("initdb"))
            .arg("-D")
            .arg(&data)
            .arg("-U")
            .arg(ROLE)
            .args(settings)
            .current_dir("/")
            .output();
        let initialised = initialised.unwrap();
        assert!(initialised.status.success(), "{initialised:?}");
        let stop = "trap '' INT; read -r _; folder=$1; shift; \"$@\" >/dev/null 2>&1; rm -rf \"$folder\"";
        let pg_ctl = as_user(&programs.join("pg_ctl"));
        let mut watcher = Command::new("sh")
            .args(["-c", stop, "sh"])
            .arg(&folder)
            .arg(pg_ctl.get_program())
            .args(pg_ctl.get_args())
            .args(["stop", "-m", "immediate", "-D"])
            .arg(&data)
            .current_dir("/")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = watcher.stdin.take().unwrap();
        let mut server = Self { programs, folder, port: 0, watcher, _alive: alive };
        // Another program may take the free port first.
        let is_started = (0..5).any(|_| {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            server.resume()
        });
        assert!(is_started, "{}", std::fs::read_to_string(server.folder.join("log")).unwrap_or_default());
        server
    }

    fn control(&self, action: &str) -> Command {
        let mut command = as_user(&self.programs.join("pg_ctl"));
        command
            .arg(action)
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-w", "-t", "120"])
            .current_dir("/");
        command
    }

    /// Starts the server again, on its port.
    pub(crate) fn resume(&self) -> bool {
        self.resume_with("")
    }

    /// Starts the server again, with additional settings.
    pub(crate) fn resume_with(&self, settings: &str) -> bool {
        let settings = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=500 {settings}",
            self.port
        );
        run(self.control("start").arg("-l").arg(self.folder.join("log")).args(["-o", &settings]))
    }

    /// Stops the server as a crash would: its connections end, and nothing is flushed.
    pub(crate) fn crash(&self) {
        assert!(run(self.control("stop").args(["-m", "immediate"])));
    }

    pub(crate) fn database(&self) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database = Database { name, port: self.port, programs: self.programs.clone() };
        assert!(database.administer(&format!("CREATE DATABASE {}", database.name)));
        database
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // The server may have been stopped already.
        let _ = run(self.control("stop").args(["-m", "immediate"]));
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Database {
    pub(crate) fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{}", self.port, self.name)
    }

    fn administer(&self, sql: &str) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new(self.programs.join("psql"));
        run(command.args([
            "-q",
            "-X",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            ROLE,
            "-d",
            "postgres",
            "-c",
            sql,
        ]))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Only to save space: the server may be stopped.
        let _ = self.administer(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}
