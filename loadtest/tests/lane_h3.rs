//! The HTTP/3 lane against a server that does right and one that writes whatever frames the test wants, on real
//! sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

#[expect(dead_code, reason = "HTTP over TCP is the affair of other tests")]
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use stoq::h3::{frame, qpack};
use stoq::quic::{
    CidKeys, Connection, Endpoint, EndpointConfig, SocketGroup, SocketOptions, TlsServer,
};
use stoq_loadtest::lane::h3::H3Dialer;
use stoq_loadtest::lane::{Conn, Dialer, Failure, Lane, Sink};
use stoq_loadtest::plan::{Handshake, Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Target, Trust};

const LIMIT: Duration = Duration::from_secs(10);

fn plan(target: Target, session: Session) -> Plan {
    Plan {
        target,
        protocol: Protocol::Http3,
        shape: Shape::Closed,
        connections: 1,
        streams: 4,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: Duration::from_secs(1),
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: LIMIT,
        workload: Arc::new(Workload::one("/")),
        fields: Vec::new(),
        session,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 1,
    }
}

fn target(address: SocketAddr) -> Target {
    Target::new(&format!("https://localhost:{}", address.port()))
        .unwrap()
        .at(address)
}

fn ask(verb: Verb, path: &str, known: Known) -> Ask {
    Ask {
        verb,
        object: Arc::new(Object {
            path: path.into(),
            authority: None,
            known,
        }),
    }
}

/// Asks, and gives status and bytes.
async fn exchange(lane: &mut impl Lane, ask: &Ask) -> Result<(u16, u64), Failure> {
    let mut sink = Sink::new(ask);
    tokio::time::timeout(LIMIT, lane.exchange(ask, &mut sink))
        .await
        .expect("an answer or a failure in time")?;
    Ok((sink.status().unwrap(), sink.received()))
}

fn plain_dialer(server: &server::Server) -> H3Dialer {
    let target = target(server.address).trusting(Trust::Certificate(server.certificate.clone()));
    H3Dialer::new(&plan(target, Session::Kept), 0).unwrap()
}

#[tokio::test]
async fn answers_of_any_size_and_verb_are_read_whole() {
    let server = server::over_quic();
    let conn = plain_dialer(&server).dial(0).await.unwrap();
    let mut lane = conn.lane();
    for size in [0_usize, 1, 1000, 100_000, 5_000_000] {
        let known = Known::Body(Bytes::from(vec![7; size]));
        let answered = exchange(&mut lane, &ask(Verb::Get, &format!("/{size}"), known)).await;
        assert_eq!(answered, Ok((200, size as u64)));
    }
    let body = Bytes::from(vec![9; 300_000]);
    let answered = exchange(&mut lane, &ask(Verb::Put(body), "/echo", Known::Nothing)).await;
    assert_eq!(answered, Ok((200, 300_000)));
    conn.close().await;
}

#[tokio::test]
async fn many_lanes_share_a_connection() {
    let server = server::over_quic();
    let conn = plain_dialer(&server).dial(0).await.unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let mut lane = conn.lane();
        asked.spawn(async move {
            let known = Known::Body(Bytes::from(vec![7; 2000]));
            for _ in 0..20 {
                let answered = exchange(&mut lane, &ask(Verb::Get, "/2000", known.clone())).await;
                assert_eq!(answered, Ok((200, 2000)));
            }
        });
    }
    while let Some(done) = asked.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_the_object_is_a_failure_that_says_so() {
    let server = server::over_quic();
    let conn = plain_dialer(&server).dial(0).await.unwrap();
    let mut lane = conn.lane();
    let zeros = Known::Body(Bytes::from(vec![0; 1000]));
    let wrong = exchange(&mut lane, &ask(Verb::Get, "/1000", zeros)).await;
    assert!(matches!(wrong, Err(Failure::Wrong(_))), "{wrong:?}");
    let short = exchange(&mut lane, &ask(Verb::Get, "/short", Known::Nothing)).await;
    let want = Some(server::CUT);
    assert_eq!(short, Err(Failure::Truncated { got: 50_000, want }));
    let cut = exchange(&mut lane, &ask(Verb::Get, "/cut", Known::Nothing)).await;
    assert_eq!(cut, Err(Failure::Reset(0x102)));
    // The lane goes on.
    let answered = exchange(&mut lane, &ask(Verb::Get, "/10", Known::Nothing)).await;
    assert_eq!(answered, Ok((200, 10)));
}

