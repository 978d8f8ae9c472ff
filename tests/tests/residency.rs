//! Sites whose bytes may not be everywhere: where they go, and who is refused.

#![expect(
    clippy::unwrap_used,
    reason = "a step that fails ends the scenario, also in its functions"
)]

use bytes::Bytes;
use http::Method;
use integration::{Answer, Cluster, Origin, Running, Version, body, until};
use stoq::peer::{Ask, DialConfig, ExchangeError, PeerConn};
use stoq::quic::Endpoint;
use stoq_mesh::{ManifestsRequest, ObjectRequest, wire};

/// More than what is announced at once.
const SIZE: usize = 3 << 19;

/// What is said to one outside a site's zones, and to one whose chunks have other names.
const OUTSIDE: u32 = 9;
const OTHER_NAMES: u32 = 4;

async fn origin(whole: &Bytes) -> Origin {
    let whole = whole.clone();
    Origin::start(move |_| {
        let whole = whole.clone();
        async move { Answer::ok(whole).fresh(3600).header("etag", "\"v\"") }
    })
    .await
}

/// Two edges and the shield in Europe, an edge in America.
async fn cluster(origin: &Origin, residency: &str, shield: &str) -> Running {
    let cluster = Cluster::new().origin(origin).shield().peers().edges(3);
    let cluster = cluster.zones(&["eu-fra", "eu-par", "us-nyc"]);
    let cluster = cluster.shield_zone(shield).site(residency).workers(1);
    cluster.start().await
}

async fn get(cluster: &Running, edge: usize, path: &str) -> (u16, blake3::Hash) {
    let client = cluster.edges[edge].client(Version::Http3).await;
    let answer = client.get(path).await.unwrap();
    let status = answer.status.as_u16();
    (status, answer.whole().await.unwrap().hash)
}

fn served(cluster: &Running, edge: usize, source: &str) -> f64 {
    let label = format!("source=\"{source}\"");
    cluster.edges[edge].metric("stoq_cache_served_bytes_total", &[&label])
}

fn refused(cluster: &Running, edge: usize, what: &str) -> f64 {
    let label = format!("what=\"{what}\"");
    cluster.edges[edge].metric("stoq_residency_refused_total", &[&label])
}

/// All that any edge was told of by another, or would tell.
fn told(cluster: &Running) -> f64 {
    let names = ["stoq_index_records", "stoq_index_objects"];
    let edges = cluster.edges.iter();
    edges
        .flat_map(|edge| names.map(|name| edge.metric(name, &[])))
        .sum()
}

/// With which code a node refuses to say what it holds, and a shield to give an object, to the node called `name`.
async fn answers_to(cluster: &Running, name: &str) -> [u32; 2] {
    let identity = cluster.identity(name);
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::client(any, stoq_mesh::between_nodes()).unwrap();
    let manifests = ManifestsRequest {
        key: [1; 32],
        chunk_key_id: [0; 16],
        site: "site".to_owned(),
    };
    let object = ObjectRequest {
        key: [1; 32],
        chunk_key_id: [0; 16],
        site: "site".to_owned(),
        method: Method::GET,
        https: true,
        authority: "localhost".to_owned(),
        path_and_query: "/a".to_owned(),
        headers: http::HeaderMap::new(),
        held: None,
    };
    let edge = cluster.edge().stoq().unwrap();
    let asks = [
        (edge, wire::MANIFESTS, manifests.encode().unwrap()),
        (
            cluster.shield().addr(),
            wire::OBJECT,
            object.encode().unwrap(),
        ),
    ];
    let mut codes = [0; 2];
    for (code, (addr, kind, request)) in codes.iter_mut().zip(asks) {
        let config = DialConfig::default();
        let conn = PeerConn::dial(&endpoint, &identity, addr, &config)
            .await
            .unwrap();
        let Err(ExchangeError::Remote { code: got, .. }) = conn.call(Ask::new(kind, request)).await
        else {
            panic!("{name} is answered");
        };
        *code = got;
    }
    codes
}

#[tokio::test]
async fn bytes_of_a_site_go_between_nodes_of_its_zones_and_to_no_others() {
    let whole = body::random(body::seed(), SIZE);
    let (hash, size) = (blake3::hash(&whole), SIZE as f64);
    let origin = origin(&whole).await;
    let cluster = cluster(&origin, "residency = [\"eu-*\"]", "eu-ams").await;

    assert_eq!(get(&cluster, 0, "/a").await, (200, hash));
    assert_eq!(served(&cluster, 0, "shield"), size);
    // Within the zones it is as anywhere else.
    assert_eq!(get(&cluster, 1, "/a").await, (200, hash));
    assert_eq!(served(&cluster, 1, "peer"), size);
    for _ in 0..3 {
        assert_eq!(get(&cluster, 1, "/a").await, (200, hash));
    }
    // Without, the site is not there, and nobody is asked for it.
    let gave = cluster.edges[0].metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(get(&cluster, 2, "/a").await.0, 421);
    assert_eq!(refused(&cluster, 2, "serve"), 1.0);
    assert_eq!(origin.requests("/a"), 1);
    // Somebody who asks all the same is refused, by edge and shield.
    assert_eq!(refused(&cluster, 0, "give"), 0.0);
    assert_eq!(answers_to(&cluster, "edge-3").await, [OUTSIDE; 2]);
    assert_eq!(refused(&cluster, 0, "give"), 1.0);
    let at_shield = ["what=\"give\""];
    let at_shield = cluster
        .shield()
        .metric("stoq_residency_refused_total", &at_shield);
    assert_eq!(at_shield, 1.0);
    assert_eq!(answers_to(&cluster, "edge-2").await, [OTHER_NAMES; 2]);
    assert_eq!(refused(&cluster, 0, "give"), 1.0);
    assert_eq!(
        gave,
        cluster.edges[0].metric("stoq_object_body_bytes_total", &[])
    );
    // Who owns keys is anywhere, so no owner hears of it.
    assert_eq!(told(&cluster), 0.0);
}

#[tokio::test]
async fn bytes_of_a_site_without_a_residency_go_everywhere() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = cluster(&origin, "", "us-sjc").await;
    assert_eq!(get(&cluster, 0, "/a").await, (200, hash));
    assert_eq!(get(&cluster, 2, "/a").await, (200, hash));
    assert_eq!(served(&cluster, 0, "shield"), SIZE as f64);
    assert_eq!(served(&cluster, 2, "peer"), SIZE as f64);
    until("owners are told", || told(&cluster) > 0.0).await;
    assert_eq!(answers_to(&cluster, "edge-3").await, [OTHER_NAMES; 2]);
    for edge in 0..3 {
        for what in ["serve", "give", "ask"] {
            assert_eq!(refused(&cluster, edge, what), 0.0);
        }
    }
}

#[tokio::test]
async fn shield_outside_a_sites_zones_is_passed_by() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = cluster(&origin, "residency = [\"eu-*\"]", "us-sjc").await;
    assert_eq!(get(&cluster, 0, "/a").await, (200, hash));
    assert_eq!(served(&cluster, 0, "origin"), SIZE as f64);
    assert!(refused(&cluster, 0, "ask") >= 1.0);
    let sent = cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(sent, 0.0);
    // It would not answer those within either.
    assert_eq!(answers_to(&cluster, "edge-2").await, [OTHER_NAMES, OUTSIDE]);
}
