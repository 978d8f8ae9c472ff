//! The HTTP/1.1 and HTTP/2 lanes against servers that do right and servers that do wrong, on real sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

#[expect(dead_code, reason = "HTTP/3 is the affair of other tests")]
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq_loadtest::lane::h1::H1Dialer;
use stoq_loadtest::lane::h2::H2Dialer;
use stoq_loadtest::lane::{Conn, Dialer, Failure, Lane, Sink};
use stoq_loadtest::plan::{Handshake, Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::workload::{Ask, Known, Object, Verb, Workload};
use stoq_loadtest::{Target, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn plan(target: Target, session: Session) -> Plan {
    Plan {
        target,
        protocol: Protocol::Http1,
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
        timeout: Duration::from_secs(10),
        workload: Arc::new(Workload::one("/")),
        fields: Vec::new(),
        session,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 1,
    }
}

fn secure(server: &server::Server) -> Target {
    Target::new(&format!("https://localhost:{}", server.address.port()))
        .unwrap()
        .at(server.address)
        .trusting(Trust::Certificate(server.certificate.clone()))
}

fn plain(address: SocketAddr) -> Target {
    Target::new(&format!("http://{address}")).unwrap()
}

fn ask(verb: Verb, path: &str, known: Known) -> Ask {
    let object = Object {
        path: path.into(),
        authority: None,
        known,
    };
    Ask {
        verb,
        object: Arc::new(object),
    }
}

fn get(path: &str) -> Ask {
    ask(Verb::Get, path, Known::Nothing)
}

/// Asks, and gives the bytes that came.
async fn exchange(lane: &mut impl Lane, ask: &Ask) -> Result<u64, Failure> {
    let mut sink = Sink::new(ask);
    let asked = lane.exchange(ask, &mut sink);
    tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .expect("an answer or a failure in time")?;
    Ok(sink.received())
}

async fn open<D: Dialer>(dialer: &D) -> D::Conn {
    dialer.dial(0).await.unwrap()
}

/// What a scripted HTTP/1.1 server does after its bytes.
#[derive(Clone, Copy)]
enum Then {
    Keep,
    /// Sends byte by byte, and keeps.
    Dribble,
    Close,
    Reset,
}

/// A server that answers each request with what `script` says for its number on the connection; and the connections
/// it took so far.
async fn scripted(
    script: impl Fn(usize) -> (Vec<u8>, Then) + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (script, taken) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let script = Arc::clone(&script);
            tokio::spawn(async move { play(tcp, &*script).await });
        }
    });
    (address, taken)
}

async fn play(mut tcp: TcpStream, script: &(impl Fn(usize) -> (Vec<u8>, Then) + Sync)) {
    for number in 0.. {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match tcp.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(got) => request.extend_from_slice(&piece[..got]),
            }
        }
        let (bytes, then) = script(number);
        if matches!(then, Then::Dribble) {
            tcp.set_nodelay(true).unwrap();
            for byte in bytes {
                if tcp.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            continue;
        }
        if tcp.write_all(&bytes).await.is_err() {
            return;
        }
        match then {
            Then::Keep | Then::Dribble => {}
            Then::Close => return,
            Then::Reset => {
                tcp.set_zero_linger().unwrap();
                return;
            }
        }
    }
}

/// One exchange with a scripted server.
async fn once(bytes: &'static [u8], then: Then, ask: &Ask) -> Result<u64, Failure> {
    let (address, _) = scripted(move |_| (bytes.to_vec(), then)).await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    exchange(&mut conn.lane(), ask).await
}

