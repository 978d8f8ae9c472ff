//! `stoq::peer`: nodes that ask each other, an exchange for each question.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use stoq::early::Sessions;
use stoq::identity::Identity;
use stoq::peer::{
    Ask, DialConfig, ExchangeError, Handler, IncomingRequest, Part, PeerConn, PeerInfo, PeerServer,
    RecvHalf, ServeConfig,
};
use stoq::quic::Endpoint;
use tokio::sync::oneshot;

use crate::contender::{Contender, assert_rpc};
use crate::papers::Tls;
use crate::streams::{endpoint, transport};
use crate::work::{RPC_ANSWER, SMALL_ANSWER, Tickets, Work, asked, question};

pub(crate) struct Exchanges {
    endpoint: Endpoint,
    node: Identity,
    /// Where tickets are kept, if the row is about them.
    sessions: Option<Arc<Sessions>>,
    early: bool,
}

pub(crate) struct Conn {
    peer: PeerConn,
    /// The answer to what was asked while connecting.
    first: Option<RecvHalf>,
    early: bool,
}

/// The only kind that is asked for here.
const KIND: u16 = 1;

struct Answerer(Bytes);

impl Handler for Answerer {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // An error means that the asker knows already.
            let _ = self.answer(request).await;
        })
    }

    fn replay_safe(&self, kind: u16) -> bool {
        kind == KIND
    }
}

impl Answerer {
    async fn answer(&self, request: IncomingRequest) -> Result<(), ExchangeError> {
        let IncomingRequest {
            control,
            mut body,
            mut reply,
            ..
        } = request;
        if body.next().await?.is_some() {
            return Err(ExchangeError::Finished);
        }
        let mut left = asked(&control);
        while left > 0 {
            let piece = self
                .0
                .slice(..self.0.len().min(usize::try_from(left).unwrap()));
            left -= piece.len() as u64;
            reply.data(piece).await?;
        }
        reply.finish().await
    }
}

async fn ask(conn: &PeerConn, length: u64) -> usize {
    let control = Bytes::copy_from_slice(&question(length));
    let exchange = conn.exchange(KIND, control, None).await.unwrap();
    exchange.send.finish().await.unwrap();
    read(exchange.recv).await
}

async fn read(mut answer: RecvHalf) -> usize {
    let mut received = 0;
    while let Some(part) = answer.next().await.unwrap() {
        match part {
            Part::Data(bytes) => received += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    received
}

impl Contender for Exchanges {
    type Conn = Conn;

    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>) {
        let [node, _] = tls.nodes;
        let shown = match work.tickets() {
            Tickets::None => node.server_tls().unwrap(),
            Tickets::Resumed | Tickets::Early => tls.tickets.server_tls(&node).unwrap(),
        };
        let (endpoint, addr) = endpoint(work, shown);
        let config = ServeConfig {
            exchanges: usize::try_from(work.streams()).unwrap(),
            ..ServeConfig::default()
        };
        let answerer = Answerer(Bytes::from(vec![1; 1 << 20]));
        let server = PeerServer::new(endpoint, node, Arc::new(answerer), config);
        ready.send(addr).unwrap();
        server.serve().await;
    }

    fn client(work: Work, tls: Tls) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let [_, node] = tls.nodes;
        Self {
            endpoint: Endpoint::client(addr, transport(work)).unwrap(),
            sessions: (work.tickets() != Tickets::None).then(|| Sessions::new(&node, 1)),
            early: work.tickets() == Tickets::Early,
            node,
        }
    }

    async fn connect(&self, addr: SocketAddr) -> Conn {
        let (endpoint, config) = (&self.endpoint, DialConfig::default());
        let (peer, first) = match &self.sessions {
            None => {
                let dialled = PeerConn::dial(endpoint, &self.node, addr, &config);
                (dialled.await.unwrap(), None)
            }
            Some(sessions) if self.early => {
                let control = Bytes::copy_from_slice(&question(SMALL_ANSWER));
                let ask = Ask::new(KIND, control).replay_safe();
                let dialled = PeerConn::dial_asking(endpoint, sessions, addr, &config, ask);
                let (peer, first) = dialled.await.unwrap();
                (peer, Some(first.unwrap()))
            }
            Some(sessions) => {
                let dialled = PeerConn::dial_resuming(endpoint, sessions, addr, &config);
                (dialled.await.unwrap(), None)
            }
        };
        let early = self.early
            && peer
                .handshake()
                .is_some_and(|handshake| handshake.early_data);
        Conn { peer, first, early }
    }

    async fn ask(conn: &mut Conn, length: u64) {
        let received = match conn.first.take() {
            Some(first) => read(first).await,
            None => ask(&conn.peer, length).await,
        };
        assert_eq!(received as u64, length);
    }

    async fn ask_many(conn: &mut Conn, count: usize, at_once: usize) {
        let peer = &conn.peer;
        stream::iter(0..count)
            .map(|_| async { assert_rpc(ask(peer, RPC_ANSWER).await) })
            .buffer_unordered(at_once)
            .for_each(|()| async {})
            .await;
    }

    /// Dialling has waited for it.
    async fn settled(conn: &mut Conn) -> bool {
        conn.early
    }

    fn mtu(conn: &Conn) -> Option<u16> {
        Some(conn.peer.path().mtu)
    }

    async fn close(conn: Conn) {
        conn.peer.close();
    }
}
