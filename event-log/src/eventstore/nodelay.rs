//! The client library opens its connections without `TCP_NODELAY` and keeps them to itself. Every call is written in two
//! pieces, the second of which then waits for the other side's delayed acknowledgement: 44 ms for a lone caller.
//!
//! So the option is set from outside. The system lends a process a second handle to any descriptor of its own
//! (`pidfd_getfd`), which, unlike a number, is safe to use whatever happens to the first; options belong to the connection
//! behind both. Where that call is not allowed, as under Docker's default profile, all goes on as it was: correct, and
//! slower for lone callers.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Which connections are meant: by the port on the other side. With discovery any port may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    All,
    These(Vec<u16>),
}

/// Sets `TCP_NODELAY` on this process's connections to the ports. Returns how many lacked it.
///
/// # Errors
/// The system does not lend the handles, or does not say which there are.
pub(super) fn set(ports: &Ports) -> io::Result<usize> {
    let mut set = 0;
    for socket in connections(ports)? {
        // A connection that ended meanwhile needs nothing.
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
            Ok(socket) if is_meant(&socket, ports) => found.push(socket),
            // Another one, or it was closed while we looked.
            Ok(_) | Err(rustix::io::Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn is_meant(socket: &OwnedFd, ports: &Ports) -> bool {
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return false;
    }
    let Ok(peer) = rustix::net::getpeername(socket) else { return false };
    let Some(peer) = peer.and_then(|peer| std::net::SocketAddr::try_from(peer).ok()) else { return false };
    match ports {
        Ports::All => true,
        Ports::These(ports) => ports.contains(&peer.port()),
    }
}

/// Whether all connections to the port have the option, and how many they are.
#[cfg(test)]
pub(super) fn is_set(port: u16) -> (bool, usize) {
    let sockets = connections(&Ports::These(vec![port])).expect("handles are lent here");
    let set = sockets.iter().all(|socket| sockopt::tcp_nodelay(socket).expect("it is a connection"));
    (set, sockets.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_to_a_port_get_the_option_and_others_do_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let meant = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let left = std::net::TcpStream::connect(other.local_addr().unwrap()).unwrap();
        assert_eq!(is_set(port), (false, 1));
        assert_eq!(set(&Ports::These(vec![port])).unwrap(), 1);
        assert_eq!(is_set(port), (true, 1));
        assert!(meant.nodelay().unwrap() && !left.nodelay().unwrap());
        assert_eq!(set(&Ports::These(vec![port])).unwrap(), 0);
    }
}
