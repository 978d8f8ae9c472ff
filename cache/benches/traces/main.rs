//! What each policy of the memory tier misses on generated traces, and what a read costs.
//!
//!     cargo bench -p stoq-cache --bench traces
//!     STOQ_WRITE=1 cargo bench -p stoq-cache --bench traces    # the same into docs/store.md
//!
//! `STOQ_SEED` takes another seed. Speeds are by the processor time of the threads, and the best of the rounds, all policies taking turns
//! within each, so that what else the machine does matters little and hits all alike.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts become percentages and rates, and ranks are small"
)]

mod reference;
mod replay;
mod trace;

use std::{env, fs, hint::black_box, path::Path, sync::Barrier, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use stoq_cache::store::{MokaTier, QuickTier, RamTier, S3FifoTier};

use crate::trace::{Random, SEED};

const ROUNDS: usize = 7;
/// Chunks held while reads are timed, of 16 KiB that share one buffer each.
const CHUNKS: u64 = 100_000;
const READS: usize = 1 << 16;
const PASSES: usize = 16;
/// The part of `docs/store.md` that this prints.
const BEGIN: &str = "<!-- cargo bench -p stoq-cache --bench traces -->\n";
const END: &str = "<!-- end -->";

fn main() -> Result<()> {
    let seed = match env::var("STOQ_SEED") {
        Ok(seed) => seed.parse().context("STOQ_SEED")?,
        Err(_) => SEED,
    };
    let text = format!("{}\n{}", replay::table(seed), speeds());
    println!("{text}");
    if env::var_os("STOQ_WRITE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store.md");
        let page = fs::read_to_string(&path)?;
        let (before, rest) = page.split_once(BEGIN).context("no beginning")?;
        let (_, after) = rest.split_once(END).context("no end")?;
        fs::write(&path, format!("{before}{BEGIN}\n{text}\n{END}{after}"))?;
    }
    Ok(())
}

type New = fn(u64) -> Box<dyn RamTier>;

const TIERS: [(&str, New); 3] = [
    ("`S3FifoTier`", |capacity| {
        Box::new(S3FifoTier::new(capacity))
    }),
    ("`QuickTier`", |capacity| Box::new(QuickTier::new(capacity))),
    ("`MokaTier`", |capacity| Box::new(MokaTier::new(capacity))),
];

/// Millions of operations a second: reads of chunks that are held, skewed, by one and by two threads, and insertions that evict.
fn speeds() -> String {
    let chunk = || Bytes::from_static(&[0; 16 << 10]);
    let tiers = TIERS.map(|(name, new)| {
        let (held, full) = (new(4 << 30), new(64 << 20));
        for n in 0..CHUNKS {
            held.insert(replay::id(n), chunk());
        }
        for n in 0..CHUNKS {
            full.insert(replay::id(n), chunk());
        }
        (name, held, full)
    });
    let mut best = [[0f64; 3]; TIERS.len()];
    let mut fresh = CHUNKS;
    for _ in 0..ROUNDS {
        for ((_, held, full), best) in tiers.iter().zip(&mut best) {
            best[0] = best[0].max(reads(&**held, 1));
            best[1] = best[1].max(reads(&**held, 2));
            let ids: Vec<_> = (0..READS as u64).map(|n| replay::id(fresh + n)).collect();
            fresh += READS as u64;
            let begun = on_cpu();
            for id in ids {
                full.insert(id, chunk());
            }
            best[2] = best[2].max(READS as f64 / 1e6 / (on_cpu() - begun).as_secs_f64());
        }
    }
    let mut text = String::from(
        "| million a second of a core | reads, 1 thread | reads, 2 threads at once, each | insertions that evict |\n|---|---|---|---|\n",
    );
    for ((name, ..), [one, two, insertions]) in tiers.iter().zip(best) {
        text.push_str(&format!(
            "| {name} | {one:.1} | {two:.1} | {insertions:.2} |\n"
        ));
    }
    text.push_str(&format!("\n{}\n", machine()));
    text
}

/// Millions of reads a second of processor time, of so many threads at once.
fn reads(tier: &dyn RamTier, threads: u64) -> f64 {
    let barrier = Barrier::new(threads as usize);
    let each: Vec<f64> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut random = Random(SEED + thread);
                    // The smaller of three: popular ones are read often, and all are read.
                    let ids: Vec<_> = (0..READS)
                        .map(|_| (0..3).map(|_| random.below(CHUNKS)).min().unwrap_or(0))
                        .map(replay::id)
                        .collect();
                    barrier.wait();
                    let begun = on_cpu();
                    for _ in 0..PASSES {
                        for id in &ids {
                            assert!(black_box(tier.get(id)).is_some(), "all are held");
                        }
                    }
                    (READS * PASSES) as f64 / 1e6 / (on_cpu() - begun).as_secs_f64()
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    });
    assert_eq!(each.len(), threads as usize, "a reader failed");
    each.iter().sum::<f64>() / threads as f64
}

/// What this thread has run, waits for the processor and for locks not included.
fn on_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a kernel with /proc/thread-self/schedstat"))
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Best of {ROUNDS} rounds in turns, on {cores} cores of {model}.")
}
