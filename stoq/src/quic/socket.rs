//! The sockets of one address: one per worker, in one `SO_REUSEPORT` group.

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
};

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use super::steering;

/// More workers than this cannot be named in a connection ID.
const WORKERS_MAX: usize = 64;

/// Kernel receive buffer that is asked for on a client's only socket, bytes: what it downloads on all its connections
/// at once passes through it, at twice the memory, while the process waits for a core.
const CLIENT_RECV_BUFFER: usize = 16 << 20;

/// How UDP sockets are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Kernel receive buffer of each socket, bytes. Default 4 MiB: with the usual 208 KiB a burst of new
    /// connections loses its first packets and each of them waits a second. The kernel caps it at
    /// `net.core.rmem_max`, unless the process has `CAP_NET_ADMIN`; a smaller result is counted
    /// (`socket_buffers_short`).
    pub recv_buffer: usize,
    /// Kernel send buffer of each socket, bytes. Default 4 MiB, capped at `net.core.wmem_max`.
    pub send_buffer: usize,
    /// Whether an IPv6 socket takes IPv6 only. Default yes: `[::]:443` and `0.0.0.0:443` can then both be
    /// listed, and what is listed is what is bound.
    pub only_v6: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            recv_buffer: 4 << 20,
            send_buffer: 4 << 20,
            only_v6: true,
        }
    }
}

/// How datagrams find their worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// The kernel reads the connection ID; every worker has a socket.
    Bpf,
    /// As above, by the program that [`SocketGroup::steer_by`] put in the place of ours.
    Attached,
    /// Only worker 0 has a socket: it serves every connection of this address.
    SingleSocket {
        /// Why; to be told to the operator when more than one worker was asked for.
        reason: String,
    },
}

/// The sockets of one address.
///
/// Closing one socket of a group renumbers the others, after which datagrams reach the wrong workers. So the
/// endpoints of a group end together, or not at all. (A program that [`steer_by`](Self::steer_by) attached may know better.)
pub struct SocketGroup {
    local_addr: SocketAddr,
    steering: Steering,
    sockets: Mutex<Vec<Option<WorkerSocket>>>,
}

impl SocketGroup {
    /// Binds `addr` for `workers` workers (1 to 64). Port 0 takes a free port, the same for all.
    ///
    /// Where the kernel refuses to steer, one socket is bound and [`steering`](Self::steering) says why.
    ///
    /// # Errors
    /// As binding a socket: the address is in use (also by another process's group, which this one never joins
    /// unnoticed), not ours, or not permitted. [`io::ErrorKind::InvalidInput`] for a number of workers out of
    /// range.
    pub fn bind(addr: SocketAddr, workers: usize, options: &SocketOptions) -> io::Result<Self> {
        let count = match u8::try_from(workers) {
            Ok(count) if (1..=WORKERS_MAX).contains(&workers) => count,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{workers} workers; a group has 1 to {WORKERS_MAX}"),
                ));
            }
        };
        // The first socket binds without SO_REUSEPORT. So it gets a port that nobody has, instead of joining
        // whatever group of the same user already listens there; the option is set before the others bind.
        let first = open(addr, options)?;
        first.bind(&addr.into())?;
        let local_addr = first
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("bound socket has no internet address"))?;
        let mut sockets = vec![first];
        let steering = if count == 1 {
            Steering::SingleSocket {
                reason: "there is one worker".into(),
            }
        } else {
            match join(&mut sockets, local_addr, count, options) {
                Ok(()) => Steering::Bpf,
                Err(error) => {
                    sockets.truncate(1);
                    Steering::SingleSocket {
                        reason: error.to_string(),
                    }
                }
            }
        };
        let short = sockets.iter().any(|socket| buffers_short(socket, options));
        let sockets = (0u8..)
            .zip(sockets)
            .map(|(worker, socket)| {
                Some(WorkerSocket {
                    socket: socket.into(),
                    worker,
                    buffers_short: short,
                })
            })
            .collect();
        Ok(Self {
            local_addr,
            steering,
            sockets: Mutex::new(sockets),
        })
    }

    /// The bound address, with the port resolved; the same for every worker.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How datagrams find their worker; to be said at start.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// Puts another program in the place of the one that steers here without privileges. `attach` gets all sockets of the group, in the order of
    /// their workers, and attaches through one of them; what it does must agree with the connection IDs of this crate, whose worker is in
    /// the six low bits of the first byte. Where it fails nothing has changed.
    ///
    /// `None`, and `attach` is not called: one socket needs no steering, and of a group from which a socket was
    /// taken not all are here.
    pub fn steer_by<T, E>(
        &mut self,
        attach: impl FnOnce(&[BorrowedFd<'_>]) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        let sockets = self.sockets.get_mut();
        let all: Option<Vec<BorrowedFd<'_>>> = sockets
            .iter()
            .map(|socket| Some(socket.as_ref()?.socket.as_fd()))
            .collect();
        let attached = attach(&all.filter(|all| all.len() > 1)?);
        if attached.is_ok() {
            self.steering = Steering::Attached;
        }
        Some(attached)
    }

    /// The socket of `worker`, once. `None` if it was taken, or if that worker has none (see [`Steering`]).
    pub fn take(&self, worker: usize) -> Option<WorkerSocket> {
        self.sockets.lock().get_mut(worker)?.take()
    }
}

impl fmt::Debug for SocketGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketGroup")
            .field("local_addr", &self.local_addr)
            .field("steering", &self.steering)
            .finish_non_exhaustive()
    }
}

