//! Slow clients, and clients that only seem so: each limit ends what it is for, and nothing else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Version;
use stoq_edge::listen::Limits;
use stoq_edge::service::End;
use stoq_node::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::client::{ALL, Client};
use crate::rig::{Rig, until, within};
use crate::scripted::HUGE;

const LONG: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(200);

/// Idle connections end soon; everything else may take long.
fn idle_soon() -> Rig {
    let limits = Limits {
        idle_timeout: SOON,
        ..Limits::default()
    };
    Rig::with(limits, LONG)
}

#[tokio::test]
async fn a_pause_in_a_download_is_not_idleness() {
    for version in ALL {
        let rig = idle_soon();
        let mut client = Client::connect(&rig, version).await.unwrap();
        let mut answer = within(client.get("/huge-hit")).await.unwrap();
        let first = within(answer.piece()).await.unwrap().unwrap().len();
        tokio::time::sleep(SOON * 5).await;
        let rest = within(answer.body()).await;
        let rest = rest.unwrap_or_else(|error| panic!("{version:?}: {error:#}"));
        assert_eq!(first + rest.len(), HUGE, "{version:?}");
    }
}

/// A way to `to` that carries `bytes` each 20 ms from there, and has no room for more.
async fn thin_line(to: SocketAddr, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        let (mut from_server, mut to_server) = socket.connect(to).await.unwrap().into_split();
        let (mut from_client, mut to_client) = client.split();
        let down = async {
            let mut buffer = vec![0; bytes];
            while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        tokio::select! {
            () = down => {}
            _ = up => {}
        }
    });
    addr
}

/// What is left at the end stands in the protocol's buffers, with no request open: it must leave all the same.
#[tokio::test]
async fn a_slow_line_gets_everything_though_no_request_is_open_any_more() {
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let mut rig = idle_soon();
        rig.https = thin_line(rig.https, 32 * 1024).await;
        let client = Client::connect(&rig, version).await.unwrap();
        let bodies = (0..if version == Version::HTTP_11 { 1 } else { 4 }).map(|_| async {
            let mut client = client.clone();
            let body = within(async { client.get("/large-hit").await?.body().await }).await;
            body.map(|body| body.len())
                .map_err(|error| format!("{error:#}"))
        });
        for length in futures_util::future::join_all(bodies).await {
            assert_eq!(length, Ok(1 << 20), "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    for version in ALL {
        let limits = Limits {
            stall_timeout: SOON,
            ..Limits::default()
        };
        let rig = Rig::with(limits, LONG);
        let mut client = Client::connect(&rig, version).await.unwrap();
        let mut answer = within(client.get("/huge-hit")).await.unwrap();
        within(answer.piece()).await.unwrap().unwrap();
        until("its download is given up", || {
            !rig.service.done_with("/huge-hit").is_empty()
        })
        .await;
        let end = rig.service.done_with("/huge-hit")[0].sent.end;
        assert_ne!(end, End::Complete, "{version:?}");
        assert!(within(answer.body()).await.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn an_http1_head_in_drips_is_given_up_after_its_own_limit() {
    let limits = Limits {
        head_timeout: SOON,
        ..Limits::default()
    };
    let rig = Rig::with(limits, LONG);
    let mut fresh = TcpStream::connect(rig.plain).await.unwrap();
    let mut kept = TcpStream::connect(rig.plain).await.unwrap();
    kept.write_all(b"GET /204 HTTP/1.1\r\nhost: a.test\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(kept.read_u8()).await.unwrap());
    }
    // The limit is for heads: a connection without one waits longer.
    tokio::time::sleep(SOON * 3).await;
    assert_eq!(rig.context.connections(), 2, "idle ones are still here");
    let began = Instant::now();
    for stream in [&mut fresh, &mut kept] {
        stream.write_all(b"GET /hit HTTP/1.1\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
    assert!(began.elapsed() < SOON * 20, "{:?}", began.elapsed());
    until("their places are free", || rig.context.connections() == 0).await;
}

/// What the listeners count of heads that came to nothing for this reason.
fn bad_heads(registry: &Registry, reason: &str) -> u64 {
    let text = registry.render().unwrap();
    let series = format!("stoq_listen_request_heads_bad_total{{reason=\"{reason}\"}} ");
    text.lines()
        .find_map(|line| line.strip_prefix(series.as_str())?.parse().ok())
        .unwrap_or(0)
}

#[tokio::test]
async fn heads_that_come_to_nothing_over_tcp_are_counted() {
    let limits = Limits {
        head_timeout: SOON,
        header_bytes: 8192,
        ..Limits::default()
    };
    let rig = Rig::with(limits, LONG);
    let registry = Registry::new();
    registry.with(|registry| rig.metrics.register(registry));
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "b".repeat(100_000));
    for (reason, wire) in [
        ("Malformed", "GET / HTTP/1.1\r\nno colon\r\n\r\n"),
        ("TooLarge", &large),
        ("Timeout", "GET / HTT"),
    ] {
        let mut stream = TcpStream::connect(rig.plain).await.unwrap();
        let _ = stream.write_all(wire.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        until(reason, || bad_heads(&registry, reason) == 1).await;
    }
}