#[tokio::test]
async fn an_exchange_that_is_dropped_leaves_the_lane_usable() {
    let server = server::over_quic();
    let conn = plain_dialer(&server).dial(0).await.unwrap();
    let mut lane = conn.lane();
    let large = ask(Verb::Get, "/50000000", Known::Nothing);
    let mut sink = Sink::new(&large);
    let early = tokio::time::timeout(Duration::from_millis(20), lane.exchange(&large, &mut sink));
    drop(early.await);
    let answered = exchange(&mut lane, &ask(Verb::Get, "/10", Known::Nothing)).await;
    assert_eq!(answered, Ok((200, 10)));
}

#[tokio::test]
async fn a_server_nobody_trusts_is_a_failed_handshake() {
    let server = server::over_quic();
    let other = server::over_quic();
    let target = target(server.address).trusting(Trust::Certificate(other.certificate.clone()));
    let dialer = H3Dialer::new(&plan(target, Session::Kept), 0).unwrap();
    let refused = dialer.dial(0).await.unwrap_err();
    assert!(matches!(refused, Failure::Handshake(_)), "{refused:?}");
}

/// What a scripted server does on a request's stream.
enum Act {
    /// Sends these bytes in pieces, and the end.
    Send(Vec<Vec<u8>>),
    Reset(u64),
    /// Closes the connection.
    Close,
}

/// A server on bare QUIC that does what `script` says of the path; with early data, if `early`.
fn scripted(
    early: bool,
    script: impl Fn(&str) -> Act + Send + Sync + 'static,
) -> (Endpoint, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let group = SocketGroup::bind(any, 1, &SocketOptions::default()).unwrap();
    let config = EndpointConfig {
        server: Some(tls_server(early)),
        ..EndpointConfig::new(CidKeys::random())
    };
    let endpoint = Endpoint::new(group.take(0).unwrap(), config).unwrap();
    let (accepting, script) = (endpoint.clone(), Arc::new(script));
    tokio::spawn(async move {
        while let Some(connecting) = accepting.accept().await {
            let script = Arc::clone(&script);
            tokio::spawn(async move {
                if let Ok(connection) = connecting.establish().await {
                    serve(connection, &*script).await;
                }
            });
        }
    });
    (endpoint, group.local_addr())
}

/// TLS with a certificate and a memory of tickets of its own.
fn tls_server(early: bool) -> TlsServer {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.max_early_data_size = if early { u32::MAX } else { 0 };
    TlsServer::new(Arc::new(tls)).unwrap()
}

async fn serve(connection: Connection, script: &(impl Fn(&str) -> Act + Sync)) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let mut request = recv.read_chunk(usize::MAX).await.unwrap().unwrap().to_vec();
        let path = path(&request);
        // Kept, so that it is not told to stop.
        let _unread = if path == "/unread" {
            Some(recv)
        } else {
            request.extend(recv.read_to_end(1 << 20).await.unwrap());
            None
        };
        match script(&path) {
            Act::Send(pieces) => {
                for piece in pieces {
                    send.write_all(&piece).await.unwrap();
                    // Each in a packet of its own.
                    tokio::task::yield_now().await;
                }
                send.finish().unwrap();
            }
            Act::Reset(code) => send.reset(code),
            Act::Close => connection.close(0x100, b"enough"),
        }
    }
}

fn path(request: &[u8]) -> String {
    let (_, len, used) = frame::head(request).unwrap();
    let section = &request[used..used + usize::try_from(len).unwrap()];
    let (mut section, mut scratch) = (qpack::Section::new(section).unwrap(), Vec::new());
    while let Some(line) = section.next_line().unwrap() {
        if line.name == qpack::Text::Static(":path") {
            let value = line.value.bytes(&mut scratch).unwrap();
            return String::from_utf8(value.to_vec()).unwrap();
        }
    }
    String::new()
}

