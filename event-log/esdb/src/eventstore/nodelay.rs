//! Sets `TCP_NODELAY` on the connections of the client library, which opens them without it and does not expose them. It
//! writes every call in two parts, the second of which then waits for the peer's delayed acknowledgement: 44 ms if there is
//! one call at a time.
//!
//! The option is set through a duplicate of each socket's descriptor (`pidfd_getfd`), which, unlike its number, stays valid
//! if the library closes the original; options belong to the connection behind both. Where that system call is not allowed,
//! as under Docker's default profile, the connections work without the option: correctly, but slower for single calls.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The connections to set the option on, by the port of the peer. With discovery any port is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    All,
    Only(Vec<u16>),
}

/// Sets `TCP_NODELAY` on this process's connections to the ports. Returns how many lacked it.
///
/// # Errors
/// The system refuses to duplicate the descriptors, or to list them.
pub(super) fn set(ports: &Ports) -> io::Result<usize> {
    let mut set = 0;
    for socket in connections(ports)? {
        // A connection that ended meanwhile is skipped.
        if sockopt::tcp_nodelay(&socket).is_ok_and(|on| !on)
            && sockopt::set_tcp_nodelay(&socket, true).is_ok()
        {
            set += 1;
        }
    }
    Ok(set)
}

fn connections(ports: &Ports) -> io::Result<Vec<OwnedFd>> {
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"));
        if !is_socket {
            continue;
        }
        match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(socket) if matches(&socket, ports) => found.push(socket),
            // Another connection, or one that was closed meanwhile.
            Ok(_) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn matches(socket: &OwnedFd, ports: &Ports) -> bool {
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return false;
    }
    let Ok(peer) = rustix::net::getpeername(socket) else { return false };
    let Some(peer) = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok()) else { return false };
    match ports {
        Ports::All => true,
        Ports::Only(ports) => ports.contains(&peer.port()),
    }
}

/// Whether all connections to the port have the option, and their number.
#[cfg(test)]
pub(super) fn is_set(port: u16) -> (bool, usize) {
    let sockets = connections(&Ports::Only(vec![port])).expect("descriptors can be duplicated here");
    let set = sockets.iter().all(|socket| sockopt::tcp_nodelay(socket).expect("it is a connection"));
    (set, sockets.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_to_the_given_port_get_the_option() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let selected = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let unselected = std::net::TcpStream::connect(other.local_addr().unwrap()).unwrap();
        assert_eq!(is_set(port), (false, 1));
        assert_eq!(set(&Ports::Only(vec![port])).unwrap(), 1);
        assert_eq!(is_set(port), (true, 1));
        assert!(selected.nodelay().unwrap() && !unselected.nodelay().unwrap());
        assert_eq!(set(&Ports::Only(vec![port])).unwrap(), 0);
    }
}
