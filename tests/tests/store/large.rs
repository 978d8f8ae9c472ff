//! An object larger than memory: from disk after a restart, whole and in parts, at an edge alone and through a shield.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::Request;
use integration::{Answer, Client, Origin, Payload, body};
use rustls_pki_types::UnixTime;
use stoq::identity::{ClusterRoot, Role, Validity};

use crate::rig::{Setup, get, send};

/// Half as much again as the nodes' memory.
const SIZE: usize = 24 << 20;

/// An origin that has these bytes under every path, and no ranges of them.
async fn whole(bytes: &Bytes) -> Origin {
    let bytes = bytes.clone();
    Origin::start(move |_| {
        let bytes = bytes.clone();
        async move { Answer::ok(bytes).fresh(86_400).header("etag", "\"v\"") }
    })
    .await
}

/// Asks for the whole and for a part in its middle.
async fn ask(client: &Client, bytes: &Bytes, what: &str) {
    let got = get(client, "/large").await.expect("an answer");
    assert_eq!(
        (got.status, got.length, got.hash),
        (200, SIZE as u64, blake3::hash(bytes)),
        "{what}: {}",
        got.cache_status
    );
    part(client, bytes, what).await;
}

async fn part(client: &Client, bytes: &Bytes, what: &str) {
    let (start, end) = (SIZE / 2 - 12_345, SIZE / 2 + 700_001);
    let request = Request::get("/large")
        .header("range", format!("bytes={start}-{}", end - 1))
        .body(Payload::empty());
    let got = send(client, request.expect("a request")).await;
    let got = got.expect("an answer");
    assert_eq!(
        (got.status, got.hash),
        (206, blake3::hash(&bytes[start..end])),
        "{what}: {}",
        got.cache_status
    );
}

#[tokio::test]
async fn an_object_larger_than_memory_is_served_from_disk_after_a_restart_and_a_range_of_it_too() {
    let bytes = body::random(body::seed(), SIZE);
    let origin = whole(&bytes).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(setup) = Setup::edge("large", directory.path(), &origin.url()) else {
        return;
    };
    let node = setup.start().await;
    ask(&node.client().await, &bytes, "at first").await;
    assert_eq!(origin.seen().len(), 1, "a part of what is stored");
    assert!(node.stop().await.success());

    let node = setup.start().await;
    // The part first: nothing of it is in memory.
    let client = node.client().await;
    part(&client, &bytes, "the part after a restart").await;
    ask(&client, &bytes, "after a restart").await;
    assert_eq!(origin.seen().len(), 1, "all of it came from disk");
    let hits = node.metric("stoq_disk_hit_bytes_total", &[]).await;
    assert!(hits >= SIZE as f64, "{hits} bytes were read from disk");
    assert!(node.stop().await.success());
}

#[tokio::test]
async fn an_edge_and_a_shield_that_were_both_restarted_ask_the_origin_for_nothing() {
    let bytes = body::random(body::seed(), SIZE);
    let origin = whole(&bytes).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path();
    let nodes = (
        Setup::edge("large through a shield", dir, &origin.url()),
        Setup::shield("large through a shield", dir, &origin.url()),
    );
    let (Some(mut edge), Some(mut shield)) = nodes else {
        return;
    };
    found(dir);
    shield.tables = cluster("shield-1");
    let behind = |addr| format!("{}[shield]\nnodes = [\"{addr}\"]\n", cluster("edge-1"));

    let running = shield.start().await;
    edge.tables = behind(running.addr);
    let before = edge.start().await;
    ask(&before.client().await, &bytes, "at first").await;
    assert_eq!(origin.seen().len(), 1, "a part of what is stored");
    assert!(before.stop().await.success());
    assert!(running.stop().await.success());

    let running = shield.start().await;
    edge.tables = behind(running.addr);
    let before = edge.start().await;
    ask(&before.client().await, &bytes, "both restarted").await;
    assert_eq!(origin.seen().len(), 1, "both were restarted");
    assert_eq!(
        running.metric("stoq_disk_hit_bytes_total", &[]).await,
        0.0,
        "the edge has it itself"
    );
    assert!(before.stop().await.success());

    // Without what the edge kept, the shield's disk answers.
    std::fs::remove_dir_all(&edge.disk).expect("a volume is removed");
    let before = edge.start().await;
    ask(&before.client().await, &bytes, "from the shield's disk").await;
    assert_eq!(origin.seen().len(), 1, "the shield has it");
    let hits = running.metric("stoq_disk_hit_bytes_total", &[]).await;
    assert!(hits >= SIZE as f64, "{hits} bytes from the shield's disk");
    assert!(before.stop().await.success());
    assert!(running.stop().await.success());
}

fn cluster(name: &str) -> String {
    format!("[cluster]\nname = \"test\"\nidentity = \"{name}.pem\"\nroot = \"root.pem\"\n")
}

/// A root, and an identity for each node.
fn found(dir: &Path) {
    let validity = || Validity::starting(UnixTime::now(), Duration::from_secs(24 * 3600));
    let root = ClusterRoot::generate("test", validity()).expect("a root");
    std::fs::write(dir.join("root.pem"), root.to_pem_cert()).expect("root.pem is written");
    for (name, role) in [("edge-1", Role::Edge), ("shield-1", Role::Shield)] {
        let file = root.issue(name, &[role], validity());
        let saved = file
            .expect("an identity")
            .save(&dir.join(format!("{name}.pem")));
        saved.expect("an identity is written");
    }
}