fn framed(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_head(&mut out, kind, payload.len() as u64);
    out.extend(payload);
    out
}

fn head(lines: &[(&str, &str)]) -> Vec<u8> {
    let lines = lines.iter().map(|(name, value)| (*name, value.as_bytes()));
    framed(frame::HEADERS, &qpack::section(lines))
}

fn dialer(address: SocketAddr, session: Session) -> H3Dialer {
    let target = target(address).trusting(Trust::Insecure);
    H3Dialer::new(&plan(target, session), 0).unwrap()
}

#[tokio::test]
async fn frames_in_any_shape_are_read_and_wrong_ones_are_failures() {
    let whole = || {
        [
            head(&[(":status", "103")]),
            framed(0x21, b"grease"),
            head(&[(":status", "200"), ("content-length", "3")]),
            framed(frame::DATA, b"ab"),
            framed(frame::DATA, b"c"),
            head(&[("trailer", "x")]),
        ]
        .concat()
    };
    let (_endpoint, address) = scripted(false, move |path| match path {
        "/whole" => Act::Send(vec![whole()]),
        "/bytes" => Act::Send(whole().into_iter().map(|byte| vec![byte]).collect()),
        "/large-head" => {
            let value = "x".repeat(100_000);
            Act::Send(vec![head(&[(":status", "200"), ("x", &value)])])
        }
        "/nothing" => Act::Send(vec![Vec::new()]),
        "/inside" => {
            let whole = whole();
            Act::Send(vec![whole[..whole.len() - 1].to_vec()])
        }
        "/busy" => Act::Send(vec![head(&[(":status", "503")])]),
        "/rejected" => Act::Reset(0x10b),
        _ => Act::Reset(0x102),
    });
    let conn = dialer(address, Session::Kept).dial(0).await.unwrap();
    let mut lane = conn.lane();
    let abc = || Known::Body(Bytes::from_static(b"abc"));
    for path in ["/whole", "/bytes"] {
        let answered = exchange(&mut lane, &ask(Verb::Get, path, abc())).await;
        assert_eq!(answered, Ok((200, 3)), "{path}");
    }
    for path in ["/large-head", "/nothing", "/inside"] {
        let failed = exchange(&mut lane, &ask(Verb::Get, path, abc())).await;
        assert!(
            matches!(failed, Err(Failure::Protocol(_))),
            "{path} {failed:?}"
        );
    }
    let failed = exchange(&mut lane, &ask(Verb::Get, "/busy", abc())).await;
    assert_eq!(failed, Err(Failure::Status(503)));
    let failed = exchange(&mut lane, &ask(Verb::Get, "/reset", abc())).await;
    assert_eq!(failed, Err(Failure::Reset(0x102)));
    let failed = exchange(&mut lane, &ask(Verb::Get, "/rejected", abc())).await;
    assert!(matches!(failed, Err(Failure::Unsent(_))), "{failed:?}");
}

#[tokio::test]
async fn a_connection_that_ends_under_a_request_is_closed_and_before_one_is_unsent() {
    let (_endpoint, address) = scripted(false, |_| Act::Close);
    let conn = dialer(address, Session::Kept).dial(0).await.unwrap();
    let mut lane = conn.lane();
    let get = ask(Verb::Get, "/", Known::Nothing);
    let failed = exchange(&mut lane, &get).await;
    assert!(matches!(failed, Err(Failure::Closed(_))), "{failed:?}");
    let reason = tokio::time::timeout(LIMIT, conn.closed()).await.unwrap();
    assert!(reason.contains("enough"), "{reason}");
    let failed = exchange(&mut lane, &get).await;
    assert!(matches!(failed, Err(Failure::Unsent(_))), "{failed:?}");
}

fn ok() -> Act {
    Act::Send(vec![head(&[(":status", "200"), ("content-length", "0")])])
}

