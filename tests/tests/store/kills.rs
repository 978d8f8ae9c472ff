//! `kill -9` at random points under load: what was stored a second before is there, and nothing wrong ever.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use integration::{Client, body};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use crate::rig::{MIB, Node, Setup, Shelf, get, number};

/// Nodes that are killed side by side, each with a volume of its own.
const LANES: u64 = 5;
/// Clients that load each.
const CLIENTS: usize = 3;
/// A volume holds 256 MiB; past this much it begins anew, so that nothing has to leave it.
const VOLUME_BYTES_MAX: u64 = 96 * MIB;
/// What a round stores at most.
const ROUND_BYTES_MAX: u64 = 16 * MIB;
/// What was stored longer ago than this when the kill came is not lost.
const SETTLED: Duration = Duration::from_secs(1);
/// Of what was there before the last round so much is asked for again.
const OLD_ASKED: usize = 40;

/// What was read whole before a kill.
#[derive(Clone, Debug)]
struct Stored {
    path: String,
    at: Instant,
}

/// What came of one lane.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    stored: u64,
    checked: u64,
    young: u64,
    young_lost: u64,
    lost: Vec<String>,
    starts: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_a_second_before_a_kill_is_served_without_the_origin_and_nothing_wrong_ever()
 {
    let kills = number("STOQ_KILLS", 25);
    let seed = body::seed();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut lanes = JoinSet::new();
    for lane in 0..LANES.min(kills) {
        let kills = kills / LANES + u64::from(lane < kills % LANES);
        let directory = directory.path().join(lane.to_string());
        std::fs::create_dir(&directory).expect("a directory is made");
        lanes.spawn(async move { run(&directory, seed.wrapping_add(lane), kills).await });
    }
    let mut all = Tally::default();
    while let Some(ended) = lanes.join_next().await {
        let Some(tally) = ended.expect("a lane does not panic") else {
            return;
        };
        all.kills += tally.kills;
        all.stored += tally.stored;
        all.checked += tally.checked;
        all.young += tally.young;
        all.young_lost += tally.young_lost;
        all.lost.extend(tally.lost);
        all.starts.extend(tally.starts);
    }
    all.starts.sort_unstable();
    println!(
        "{} kills: {} objects stored, {} asked for after a restart, {} of them stored within a second before the kill, of which {} were lost; \
         0 wrong bytes; from exec to the first answer {:?} (median), {:?} (longest)",
        all.kills,
        all.stored,
        all.checked,
        all.young,
        all.young_lost,
        all.starts
            .get(all.starts.len() / 2)
            .copied()
            .unwrap_or_default(),
        all.starts.last().copied().unwrap_or_default()
    );
    assert_eq!(all.kills, kills);
    assert!(all.checked > 0, "nothing was looked at");
    assert!(
        all.lost.is_empty(),
        "the origin was asked again for what had been stored for more than {SETTLED:?} (seed {seed}): {:#?}",
        all.lost
    );
}

/// Kills one node again and again. None where it cannot be run.
async fn run(directory: &Path, seed: u64, kills: u64) -> Option<Tally> {
    let mut random = StdRng::seed_from_u64(seed);
    let shelf = Arc::new(Shelf::start(seed).await);
    let setup = Setup::edge("kills", directory, &shelf.origin.url())?;
    let mut tally = Tally::default();
    let mut settled: Vec<Stored> = Vec::new();
    let mut last: Vec<Stored> = Vec::new();
    let (mut volume_bytes, mut next) = (0, 0);
    let mut killed = Instant::now();
    for round in 0..=kills {
        let mut node = setup.start().await;
        // Always what was stored since the last restart: of the rest each was on disk after one.
        let mut asked = std::mem::take(&mut last);
        for _ in 0..OLD_ASKED.min(settled.len()) {
            asked.push(settled.swap_remove(random.random_range(0..settled.len())));
        }
        let what = format!("seed {seed}, round {round}");
        let client = node.client().await;
        for (at, stored) in asked.into_iter().enumerate() {
            let lost = recover(&client, &shelf, &stored, killed, &what, &mut tally).await;
            if at == 0 {
                tally.starts.push(node.started.elapsed());
            }
            if lost {
                let at = Instant::now();
                last.push(Stored { at, ..stored });
            } else {
                settled.push(stored);
            }
        }
        if round == kills {
            break;
        }
        if volume_bytes > VOLUME_BYTES_MAX {
            node.kill().await;
            std::fs::remove_dir_all(&setup.disk).expect("a volume is removed");
            settled.clear();
            last.clear();
            volume_bytes = 0;
            node = setup.start().await;
        }
        // The random point at which it is killed, not a condition that is waited for.
        let moment = Duration::from_millis(random.random_range(50..2_500));
        let (stored, bytes) = load(&node, &shelf, &mut next, moment).await;
        killed = Instant::now();
        node.kill().await;
        let stored = stored.finish().await;
        volume_bytes += bytes.load(Ordering::Relaxed);
        tally.kills += 1;
        tally.stored += stored.len() as u64;
        last.extend(stored);
    }
    Some(tally)
}

/// Clients that end when their node does, and what they got until then.
struct Load {
    clients: JoinSet<()>,
    stored: Arc<Mutex<Vec<Stored>>>,
}

impl Load {
    async fn finish(mut self) -> Vec<Stored> {
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        std::mem::take(&mut *self.stored.lock())
    }
}

/// Loads a node until `moment`; the clients go on.
async fn load(
    node: &Node,
    shelf: &Arc<Shelf>,
    next: &mut u64,
    moment: Duration,
) -> (Load, Arc<AtomicU64>) {
    // Room for more names than a round can use.
    let numbers = Arc::new(AtomicU64::new(*next));
    *next += 1_000_000;
    let bytes = Arc::new(AtomicU64::new(0));
    let mut load = Load {
        clients: JoinSet::new(),
        stored: Arc::default(),
    };
    for _ in 0..CLIENTS {
        let client = node.client().await;
        let (shelf, numbers, bytes) = (Arc::clone(shelf), Arc::clone(&numbers), Arc::clone(&bytes));
        let stored = Arc::clone(&load.stored);
        load.clients.spawn(async move {
            while bytes.load(Ordering::Relaxed) < ROUND_BYTES_MAX {
                let path = format!("/{}", numbers.fetch_add(1, Ordering::Relaxed));
                // The node was killed.
                let Ok(got) = get(&client, &path).await else {
                    return;
                };
                shelf.judge(&path, &got);
                bytes.fetch_add(got.length, Ordering::Relaxed);
                let at = Instant::now();
                stored.lock().push(Stored { path, at });
            }
        });
    }
    tokio::time::sleep(moment).await;
    (load, bytes)
}

/// Asks for what was stored. Whether the origin had to be asked for it, so that it is stored anew.
async fn recover(
    client: &Client,
    shelf: &Shelf,
    stored: &Stored,
    killed: Instant,
    what: &str,
    tally: &mut Tally,
) -> bool {
    let before = shelf.asked(&stored.path);
    let got = get(client, &stored.path)
        .await
        .unwrap_or_else(|error| panic!("{what}: {}: {error}", stored.path));
    shelf.judge(&stored.path, &got);
    let age = killed.saturating_duration_since(stored.at);
    let lost = shelf.asked(&stored.path) != before;
    tally.checked += 1;
    if age <= SETTLED {
        tally.young += 1;
        tally.young_lost += u64::from(lost);
    } else if lost {
        tally.lost.push(format!(
            "{what}: {} of {} bytes, {age:?} old: {}",
            stored.path, got.length, got.cache_status
        ));
    }
    lost
}
