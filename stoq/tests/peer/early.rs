//! Resumption and early data between nodes: what it saves, and what a recording of it is good for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::server::StoresServerSessions;
use stoq::early::{Sessions, TicketConfig, Tickets};
use stoq::identity::{ALPN, ClusterRoot, Identity, Revocations, Role, Trust};
use stoq::peer::{
    Ask, DialConfig, Handler, IncomingRequest, Part, PeerConn, PeerError, PeerInfo, ServeConfig,
};
use stoq::quic::{CidKeys, Endpoint, EndpointConfig, TlsServer};
use stoq::wire::{CloseCode, VERSION, VERSION_MIN, Versions};

use crate::cluster::{Server, Shifted, client, loopback, node, root, soon, until, year};
use crate::relay::{Relay, send_again};

/// A kind that may be acted on twice, and one that may not.
const LOOK: u16 = 1;
const CHANGE: u16 = 2;

/// Counts what it was asked to do, and tells whether it was asked early.
#[derive(Debug, Default)]
struct Effects {
    all: AtomicU64,
    early: AtomicU64,
}

impl Effects {
    fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    fn early(&self) -> u64 {
        self.early.load(Ordering::SeqCst)
    }
}

struct Acting(Arc<Effects>);

impl Handler for Acting {
    fn handle<'a>(&'a self, _peer: &'a PeerInfo, request: IncomingRequest) -> BoxFuture<'a, ()> {
        self.0.all.fetch_add(1, Ordering::SeqCst);
        self.0
            .early
            .fetch_add(request.early.into(), Ordering::SeqCst);
        Box::pin(async move {
            let (mut body, mut reply) = (request.body, request.reply);
            if !matches!(body.next().await, Ok(None)) {
                return;
            }
            let said = if request.early { "early" } else { "late" };
            let _ = reply.head(Bytes::from_static(said.as_bytes())).await;
            let _ = reply.finish().await;
        })
    }

    fn replay_safe(&self, kind: u16) -> bool {
        kind == LOOK
    }
}

/// A server that gives tickets, with room for as many recordings as are sent.
fn serve(tls: TlsServer, shield: &Identity, versions: Versions, effects: &Arc<Effects>) -> Server {
    let mut endpoint = EndpointConfig::new(CidKeys::random());
    endpoint.server = Some(tls);
    // Recordings leave handshakes behind that nobody ends; a Retry would hide what becomes of them.
    endpoint.limits.retry_above = 10_000;
    endpoint.limits.max_handshakes = 10_000;
    let config = ServeConfig {
        versions,
        ..ServeConfig::default()
    };
    let handler = Arc::new(Acting(effects.clone()));
    Server::on(endpoint, shield, handler, config, loopback())
}

fn nodes() -> (ClusterRoot, Identity, Identity) {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let edge = node(&root, "edge-1", &[Role::Edge]);
    (root, shield, edge)
}

/// A node, and the list of those that it has no more to do with.
fn revoking(root: &ClusterRoot, name: &str, role: Role) -> (Identity, Revocations) {
    let trust = Trust::default();
    let revocations = trust.revocations.clone();
    let file = root.issue(name, &[role], year()).unwrap();
    let node = Identity::with_trust(file, root.certificate().clone(), trust).unwrap();
    (node, revocations)
}

fn look() -> Ask {
    Ask::new(LOOK, "look")
        .within(Duration::from_secs(10))
        .replay_safe()
}

/// Dials and asks at once; the connection and what the handler said.
async fn ask(
    endpoint: &Endpoint,
    sessions: &Sessions,
    server: std::net::SocketAddr,
    ask: Ask,
) -> (PeerConn, Bytes) {
    let config = DialConfig::default();
    let dialling = PeerConn::dial_asking(endpoint, sessions, server, &config, ask);
    let (conn, answer) = soon("dial", dialling).await.unwrap();
    let mut answer = answer.unwrap();
    let Some(Part::Head(said)) = soon("answer", answer.next()).await.unwrap() else {
        panic!("no head")
    };
    assert_eq!(soon("end", answer.next()).await.unwrap(), None);
    (conn, said)
}

/// Waits until the peer's tickets have arrived, which come after the handshake, in no order with what else is said.
async fn tickets_given(tickets: &Tickets, at_least: u64) {
    until("tickets", || {
        tickets.counters().tickets_given.get() >= at_least
    })
    .await;
}