#[tokio::test]
async fn a_run_that_wants_full_handshakes_gets_no_other() {
    let (_endpoint, address) = scripted(true, |_| ok());
    let dialer = dialer(address, Session::PerRequest(Handshake::Full));
    for number in 0..3 {
        let conn = dialer.dial(number).await.unwrap();
        let answered = exchange(&mut conn.lane(), &ask(Verb::Get, "/", Known::Nothing)).await;
        assert_eq!(answered, Ok((200, 0)));
        assert!(!conn.opened().resumed && !conn.opened().early_data);
        conn.close().await;
    }
}

#[tokio::test]
async fn handshakes_are_resumed_where_there_is_a_ticket() {
    let (_endpoint, address) = scripted(false, |_| ok());
    let dialer = dialer(address, Session::PerRequest(Handshake::Resumed));
    let mut resumed = Vec::new();
    for number in 0..4 {
        let conn = dialer.dial(number).await.unwrap();
        let answered = exchange(&mut conn.lane(), &ask(Verb::Get, "/", Known::Nothing)).await;
        assert_eq!(answered, Ok((200, 0)));
        resumed.push(conn.opened().resumed);
        assert!(!conn.opened().early_data);
        conn.close().await;
    }
    assert_eq!(resumed, [false, true, true, true]);
}

#[tokio::test]
async fn requests_travel_in_early_data_where_the_server_takes_it() {
    let (_endpoint, address) = scripted(true, |_| ok());
    let dialer = dialer(address, Session::PerRequest(Handshake::EarlyData));
    let mut early = Vec::new();
    for number in 0..4 {
        let conn = dialer.dial(number).await.unwrap();
        let answered = exchange(&mut conn.lane(), &ask(Verb::Get, "/", Known::Nothing)).await;
        assert_eq!(answered, Ok((200, 0)));
        let opened = conn.opened();
        assert_eq!(opened.resumed, opened.early_data);
        early.push(opened.early_data);
        conn.close().await;
    }
    assert_eq!(early, [false, true, true, true]);
}

#[tokio::test]
async fn of_connections_that_begin_at_once_each_says_itself_whether_it_was_resumed() {
    let (_endpoint, address) = scripted(false, |_| ok());
    let dialer = dialer(address, Session::PerRequest(Handshake::Resumed));
    let get = ask(Verb::Get, "/", Known::Nothing);
    let conn = dialer.dial(0).await.unwrap();
    assert_eq!(exchange(&mut conn.lane(), &get).await, Ok((200, 0)));
    // That one left at least a ticket and at most eight, for twenty.
    let begun = futures_util::future::join_all((0..20).map(|number| dialer.dial(number))).await;
    let resumed = begun
        .into_iter()
        .filter(|conn| conn.as_ref().unwrap().opened().resumed);
    let resumed = resumed.count();
    assert!((1..=8).contains(&resumed), "{resumed}");
}

#[tokio::test]
async fn early_data_that_is_not_taken_is_sent_again_and_not_called_taken() {
    let (endpoint, address) = scripted(true, |_| ok());
    let dialer = dialer(address, Session::PerRequest(Handshake::EarlyData));
    let get = ask(Verb::Get, "/", Known::Nothing);
    let conn = dialer.dial(0).await.unwrap();
    assert_eq!(exchange(&mut conn.lane(), &get).await, Ok((200, 0)));
    // The same server with another memory: it knows none of the tickets.
    endpoint.set_server(Some(tls_server(true)));
    let conn = dialer.dial(1).await.unwrap();
    assert!(!conn.opened().resumed, "nobody has said so yet");
    assert_eq!(exchange(&mut conn.lane(), &get).await, Ok((200, 0)));
    let opened = conn.opened();
    assert!(!opened.resumed && !opened.early_data);
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_whole_counts() {
    let (_endpoint, address) = scripted(false, |_| ok());
    let conn = dialer(address, Session::Kept).dial(0).await.unwrap();
    // More than the server's window, which it does not open: it reads no more than the first bytes of `/unread`.
    let put = ask(
        Verb::Put(Bytes::from(vec![1; 20_000_000])),
        "/unread",
        Known::Nothing,
    );
    assert_eq!(exchange(&mut conn.lane(), &put).await, Ok((200, 0)));
    let get = ask(Verb::Get, "/", Known::Nothing);
    assert_eq!(exchange(&mut conn.lane(), &get).await, Ok((200, 0)));
}
