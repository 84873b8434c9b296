//! The limit of open files: raised at the start, kept in reserve for files, and named when it is reached.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;

/// With a lower limit, the server would fail at a random file.
const LIMIT_MIN: u64 = 256;
/// The limit that is used where the system sets none.
const LIMIT_UNSET: u64 = 1 << 20;
/// The open files that are kept for the log, the read models and the vault; more of them if the log has many segments.
const FILES_RESERVED: u64 = 1_024;
/// `EMFILE` and `ENFILE`: this process, or the whole system, has too many open files.
const CODES: [i32; 2] = [24, 23];
/// The text of SQLite, which does not name the cause.
const DATABASE_TEXT: &str = "unable to open database file";
/// With fewer files left than this, after the other databases were closed again, the cause is that there were too few.
const FILES_OF_DATABASES: usize = 128;

/// Raises the soft limit to the hard one, and returns it.
///
/// # Errors
/// The limit is too low to start.
pub(crate) fn raise_limit() -> Result<u64, Failure> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (before, hard) = (current.unwrap_or(LIMIT_UNSET), maximum.unwrap_or(LIMIT_UNSET));
    let mut limit = before;
    if before < hard {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum }) {
            Ok(()) => {
                limit = hard;
                tracing::info!(from = before, to = hard, "raised the limit of open files to the hard limit");
            }
            Err(error) => tracing::warn!(%error, limit, hard, "cannot raise the limit of open files"),
        }
    }
    if limit < LIMIT_MIN {
        return Err(Failure::Usage(format!(
            "too many open files: the limit is {limit}, and the server needs at least {LIMIT_MIN}; {REMEDY}"
        )));
    }
    Ok(limit)
}

const REMEDY: &str =
    "raise the limit with `ulimit -Hn 65536; ulimit -n 65536`, or with LimitNOFILE=65536 of the systemd unit";

/// The number of connections that leave enough files for everything else.
pub(crate) fn connections_max(configured: u32, limit: u64) -> u32 {
    let left = limit.saturating_sub(FILES_RESERVED).max(limit / 4);
    let connections = u32::try_from(left).unwrap_or(u32::MAX).min(configured);
    if connections < configured {
        tracing::warn!(
            connections,
            configured,
            limit,
            "the limit of open files is too low for the configured number of connections; {REMEDY}"
        );
    }
    connections
}

/// As [`connections_max`], for the connections of the EventStoreDB protocol.
pub(crate) fn protocol_connections_max(configured: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(LIMIT_UNSET);
    usize::try_from(limit / 8).unwrap_or(usize::MAX).clamp(1, configured)
}

/// The failure of an operation with this message, if the cause is that too many files are open.
pub(crate) fn exhausted(message: &str) -> Option<Failure> {
    let is_named = CODES.iter().any(|code| message.contains(&format!("(os error {code})")));
    let is_exhausted = message.contains(DATABASE_TEXT) && !has_files_left();
    (is_named || is_exhausted).then(|| {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(LIMIT_UNSET);
        let cause = message.split("; ").next().unwrap_or(message);
        Failure::Disk(format!("too many open files, of at most {limit}: {cause}; {REMEDY}"))
    })
}

/// Tries to open as many files as databases need.
fn has_files_left() -> bool {
    let opened: io::Result<Vec<File>> = (0..FILES_OF_DATABASES).map(|_| File::open("/dev/null")).collect();
    opened.is_ok()
}

/// The failure to listen on an address.
pub(crate) fn listen_failure(address: SocketAddr, setting: &str, error: &io::Error) -> Failure {
    let message = format!("cannot listen on {address}: {error}; choose another address with {setting}");
    exhausted(&message).unwrap_or(Failure::InUse(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_log() {
        assert_eq!(connections_max(16_384, 1 << 20), 16_384);
        assert_eq!(connections_max(16_384, 4_096), 3_072);
        assert_eq!(connections_max(16_384, 1_024), 256);
    }

    #[test]
    fn too_many_open_files_are_named_with_a_remedy() {
        for code in CODES {
            let error = io::Error::from_raw_os_error(code);
            let failure = exhausted(&format!("cannot open a: {error}; check that the disk works")).unwrap();
            let text = failure.to_string();
            assert!(text.contains("cannot open a") && text.contains("ulimit -n"), "{text}");
            assert!(text.contains("LimitNOFILE") && !text.contains("disk works"), "{text}");
        }
        assert!(exhausted("cannot open a: Permission denied (os error 13)").is_none());
    }
}
