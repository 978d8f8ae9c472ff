//! Minutes under a limit of memory: a scan of a million small objects, slow readers and large objects, with a restart midway.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use integration::{Answer, Client, Origin, body, tools};
use tokio::task::JoinSet;

use crate::{
    refusals::is_root,
    rig::{MIB, Node, Setup, get, number},
};

/// What the process may have, of memory and of cached pages together. The parts of its configuration come to 192 MiB.
const LIMIT_BYTES: u64 = 256 * MIB;
/// URLs of the scan; then it begins again.
const SCANNED: u64 = 1_000_000;
const SCANNERS: usize = 4;
const SLOW_READERS: usize = 16;
const LARGE_BYTES: u64 = 32 * MIB;
/// The pieces that [`body::pieces`] makes.
const PIECE_BYTES: u64 = 64 << 10;
/// Different large objects: three times what the volume holds.
const LARGE: u64 = 48;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Processes that share a limit of memory, in the hierarchy that has the controller. Needs root.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    events: &'static str,
}

impl Group {
    fn new(limit: u64) -> Result<Self, String> {
        let name = format!("stoq-soak-{}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup");
        let controllers =
            fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
        let (root, file, events) = if controllers.split_whitespace().any(|name| name == "memory") {
            (unified.to_owned(), "memory.max", "memory.events")
        } else {
            let first = unified.join("memory");
            (first, "memory.limit_in_bytes", "memory.oom_control")
        };
        let path = root.join(name);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let group = Self {
            path: path.clone(),
            events,
        };
        fs::write(path.join(file), limit.to_string()).map_err(failed)?;
        Ok(group)
    }

    fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Processes of it that were killed for want of memory.
    fn killed(&self) -> u64 {
        let events = fs::read_to_string(self.path.join(self.events)).expect("the group is there");
        let mut lines = events.lines();
        lines
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok())
            .expect("the kernel counts them")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let begun = Instant::now();
        // A process that was killed leaves it soon.
        while let Err(error) = fs::remove_dir(&self.path) {
            if begun.elapsed() > Duration::from_secs(5) {
                eprintln!("{} stays: {error}", self.path.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Small objects under `/small/N`, large ones under `/large/N`, each with bytes of its own. Parts of the large ones can be had, under a strong
/// validator: what a slow reader needs of them may have left memory and disk before it comes to it.
async fn origin(seed: u64) -> Origin {
    Origin::forgetful(move |seen| {
        let path = seen.uri.path().to_owned();
        let range = seen.header("range").to_owned();
        async move {
            let answer = match path.strip_prefix("/large/") {
                Some(number) => {
                    let of = large(seed, number.parse().expect("a number"));
                    part(of, &range).header("etag", "\"v\"")
                }
                None => Answer::ok(small(seed, &path)),
            };
            answer.fresh(86_400)
        }
    })
    .await
}

/// A large object, or the part of it that `range` names.
fn part(seed: u64, range: &str) -> Answer {
    let range = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else {
        let pieces = body::pieces(seed, LARGE_BYTES).map(Ok);
        return Answer::status(200).stream(Some(LARGE_BYTES), stream::iter(pieces));
    };
    let first: u64 = first.parse().expect("a first byte");
    let last: u64 = last.parse().expect("a last byte");
    let pieces = (first / PIECE_BYTES..=last / PIECE_BYTES).map(move |index| {
        let start = index * PIECE_BYTES;
        let within = |at: u64| {
            let at = at.clamp(start, start + PIECE_BYTES) - start;
            usize::try_from(at).expect("a part of a piece")
        };
        let piece = body::random(seed.wrapping_add(index), within(u64::MAX));
        Ok(piece.slice(within(first)..within(last + 1)))
    });
    Answer::status(206)
        .stream(Some(last + 1 - first), stream::iter(pieces))
        .header(
            "content-range",
            &format!("bytes {first}-{last}/{LARGE_BYTES}"),
        )
}

fn small(seed: u64, path: &str) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(path.as_bytes());
    let mut body = vec![0; 500];
    hasher.finalize_xof().fill(&mut body);
    body.into()
}

/// The seed of a large object: far from the others', since a piece adds its number to it.
fn large(seed: u64, number: u64) -> u64 {
    seed.wrapping_add((number + 1) << 32)
}

/// What clients do until they are told to end, and how much of it.
#[derive(Debug, Default)]
struct Load {
    ends: AtomicBool,
    scanned: AtomicU64,
    small: AtomicU64,
    large: AtomicU64,
    slow_bytes: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Relaxed)
    }

    async fn scan(&self, client: &Client, seed: u64) {
        while self.goes_on() {
            let number = self.scanned.fetch_add(1, Ordering::Relaxed) % SCANNED;
            let path = format!("/small/{number}");
            let got = get(client, &path).await.expect("an answer");
            let wanted = small(seed, &path);
            assert_eq!(
                (got.status, got.hash),
                (200, blake3::hash(&wanted)),
                "{path}"
            );
            self.small.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn large(&self, client: &Client, seed: u64, mut number: u64) {
        while self.goes_on() {
            number = (number + 1) % LARGE;
            let path = format!("/large/{number}");
            let mut answer = client.get(&path).await.expect("an answer");
            let (mut got, mut wanted) = (blake3::Hasher::new(), blake3::Hasher::new());
            while let Some(bytes) = answer.body.chunk().await.expect("a whole body") {
                got.update(&bytes);
            }
            for piece in body::pieces(large(seed, number), LARGE_BYTES) {
                wanted.update(&piece);
            }
            assert_eq!(got.finalize(), wanted.finalize(), "{path}");
            self.large.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a piece twice a second: what such a client holds up is what is looked for.
    async fn slow(&self, client: &Client, number: u64) {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        while self.goes_on() {
            let mut answer = client
                .get(&format!("/large/{}", number % LARGE))
                .await
                .expect("an answer");
            while self.goes_on() {
                ticks.tick().await;
                match answer.body.chunk().await.expect("a whole body") {
                    Some(bytes) => {
                        self.slow_bytes
                            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    None => break,
                }
            }
        }
    }
}

/// Resident bytes of a process.
fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Bytes a second of the straight line through samples that are a second apart.
fn slope(samples: &[u64]) -> f64 {
    let count = samples.len() as f64;
    let mid = (count - 1.0) / 2.0;
    let mean = samples.iter().sum::<u64>() as f64 / count;
    let (mut over, mut under) = (0.0, 0.0);
    for (at, sample) in samples.iter().enumerate() {
        let x = at as f64 - mid;
        over += x * (*sample as f64 - mean);
        under += x * x;
    }
    over / under
}

/// Loads a node for `length` and samples its resident bytes.
async fn half(node: &mut Node, load: &Arc<Load>, seed: u64, length: Duration) -> Vec<u64> {
    load.ends.store(false, Ordering::Relaxed);
    let mut clients = JoinSet::new();
    for _ in 0..SCANNERS {
        let (client, load) = (node.client().await, Arc::clone(load));
        clients.spawn(async move { load.scan(&client, seed).await });
    }
    for number in 0..2 {
        let (client, load) = (node.client().await, Arc::clone(load));
        clients.spawn(async move { load.large(&client, seed, number * LARGE / 2).await });
    }
    for number in 0..SLOW_READERS as u64 {
        let (client, load) = (node.client().await, Arc::clone(load));
        clients.spawn(async move { load.slow(&client, number).await });
    }
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    let begun = Instant::now();
    while begun.elapsed() < length {
        tokio::select! {
            // Cancel-safe, both: a tick that is not taken comes again, and who ended is told later.
            _ = ticks.tick() => {
                assert!(node.runs(), "the node ended under load: {}", node.log());
                samples.extend(resident(node.id()));
            }
            Some(ended) = clients.join_next() => {
                assert!(node.runs(), "the node ended under load: {}", node.log());
                ended.unwrap_or_else(|error| panic!("a client failed: {error}; {}", node.log()));
            }
        }
    }
    load.ends.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client does not panic");
    }
    samples
}

#[ignore = "takes STOQ_SOAK_MINUTES (5); CI runs it in a stage of its own"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn minutes_under_a_limit_of_memory_with_a_scan_slow_readers_and_a_restart() {
    let minutes = number("STOQ_SOAK_MINUTES", 5);
    if !is_root() {
        return tools::skipped("soak", "a group with a limit of memory needs root");
    }
    let group = match Group::new(LIMIT_BYTES) {
        Ok(group) => group,
        Err(why) => return tools::skipped("soak", &why),
    };
    let seed = body::seed();
    let origin = origin(seed).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(mut setup) = Setup::edge("soak", directory.path(), &origin.url()) else {
        return;
    };
    setup.size = "512MiB";
    setup.cache = "ram = \"64MiB\"\nheads = \"16MiB\"\nfill_buffer = \"32MiB\"";
    setup.tables = "[limits]\nconnections = 256\n".to_owned();
    let load = Arc::new(Load::default());
    let length = Duration::from_secs(minutes * 30);
    for part in ["first half", "after the restart"] {
        let mut node = setup.start_in(Some(&group.members())).await;
        let samples = half(&mut node, &load, seed, length).await;
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        // By then its memory is filled, so a line through the rest shows what it still grows by.
        let settled = &samples[samples.len() / 2..];
        let mib = |bytes: Option<&u64>| bytes.copied().unwrap_or(0) as f64 / MIB as f64;
        println!(
            "{part}: {length:?}; {} small and {} large objects so far, {:.0} MiB to slow readers; resident: first {:.1}, most {:.1}, \
             last {:.1} MiB; slope of the second half {:+.2} MiB a minute; killed for want of memory: {}; waits for room on disk: {}",
            count(&load.small),
            count(&load.large),
            count(&load.slow_bytes) as f64 / MIB as f64,
            mib(samples.first()),
            mib(samples.iter().max()),
            mib(samples.last()),
            slope(settled) * 60.0 / MIB as f64,
            group.killed(),
            node.metric("stoq_disk_waits_for_room_total", &[]).await
        );
        let each: Vec<String> = samples
            .iter()
            .step_by(10)
            .map(|bytes| format!("{:.0}", *bytes as f64 / MIB as f64))
            .collect();
        println!("resident MiB, every 10 s: {}", each.join(" "));
        assert_eq!(group.killed(), 0);
        assert!(samples.iter().all(|bytes| *bytes < LIMIT_BYTES));
        assert!(node.stop().await.success());
    }
    assert!(
        setup.disk_bytes() <= (512 + 16) * MIB,
        "{} bytes on disk",
        setup.disk_bytes()
    );
}
