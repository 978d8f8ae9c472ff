//! Tests: whatever a client's packets say of where they come from, what it does is put down to where it shook hands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stoq::h3::{frame, qpack};
use stoq::quic::{CidKeys, Connection, Endpoint, EndpointConfig, SocketOptions, TransportConfig};
use stoq_cache::reply::ReplyBody;
use stoq_cache::time::Timestamp;
use stoq_node::Drain;

use crate::listen::testing::{reply, tls};
use crate::listen::{Common, Context, HttpsSockets, Limits, Metrics};
use crate::service::{Answer, Interim, RequestBody, RequestHead, RequestView, Sent, Service};
use crate::xdp::Witness;

/// Answers everything from memory, and remembers who asked, and whether on the short way.
#[derive(Debug, Default)]
struct Peers(Mutex<Vec<(IpAddr, bool)>>);

impl Service for Peers {
    type Note = ();

    fn try_hit(&self, _: &RequestView<'_>, _: Timestamp) -> Option<Answer<()>> {
        let reply = reply(200, &[], ReplyBody::Empty);
        Some(Answer { reply, note: () })
    }

    fn serve(
        self: Arc<Self>,
        _: Arc<RequestHead>,
        _: RequestBody,
        _: Interim,
    ) -> BoxFuture<'static, Answer<()>> {
        unreachable!("all is in memory")
    }

    fn done(&self, request: &RequestView<'_>, _: Option<()>, sent: &Sent) {
        self.0.lock().push((request.peer.ip(), sent.inline));
    }
}

fn get() -> Vec<u8> {
    let section = qpack::section([
        (":method", &b"GET"[..]),
        (":scheme", b"https"),
        (":authority", b"localhost"),
        (":path", b"/"),
    ]);
    let mut request = Vec::new();
    frame::put_head(&mut request, frame::HEADERS, section.len() as u64);
    request.extend(section);
    request
}

async fn ask(connection: &Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&get()).await.unwrap();
    send.finish().unwrap();
    assert!(!recv.read_to_end(1000).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_moves_is_told_of_by_the_address_it_has_proven() {
    let (tls_server, tls_client) = tls();
    let home = SocketAddr::from(([127, 0, 0, 1], 0));
    let sockets = HttpsSockets::bind(home, 1, &SocketOptions::default()).unwrap();
    let endpoint = Endpoint::new(
        sockets.quic.take(0).unwrap(),
        EndpointConfig {
            server: Some(tls_server),
            ..EndpointConfig::new(CidKeys::random())
        },
    )
    .unwrap();
    let (service, witness) = (Arc::new(Peers::default()), Witness::default());
    let common = Common::new(
        Limits::default(),
        Metrics::new(),
        Drain::new(Duration::from_secs(1)),
    );
    let context = Context::new(service.clone(), &common.telling(Some(witness.clone())));

    let client = Endpoint::client(home, TransportConfig::default()).unwrap();
    let connection = client
        .connect(sockets.addr, "localhost", &tls_client)
        .await
        .unwrap();
    client.rebind("127.0.0.2:0".parse().unwrap()).unwrap();
    // Nobody is there yet to see the end of the handshake, and by then the transport has followed the client: as on a worker that has more to do.
    let mut unknown = connection.open_uni().await.unwrap();
    unknown.write_all(&[0x21]).await.unwrap();
    unknown.finish().unwrap();
    assert_eq!(unknown.stopped().await.unwrap(), None, "it has arrived");
    let server = tokio::spawn(super::serve(context, endpoint));
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0]).await.unwrap();
    ask(&connection).await;
    ask(&connection).await;

    assert_eq!(witness.take_proven(), [home.ip()]);
    // The first through the library, the second on the short way.
    assert_eq!(*service.0.lock(), [(home.ip(), true); 2]);
    server.abort();
}
