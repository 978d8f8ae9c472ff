//! Requests, answers, bodies, cancellation, deadlines, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use stoq::identity::Role;
use stoq::peer::{Exchange, ExchangeError, Handler, IncomingRequest, Part, PeerConn, ServeConfig};
use stoq::pool::{Pool, PoolConfig};
use stoq::quic::{ConnectionError, Endpoint, TransportConfig};
use stoq::wire::{CloseCode, REQUEST_CONTROL_BYTES_MAX, StreamCode};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::cluster::{
    Act, PATIENCE, Server, drain, echo, loopback, node, pattern, pool, root, soon, until,
};

#[tokio::test]
async fn request_and_answer_pass_whole() {
    let root = root("demo");
    let (shield, edge) = (
        node(&root, "shield-1", &[Role::Shield]),
        node(&root, "edge-1", &[Role::Edge]),
    );
    let server = Server::start(&shield, echo());
    let conn = soon("dial", pool(&edge).get(server.addr)).await.unwrap();
    assert_eq!(conn.peer().identity.node_id, shield.node_id());
    assert_eq!(conn.peer().identity.name, "shield-1");
    assert_eq!(conn.peer().identity.roles, [Role::Shield]);

    let Exchange { mut send, mut recv } = conn
        .exchange(7, Bytes::from_static(b"what"), None)
        .await
        .unwrap();
    let body = pattern(3_000_000);
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        send.frame(9, Bytes::from_static(b"note")).await.unwrap();
        send.data(sent).await.unwrap();
        send.finish().await.unwrap();
    });
    assert_eq!(
        recv.next().await.unwrap(),
        Some(Part::Head(Bytes::from_static(b"what")))
    );
    assert_eq!(
        recv.next().await.unwrap(),
        Some(Part::Frame {
            kind: 9,
            payload: Bytes::from_static(b"note")
        })
    );
    let mut got = Vec::new();
    while let Some(part) = soon("body", recv.next()).await.unwrap() {
        let Part::Data(bytes) = part else {
            panic!("{part:?}")
        };
        got.extend_from_slice(&bytes);
    }
    sending.await.unwrap();
    assert!(got == body);
    assert_eq!(recv.next().await.unwrap(), None);
    assert!(conn.path().rtt_min.as_secs() < 1);
}

/// Answers with as many body bytes as the request's first eight bytes say, and counts what it could send.
fn source(sent: Arc<AtomicU64>) -> Arc<dyn Handler> {
    Arc::new(Act(move |mut request: IncomingRequest| {
        let sent = sent.clone();
        async move {
            let block = pattern(64 * 1024);
            let mut left = request.control.get_u64();
            while left > 0 {
                let piece = block.slice(..block.len().min(usize::try_from(left).unwrap()));
                left -= piece.len() as u64;
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
                if request.reply.data(piece).await.is_err() {
                    return;
                }
            }
            request.reply.finish().await.unwrap();
        }
    }))
}

fn want(bytes: u64) -> Bytes {
    bytes.to_be_bytes().to_vec().into()
}

/// Two nodes and a connection between them.
async fn pair(handler: Arc<dyn Handler>) -> (Server, PeerConn) {
    let root = root("demo");
    let server = Server::start(&node(&root, "shield-1", &[Role::Shield]), handler);
    let conn = soon(
        "dial",
        pool(&node(&root, "edge-1", &[Role::Edge])).get(server.addr),
    )
    .await
    .unwrap();
    (server, conn)
}

#[tokio::test]
async fn writer_waits_for_a_reader_that_does_not_read() {
    let sent = Arc::new(AtomicU64::new(0));
    let (_server, conn) = pair(source(sent.clone())).await;
    let mut exchange = conn.exchange(1, want(100 << 20), None).await.unwrap();
    let Some(Part::Data(first)) = soon("first bytes", exchange.recv.next()).await.unwrap() else {
        panic!()
    };
    // The writer has stopped when its count stands still for a hundred round trips.
    let mut before = 0;
    let mut still = 0;
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = sent.load(Ordering::Relaxed);
        still = if now == before { still + 1 } else { 0 };
        before = now;
    }
    // One stream window (1 MiB) at the reader, what it had taken, and the block that waits to be written.
    assert!(
        before <= (2 << 20) + first.len() as u64,
        "{before} bytes were sent to a reader that reads nothing"
    );

    let (rest, _) = soon("body", drain(&mut exchange.recv)).await.unwrap();
    assert_eq!(rest + first.len() as u64, 100 << 20);
    assert_eq!(sent.load(Ordering::Relaxed), 100 << 20);
}