#[tokio::test]
async fn a_replay_safe_request_to_a_known_peer_is_answered_before_the_handshake_ends() {
    let (_root, shield, edge) = nodes();
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));

    let (first, said) = ask(&endpoint, &sessions, server.addr, look()).await;
    assert_eq!(said, "late");
    assert!(!first.handshake().unwrap().resumed);
    tickets_given(&tickets, 2).await;
    let (second, said) = ask(&endpoint, &sessions, server.addr, look()).await;
    assert_eq!(said, "early");
    let handshake = second.handshake().unwrap();
    assert!(handshake.resumed && handshake.early_data);
    assert_eq!(second.peer().identity.node_id, shield.node_id());
    assert_eq!((effects.all(), effects.early()), (2, 1));

    // The same connection goes on as any other.
    let mut exchange = second.ask(look()).await.unwrap();
    exchange.send.finish().await.unwrap();
    let head = soon("answer", exchange.recv.next()).await.unwrap();
    assert_eq!(head, Some(Part::Head(Bytes::from_static(b"late"))));
    let counters = server.peers.counters();
    assert_eq!(counters.early_requests.get(), 1);
    assert_eq!(counters.early_waited.get(), 0);
    assert_eq!(counters.peers_accepted.get(), 2);

    // A session between nodes is as small as the bound's arithmetic says.
    let (held, bytes) = tickets.held();
    println!("{held} sessions take {bytes} bytes");
    assert!(held > 0 && bytes / held < 2048);
}

#[tokio::test]
async fn what_is_not_marked_is_not_sent_early_and_what_the_peer_holds_unsafe_waits() {
    let (_root, shield, edge) = nodes();
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    ask(&endpoint, &sessions, server.addr, look()).await;

    // Not marked: the hello is early, the request is not.
    tickets_given(&tickets, 2).await;
    let unmarked = Ask::new(LOOK, "look");
    let (conn, said) = ask(&endpoint, &sessions, server.addr, unmarked).await;
    assert_eq!(said, "late");
    assert!(conn.handshake().unwrap().early_data);
    let counters = server.peers.counters();
    assert_eq!(counters.early_waited.get(), 0);

    // Marked, but not by the one who acts on it.
    tickets_given(&tickets, 4).await;
    let change = Ask::new(CHANGE, "change").replay_safe();
    let (conn, said) = ask(&endpoint, &sessions, server.addr, change).await;
    assert_eq!(said, "late");
    assert!(conn.handshake().unwrap().early_data);
    assert_eq!(counters.early_waited.get(), 1);
    assert_eq!(counters.early_requests.get(), 0);
    assert_eq!((effects.all(), effects.early()), (3, 0));
}

/// Sends a flight to `times` workers that have not seen it, one each, and waits until all have looked at it, as `seen` tells
/// from their counters. A worker that had would take it for packets of a connection it knows. The workers have a runtime of
/// their own, so that with it all they hold is gone.
async fn replay_to_new_workers(
    flight: &[Vec<u8>],
    times: usize,
    tls: &TlsServer,
    shield: &Identity,
    effects: &Arc<Effects>,
    seen: impl Fn(&[Server]) -> bool + Send + 'static,
) {
    let (flight, tls) = (flight.to_vec(), tls.clone());
    let (shield, effects) = (shield.clone(), effects.clone());
    let replaying = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let workers: Vec<_> = (0..times)
                .map(|_| serve(tls.clone(), &shield, Versions::default(), &effects))
                .collect();
            for worker in &workers {
                send_again(&flight, worker.addr).await;
            }
            until("all workers look at the flight", || seen(&workers)).await;
        });
    });
    replaying.await.unwrap();
}

