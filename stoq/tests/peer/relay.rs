//! Somebody on the path who can record what a client sends, and send it again.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::cluster::loopback;

/// Passes UDP datagrams between one client and a server. Stops when dropped.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    tape: Arc<Mutex<Tape>>,
    far: Arc<UdpSocket>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Tape {
    running: bool,
    flight: Vec<Vec<u8>>,
}

/// More than QUIC sends at once.
const DATAGRAM_MAX: usize = 2048;

impl Relay {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let near = UdpSocket::bind(loopback()).await.unwrap();
        let far = Arc::new(UdpSocket::bind(loopback()).await.unwrap());
        far.connect(server).await.unwrap();
        let addr = near.local_addr().unwrap();
        let tape = Arc::new(Mutex::new(Tape::default()));
        let task = tokio::spawn(pass(near, far.clone(), tape.clone()));
        Self {
            addr,
            tape,
            far,
            task,
        }
    }

    /// Passes to another server from here on.
    pub(crate) async fn turn_to(&self, server: SocketAddr) {
        self.far.connect(server).await.unwrap();
    }

    /// Records from here on what clients send, until they have heard of the server.
    pub(crate) fn record(&self) {
        *self.tape.lock() = Tape {
            running: true,
            flight: Vec::new(),
        };
    }

    /// What was recorded: a client's first flight.
    pub(crate) fn recorded(&self) -> Vec<Vec<u8>> {
        let tape = self.tape.lock();
        assert!(!tape.running && !tape.flight.is_empty(), "{tape:?}");
        tape.flight.clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(near: UdpSocket, far: Arc<UdpSocket>, tape: Arc<Mutex<Tape>>) {
    let (mut up, mut down) = (vec![0; DATAGRAM_MAX], vec![0; DATAGRAM_MAX]);
    let mut client = None;
    loop {
        // The client's side first: all of a flight is on the tape before an answer passes.
        tokio::select! {
            biased;
            got = near.recv_from(&mut up) => {
                let Ok((len, from)) = got else { return };
                client = Some(from);
                {
                    let mut tape = tape.lock();
                    // Packets of earlier connections may still be under way.
                    if tape.running && (!tape.flight.is_empty() || begins_a_connection(&up[..len])) {
                        tape.flight.push(up[..len].to_vec());
                    }
                }
                let _ = far.send(&up[..len]).await;
            }
            got = far.recv(&mut down) => {
                // A server that is gone is an error of the socket, which passes.
                let Ok(len) = got else { continue };
                {
                    let mut tape = tape.lock();
                    if !tape.flight.is_empty() && is_long(&down[..len]) {
                        tape.running = false;
                    }
                }
                if let Some(client) = client {
                    let _ = near.send_to(&down[..len], client).await;
                }
            }
        }
    }
}

//= https://www.rfc-editor.org/rfc/rfc9000#section-17.2
//# The most significant bit (0x80) of byte 0 (the first byte) is set to 1 for long headers.
fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

//= https://www.rfc-editor.org/rfc/rfc9000#section-17.2.2
//# An Initial packet uses long headers with a type value of 0x00.
fn begins_a_connection(datagram: &[u8]) -> bool {
    is_long(datagram) && datagram.first().is_some_and(|first| first & 0x30 == 0)
}

/// Sends a flight to `server` from an address of its own.
pub(crate) async fn send_again(flight: &[Vec<u8>], server: SocketAddr) {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    for datagram in flight {
        socket.send_to(datagram, server).await.unwrap();
    }
}
