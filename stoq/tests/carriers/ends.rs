//! How the serving side ends connections: in a drain, and when the peer's certificates do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::identity::LEAF_LIFETIME_MAX;
use stoq::peer::{Exchange, IncomingRequest, Part};
use stoq::quic::TransportConfig;
use stoq::transport::ConnectionError;
use stoq::wire::CloseCode;
use tokio::time::{Instant, sleep};

use crate::cluster::{Act, drain, echo, pattern, until};
use crate::memory::{Two, ask, far};

fn code_of(error: &ConnectionError) -> Option<CloseCode> {
    match error {
        ConnectionError::Closed { code, .. } => CloseCode::of(*code),
        _ => None,
    }
}

/// The stream's window at its reader, and something in the queue at its writer, which says that it is done.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_answers_that_are_on_their_way() {
    let body = pattern(TransportConfig::default().stream_window as usize + 100_000);
    let whole = (body.len() as u64, blake3::hash(&body));
    let two = Two::new(
        2,
        Arc::new(Act(move |request: IncomingRequest| {
            let body = body.clone();
            async move {
                let mut reply = request.reply;
                reply.data(body).await.unwrap();
                reply.finish().await.unwrap();
            }
        })),
    );
    two.network.set_default(far(20));
    let conn = two.dial().await.unwrap();
    let Exchange { send, mut recv } = conn.exchange(1, Bytes::new(), None).await.unwrap();
    send.finish().await.unwrap();
    let counters = two.peers.counters().clone();
    until("answer", || counters.requests_returned.get() == 1).await;
    two.peers.drain(Duration::from_secs(30));
    // Longer than a connection may be quiet, and the grace is not over.
    sleep(Duration::from_secs(10)).await;
    assert_eq!(drain(&mut recv).await.unwrap(), whole);
    drop(recv);
    let began = Instant::now();
    two.task.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    let cut = counters.closed_quiet_in_drain.get() + counters.closed_at_drain_end.get();
    assert_eq!(cut, 0, "the peer closed");
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_let_go_after_its_certificates_once_nothing_is_under_way() {
    let two = Two::new(3, echo());
    two.network.set_default(far(20));
    let (idle, busy) = (two.dial().await.unwrap(), two.dial().await.unwrap());
    let Exchange { mut send, mut recv } = busy.exchange(1, Bytes::new(), None).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert!(ask(&idle, pattern(10)).await.is_ok());

    two.clock.forward(2 * LEAF_LIFETIME_MAX);
    let began = Instant::now();
    let end = idle.closed().await;
    assert_eq!(code_of(&end), Some(CloseCode::Expired), "{end:?}");
    assert!(began.elapsed() < Duration::from_secs(120));

    // What was under way goes on to its end, and is the last.
    sleep(Duration::from_secs(600)).await;
    send.data(pattern(1000)).await.unwrap();
    send.finish().await.unwrap();
    assert_eq!(recv.next().await.unwrap(), Some(Part::Head(Bytes::new())));
    assert_eq!(drain(&mut recv).await.unwrap().0, 1000);
    let end = busy.closed().await;
    assert_eq!(code_of(&end), Some(CloseCode::Expired), "{end:?}");
    assert_eq!(two.peers.counters().closed_expired.get(), 2);
}
