//! What edges put at others, though clients asked one: what is hot of a site that is protected, and small objects at their homes.

use bytes::Bytes;
use http::Request;
use integration::{Answer, Cluster, EdgeNode, Gate, Origin, Payload, Version, body, until};
use stoq::identity::Role;

const SIZE: usize = 512 << 10;

async fn get(edge: &EdgeNode, path: &str) -> blake3::Hash {
    try_get(edge, path).await.expect("status 200")
}

/// `None` where the status is another than 200.
async fn try_get(edge: &EdgeNode, path: &str) -> Option<blake3::Hash> {
    let client = edge.client(Version::Http3).await;
    let answer = client.get(path).await.expect("an answer");
    let found = answer.status == 200;
    let whole = answer.whole().await.expect("a whole body");
    found.then_some(whole.hash)
}

async fn origin(whole: &Bytes) -> Origin {
    let whole = whole.clone();
    Origin::start(move |_| {
        let whole = whole.clone();
        async move { Answer::ok(whole).fresh(3600).header("etag", "\"v\"") }
    })
    .await
}

/// What these edges fetched since others asked them to keep it.
fn kept(edges: &[EdgeNode]) -> f64 {
    let fetched = |edge: &EdgeNode| edge.metric("stoq_keep_fetched_total", &[]);
    edges.iter().map(fetched).sum()
}

#[tokio::test]
async fn what_is_hot_of_a_protected_site_outlives_the_edge_that_had_it() {
    let whole = body::random(body::seed(), SIZE);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(4);
    let mut cluster = cluster.edge_site("protect = 3").start().await;
    for _ in 0..3 {
        assert_eq!(get(&cluster.edges[0], "/hot").await, hash);
    }
    get(&cluster.edges[0], "/once").await;
    // Itself may be one of the three.
    until("others hold it", || kept(&cluster.edges) >= 2.0).await;

    cluster.edges[0].kill().await;
    cluster.shields[0].kill().await;
    drop(origin);
    for edge in &cluster.edges[1..] {
        assert_eq!(get(edge, "/hot").await, hash);
    }
}

#[tokio::test]
async fn one_that_is_slow_to_keep_holds_up_no_other() {
    const OBJECTS: usize = 16;
    let whole = body::random(body::seed(), SIZE / 8);
    let gate = Gate::default();
    let origin = Origin::start({
        let gate = gate.clone();
        move |seen| {
            let (whole, gate) = (whole.clone(), gate.clone());
            async move {
                let answer = Answer::ok(whole).fresh(3600).header("etag", "\"v\"");
                if seen.uri.path() != "/slow" {
                    return answer;
                }
                // Others ask as one who sends none of this.
                if !seen.headers.contains_key("x-own") {
                    gate.passed().await;
                }
                answer.header("vary", "x-own")
            }
        }
    })
    .await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(6);
    let cluster = cluster
        .edge_cluster("homes = false")
        .edge_site("protect = 2");
    let cluster = cluster.start().await;
    let client = cluster.edges[0].client(Version::Http3).await;
    let ask = async |path: &str| {
        for _ in 0..3 {
            let request = Request::get(path).header("x-own", "1");
            let request = request.body(Payload::empty()).expect("a request");
            let answer = client.send(request).await.expect("an answer");
            answer.whole().await.expect("a whole body");
        }
    };
    ask("/slow").await;
    until("one of its holders asks for it", || {
        origin.requests("/slow") > 1
    })
    .await;
    for object in 0..OBJECTS {
        ask(&format!("/{object}")).await;
    }
    until("others are kept", || kept(&cluster.edges) >= 3.0).await;
    let left = cluster.edges[0].metric("stoq_keep_left_total", &[]);
    assert_eq!(
        left, 0.0,
        "the slow one had its time before others were told"
    );
    gate.open();
}

