//! An object from several peers at once, over links of a known rate, while one of them lies, one stalls and one dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use integration::{Answer, Client, Version, body};
use stoq::identity::Role;
use stoq_loadtest::Target;

use crate::network::{Network, at};
use crate::nodes::{HTTP, Mesh, Plan, SHIELD};
use crate::peer::{Fate, Object, Peer};

/// What all edges are asked for it as.
const HOST: &str = "object.test";
const PATH: &str = "/object";
/// What is compressed already, so that it is cut at fixed places: the cheapest for a build without optimisation.
const TYPE: &str = "video/mp4";

/// One way between any two hosts.
const DELAY: Duration = Duration::from_millis(5);

/// Only what fails waits so long.
const LIMIT: Duration = Duration::from_secs(60);

/// Places among the edges.
const DIES: usize = 0;
const HEALTHY: [usize; 2] = [1, 2];
const ASKER: usize = 3;

/// Where an edge serves it.
fn target(host: usize) -> Target {
    let target = Target::new(&format!("http://{HOST}")).expect("a URL");
    target.at(at(host, HTTP))
}

/// Asks an edge from its own host. The status, the hash and the time of what came; `came` counts on meanwhile.
fn fetch(
    network: &Network,
    host: usize,
    path: &'static str,
    came: Arc<AtomicU64>,
) -> std::thread::JoinHandle<(u16, blake3::Hash, Duration)> {
    network.run(host, move || async move {
        let client = Client::connect(&target(host), Version::Http1)
            .await
            .unwrap();
        let began = Instant::now();
        let mut answer = client.get(path).await.unwrap();
        let mut hash = blake3::Hasher::new();
        while let Some(bytes) = answer.body.chunk().await.unwrap() {
            hash.update(&bytes);
            came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        (answer.status.as_u16(), hash.finalize(), began.elapsed())
    })
}

fn get(mesh: &Mesh, edge: usize, path: &'static str) -> blake3::Hash {
    let host = mesh.edges[edge].host;
    let (status, hash, _) = fetch(&mesh.network, host, path, Arc::default())
        .join()
        .unwrap();
    assert_eq!(status, 200);
    hash
}

fn serve(mesh: &mut Mesh, objects: &[(&'static str, Bytes)]) {
    let objects = objects.to_vec();
    mesh.serve(move |seen| {
        let found = objects.iter().find(|(path, _)| *path == seen.uri.path());
        let (_, whole) = found.expect("an object that there is");
        let answer = Answer::ok(whole.clone())
            .fresh(36_000)
            .header("etag", "\"v\"");
        let answer = answer.header("content-type", TYPE);
        async move { answer }
    });
}

/// Waits until this holds; what it is.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// How much of its time the busiest thread of a process had a core, and waited for one, from one look to another.
struct Busy {
    process: u32,
    began: Instant,
    before: Vec<(String, [f64; 2])>,
}

impl Busy {
    fn look(process: u32) -> Vec<(String, [f64; 2])> {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let threads = threads.filter_map(|thread| {
            let thread = thread.ok()?;
            // Nanoseconds on a core, and waiting for one.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            let mut words = text.split_whitespace().map(|word| word.parse::<f64>());
            let times = [words.next()?.ok()? / 1e9, words.next()?.ok()? / 1e9];
            Some((thread.file_name().to_string_lossy().into_owned(), times))
        });
        threads.collect()
    }

    fn begin(process: u32) -> Self {
        Self {
            before: Self::look(process),
            process,
            began: Instant::now(),
        }
    }

    /// Says so where a thread was idle for less than a tenth of the time: then the machine made the rate, and not the links.
    fn fault(&self) -> Option<String> {
        let time = self.began.elapsed().as_secs_f64();
        let share = |(thread, after): (String, [f64; 2])| {
            let before = self.before.iter().find(|(name, _)| *name == thread);
            let before = before.map_or([0.0; 2], |(_, times)| *times);
            [(after[0] - before[0]) / time, (after[1] - before[1]) / time]
        };
        let shares = Self::look(self.process).into_iter().map(share);
        let busiest =
            shares.max_by(|one, other| (one[0] + one[1]).total_cmp(&(other[0] + other[1])))?;
        (busiest[0] + busiest[1] > 0.9).then(|| {
            let per_cent = busiest.map(|share| format!("{:.0} %", share * 100.0));
            format!(
                "its busiest thread ran for {} of its time and waited for a core for {}",
                per_cent[0], per_cent[1]
            )
        })
    }
}

/// An object of `size` bytes over links of `mbit`: right, whole, and as fast as those who are well can give it.
fn from_five_peers(test: &str, size: usize, mbit: f64, lies_each: usize) {
    let ram = size / (1 << 20) * 9 / 2 + 64;
    let plan = Plan::edges(4)
        .shield()
        .more(2)
        .cache(&format!("ram = \"{ram}MiB\""));
    let Some(mut mesh) = plan.start(test) else {
        return;
    };
    let whole = body::random(body::seed(), size);
    let hash = blake3::hash(&whole);
    serve(&mut mesh, &[(PATH, whole.clone())]);
    mesh.network
        .switch(|switch| switch.all_ways().for_each(|way| way.delay = DELAY));
    // Two that are no edges, though they look so.
    let liar = mesh.identity("edge-90", Role::Edge);
    let staller = mesh.identity("edge-91", Role::Edge);
    let object = Object::new(&liar, ("http", HOST, PATH), TYPE, &whole);
    let object = Arc::new(object);
    println!("{size} bytes in {} chunks", object.chunks());
    for edge in [DIES, HEALTHY[0], HEALTHY[1]] {
        assert_eq!(get(&mesh, edge, PATH), hash);
    }
    assert_eq!(mesh.origin().requests(PATH), 1);
    let seed = mesh.edges[0].stoq();
    let peers = [
        (liar, Fate::LiesEach(lies_each)),
        (staller, Fate::StallsAfter(object.chunks() / 50)),
    ];
    let hosts = [mesh.more(), mesh.more() + 1];
    let peers = peers
        .into_iter()
        .zip(hosts)
        .map(|((identity, fate), host)| {
            Peer::start(&mesh.network, host, identity, seed, &object, fate)
        });
    let [liar, staller]: [Peer; 2] = peers.collect::<Vec<_>>().try_into().unwrap();
    // Three owners know of five holders each; what else is announced there is nothing.
    let everybody = [0, 1, 2, 3];
    mesh.until(
        "all see the two",
        Instant::now(),
        LIMIT,
        &everybody,
        |report| report.nodes.len() == 6,
    );
    // Owners change when members come, and who holds something notices that a moment later.
    let mut since = None;
    until("what all hold is announced", || {
        let told = |edge: &usize| {
            let metric = |name| mesh.edges[*edge].metric(name, &[]);
            metric("stoq_index_waiting_changes") == 0.0
                && (*edge == ASKER || metric("stoq_index_objects") == 1.0)
        };
        match everybody.iter().all(told) && liar.announced() && staller.announced() {
            true => since.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(2),
            false => {
                since = None;
                false
            }
        }
    });
    // From here on all are on links of the same rate, the asker on one that carries all of them.
    let rate = Some(mbit * 1e6);
    mesh.network.switch(|switch| {
        for host in mesh
            .hosts([DIES, HEALTHY[0], HEALTHY[1]])
            .into_iter()
            .chain(hosts)
            .chain([SHIELD])
        {
            switch.shape(host, rate, None);
        }
    });

    let at_shield = mesh.shield().metric("stoq_object_body_bytes_total", &[]);
    let asker = mesh.edges[ASKER].host;
    let wire = |mesh: &Mesh| {
        let peers = mesh
            .hosts([DIES, HEALTHY[0], HEALTHY[1]])
            .into_iter()
            .chain(hosts);
        mesh.network
            .switch(|switch| peers.map(|host| switch.sent_bytes(host)).sum::<u64>())
    };
    let sent = wire(&mesh);
    let busy = Busy::begin(mesh.edges[ASKER].process());
    let came = Arc::<AtomicU64>::default();
    let fetching = fetch(&mesh.network, asker, PATH, Arc::clone(&came));
    // Midway one dies.
    while !fetching.is_finished() && came.load(Ordering::Relaxed) < size as u64 / 3 {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    mesh.edges[DIES].kill();
    let (status, got, took) = fetching.join().unwrap();
    let mut faults = mesh.network.faults();
    faults.extend(busy.fault());
    println!("faults: {faults:?}");

    assert_eq!((status, got), (200, hash), "other bytes");
    let edge = &mesh.edges[ASKER];
    let fault = |word: &str| edge.metric("stoq_fill_faults_total", &[&format!("fault=\"{word}\"")]);
    let [lied, stalled, slow, broke] = ["lied", "stalled", "slow", "broke"].map(fault);
    let from = |source: &str| {
        edge.metric(
            "stoq_fill_chunk_bytes_total",
            &[&format!("source=\"{source}\"")],
        )
    };
    let wasted = edge.metric("stoq_fill_wasted_bytes_total", &[]);
    let rate = size as f64 * 8.0 / 1e6 / took.as_secs_f64();
    let share = rate / (mbit * HEALTHY.len() as f64);
    println!(
        "{rate:.1} Mbit/s in {took:?}, {share:.2} of what the two that stay well can give; {:.0} bytes of chunks from peers, {:.0} from the shield",
        from("peer"),
        from("shield")
    );
    println!(
        "lied {lied}, stalled {stalled}, slow {slow}, broke {broke}; {wasted:.0} bytes of chunks for nothing; \
         peers sent {} bytes on the wire, {:.3} of the object; the liar gave {}, the staller {}",
        wire(&mesh) - sent,
        (wire(&mesh) - sent) as f64 / size as f64,
        liar.given(),
        staller.given()
    );
    // Who is killed falls silent, as who stalls.
    assert!(lied >= 1.0 && stalled + slow + broke >= 2.0);
    let failures = lied + stalled + slow + broke;
    assert!(
        wasted <= failures * object.chunk_bytes_max as f64,
        "{wasted}"
    );
    assert_eq!(from("peer") + from("shield"), size as f64);
    let shield = mesh.shield().metric("stoq_object_body_bytes_total", &[]) - at_shield;
    println!(
        "the shield sent {shield:.0} bytes meanwhile, the origin {} in all",
        mesh.origin().body_bytes()
    );
    assert_eq!(mesh.origin().body_bytes(), size as u64);
    if share < 0.8 {
        // A machine that is late makes it slower, and never faster.
        assert!(!faults.is_empty(), "{share}");
        println!("INVALID as a rate: {}", faults.join("; "));
    }
}

#[test]
fn an_object_comes_whole_and_fast_past_a_liar_a_staller_and_a_death() {
    const TEST: &str = "an_object_comes_whole_and_fast_past_a_liar_a_staller_and_a_death";
    from_five_peers(TEST, 64 << 20, 40.0, 20);
}

#[test]
#[ignore = "minutes: a gibibyte, and 12 GiB of memory"]
fn a_gibibyte_comes_whole_and_fast_past_a_liar_a_staller_and_a_death() {
    const TEST: &str = "a_gibibyte_comes_whole_and_fast_past_a_liar_a_staller_and_a_death";
    let given = std::env::var("STOQ_MESH_MBIT").ok();
    let mbit = given.map_or(100.0, |text| {
        text.parse().expect("STOQ_MESH_MBIT is a number")
    });
    from_five_peers(TEST, 1 << 30, mbit, 1_000);
}

#[test]
#[ignore = "minutes: twenty edges"]
fn twenty_edges_cost_the_origin_one_object() {
    const TEST: &str = "twenty_edges_cost_the_origin_one_object";
    const EDGES: usize = 20;
    const SIZE: usize = 16 << 20;
    let plan = Plan::edges(EDGES).shield().cache("ram = \"80MiB\"");
    let Some(mut mesh) = plan.start(TEST) else {
        return;
    };
    let seed = body::seed();
    let objects = [
        ("/one", body::random(seed, SIZE)),
        ("/two", body::random(!seed, SIZE)),
    ];
    let hashes = [0, 1].map(|object: usize| blake3::hash(&objects[object].1));
    serve(&mut mesh, &objects);
    mesh.network
        .switch(|switch| switch.all_ways().for_each(|way| way.delay = DELAY));
    let sent = |mesh: &Mesh| mesh.shield().metric("stoq_object_body_bytes_total", &[]);

    // One after the other.
    for edge in 0..EDGES {
        assert_eq!(get(&mesh, edge, "/one"), hashes[0]);
        if edge == 0 {
            until("owners know that the first has it", || {
                mesh.all("stoq_index_records", &[]) >= 3.0
            });
        }
    }
    let one = (mesh.origin().requests("/one"), mesh.origin().body_bytes());
    println!(
        "one after the other: origin {} bytes, shield {} bytes, object {SIZE}",
        one.1,
        sent(&mesh)
    );
    assert_eq!(one, (1, SIZE as u64));

    // All at once.
    let before = mesh.origin().body_bytes();
    let hosts = mesh.hosts(0..EDGES);
    let fetching = hosts
        .iter()
        .map(|host| fetch(&mesh.network, *host, "/two", Arc::default()));
    for fetched in fetching.collect::<Vec<_>>() {
        let (status, got, _) = fetched.join().unwrap();
        assert_eq!((status, got), (200, hashes[1]));
    }
    println!(
        "all at once: origin {} bytes more",
        mesh.origin().body_bytes() - before
    );
    assert_eq!(mesh.origin().requests("/two"), 1);
    assert!(mesh.origin().body_bytes() - before <= SIZE as u64);
}
