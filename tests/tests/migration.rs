//! A client that moves to another port keeps its connection, whichever worker holds it.

use bytes::Bytes;
use futures_util::stream;
use integration::{Answer, Cluster, Origin, Version, body, until};

#[tokio::test]
async fn a_download_survives_three_rebinds_on_four_workers_without_a_new_handshake() {
    const TOTAL: u64 = 48 << 20;
    let seed = body::seed();
    let origin = Origin::start(move |_| async move {
        let pieces = stream::iter(body::pieces(seed, TOTAL).map(Ok::<Bytes, std::io::Error>));
        Answer::status(200).stream(Some(TOTAL), pieces).fresh(60)
    })
    .await;
    let cluster = Cluster::new()
        .origin(&origin)
        .workers(4)
        .ram("256MiB")
        .start()
        .await;
    until("the edge has probed itself", || {
        cluster
            .edge()
            .metric("stoq_listen_h3_probes_answered_total", &[])
            >= 1.0
    })
    .await;
    let handshakes = || cluster.edge().metric("stoq_listen_handshakes_total", &[]);
    let before = handshakes();
    let mut want = blake3::Hasher::new();
    body::pieces(seed, TOTAL).for_each(|piece| {
        want.update(&piece);
    });
    let want = want.finalize();

    let downloads = (0..4).map(|_| async {
        let client = cluster.edge().client(Version::Http3).await;
        let mut answer = client.get("/big").await.unwrap();
        let (mut hash, mut rebinds) = (blake3::Hasher::new(), 0);
        while let Some(bytes) = answer.body.chunk().await.unwrap() {
            hash.update(&bytes);
            if hash.count() > TOTAL / 4 * (rebinds + 1) && rebinds < 3 {
                client
                    .quic()
                    .expect("HTTP/3 is over QUIC")
                    .rebind()
                    .unwrap();
                rebinds += 1;
            }
        }
        (hash.finalize(), rebinds)
    });
    for (hash, rebinds) in futures_util::future::join_all(downloads).await {
        assert_eq!((hash, rebinds), (want, 3));
    }
    let new = handshakes() - before;
    println!("4 clients, 12 rebinds, {new} handshakes");
    assert_eq!(new, 4.0);
}
