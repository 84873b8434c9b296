//! A listen address that is reserved before anything is opened, so that a port in use is the only error of such a start.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use web::server::BACKLOG;

use crate::failure::Failure;
use crate::open_files::listen_failure;

/// An address that is bound, but refuses connections until the server listens.
pub(crate) struct ReservedAddress {
    socket: TcpSocket,
    address: SocketAddr,
    flag: &'static str,
}

impl ReservedAddress {
    /// # Errors
    /// The address is in use, or is not an address of this machine.
    pub(crate) fn new(address: SocketAddr, flag: &'static str) -> Result<Self, Failure> {
        let open = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Otherwise a restart has to wait for the connections of the previous process.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| listen_failure(address, flag, &error))?;
        Ok(Self { socket, address, flag })
    }

    /// # Errors
    /// Another process has reserved the address at the same time, and listens already.
    pub(crate) fn listen(self) -> Result<TcpListener, Failure> {
        self.socket.listen(BACKLOG).map_err(|error| listen_failure(self.address, self.flag, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listener_has_a_long_backlog() {
        let reserved = ReservedAddress::new("127.0.0.1:0".parse().unwrap(), "--listen").unwrap();
        let listener = reserved.listen().unwrap();
        let address = listener.local_addr().unwrap();
        let system_max: u32 =
            std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        // Nothing is accepted: all of these wait in the backlog.
        let mut waiting = Vec::new();
        for _ in 0..200.min(system_max) {
            let connecting = tokio::time::timeout(
                std::time::Duration::from_secs(20),
                tokio::net::TcpStream::connect(address),
            );
            waiting.push(connecting.await.unwrap().unwrap());
        }
    }
}
