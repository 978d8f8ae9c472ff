//! TCP with TLS 1.3: one connection, on which questions wait in line for their answers.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, split};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::contender::{Contender, assert_rpc};
use crate::papers::{NAME, Tls};
use crate::work::{QUESTION, RPC_ANSWER, Tickets, Work, asked, question};

pub(crate) struct Tcp {
    connector: TlsConnector,
    segment: u32,
}

pub(crate) struct Conn {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// Bytes read at once.
const READ: usize = 256 * 1024;

/// Payload of a TCP segment in an IPv4 packet that has room for so much UDP payload: UDP's header has 8 bytes, TCP's 32 with
/// timestamps. The kernel counts the timestamps into its maximum, so 20.
fn segment(work: Work) -> u32 {
    u32::from(work.mtu()) + 8 - 20
}

/// A socket whose segments are no larger than that.
fn socket(segment: u32) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_mss(segment).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Answers what comes on one connection, in order.
async fn serve(stream: TcpStream, config: Arc<ServerConfig>, piece: Arc<[u8]>) {
    stream.set_nodelay(true).unwrap();
    let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let mut questions = Vec::new();
    if let Some(mut early) = stream.get_mut().1.early_data() {
        early.read_to_end(&mut questions).unwrap();
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        let mut whole = questions.chunks_exact(QUESTION);
        for question in &mut whole {
            let mut left = asked(question);
            // Small answers leave together, large ones as they are.
            while left > 0 {
                let length = piece.len().min(usize::try_from(left).unwrap());
                left -= length as u64;
                if length == piece.len() {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                } else {
                    out.extend_from_slice(&piece[..length]);
                }
            }
        }
        let rest = whole.remainder().to_vec();
        questions = rest;
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        out.clear();
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => questions.extend_from_slice(&buffer[..read]),
        }
    }
}

impl Contender for Tcp {
    type Conn = Conn;

    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>) {
        let socket = socket(segment(work));
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&addr.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        ready.send(listener.local_addr().unwrap()).unwrap();
        let piece: Arc<[u8]> = vec![1; 1 << 20].into();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, tls.server.clone(), piece.clone()));
        }
    }

    fn client(work: Work, tls: Tls) -> Self {
        let connector = TlsConnector::from(tls.client);
        Self {
            connector: connector.early_data(work.tickets() == Tickets::Early),
            segment: segment(work),
        }
    }

    async fn connect(&self, addr: SocketAddr) -> Conn {
        let socket = TcpSocket::from_std_stream(socket(self.segment).into());
        let stream = socket.connect(addr).await.unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        Conn {
            stream: self.connector.connect(name, stream).await.unwrap(),
            buffer: vec![0; READ],
        }
    }

    async fn ask(conn: &mut Conn, length: u64) {
        conn.stream.write_all(&question(length)).await.unwrap();
        conn.stream.flush().await.unwrap();
        let mut left = length;
        while left > 0 {
            let read = conn.stream.read(&mut conn.buffer).await.unwrap();
            assert_ne!(read, 0, "the end, {left} bytes early");
            left -= read as u64;
        }
    }

    async fn ask_many(conn: &mut Conn, count: usize, at_once: usize) {
        let Conn { stream, buffer } = conn;
        let (mut input, mut output) = split(stream);
        let free = Semaphore::new(at_once);
        let answer = usize::try_from(RPC_ANSWER).unwrap();
        let asking = async {
            let (mut left, mut questions) = (count, Vec::new());
            while left > 0 {
                free.acquire().await.unwrap().forget();
                let mut now = 1;
                while now < left
                    && free.try_acquire().is_ok_and(|one| {
                        one.forget();
                        true
                    })
                {
                    now += 1;
                }
                left -= now;
                questions.clear();
                for _ in 0..now {
                    questions.extend_from_slice(&question(RPC_ANSWER));
                }
                output.write_all(&questions).await.unwrap();
                output.flush().await.unwrap();
            }
        };
        let reading = async {
            let (mut answers, mut part) = (0, 0);
            while answers < count {
                let read = input.read(buffer).await.unwrap();
                assert_ne!(read, 0, "the end, {} answers early", count - answers);
                part += read;
                let whole = part / answer;
                part %= answer;
                answers += whole;
                free.add_permits(whole);
            }
            assert_rpc(part + answer);
        };
        tokio::join!(asking, reading);
    }

    async fn settled(conn: &mut Conn) -> bool {
        conn.stream.get_ref().1.is_early_data_accepted()
    }

    fn mtu(_conn: &Conn) -> Option<u16> {
        None
    }

    async fn close(mut conn: Conn) {
        conn.stream.shutdown().await.unwrap();
    }
}
