//! The end: what has begun is finished, and nobody new is let in.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Version;
use stoq_edge::listen::Limits;
use stoq_edge::service::End;
use tokio::net::TcpStream;

use crate::client::{ALL, Client};
use crate::rig::{Rig, until, within};
use crate::scripted::{PIECE, PIECES};

#[tokio::test]
async fn a_drain_finishes_twenty_downloads_and_refuses_newcomers() {
    for version in ALL {
        let rig = Rig::start();
        let mut downloads = Vec::new();
        for _ in 0..20 {
            let mut client = Client::connect(&rig, version).await.unwrap();
            let mut answer = within(client.get("/gated")).await.unwrap();
            let first = within(answer.piece()).await.unwrap().unwrap();
            downloads.push((client, answer, first.len()));
        }
        rig.drain.begin();
        until("newcomers over TCP are refused", || {
            std::net::TcpStream::connect(rig.https).is_err()
        })
        .await;
        assert!(TcpStream::connect(rig.plain).await.is_err());
        let newcomer = within(Client::connect(&rig, Version::HTTP_3)).await;
        assert!(newcomer.is_err(), "newcomers over QUIC are refused");

        rig.service.open_gate();
        for (_client, answer, first) in downloads {
            let rest = within(answer.body()).await.unwrap();
            assert_eq!(first + rest.len(), PIECES * PIECE, "{version:?}");
        }
        let service = rig.service.clone();
        rig.ended().await;
        let done = service.done_with("/gated");
        assert_eq!(done.len(), 20, "{version:?}");
        assert!(
            done.iter().all(|done| done.sent.end == End::Complete),
            "{version:?} {done:?}"
        );
    }
}

#[tokio::test]
async fn idle_connections_end_with_the_beginning_of_the_drain() {
    let rig = Rig::start();
    let mut clients = Vec::new();
    for version in ALL {
        let mut client = Client::connect(&rig, version).await.unwrap();
        within(client.get("/hit"))
            .await
            .unwrap()
            .body()
            .await
            .unwrap();
        clients.push(client);
    }
    rig.drain.begin();
    rig.ended().await;
}

#[tokio::test]
async fn the_deadline_cuts_what_is_left_and_says_so() {
    for version in ALL {
        let rig = Rig::with(Limits::default(), Duration::from_millis(300));
        let mut client = Client::connect(&rig, version).await.unwrap();
        let mut answer = within(client.get("/gated")).await.unwrap();
        within(answer.piece()).await.unwrap().unwrap();
        rig.drain.begin();
        let end = within(answer.body()).await;
        assert!(end.is_err(), "{version:?}");
        let service = rig.service.clone();
        rig.ended().await;
        let done = service.done_with("/gated");
        assert_eq!(done.len(), 1);
        assert_ne!(done[0].sent.end, End::Complete, "{version:?}");
        assert_eq!(service.serving.load(Ordering::SeqCst), 1);
    }
}