/// Binds the other sockets of the group, in order, and makes the kernel steer.
fn join(
    sockets: &mut Vec<Socket>,
    addr: SocketAddr,
    count: u8,
    options: &SocketOptions,
) -> io::Result<()> {
    let first = sockets
        .first()
        .ok_or_else(|| io::Error::other("empty group"))?;
    first.set_reuse_port(true)?;
    let mut others = Vec::new();
    for _ in 1..count {
        let socket = open(addr, options)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        others.push(socket);
    }
    // After the second socket is bound: until then the kernel has no group to attach to.
    steering::attach(first, count)?;
    sockets.extend(others);
    Ok(())
}

fn open(addr: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    socket.set_recv_buffer_size(options.recv_buffer)?;
    if recv_short(&socket, options) {
        // Beyond `net.core.rmem_max`, for whoever may; whoever may not has what the kernel gave.
        let _ = set_socket_recv_buffer_size_force(&socket, options.recv_buffer);
    }
    socket.set_send_buffer_size(options.send_buffer)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn buffers_short(socket: &Socket, options: &SocketOptions) -> bool {
    recv_short(socket, options) || short(socket.send_buffer_size(), options.send_buffer)
}

fn recv_short(socket: &Socket, options: &SocketOptions) -> bool {
    short(socket.recv_buffer_size(), options.recv_buffer)
}

/// The kernel reports twice the size it was asked for, unless it capped it.
fn short(got: io::Result<usize>, asked: usize) -> bool {
    got.is_ok_and(|got| got / 2 < asked)
}

/// The socket of one worker, to be made into an [`Endpoint`](super::Endpoint) inside that worker's runtime.
#[derive(Debug)]
pub struct WorkerSocket {
    pub(super) socket: UdpSocket,
    pub(super) worker: u8,
    pub(super) buffers_short: bool,
}

impl WorkerSocket {
    /// A socket of its own, not in a group: for clients.
    pub(super) fn client(addr: SocketAddr) -> io::Result<Self> {
        // A client's wildcard IPv6 socket reaches IPv4 servers as well.
        let options = SocketOptions {
            only_v6: false,
            recv_buffer: CLIENT_RECV_BUFFER,
            ..SocketOptions::default()
        };
        let socket = open(addr, &options)?;
        socket.bind(&addr.into())?;
        let buffers_short = buffers_short(&socket, &SocketOptions::default());
        Ok(Self {
            socket: socket.into(),
            worker: 0,
            buffers_short,
        })
    }

    /// The worker that the kernel steers to this socket.
    pub fn worker(&self) -> u8 {
        self.worker
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn group(workers: usize) -> SocketGroup {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        SocketGroup::bind(any, workers, &SocketOptions::default()).unwrap()
    }

    #[test]
    fn another_program_gets_the_sockets_in_the_order_of_workers() {
        let mut group = group(4);
        if let Steering::SingleSocket { reason } = group.steering() {
            eprintln!("SKIPPED: the kernel refuses to steer: {reason}");
            return;
        }
        let failed: Option<Result<(), &str>> = group.steer_by(|_| Err("no"));
        assert_eq!(failed, Some(Err("no")));
        assert_eq!(group.steering(), &Steering::Bpf);
        let numbers = |sockets: &[BorrowedFd<'_>]| {
            Ok::<Vec<_>, ()>(sockets.iter().map(|socket| socket.as_raw_fd()).collect())
        };
        let given = group.steer_by(numbers).unwrap().unwrap();
        assert_eq!(group.steering(), &Steering::Attached);
        let taken = (0..4).map(|worker| group.take(worker).unwrap());
        let taken: Vec<_> = taken.map(|socket| socket.socket).collect();
        let taken: Vec<i32> = taken.iter().map(|socket| socket.as_raw_fd()).collect();
        assert_eq!(given, taken);
        // Some are elsewhere now.
        assert_eq!(group.steer_by(numbers), None);
    }

    #[test]
    fn one_socket_is_not_steered() {
        let mut group = group(1);
        assert_eq!(group.steer_by(|_| Ok::<(), ()>(())), None);
        assert!(matches!(group.steering(), Steering::SingleSocket { .. }));
    }
}
