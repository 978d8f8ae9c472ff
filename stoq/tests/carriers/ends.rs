//! How the serving side ends connections in a drain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stoq::peer::{Exchange, IncomingRequest};
use stoq::quic::TransportConfig;
use tokio::time::{Instant, sleep};

use crate::cluster::{Act, drain, pattern, until};
use crate::memory::{Two, far};

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
