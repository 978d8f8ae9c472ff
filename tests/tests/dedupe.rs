//! The same bytes under many names are kept once, and a shifted copy costs what changed. Figures are those of `/metrics`.

use bytes::Bytes;
use integration::{Answer, Client, Cluster, Origin, Version, body};

const SIZE: usize = 64 << 20;
const MIB: f64 = 1_048_576.0;

/// Gets `path` and checks its body.
async fn get(client: &Client, path: &str, want: &Bytes) {
    let answer = client
        .get(path)
        .await
        .expect("an answer")
        .whole()
        .await
        .expect("a whole body");
    assert_eq!(
        (answer.status.as_u16(), answer.length),
        (200, want.len() as u64),
        "{path}"
    );
    assert_eq!(answer.hash, blake3::hash(want), "{path}");
}

#[tokio::test]
async fn the_same_bytes_under_thirteen_urls_are_kept_once_and_one_inserted_byte_costs_a_chunk() {
    let seed = body::seed();
    let plain = body::random(seed, SIZE);
    let shifted = Bytes::from([&b"!"[..], &plain].concat());
    let origin = Origin::start({
        let (plain, shifted) = (plain.clone(), shifted.clone());
        move |seen| {
            let body = if seen.uri.path() == "/shifted" {
                shifted.clone()
            } else {
                plain.clone()
            };
            async move {
                Answer::ok(body)
                    .fresh(600)
                    .header("etag", "\"v\"")
                    .header("content-type", "application/octet-stream")
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).ram("512MiB").start().await;
    let client = cluster.edge().client(Version::Http3).await;
    let tier = || cluster.edge().metric("stoq_store_ram_used_bytes", &[]);

    get(&client, "/0", &plain).await;
    let one = tier();
    assert!(
        (SIZE as f64..SIZE as f64 * 1.02).contains(&one),
        "one copy is kept, once: {one} bytes"
    );
    for number in 1..10 {
        get(&client, &format!("/{number}"), &plain).await;
    }
    for query in 0..3 {
        get(&client, &format!("/0?q={query}"), &plain).await;
    }
    let thirteen = tier();
    get(&client, "/shifted", &shifted).await;
    let with_shifted = tier();
    println!(
        "64 MiB of random bytes: one copy {:.1} MiB, under 13 URLs {:.1} MiB, and with a byte in front {:.1} MiB",
        one / MIB,
        thirteen / MIB,
        with_shifted / MIB
    );
    assert_eq!(origin.seen().len(), 14, "each URL was fetched once");
    assert!(
        thirteen <= one * 1.02,
        "thirteen names cost {thirteen} bytes, one {one}"
    );
    assert!(
        with_shifted - thirteen <= SIZE as f64 * 0.02,
        "the shifted copy cost {} bytes",
        with_shifted - thirteen
    );
}