#[tokio::test]
async fn body_may_be_given_in_one_piece_larger_than_any_frame() {
    let (_server, conn) = pair(echo()).await;
    let Exchange { mut send, mut recv } = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let body = pattern(5_000_000);
    let hash = blake3::hash(&body);
    let sending = tokio::spawn(async move {
        send.data(body).await?;
        send.finish().await
    });
    assert_eq!(
        soon("echo", drain(&mut recv)).await.unwrap(),
        (5_000_000, hash)
    );
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn error_reaches_the_reader_with_its_number_and_text() {
    let refuse = Act(|request: IncomingRequest| async move {
        request.reply.abort(451, "not here").await.unwrap();
    });
    let (_server, conn) = pair(Arc::new(refuse)).await;
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let error = soon("error", exchange.recv.next()).await.unwrap_err();
    assert_eq!(
        error,
        ExchangeError::Remote {
            code: 451,
            text: "not here".into()
        }
    );
}

#[tokio::test]
async fn handler_that_stops_midway_is_an_error_never_an_end() {
    for panics in [false, true] {
        let half = Act(move |mut request: IncomingRequest| async move {
            request.reply.data(pattern(1000)).await.unwrap();
            assert!(!panics, "a handler that panics");
        });
        let (server, conn) = pair(Arc::new(half)).await;
        let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
        let error = soon("reset", drain(&mut exchange.recv)).await.unwrap_err();
        assert_eq!(
            error,
            ExchangeError::Cancelled {
                code: StreamCode::Unfinished.code()
            }
        );
        let counters = server.peers.counters();
        until("count", || {
            counters.requests_panicked.get() == u64::from(panics)
        })
        .await;
        assert_eq!(counters.requests_returned.get(), u64::from(!panics));
        // The connection and the next exchange are none the worse.
        assert!(conn.exchange(1, Bytes::new(), None).await.is_ok());
    }
}

/// Sends `true` when a request came, `false` when its future was dropped.
struct Watched(mpsc::Sender<bool>);

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.try_send(false);
    }
}

/// Holds every request until it is taken away.
fn hold() -> (Arc<dyn Handler>, mpsc::Receiver<bool>) {
    let (sender, receiver) = mpsc::channel(1000);
    let handler = Act(move |request: IncomingRequest| {
        let sender = sender.clone();
        async move {
            let _held = Watched(sender.clone());
            let _request = request;
            sender.send(true).await.unwrap();
            std::future::pending::<()>().await;
        }
    });
    (Arc::new(handler), receiver)
}

#[tokio::test]
async fn dropped_exchange_reaches_the_handler() {
    let (handler, mut events) = hold();
    let (server, conn) = pair(handler).await;
    let exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    assert_eq!(soon("start", events.recv()).await, Some(true));
    drop(exchange);
    assert_eq!(soon("cancellation", events.recv()).await, Some(false));
    until("count", || {
        server.peers.counters().requests_cancelled.get() == 1
    })
    .await;
    assert_eq!(conn.active(), 0);
}

#[tokio::test]
async fn lost_connection_reaches_the_handler() {
    let (handler, mut events) = hold();
    let (_server, conn) = pair(handler).await;
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    assert_eq!(soon("start", events.recv()).await, Some(true));
    conn.close();
    assert_eq!(soon("cancellation", events.recv()).await, Some(false));
    assert!(matches!(
        exchange.recv.next().await,
        Err(ExchangeError::Connection(_))
    ));
}

