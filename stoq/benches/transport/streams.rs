//! `stoq::quic` by itself: a stream for each question.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use stoq::quic::{
    CidKeys, Connection, EarlyData, Endpoint, EndpointConfig, RecvStream, SendStream, SocketGroup,
    SocketOptions, TlsClient, TlsServer, TransportConfig,
};
use tokio::sync::oneshot;

use crate::contender::{Contender, assert_rpc};
use crate::papers::{NAME, Tls};
use crate::work::{QUESTION, RPC_ANSWER, Tickets, Work, asked, question};

pub(crate) struct Streams {
    endpoint: Endpoint,
    tls: TlsClient,
    early: bool,
}

pub(crate) struct Conn {
    connection: Connection,
    early: EarlyData,
}

/// The defaults but for what the row asks for.
pub(crate) fn transport(work: Work) -> TransportConfig {
    TransportConfig {
        mtu_max: work.mtu(),
        max_bidi_streams: work.streams(),
        ..TransportConfig::default()
    }
}

/// A server's endpoint on the loopback.
pub(crate) fn endpoint(work: Work, tls: TlsServer) -> (Endpoint, SocketAddr) {
    let addr = SocketAddr::from(([127, 0, 0, 1], 0));
    let group = SocketGroup::bind(addr, 1, &SocketOptions::default()).unwrap();
    let mut config = EndpointConfig::new(CidKeys::random());
    config.server = Some(tls);
    config.transport = transport(work);
    let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
    (endpoint, group.local_addr())
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
    while let Some(chunk) = recv.read_chunk(usize::MAX).await.unwrap() {
        received += chunk.len();
    }
    received
}

impl Contender for Streams {
    type Conn = Conn;

    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>) {
        let (endpoint, addr) = endpoint(work, TlsServer::new(tls.server).unwrap());
        ready.send(addr).unwrap();
        let piece = Bytes::from(vec![1; 1 << 20]);
        while let Some(connecting) = endpoint.accept().await {
            let piece = piece.clone();
            tokio::spawn(async move {
                let connection = connecting.establish().await.unwrap();
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(answer(send, recv, piece.clone()));
                }
            });
        }
    }

    fn client(work: Work, tls: Tls) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            endpoint: Endpoint::client(addr, transport(work)).unwrap(),
            tls: TlsClient::new(tls.client).unwrap(),
            early: work.tickets() == Tickets::Early,
        }
    }

    async fn connect(&self, addr: SocketAddr) -> Conn {
        if self.early {
            let connecting = self.endpoint.connect_early(addr, NAME, &self.tls);
            let (connection, early) = connecting.await.unwrap();
            Conn { connection, early }
        } else {
            let connecting = self.endpoint.connect(addr, NAME, &self.tls);
            Conn {
                connection: connecting.await.unwrap(),
                early: EarlyData::default(),
            }
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
        conn.early.accepted().await
    }

    fn mtu(conn: &Conn) -> Option<u16> {
        Some(conn.connection.path().mtu)
    }

    async fn close(conn: Conn) {
        conn.connection.close(0, b"");
    }
}
