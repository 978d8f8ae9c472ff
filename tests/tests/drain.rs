//! An orderly end loses nothing that was under way and takes nothing new.

use futures_util::stream;
use integration::{Answer, Client, Cluster, Gate, Origin, Version, body, until};
use tokio::task::JoinSet;

const DOWNLOADS: usize = 100;
const HALF: usize = 128 * 1024;

#[tokio::test]
async fn a_drain_completes_a_hundred_downloads_and_refuses_newcomers_at_once() {
    let seed = body::seed();
    let gate = Gate::default();
    let origin = Origin::start({
        let gate = gate.clone();
        move |seen| {
            let (gate, number) = (gate.clone(), seen.uri.path().len() as u64);
            async move {
                let halves = stream::unfold(0, move |half| {
                    let gate = gate.clone();
                    async move {
                        if half == 1 {
                            gate.passed().await;
                        }
                        (half < 2).then(|| (Ok(body::random(seed + number + half, HALF)), half + 1))
                    }
                });
                Answer::status(200)
                    .stream(Some(2 * HALF as u64), halves)
                    .fresh(60)
            }
        }
    })
    .await;
    let mut cluster = Cluster::new().origin(&origin).start().await;

    let mut downloads = JoinSet::new();
    for version in [Version::Http3, Version::Http2] {
        let clients = [
            cluster.edge().client(version).await,
            cluster.edge().client(version).await,
        ];
        for number in 0..DOWNLOADS / 2 {
            let client: Client = clients[number % 2].clone();
            downloads.spawn(async move {
                let answer = client.get(&format!("/{number}")).await.expect("an answer");
                answer.whole().await.expect("a whole body").length
            });
        }
    }
    let edge = &mut cluster.edges[0];
    until("all heads are out", || {
        edge.metric("stoq_listen_requests_total", &[]) >= DOWNLOADS as f64
    })
    .await;
    until("first halves are out", || {
        origin.body_bytes() >= (DOWNLOADS / 2 * HALF) as u64
    })
    .await;

    edge.drain().begin();
    for version in [Version::Http3, Version::Http2, Version::Http1] {
        let target = edge.target("localhost");
        let refused = async || {
            tokio::time::timeout(
                std::time::Duration::from_secs(5),
                Client::connect(&target, version),
            )
            .await
        };
        // The begin of a drain reaches the listeners within their next turn.
        let mut attempts = 0;
        while matches!(refused().await, Ok(Ok(_))) {
            attempts += 1;
            assert!(attempts < 100, "{version:?} is still let in");
            tokio::task::yield_now().await;
        }
    }
    gate.open();
    let mut complete = 0;
    while let Some(done) = downloads.join_next().await {
        assert_eq!(done.expect("a download does not panic"), 2 * HALF as u64);
        complete += 1;
    }
    assert_eq!(complete, DOWNLOADS);
    edge.stop().await.expect("no worker died");
}