#[tokio::test]
async fn handler_that_drops_the_body_stops_its_writer() {
    let (done, finished) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (done.clone(), finished.clone());
    let uninterested = Act(move |request: IncomingRequest| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            drop(request.body);
            tell.notify_one();
            wait.notified().await;
            request.reply.finish().await.unwrap();
        }
    });
    let (_server, conn) = pair(Arc::new(uninterested)).await;
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    soon("drop", done.notified()).await;
    let error = soon("stop", async {
        loop {
            if let Err(error) = exchange.send.data(pattern(100_000)).await {
                return error;
            }
        }
    });
    assert!(matches!(error.await, ExchangeError::Cancelled { .. }));
    assert_eq!(
        exchange.send.data(pattern(1)).await,
        Err(ExchangeError::Finished)
    );
    finished.notify_one();
    assert_eq!(soon("answer", exchange.recv.next()).await, Ok(None));
}

#[tokio::test]
async fn deadline_travels_and_ends_both_sides() {
    let (handler, mut events) = hold();
    let (server, conn) = pair(handler).await;
    let mut exchange = conn
        .exchange(1, Bytes::new(), Some(Duration::from_millis(500)))
        .await
        .unwrap();
    assert_eq!(soon("start", events.recv()).await, Some(true));
    let error = soon("deadline", exchange.recv.next()).await.unwrap_err();
    assert!(
        error == ExchangeError::Deadline
            || error
                == ExchangeError::Cancelled {
                    code: StreamCode::Deadline.code()
                },
        "{error}"
    );
    assert_eq!(soon("the handler's end", events.recv()).await, Some(false));
    until("count", || {
        let counters = server.peers.counters();
        counters.requests_past_deadline.get() + counters.requests_cancelled.get() == 1
    })
    .await;
}

#[tokio::test]
async fn server_sees_how_much_time_is_left() {
    let tell = Act(|mut request: IncomingRequest| async move {
        let left = request
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()).as_millis());
        let _ = request.reply.head(format!("{left:?}").into()).await;
        let _ = request.reply.finish().await;
    });
    let (_server, conn) = pair(Arc::new(tell)).await;
    for (limit, most) in [
        (None, None),
        (Some(Duration::from_secs(3600)), Some(3_600_000)),
    ] {
        let mut exchange = conn.exchange(1, Bytes::new(), limit).await.unwrap();
        let Some(Part::Head(head)) = soon("head", exchange.recv.next()).await.unwrap() else {
            panic!()
        };
        let text = std::str::from_utf8(&head).unwrap();
        match most {
            None => assert_eq!(text, "None"),
            Some(most) => {
                let left: u64 = text
                    .trim_start_matches("Some(")
                    .trim_end_matches(')')
                    .parse()
                    .unwrap();
                assert!(left <= most && left > most - 60_000, "{left}");
            }
        }
    }
}

#[tokio::test]
async fn exchanges_beyond_the_bound_wait_their_turn() {
    let root = root("demo");
    let (handler, mut events) = hold();
    let config = ServeConfig {
        exchanges: 3,
        ..ServeConfig::default()
    };
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        handler,
        config,
        TransportConfig::default(),
        loopback(),
    );
    let conn = soon(
        "dial",
        pool(&node(&root, "edge-1", &[Role::Edge])).get(server.addr),
    )
    .await
    .unwrap();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(conn.exchange(1, Bytes::new(), None).await.unwrap());
    }
    for _ in 0..3 {
        assert_eq!(soon("start", events.recv()).await, Some(true));
    }
    assert_eq!(server.peers.counters().requests_started.get(), 3);
    held.remove(0);
    assert_eq!(soon("end", events.recv()).await, Some(false));
    assert_eq!(soon("the next", events.recv()).await, Some(true));
    assert_eq!(server.peers.counters().requests_started.get(), 4);
}