#[tokio::test]
async fn a_first_flight_replayed_a_thousand_times_has_no_effect_beyond_the_first() {
    let (_root, shield, edge) = nodes();
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls.clone(), &shield, Versions::default(), &effects);
    let relay = Relay::start(server.addr).await;
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    let (first, _) = ask(&endpoint, &sessions, relay.addr, look()).await;
    tickets_given(&tickets, 2).await;
    first.close();

    relay.record();
    let (conn, said) = ask(&endpoint, &sessions, relay.addr, look()).await;
    assert_eq!(said, "early");
    let flight = relay.recorded();
    assert_eq!((effects.all(), effects.early()), (2, 1));
    assert_eq!(tickets.counters().tickets_used.get(), 1);

    // To other workers, each of which has TLS look at it: the sessions they share are what stands in the way.
    for batch in 1..=20 {
        let tickets = tickets.clone();
        let seen = move |_: &[Server]| tickets.counters().tickets_unknown.get() == batch * 50;
        replay_to_new_workers(&flight, 50, &tls, &shield, &effects, seen).await;
    }
    assert_eq!(tickets.counters().tickets_unknown.get(), 1000);

    // To the worker of the original, while that connection lives and after it.
    for _ in 0..500 {
        send_again(&flight, server.addr).await;
    }
    conn.close();
    until("the original is forgotten", || {
        server.endpoint.connection_count() == 0
    })
    .await;
    for _ in 0..500 {
        send_again(&flight, server.addr).await;
    }
    until("the worker looks at the flight", || {
        tickets.counters().tickets_unknown.get() == 1001
    })
    .await;

    // What comes after all of them on the same socket is served, and is all that was.
    ask(&endpoint, &sessions, server.addr, look()).await;
    assert_eq!((effects.all(), effects.early()), (3, 1));
    assert_eq!(tickets.counters().tickets_used.get(), 1);
    let counters = server.peers.counters();
    assert_eq!(counters.peers_accepted.get(), 3, "no recording is a peer");
}

/// What a server must not have: sessions that can be resumed again and again.
#[derive(Debug, Default)]
struct Reusable(Mutex<HashMap<Vec<u8>, Vec<u8>>>);

