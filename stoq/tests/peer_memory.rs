//! A large body passes between two nodes in the memory of their windows. Alone in its process, which is measured.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[expect(
    dead_code,
    reason = "the cluster is that of the other tests, which use more of it"
)]
#[path = "peer/cluster.rs"]
mod cluster;

use std::sync::Arc;

use bytes::{Buf, Bytes};
use stoq::identity::Role;
use stoq::peer::IncomingRequest;

use cluster::{Act, Server, drain, node, pattern, pool, root, soon};

/// `VmHWM` of this process, in bytes: the most memory it ever had resident.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

/// The pattern over and over, as many bytes as the request says.
async fn send_pattern(mut request: IncomingRequest) {
    let block = pattern(64 * 1024);
    let mut left = request.control.get_u64();
    while left > 0 {
        let piece = block.slice(..block.len().min(usize::try_from(left).unwrap()));
        left -= piece.len() as u64;
        request.reply.data(piece).await.unwrap();
    }
    request.reply.finish().await.unwrap();
}

#[tokio::test]
async fn body_of_100_mb_passes_through_bounded_memory() {
    const BODY: u64 = 100_000_000;
    let root = root("demo");
    let server = Server::start(
        &node(&root, "shield-1", &[Role::Shield]),
        Arc::new(Act(send_pattern)),
    );
    let conn = soon(
        "dial",
        pool(&node(&root, "edge-1", &[Role::Edge])).get(server.addr),
    )
    .await
    .unwrap();
    let before = peak_rss();
    let mut exchange = conn
        .exchange(1, Bytes::from(BODY.to_be_bytes().to_vec()), None)
        .await
        .unwrap();
    let (total, hash) = soon("body", drain(&mut exchange.recv)).await.unwrap();
    let grown = peak_rss() - before;
    println!("grew by {} KiB; path: {:?}", grown >> 10, conn.path());

    assert_eq!(total, BODY);
    let (mut expected, mut left) = (blake3::Hasher::new(), BODY);
    let block = pattern(64 * 1024);
    while left > 0 {
        let len = left.min(block.len() as u64);
        expected.update(&block[..usize::try_from(len).unwrap()]);
        left -= len;
    }
    assert_eq!(hash, expected.finalize());
    // The send window (8 MiB), a stream window (1 MiB), and the sockets' receive buffers (2 MiB each), touched late.
    assert!(grown < 24 << 20, "grew by {} KiB", grown >> 10);
}