#[tokio::test]
async fn drain_lets_exchanges_finish_and_takes_no_more() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (begun.clone(), go.clone());
    let slow = Act(move |mut request: IncomingRequest| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            request.reply.data(pattern(200_000)).await.unwrap();
            request.reply.finish().await.unwrap();
        }
    });
    let (mut server, conn) = pair(Arc::new(slow)).await;
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    soon("start", begun.notified()).await;
    server.peers.drain(PATIENCE);
    soon("notice", async {
        while !matches!(
            conn.exchange(2, Bytes::new(), None).await,
            Err(ExchangeError::Draining)
        ) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    go.notify_one();
    assert_eq!(
        soon("body", drain(&mut exchange.recv)).await.unwrap().0,
        200_000
    );
    drop(exchange);
    soon("end of serving", &mut server.task).await.unwrap();
    assert_eq!(server.peers.counters().closed_at_drain_end.get(), 0);
}

#[tokio::test]
async fn drain_cuts_off_at_the_end_of_its_grace() {
    let (handler, mut events) = hold();
    let (mut server, conn) = pair(handler).await;
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    assert_eq!(soon("start", events.recv()).await, Some(true));
    server.peers.drain(Duration::from_millis(50));
    let error = soon("cut", exchange.recv.next()).await.unwrap_err();
    let ExchangeError::Connection(ConnectionError::Closed { code, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(CloseCode::of(code), Some(CloseCode::Drained));
    soon("end of serving", &mut server.task).await.unwrap();
    assert_eq!(server.peers.counters().closed_at_drain_end.get(), 1);
}

#[tokio::test]
async fn too_large_control_is_refused_before_it_is_sent() {
    let (_server, conn) = pair(echo()).await;
    let fits = Bytes::from(vec![1; REQUEST_CONTROL_BYTES_MAX]);
    let over = Bytes::from(vec![1; REQUEST_CONTROL_BYTES_MAX + 1]);
    assert!(matches!(conn.exchange(1, over, None).await, Err(error) if error.not_sent()));
    let mut exchange = conn.exchange(1, fits.clone(), None).await.unwrap();
    assert_eq!(
        soon("head", exchange.recv.next()).await.unwrap(),
        Some(Part::Head(fits))
    );
}

#[tokio::test]
async fn silent_exchange_outlives_the_idle_timeout() {
    let go = Arc::new(Notify::new());
    let slow = {
        let go = go.clone();
        Act(move |request: IncomingRequest| {
            let go = go.clone();
            async move {
                go.notified().await;
                request.reply.finish().await.unwrap();
            }
        })
    };
    let transport = TransportConfig {
        idle_timeout: Duration::from_millis(300),
        ..TransportConfig::default()
    };
    let root = root("demo");
    let shield = node(&root, "shield-1", &[Role::Shield]);
    let server = Server::with(
        &shield,
        Arc::new(slow),
        ServeConfig::default(),
        transport.clone(),
        loopback(),
    );
    let endpoint = Endpoint::client(loopback(), transport).unwrap();
    let pool = Pool::new(
        endpoint,
        node(&root, "edge-1", &[Role::Edge]),
        PoolConfig::default(),
    );
    let conn = soon("dial", pool.get(server.addr)).await.unwrap();
    let mut exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
    let over = tokio::time::timeout(Duration::from_secs(1), exchange.recv.next()).await;
    assert!(over.is_err(), "{over:?}");
    go.notify_one();
    assert_eq!(soon("answer", exchange.recv.next()).await, Ok(None));
}

#[tokio::test]
async fn one_unread_answer_costs_the_others_nothing() {
    let (_server, conn) = pair(source(Arc::default())).await;
    let unread = conn.exchange(1, want(100 << 20), None).await.unwrap();
    for _ in 0..20 {
        let mut exchange = conn.exchange(1, want(2 << 20), None).await.unwrap();
        assert_eq!(
            soon("body", drain(&mut exchange.recv)).await.unwrap().0,
            2 << 20
        );
    }
    assert_eq!(conn.active(), 1);
    drop(unread);
    assert_eq!(conn.active(), 0);
}

#[tokio::test]
async fn answers_that_have_arrived_leave_nothing_behind() {
    let (server, conn) = pair(echo()).await;
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let counters = server.peers.counters();
    let mut before = 0;
    for asked in 1..=200 {
        let exchange = conn.exchange(1, Bytes::new(), None).await.unwrap();
        let Exchange { mut send, mut recv } = exchange;
        send.data(pattern(1000)).await.unwrap();
        send.finish().await.unwrap();
        // One in two is given up with the rest on its way.
        if asked % 2 == 0 {
            soon("answer", drain(&mut recv)).await.unwrap();
        } else {
            soon("head", recv.next()).await.unwrap();
        }
        drop(recv);
        if asked == 1 {
            until("end", || counters.requests_started.get() == 1).await;
            before = tasks();
        }
    }
    // The first may have been under way when they were counted.
    until("end of the tasks", || tasks() <= before + 1).await;
}