impl StoresServerSessions for Reusable {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        self.0.lock().insert(ticket, session);
        true
    }

    fn get(&self, _ticket: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().get(ticket).cloned()
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// The test above can fail: with tickets that are good for more than once, the same recording does act again. And the second
/// line of defence holds alone: what the handler does not hold safe waits for a handshake that a recording cannot end.
#[tokio::test]
async fn with_reusable_tickets_recordings_act_again_but_only_on_what_is_safe() {
    for (kind, acts_again) in [(LOOK, true), (CHANGE, false)] {
        let (_root, shield, edge) = nodes();
        let (tickets, effects) = (Arc::new(Reusable::default()), Arc::default());
        let mut tls = rustls::ServerConfig::clone(&shield.server_config(ALPN).unwrap());
        tls.session_storage = tickets.clone();
        tls.send_tls13_tickets = 2;
        tls.max_early_data_size = u32::MAX;
        let tls = TlsServer::new(Arc::new(tls)).unwrap();
        let server = serve(tls.clone(), &shield, Versions::default(), &effects);
        let relay = Relay::start(server.addr).await;
        let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
        ask(&endpoint, &sessions, relay.addr, look()).await;
        until("tickets", || tickets.0.lock().len() >= 2).await;

        relay.record();
        let marked = Ask::new(kind, "x").replay_safe();
        ask(&endpoint, &sessions, relay.addr, marked).await;
        let flight = relay.recorded();
        assert_eq!(effects.all(), 2);
        let seen = move |workers: &[Server]| {
            let counters = workers.iter().map(|worker| worker.peers.counters());
            let looked = counters.map(|all| match acts_again {
                true => all.requests_returned.get(),
                false => all.early_waited.get(),
            });
            looked.sum::<u64>() == 20
        };
        replay_to_new_workers(&flight, 20, &tls, &shield, &effects, seen).await;
        assert_eq!(effects.all(), if acts_again { 22 } else { 2 });
    }
}

#[tokio::test]
async fn a_server_that_has_forgotten_is_asked_again_after_a_full_handshake() {
    let (_root, shield, edge) = nodes();
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    ask(&endpoint, &sessions, server.addr, look()).await;
    tickets_given(&tickets, 2).await;

    let restarted = Tickets::new(&TicketConfig::default());
    let tls = restarted.server_tls(&shield).unwrap();
    server.endpoint.set_server(Some(tls));
    let (conn, said) = ask(&endpoint, &sessions, server.addr, look()).await;
    assert_eq!(said, "late");
    let handshake = conn.handshake().unwrap();
    assert!(!handshake.resumed && !handshake.early_data);
    assert_eq!(restarted.counters().tickets_unknown.get(), 1);
    assert_eq!(effects.all(), 2);
}

#[tokio::test]
async fn a_peer_of_another_version_than_last_time_is_asked_again() {
    let (_root, shield, edge) = nodes();
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let old = Versions::up_to(VERSION_MIN).unwrap();
    let [new, old] =
        [Versions::default(), old].map(|versions| serve(tls.clone(), &shield, versions, &effects));
    // Both behind one address: the relay is the same for the client.
    let relay = Relay::start(new.addr).await;
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    let (conn, _) = ask(&endpoint, &sessions, relay.addr, look()).await;
    assert_eq!(conn.peer().version, VERSION);
    tickets_given(&tickets, 2).await;
    relay.turn_to(old.addr).await;

    let (conn, said) = ask(&endpoint, &sessions, relay.addr, look()).await;
    assert_eq!((conn.peer().version, said), (VERSION_MIN, "late".into()));
    assert!(conn.handshake().unwrap().early_data);
    assert_eq!((effects.all(), effects.early()), (2, 0));
    assert_eq!(old.peers.counters().refused_request_malformed.get(), 1);
}

#[tokio::test]
async fn a_resumed_peer_whose_certificate_has_ended_is_refused() {
    let root = root("demo");
    let clock = Arc::new(Shifted::default());
    let file = root.issue("shield-1", &[Role::Shield], year()).unwrap();
    let shield = Identity::with_clock(file, root.certificate().clone(), clock.clone()).unwrap();
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    ask(&endpoint, &sessions, server.addr, look()).await;
    tickets_given(&tickets, 2).await;

    clock.forward(Duration::from_secs(80 * 3600));
    let config = DialConfig::default();
    let dialling = PeerConn::dial_asking(&endpoint, &sessions, server.addr, &config, look());
    let refused = soon("dial", dialling).await.map(drop);
    assert!(
        matches!(
            &refused,
            Err(PeerError::RefusedByPeer {
                code: CloseCode::Expired,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(tickets.counters().tickets_used.get(), 1);
    assert_eq!(effects.all(), 1);
    assert_eq!(sessions.peers(), 0, "the next dial is a full handshake");
}

#[tokio::test]
async fn a_node_that_was_revoked_is_refused_with_a_ticket_too_and_its_early_request_unheard() {
    let root = root("demo");
    let (shield, revocations) = revoking(&root, "shield-1", Role::Shield);
    let edge = node(&root, "edge-1", &[Role::Edge]);
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    ask(&endpoint, &sessions, server.addr, look()).await;
    tickets_given(&tickets, 2).await;

    revocations.replace([edge.node_id()]).unwrap();
    let config = DialConfig::default();
    let dialling = PeerConn::dial_asking(&endpoint, &sessions, server.addr, &config, look());
    let refused = soon("dial", dialling).await.map(drop);
    assert!(
        matches!(
            &refused,
            Err(PeerError::RefusedByPeer {
                code: CloseCode::Revoked,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(tickets.counters().tickets_used.get(), 1);
    assert_eq!(effects.all(), 1);
}

#[tokio::test]
async fn a_node_that_was_revoked_is_sent_no_early_request() {
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let (edge, revocations) = revoking(&root, "edge-1", Role::Edge);
    let (tickets, effects) = (Tickets::new(&TicketConfig::default()), Arc::default());
    let tls = tickets.server_tls(&shield).unwrap();
    let server = serve(tls, &shield, Versions::default(), &effects);
    let (endpoint, sessions) = (client(), Sessions::new(&edge, 8));
    ask(&endpoint, &sessions, server.addr, look()).await;
    tickets_given(&tickets, 2).await;

    revocations.replace([shield.node_id()]).unwrap();
    let config = DialConfig::default();
    let dialling = PeerConn::dial_asking(&endpoint, &sessions, server.addr, &config, look());
    let refused = soon("dial", dialling).await.map(drop);
    assert!(
        matches!(&refused, Err(PeerError::Refused { .. })),
        "{refused:?}"
    );
    assert_eq!(tickets.counters().tickets_used.get(), 0);
    assert_eq!(effects.all(), 1);
}