#[tokio::test]
async fn small_objects_asked_for_once_are_at_their_homes() {
    const OBJECTS: usize = 16;
    let whole = body::random(body::seed(), SIZE / 8);
    let hash = blake3::hash(&whole);
    let origin = origin(&whole).await;
    let cluster = Cluster::new().origin(&origin).shield().peers().edges(6);
    let mut cluster = cluster.zones(&["eu-fra"; 6]).start().await;
    let paths: Vec<_> = (0..OBJECTS).map(|object| format!("/{object}")).collect();
    for path in &paths {
        assert_eq!(get(&cluster.edges[0], path).await, hash);
    }
    // Those whose home is the first itself stay there; that more than ten of them do is one case in ten million.
    until("homes hold them", || kept(&cluster.edges) >= 6.0).await;
    let count = |name: &str| cluster.edges[0].metric(name, &[]);
    let answered = || count("stoq_keep_given_total") + count("stoq_keep_left_total");
    until("homes have answered", || {
        answered() == count("stoq_keep_offered_total")
    })
    .await;
    let given = count("stoq_keep_given_total");
    println!("{given} of {OBJECTS} are at others");
    // Another edge finds them there, and the shield has sent each once.
    for path in &paths {
        assert_eq!(get(&cluster.edges[1], path).await, hash);
    }
    let sent = cluster.shield().metric("stoq_object_body_bytes_total", &[]);
    assert_eq!(sent, (OBJECTS * SIZE / 8) as f64);

    // What homes hold outlives those whom clients asked.
    let others = kept(&cluster.edges[2..]);
    for edge in &mut cluster.edges[..2] {
        edge.kill().await;
    }
    cluster.shields[0].kill().await;
    drop(origin);
    let edge = &cluster.edges[2];
    let found = futures_util::future::join_all(paths.iter().map(|path| try_get(edge, path))).await;
    let found: Vec<_> = found.into_iter().flatten().collect();
    println!("{} of {others} are found without those two", found.len());
    assert!(found.iter().all(|found| *found == hash));
    assert!(found.len() as f64 >= others, "{} of {others}", found.len());
}

#[tokio::test]
async fn what_nobody_may_take_from_its_home_is_put_at_none() {
    const OBJECTS: usize = 16;
    let whole = body::random(body::seed(), SIZE / 8);
    let hash = blake3::hash(&whole);
    let origin = Origin::start(move |seen| {
        let whole = whole.clone();
        async move {
            let answer = Answer::ok(whole).fresh(3600).header("etag", "\"v\"");
            match seen.uri.path().starts_with("/own/") {
                // So that nobody vouches for what those get who send one.
                true => answer.header("vary", "x-own"),
                false => answer,
            }
        }
    })
    .await;
    // Without a shield, others take what an edge fetched by its word alone.
    let cluster = Cluster::new().origin(&origin).peers().edges(6);
    let cluster = cluster.edge_role(Role::Fetch("site".to_owned()));
    let cluster = cluster.zones(&["eu-fra"; 6]).start().await;
    let first = &cluster.edges[0];
    let paths = |of: &'static str| (0..OBJECTS).map(move |object| format!("/{of}/{object}"));
    let client = first.client(Version::Http3).await;
    for path in paths("own") {
        let request = Request::get(path).header("x-own", "1");
        let request = request.body(Payload::empty()).expect("a request");
        let answer = client.send(request).await.expect("an answer");
        assert_eq!(answer.whole().await.expect("a whole body").hash, hash);
    }
    for path in paths("any") {
        assert_eq!(get(first, &path).await, hash);
    }
    // They are told of what was asked for first no later.
    until("homes hold what they may have", || {
        kept(&cluster.edges) >= 6.0
    })
    .await;
    let count = |name: &str| first.metric(name, &[]);
    until("homes have answered", || {
        let answered = count("stoq_keep_given_total") + count("stoq_keep_left_total");
        answered == count("stoq_keep_offered_total")
    })
    .await;
    assert!(count("stoq_keep_offered_total") <= OBJECTS as f64);
    for path in paths("own").chain(paths("any")) {
        assert_eq!(origin.requests(&path), 1, "{path}");
    }
}
