//! Binding: one address over UDP and TCP, one socket of each for every worker.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};
use stoq::quic::{SocketGroup, SocketOptions};

/// Connections the kernel holds ready for `accept`; beyond it SYNs are retried by their clients.
const BACKLOG: i32 = 4096;
/// With port 0 the UDP port may be taken on TCP; so often another one is tried.
const PORT_ATTEMPTS: usize = 16;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({protocol}): {source}")]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// The sockets of one `listen.https` address: HTTP/3 on UDP, HTTP/2 and HTTP/1.1 on TCP, the same port.
#[derive(Debug)]
pub struct HttpsSockets {
    /// The UDP side; each worker takes its own.
    pub quic: SocketGroup,
    /// One for each worker.
    pub tcp: Vec<TcpListener>,
    /// The address, its port resolved.
    pub addr: SocketAddr,
}

impl HttpsSockets {
    /// Binds both sides for `workers`. With port 0 one port free on both is chosen.
    ///
    /// # Errors
    /// Which side cannot be bound, and why.
    pub fn bind(
        addr: SocketAddr,
        workers: usize,
        options: &SocketOptions,
    ) -> Result<Self, BindError> {
        let mut attempts = if addr.port() == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let quic = SocketGroup::bind(addr, workers, options).map_err(|source| BindError {
                addr,
                protocol: "udp",
                source,
            })?;
            let bound = quic.local_addr();
            match bind_tcp(bound, workers) {
                Ok(tcp) => {
                    return Ok(Self {
                        quic,
                        tcp,
                        addr: bound,
                    });
                }
                Err(error) if attempts > 0 && error.source.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One listening TCP socket for each worker; the kernel spreads connections over them. Port 0 is resolved by the first.
///
/// # Errors
/// As `socket`, `bind` and `listen`.
pub fn bind_tcp(addr: SocketAddr, workers: usize) -> Result<Vec<TcpListener>, BindError> {
    let mut bound = addr;
    let mut sockets: Vec<TcpListener> = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = listen(bound, workers > 1).map_err(|source| BindError {
            addr: bound,
            protocol: "tcp",
            source,
        })?;
        bound = socket.local_addr().map_err(|source| BindError {
            addr: bound,
            protocol: "tcp",
            source,
        })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn listen(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are two addresses, each listened on if it is configured.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_share_one_port_on_both_protocols() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = HttpsSockets::bind(addr, 3, &SocketOptions::default()).unwrap();
        assert_ne!(sockets.addr.port(), 0);
        assert_eq!(sockets.quic.local_addr(), sockets.addr);
        assert_eq!(sockets.tcp.len(), 3);
        for socket in &sockets.tcp {
            assert_eq!(socket.local_addr().unwrap(), sockets.addr);
        }
    }

    #[test]
    fn a_taken_address_is_named_in_the_error() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = holder.local_addr().unwrap();
        let error = bind_tcp(addr, 1).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
    }
}
