//! `stoq::peer`: nodes that ask each other, an exchange for each question.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use stoq::identity::Identity;
use stoq::peer::{
    DialConfig, ExchangeError, Handler, IncomingRequest, Part, PeerConn, PeerInfo, PeerServer,
    ServeConfig,
};
use stoq::quic::Endpoint;
use tokio::sync::oneshot;

use crate::contender::{Contender, assert_rpc};
use crate::papers::Tls;
use crate::streams::{endpoint, transport};
use crate::work::{RPC_ANSWER, Work, asked, question};

pub(crate) struct Exchanges {
    endpoint: Endpoint,
    node: Identity,
}

struct Answerer(Bytes);

impl Handler for Answerer {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // An error means that the asker knows already.
            let _ = self.answer(request).await;
        })
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
    let mut exchange = conn.exchange(1, control, None).await.unwrap();
    exchange.send.finish().await.unwrap();
    let mut received = 0;
    while let Some(part) = exchange.recv.next().await.unwrap() {
        match part {
            Part::Data(bytes) => received += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    received
}

impl Contender for Exchanges {
    type Conn = PeerConn;

    async fn serve(work: Work, tls: Tls, ready: oneshot::Sender<SocketAddr>) {
        let [node, _] = tls.nodes;
        let (endpoint, addr) = endpoint(work, node.server_tls().unwrap());
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
            node,
        }
    }

    async fn connect(&self, addr: SocketAddr) -> PeerConn {
        PeerConn::dial(&self.endpoint, &self.node, addr, &DialConfig::default())
            .await
            .unwrap()
    }

    async fn ask(conn: &mut PeerConn, length: u64) {
        assert_eq!(ask(conn, length).await as u64, length);
    }

    async fn ask_many(conn: &mut PeerConn, count: usize, at_once: usize) {
        let conn = &*conn;
        stream::iter(0..count)
            .map(|_| async { assert_rpc(ask(conn, RPC_ANSWER).await) })
            .buffer_unordered(at_once)
            .for_each(|()| async {})
            .await;
    }

    async fn settled(_conn: &mut PeerConn) -> bool {
        false
    }

    fn mtu(conn: &PeerConn) -> Option<u16> {
        Some(conn.path().mtu)
    }

    async fn close(conn: PeerConn) {
        conn.close();
    }
}