#[tokio::test]
async fn requests_follow_each_other_on_one_http1_connection_over_tls_and_plain() {
    let server = server::over_tcp(b"http/1.1").await;
    let dialer = H1Dialer::new(&plan(secure(&server), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    for size in [0u64, 1, 1000, 300_000, 3_000_000] {
        let known = Known::Body(Bytes::from(vec![7; usize::try_from(size).unwrap()]));
        let asked = ask(Verb::Get, &format!("/{size}"), known);
        assert_eq!(exchange(&mut lane, &asked).await, Ok(size));
    }
    let put = Bytes::from(vec![3; 500_000]);
    let asked = ask(Verb::Put(put), "/echo", Known::Nothing);
    assert_eq!(exchange(&mut lane, &asked).await, Ok(500_000));
    let asked = ask(Verb::Head, "/1000", Known::Length(1000));
    assert_eq!(exchange(&mut lane, &asked).await, Ok(0));
    assert_eq!(exchange(&mut lane, &get("/5")).await, Ok(5));
    conn.close().await;

    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec();
    let (address, taken) = scripted(move |_| (answer.clone(), Then::Keep)).await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    for _ in 0..100 {
        assert_eq!(exchange(&mut lane, &get("/")).await, Ok(5));
    }
    assert_eq!(taken.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn each_framing_of_http1_ends_where_it_says() {
    for (bytes, then, length) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..], Then::Keep, 3),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nA: b\r\n\r\n", Then::Keep, 5),
        (b"HTTP/1.1 200 OK\r\n\r\nabcd", Then::Close, 4),
        (b"HTTP/1.0 200 OK\r\n\r\nabcd", Then::Close, 4),
        (b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", Then::Keep, 1),
    ] {
        let text = bytes.escape_ascii();
        let found = once(bytes, then, &get("/")).await;
        assert_eq!(found, Ok(length), "{text}");
        if matches!(then, Then::Keep) {
            let found = once(bytes, Then::Dribble, &get("/")).await;
            assert_eq!(found, Ok(length), "byte by byte: {text}");
        }
    }
}

#[tokio::test]
async fn a_wrong_http1_answer_is_a_failure_of_its_kind() {
    let kind = |failure: Failure| match failure {
        Failure::Truncated { .. } => "truncated",
        Failure::Protocol(_) => "protocol",
        Failure::Closed(_) => "closed",
        Failure::Wrong(_) => "wrong",
        Failure::Status(_) => "status",
        other => panic!("{other:?}"),
    };
    for (bytes, then, want) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..],
            Then::Close,
            "truncated",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            Then::Reset,
            "truncated",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
            Then::Close,
            "truncated",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            Then::Close,
            "truncated",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            Then::Reset,
            "truncated",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            Then::Keep,
            "protocol",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
            Then::Keep,
            "protocol",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            Then::Keep,
            "protocol",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Len", Then::Close, "closed"),
        (b"", Then::Close, "closed"),
        (b"", Then::Reset, "closed"),
        (b"HTTP/1.1 101 Go\r\n\r\n", Then::Keep, "protocol"),
        (b"SSH-2.0-x\r\n\r\n", Then::Keep, "protocol"),
        (
            b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno",
            Then::Keep,
            "status",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nabcd", Then::Reset, "closed"),
    ] {
        let failure = once(bytes, then, &get("/")).await.unwrap_err();
        let text = format!("{failure:?} to {}", bytes.escape_ascii());
        assert_eq!(kind(failure), want, "{text}");
    }
    let known = ask(Verb::Get, "/", Known::Body(Bytes::from_static(b"abc")));
    let zeros = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\0\0\0";
    let failure = once(zeros, Then::Keep, &known).await.unwrap_err();
    assert_eq!(kind(failure), "wrong");
}

#[tokio::test]
async fn a_head_without_end_and_interim_responses_without_end_are_cut_off() {
    let (address, _) = scripted(|_| {
        let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
        head.extend(b"A: b\r\n".repeat(40_000));
        (head, Then::Keep)
    })
    .await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let failure = exchange(&mut open(&dialer).await.lane(), &get("/")).await;
    assert!(matches!(failure, Err(Failure::Protocol(_))), "{failure:?}");
    let (address, _) = scripted(|_| (b"HTTP/1.1 103 E\r\n\r\n".repeat(100), Then::Keep)).await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let failure = exchange(&mut open(&dialer).await.lane(), &get("/")).await;
    assert!(matches!(failure, Err(Failure::Protocol(_))), "{failure:?}");
}

#[tokio::test]
async fn after_a_wrong_status_the_http1_connection_is_kept_and_after_a_lost_place_it_is_not() {
    let (address, taken) = scripted(|number| match number {
        0 => (
            b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\nbusy".to_vec(),
            Then::Keep,
        ),
        1 => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_vec(),
            Then::Keep,
        ),
        _ => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc".to_vec(),
            Then::Keep,
        ),
    })
    .await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    assert_eq!(
        exchange(&mut lane, &get("/")).await,
        Err(Failure::Status(503))
    );
    assert_eq!(exchange(&mut lane, &get("/")).await, Ok(1));
    let lost = exchange(&mut lane, &get("/")).await;
    assert!(matches!(lost, Err(Failure::Protocol(_))), "{lost:?}");
    let next = exchange(&mut lane, &get("/")).await;
    assert!(matches!(next, Err(Failure::Unsent(_))), "{next:?}");
    conn.closed().await;
    assert_eq!(taken.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_cancelled_http1_exchange_closes_its_connection_and_says_so() {
    let (address, _) = scripted(|_| (Vec::new(), Then::Keep)).await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    let asked = get("/");
    let mut sink = Sink::new(&asked);
    let cancelled =
        tokio::time::timeout(Duration::from_millis(20), lane.exchange(&asked, &mut sink)).await;
    assert!(cancelled.is_err());
    let next = exchange(&mut lane, &asked).await;
    assert!(matches!(next, Err(Failure::Unsent(_))), "{next:?}");
    assert_eq!(conn.closed().await, "an exchange was given up");
}

#[tokio::test]
async fn an_idle_http1_connection_that_the_server_closes_is_noticed_and_the_request_unsent() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".to_vec();
    let (address, _) = scripted(move |_| (answer.clone(), Then::Close)).await;
    let dialer = H1Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    let closed = conn.closed();
    let asked = get("/");
    let (reason, answered) = tokio::join!(closed, exchange(&mut lane, &asked));
    assert_eq!(answered, Ok(1));
    assert_eq!(reason, "by the server, between requests");
    let next = exchange(&mut lane, &asked).await;
    assert!(matches!(next, Err(Failure::Unsent(_))), "{next:?}");
}

