//! Connection IDs under attack: what carries an invented one never reaches a socket, and who carries a real one may move as he
//! likes, whichever of four workers he is at.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::clients::{Client, Server};
use crate::edge::{Defence, Edge, LARGE, PATIENCE};
use crate::lab::{Lab, client};
use crate::spoofer::{Flood, Frames};

const WORKERS: usize = 4;
const CLIENTS: u8 = 8;
const MOVES: usize = 4;

/// One whole download, during which the client moves to other ports and addresses.
async fn download(server: &Server, number: u8) -> anyhow::Result<usize> {
    let mut visitor = Client::connect(server, client(1, number)).await?;
    let endpoint = visitor.endpoint.clone();
    let (mut at, mut moves) = (0, 0);
    let total = server.large.len();
    let mut body = visitor.get(LARGE).await?;
    while let Some(piece) = body.piece().await? {
        let expected = server.large.get(at..at + piece.len());
        ensure!(
            expected == Some(&piece),
            "other bytes than the origin's at {at}"
        );
        at += piece.len();
        if moves < MOVES && at > total / (MOVES + 1) * (moves + 1) {
            // Now another address, now another port of the same one.
            let group = if moves % 4 < 2 { 2 } else { 1 };
            endpoint.rebind((client(group, number), 0).into())?;
            moves += 1;
        }
    }
    ensure!(at == total, "a short body: {at} of {total}");
    visitor.connection.close(0x100, b"");
    Ok(moves)
}

fn given_to_sockets(edge: &Edge) -> f64 {
    ["by_id", "by_hash", "orphan", "by_kernel"]
        .iter()
        .map(|way| edge.metric(&format!("stoq_quic_steered_{way}_total"), ""))
        .sum()
}

#[test]
fn invented_connection_ids_reach_no_socket_while_clients_move_between_ports_and_addresses() {
    const TEST: &str =
        "invented_connection_ids_reach_no_socket_while_clients_move_between_ports_and_addresses";
    let Some(lab) = Lab::up(TEST) else { return };
    let Some(edge) = Edge::start(TEST, &lab, Defence::Native, WORKERS) else {
        return;
    };
    let handshakes = || edge.metric("stoq_listen_handshakes_total", "");
    let wrong_tags = || edge.metric("stoq_xdp_packets_total", "reason=\"drop_cid_tag\"");

    // Nobody else is there: what a socket is given now is the flood's.
    let before = given_to_sockets(&edge);
    let flood = Flood::begin(&lab, Frames::WrongTags, 20_000);
    let begun = Instant::now();
    while flood.sent() < 20_000 || wrong_tags() < 10_000.0 {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} sent\n{}",
            flood.sent(),
            edge.log()
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let given = given_to_sockets(&edge) - before;
    assert!(
        given < 10.0,
        "{given} datagrams of the flood reached a socket"
    );

    let before = handshakes();
    let server = Server::of(&edge);
    let moved = lab.on_client(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let all = (0..CLIENTS).map(|number| download(&server, number));
            let all = futures_util::future::join_all(all);
            tokio::time::timeout(PATIENCE * 2, all).await
        })
    });
    let moved = moved
        .join()
        .unwrap()
        .expect("all downloads are whole in time");
    let sent = flood.end();
    for moves in moved {
        assert_eq!(moves.unwrap(), MOVES);
    }
    let new = handshakes() - before;
    println!(
        "{} frames with invented IDs, {} dropped; {CLIENTS} clients moved {MOVES} times each, {new} handshakes",
        sent.frames,
        wrong_tags()
    );
    assert_eq!(new, f64::from(CLIENTS));
    assert!(edge.metric("stoq_quic_steered_by_id_total", "") > 0.0);
    assert_eq!(edge.metric("stoq_quic_steered_orphan_total", ""), 0.0);
    assert_eq!(edge.metric("stoq_quic_steered_by_kernel_total", ""), 0.0);
}
