//! Plain quinn, used as its documentation says: a stream for each question.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig, ZeroRttAccepted,
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::SockRef;
use tokio::sync::oneshot;

use crate::contender::{Contender, assert_rpc};
use crate::papers::{NAME, Tls};
use crate::work::{QUESTION, RPC_ANSWER, Tickets, Work, asked, question};

/// With or without segmentation offload.
pub(crate) struct Plain<const GSO: bool> {
    endpoint: Endpoint,
    early: bool,
}

pub(crate) struct Conn {
    connection: Connection,
    early: Option<ZeroRttAccepted>,
}

fn transport(work: Work, gso: bool) -> Arc<TransportConfig> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(work.mtu());
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(work.streams().into())
        .enable_segmentation_offload(gso);
    Arc::new(transport)
}

/// On a socket with buffers like ours.
fn endpoint(work: Work, server: Option<ServerConfig>, recv_buffer: usize) -> Endpoint {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(recv_buffer).unwrap();
    // As far as this process may.
    let _ = set_socket_recv_buffer_size_force(&socket, recv_buffer);
    options.set_send_buffer_size(4 << 20).unwrap();
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(work.mtu()).unwrap();
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).unwrap()
}

async fn answer(mut send: SendStream, mut recv: RecvStream, piece: Bytes) {
    let Ok(question) = recv.read_to_end(QUESTION).await else {
        return;
    };
    let mut left = asked(&question);
    while left > 0 {
        let piece = piece.slice(..piece.len().min(usize::try_from(left).unwrap()));
        left -= piece.len() as u64;
        if send.write_all_chunks(&mut [piece]).await.is_err() {
            return;
        }
    }
    let _ = send.finish();
}

async fn ask(connection: &Connection, length: u64) -> usize {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let question = Bytes::copy_from_slice(&question(length));
    send.write_all_chunks(&mut [question]).await.unwrap();
    send.finish().unwrap();
    let mut received = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
        received += chunk.bytes.len();
    }
    received
}

impl<const GSO: bool> Contender for Plain<GSO> {
    type Conn = Conn;

    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>) {
        let crypto = QuicServerConfig::try_from(tls.server).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(work, GSO));
        let endpoint = endpoint(work, Some(config), 4 << 20);
        ready.send(endpoint.local_addr().unwrap()).unwrap();
        let piece = Bytes::from(vec![1; 1 << 20]);
        while let Some(incoming) = endpoint.accept().await {
            let piece = piece.clone();
            tokio::spawn(async move {
                let connection = incoming.await.unwrap();
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(answer(send, recv, piece.clone()));
                }
            });
        }
    }

    fn client(work: Work, tls: Tls) -> Self {
        let crypto = QuicClientConfig::try_from(tls.client).unwrap();
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport(work, GSO));
        let mut endpoint = endpoint(work, None, 16 << 20);
        endpoint.set_default_client_config(config);
        Self {
            endpoint,
            early: work.tickets() == Tickets::Early,
        }
    }

    async fn connect(&self, addr: SocketAddr) -> Conn {
        let connecting = self.endpoint.connect(addr, NAME).unwrap();
        if !self.early {
            return Conn {
                connection: connecting.await.unwrap(),
                early: None,
            };
        }
        match connecting.into_0rtt() {
            Ok((connection, early)) => Conn {
                connection,
                early: Some(early),
            },
            Err(connecting) => Conn {
                connection: connecting.await.unwrap(),
                early: None,
            },
        }
    }

    async fn ask(conn: &mut Conn, length: u64) {
        assert_eq!(ask(&conn.connection, length).await as u64, length);
    }

    async fn ask_many(conn: &mut Conn, count: usize, at_once: usize) {
        let connection = &conn.connection;
        stream::iter(0..count)
            .map(|_| async { assert_rpc(ask(connection, RPC_ANSWER).await) })
            .buffer_unordered(at_once)
            .for_each(|()| async {})
            .await;
    }

    async fn settled(conn: &mut Conn) -> bool {
        match conn.early.take() {
            Some(early) => early.await,
            None => false,
        }
    }

    fn mtu(conn: &Conn) -> Option<u16> {
        Some(conn.connection.stats().path.current_mtu)
    }

    async fn close(conn: Conn) {
        conn.connection.close(0u32.into(), b"");
    }
}