#[tokio::test]
async fn connections_are_resumed_only_when_the_plan_says_so() {
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let server = server::over_tcp(if alpn == b"h2" { b"h2" } else { b"http/1.1" }).await;
        for (handshake, resumes) in [(Handshake::Full, false), (Handshake::Resumed, true)] {
            let plan = plan(secure(&server), Session::PerRequest(handshake));
            let found = if alpn == b"h2" {
                resumed(&H2Dialer::new(&plan, 0).unwrap()).await
            } else {
                resumed(&H1Dialer::new(&plan, 0).unwrap()).await
            };
            assert_eq!(found, [false, resumes, resumes], "{handshake:?}");
        }
    }
}

async fn resumed(dialer: &impl Dialer) -> [bool; 3] {
    let mut found = [false; 3];
    for found in &mut found {
        let conn = open(dialer).await;
        let mut lane = conn.lane();
        assert_eq!(exchange(&mut lane, &get("/10")).await, Ok(10));
        let opened = conn.opened();
        assert!(opened.started <= opened.ready && opened.ready <= Instant::now());
        *found = opened.resumed;
        drop(lane);
        conn.close().await;
    }
    found
}

#[tokio::test]
async fn connections_come_from_the_plans_addresses_in_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut plan = plan(plain(address), Session::Kept);
    plan.sources = vec!["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
    let dialer = H1Dialer::new(&plan, 0).unwrap();
    for (number, source) in [(0, "127.0.0.2"), (1, "127.0.0.3"), (2, "127.0.0.2")] {
        let (_conn, taken) = tokio::join!(dialer.dial(number), listener.accept());
        assert_eq!(taken.unwrap().1.ip().to_string(), source);
    }
    plan.sources = vec!["::1".parse().unwrap()];
    assert!(H1Dialer::new(&plan, 0).is_err());
}

#[tokio::test]
async fn fields_that_would_frame_a_request_are_refused_before_the_run() {
    let address = "127.0.0.1:9".parse().unwrap();
    for (name, over_http1) in [
        ("content-length", false),
        ("transfer-encoding", false),
        ("connection", true),
    ] {
        let mut plan = plan(plain(address), Session::Kept);
        let value = http::HeaderValue::from_static("close");
        plan.fields = vec![(name.parse().unwrap(), value)];
        assert_eq!(H1Dialer::new(&plan, 0).is_ok(), over_http1, "{name}");
        assert!(H2Dialer::new(&plan, 0).is_err(), "{name}");
    }
    let plan = plan(plain(address), Session::PerRequest(Handshake::Resumed));
    let refused = H1Dialer::new(&plan, 0).unwrap_err().to_string();
    assert!(refused.contains("no handshake to resume"), "{refused}");
}

#[tokio::test]
async fn nobody_there_and_a_wrong_certificate_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let dialer = H1Dialer::new(&plan(plain(nobody), Session::Kept), 0).unwrap();
    let failure = dialer.dial(0).await.map(drop);
    assert!(matches!(failure, Err(Failure::Connect(_))), "{failure:?}");
    let (one, other) = (server::over_tcp(b"h2").await, server::over_tcp(b"h2").await);
    let target = secure(&one).trusting(Trust::Certificate(other.certificate));
    let dialer = H2Dialer::new(&plan(target, Session::Kept), 0).unwrap();
    let failure = dialer.dial(0).await.map(drop);
    assert!(matches!(failure, Err(Failure::Handshake(_))), "{failure:?}");
    let target = secure(&server::over_tcp(b"http/1.1").await);
    let dialer = H2Dialer::new(&plan(target, Session::Kept), 0).unwrap();
    let failure = dialer.dial(0).await.map(drop);
    assert!(matches!(failure, Err(Failure::Handshake(_))), "{failure:?}");
}

/// An HTTP/2 server with prior knowledge that does wrong in the ways its paths say.
async fn http2() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve_http2(tcp));
        }
    });
    address
}

async fn serve_http2(tcp: TcpStream) {
    let mut connection = h2::server::handshake(tcp).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let path = request.uri().path().to_owned();
        let head = http::Response::builder();
        match path.as_str() {
            "/refuse" => respond.send_reset(h2::Reason::REFUSED_STREAM),
            "/die" => return,
            "/goaway" => {
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
            "/trailers" => {
                let mut send = respond
                    .send_response(head.body(()).unwrap(), false)
                    .unwrap();
                send.send_data(Bytes::from_static(b"abc"), false).unwrap();
                send.send_trailers(http::HeaderMap::new()).unwrap();
            }
            "/404" => {
                let mut send = respond
                    .send_response(head.status(404).body(()).unwrap(), false)
                    .unwrap();
                send.send_data(Bytes::from_static(b"no"), true).unwrap();
            }
            other => {
                let head = head.header("content-length", 9).body(()).unwrap();
                let mut send = respond.send_response(head, false).unwrap();
                match other {
                    "/short" => send.send_data(Bytes::from_static(b"abc"), true).unwrap(),
                    "/long" => send
                        .send_data(Bytes::from_static(b"0123456789"), true)
                        .unwrap(),
                    "/reset" | "/quiet" => {
                        send.send_data(Bytes::from_static(b"012"), false).unwrap();
                        let code = if other == "/reset" {
                            h2::Reason::INTERNAL_ERROR
                        } else {
                            h2::Reason::NO_ERROR
                        };
                        // After the data has gone.
                        tokio::spawn(async move {
                            tokio::task::yield_now().await;
                            send.send_reset(code);
                        });
                    }
                    "/zeros" => send.send_data(Bytes::from_static(&[0; 9]), true).unwrap(),
                    _ => send
                        .send_data(Bytes::from_static(b"012345678"), true)
                        .unwrap(),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_http2_answer_is_a_failure_of_its_kind_and_its_connection_goes_on() {
    let address = http2().await;
    let dialer = H2Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    let body = Known::Body(Bytes::from_static(b"012345678"));
    let right = ask(Verb::Get, "/right", body.clone());
    let kind = |failure: Result<u64, Failure>| match failure {
        Ok(_) => "right".to_owned(),
        Err(Failure::Truncated { want, .. }) => format!("less than {want:?}"),
        Err(Failure::Reset(code)) => format!("reset {code}"),
        Err(Failure::Protocol(_)) => "protocol".to_owned(),
        Err(Failure::Wrong(_)) => "wrong".to_owned(),
        Err(Failure::Status(status)) => status.to_string(),
        Err(other) => panic!("{other:?}"),
    };
    for (path, want) in [
        ("/right", "right"),
        ("/short", "less than Some(9)"),
        // h2 refuses the frame that does not fit, unseen: longer looks as shorter does.
        ("/long", "less than Some(9)"),
        ("/reset", "reset 2"),
        ("/quiet", "reset 0"),
        ("/refuse", "reset 7"),
        ("/zeros", "wrong"),
        ("/404", "404"),
    ] {
        let asked = ask(Verb::Get, path, body.clone());
        assert_eq!(kind(exchange(&mut lane, &asked).await), want, "{path}");
        assert_eq!(exchange(&mut lane, &right).await, Ok(9), "after {path}");
    }
    let trailers = ask(Verb::Get, "/trailers", Known::Length(3));
    assert_eq!(exchange(&mut lane, &trailers).await, Ok(3));
}

#[tokio::test]
async fn an_http2_connection_that_dies_fails_what_was_under_way_and_leaves_the_rest_unsent() {
    let address = http2().await;
    let dialer = H2Dialer::new(&plan(plain(address), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let mut lane = conn.lane();
    let died = exchange(&mut lane, &get("/die")).await;
    assert!(matches!(died, Err(Failure::Closed(_))), "{died:?}");
    conn.closed().await;
    let next = exchange(&mut lane, &get("/right")).await;
    assert!(matches!(next, Err(Failure::Unsent(_))), "{next:?}");
}

#[tokio::test]
async fn many_http2_requests_are_under_way_at_once_and_cancelled_ones_leave_the_lane_usable() {
    let server = server::over_tcp(b"h2").await;
    let dialer = H2Dialer::new(&plan(secure(&server), Session::Kept), 0).unwrap();
    let conn = open(&dialer).await;
    let lanes = (0..50usize).map(|n| {
        let mut lane = conn.lane();
        async move {
            let size = n * 20_000;
            let known = Known::Body(Bytes::from(vec![7; size]));
            let asked = ask(Verb::Get, &format!("/{size}"), known);
            for _ in 0..3 {
                assert_eq!(exchange(&mut lane, &asked).await, Ok(size as u64));
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    let mut lane = conn.lane();
    for _ in 0..200 {
        let asked = get("/5000000");
        let mut sink = Sink::new(&asked);
        // Polled a few times, then dropped.
        tokio::select! {
            biased;
            _ = lane.exchange(&asked, &mut sink) => {}
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(exchange(&mut lane, &get("/77")).await, Ok(77));
    let put = ask(
        Verb::Put(Bytes::from(vec![3; 500_000])),
        "/echo",
        Known::Nothing,
    );
    assert_eq!(exchange(&mut lane, &put).await, Ok(500_000));
    drop(lane);
    conn.close().await;
}

#[tokio::test]
async fn a_slow_reader_takes_as_long_as_its_rate_says() {
    let server = server::over_tcp(b"h2").await;
    let mut slow = plan(secure(&server), Session::Kept);
    slow.read_rate = Some(400_000);
    let dialer = H2Dialer::new(&slow, 0).unwrap();
    let conn = open(&dialer).await;
    let asked = get("/200000");
    let mut sink = Sink::new(&asked).paced(slow.read_rate);
    let started = Instant::now();
    conn.lane().exchange(&asked, &mut sink).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );
    let server = server::over_tcp(b"http/1.1").await;
    let mut slow = plan(secure(&server), Session::Kept);
    slow.read_rate = Some(400_000);
    let conn = open(&H1Dialer::new(&slow, 0).unwrap()).await;
    let mut sink = Sink::new(&asked).paced(slow.read_rate);
    let started = Instant::now();
    conn.lane().exchange(&asked, &mut sink).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "{:?}",
        started.elapsed()
    );
}

/// A TLS server that takes early data, for `connections` connections of one HTTP/1.1 request each; tells for each
/// whether the request came early. tokio-rustls hands a server no early data, so this one is written out.
fn takes_early_data(connections: usize) -> (server::Server, std::thread::JoinHandle<Vec<bool>>) {
    use std::io::{Read, Write};
    let (mut config, certificate) = server::tls(b"http/1.1");
    config.max_early_data_size = 16 * 1024;
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut early = Vec::new();
        for _ in 0..connections {
            let (mut tcp, _) = listener.accept().unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp).unwrap();
            }
            let mut request = Vec::new();
            if let Some(mut data) = tls.early_data() {
                data.read_to_end(&mut request).unwrap();
            }
            early.push(request.ends_with(b"\r\n\r\n"));
            let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let got = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..got]);
            }
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
                )
                .unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        }
        early
    });
    let server = server::Server {
        address,
        certificate,
    };
    (server, thread)
}

#[tokio::test]
async fn a_request_travels_in_early_data_once_there_is_a_ticket() {
    let (server, thread) = takes_early_data(3);
    let plan = plan(secure(&server), Session::PerRequest(Handshake::EarlyData));
    let dialer = H1Dialer::new(&plan, 0).unwrap();
    let mut opened = Vec::new();
    for _ in 0..3 {
        let conn = open(&dialer).await;
        assert_eq!(exchange(&mut conn.lane(), &get("/")).await, Ok(5));
        opened.push((conn.opened().resumed, conn.opened().early_data));
        conn.close().await;
    }
    assert_eq!(opened, [(false, false), (true, true), (true, true)]);
    assert_eq!(thread.join().unwrap(), [false, true, true]);
}

#[tokio::test]
async fn a_server_that_takes_no_early_data_is_resumed_and_nothing_is_called_early() {
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let server = server::over_tcp(if alpn == b"h2" { b"h2" } else { b"http/1.1" }).await;
        let plan = plan(secure(&server), Session::PerRequest(Handshake::EarlyData));
        let found = if alpn == b"h2" {
            resumed(&H2Dialer::new(&plan, 0).unwrap()).await
        } else {
            resumed(&H1Dialer::new(&plan, 0).unwrap()).await
        };
        assert_eq!(found, [false, true, true]);
    }
}
