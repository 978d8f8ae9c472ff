//! What the index of a volume costs: time an operation, memory an entry, and the time of a checkpoint.
//!
//!     cargo bench -p stoq-cache --bench index [-- ENTRIES]
//!
//! 10 million entries unless told. Operations are on names in random order, made by a few multiplications each; what that costs is a row of its own and
//! part of every other. RSS is the kernel's figure for the process, less what it was before. Checkpoints go to cargo's target directory, so their
//! times are that device's; loaded once with the file in the page cache and once without.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]

use std::{
    env, fs,
    hint::black_box,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{Advice, fadvise};
use stoq_cache::store::disk::{
    Name,
    checkpoint::{self, Checkpoint, CheckpointHead, Position},
    format::VolumeId,
    index::{Index, Place},
};

/// Operations timed, at most: what is more gives no other figure.
const OPERATIONS_MAX: u64 = 5_000_000;

fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn name(n: u64) -> Name {
    let mut name = Name::default();
    for (part, bytes) in (1..).zip(name.as_chunks_mut::<8>().0) {
        *bytes = mixed(n.wrapping_add(part << 56)).to_le_bytes();
    }
    name
}

fn place(n: u64) -> Place {
    let [a, b, c, d, e, f, ..] = n.to_le_bytes();
    let (low, high) = (
        u32::from_le_bytes([a, b, c, 0]),
        u32::from_le_bytes([d, e, f, 0]),
    );
    Place::new(high % 10_000, low % 500_000 * 64, 48 * 1024).unwrap()
}

/// Resident memory of this process, in bytes.
fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}

/// Runs an operation on so many numbers and prints what one took.
fn time(what: &str, count: u64, mut operation: impl FnMut(u64)) {
    let start = Instant::now();
    for n in 0..count {
        operation(n);
    }
    row(what, count, start.elapsed());
}

fn row(what: &str, count: u64, took: Duration) {
    let nanoseconds = took.as_secs_f64() * 1e9 / count as f64;
    println!(
        "{what:<44} {nanoseconds:>9.1} ns   ({count} in {:.3} s)",
        took.as_secs_f64()
    );
}

fn seconds(what: &str, took: Duration, more: &str) {
    println!("{what:<44} {:>9.3} s    {more}", took.as_secs_f64());
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|it| it == "--bench") {
        println!("index: nothing measured; run it with `cargo bench`");
        return;
    }
    let entries = arguments
        .iter()
        .find_map(|it| it.parse().ok())
        .unwrap_or(10_000_000_u64);
    let operations = entries.min(OPERATIONS_MAX);
    println!("{entries} entries, seed 1");

    let before = rss();
    let index = Index::new(1);
    time("a name alone", operations, |n| {
        black_box(name(mixed(n) % entries));
    });
    let mut longest = Duration::ZERO;
    time("insert, tables growing, each timed", entries, |n| {
        let start = Instant::now();
        index.insert(&name(n), place(n));
        longest = longest.max(start.elapsed());
    });
    seconds("longest insert", longest, "");
    assert_eq!(index.len() as u64, entries);
    let each = |bytes: u64| bytes as f64 / entries as f64;
    println!(
        "{:<44} {:>9.2} bytes, RSS {:.2}",
        "an entry",
        each(index.bytes() as u64),
        each(rss() - before)
    );

    time("get, there", operations, |n| {
        assert!(index.get(&name(mixed(n) % entries)).is_some());
    });
    time("get, not there", operations, |n| {
        assert!(index.get(&name(entries + mixed(n) % entries)).is_none());
    });
    time("touch", operations, |n| {
        assert!(index.touch(&name(mixed(n) % entries)).is_some());
    });
    time("insert, there already", operations, |n| {
        let n = mixed(n) % entries;
        assert!(index.insert(&name(n), place(n)).is_some());
    });
    time("remove one and insert another", operations, |n| {
        assert!(index.remove(&name(n)).is_some());
        assert!(
            index
                .insert(&name(entries + n), place(entries + n))
                .is_none()
        );
    });
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..2 {
            let index = &index;
            scope.spawn(move || {
                for n in 0..operations {
                    black_box(index.touch(&name(mixed(n + thread) % entries)));
                }
            });
        }
    });
    row("touch, two threads, each", operations, start.elapsed());
    println!(
        "{:<44} {:>9.2} bytes, RSS {:.2}",
        "an entry, after that",
        each(index.bytes() as u64),
        each(rss() - before)
    );

    let start = Instant::now();
    let gone = index.retain(|place| place.segment() % 100 != 0);
    row(
        "retain, a hundredth goes, an entry",
        entries,
        start.elapsed(),
    );
    assert!(gone > 0);

    checkpoints(index);
}

fn checkpoints(index: Index) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("checkpoint");
    let volume = VolumeId::from_bytes([1; 16]);
    let head = CheckpointHead {
        volume,
        position: Position {
            sequence: 10_000,
            segment: 0,
            offset: 64,
        },
        sequences: (1..10_001).collect(),
    };
    let before = rss();
    let start = Instant::now();
    let written = checkpoint::write(&path, &head, &index).unwrap();
    let size = format!(
        "{} entries, {} bytes, RSS +{}",
        written.entries,
        written.bytes,
        rss().saturating_sub(before)
    );
    seconds("checkpoint written and durable", start.elapsed(), &size);
    let len = index.len();
    drop(index);

    for cached in [true, false] {
        if !cached {
            forget_pages(&path);
        }
        let before = rss();
        let start = Instant::now();
        let loaded = Checkpoint::open(&path, volume)
            .unwrap()
            .load(|place| place.segment() < 10_000)
            .unwrap();
        let took = start.elapsed();
        assert_eq!(loaded.len(), len);
        let from = if cached {
            "from the page cache"
        } else {
            "from the device"
        };
        let each = |bytes: u64| bytes as f64 / len as f64;
        let held = format!(
            "{:.2} bytes an entry, RSS {:.2}",
            each(loaded.bytes() as u64),
            each(rss().saturating_sub(before)),
        );
        seconds(&format!("checkpoint loaded, {from}"), took, &held);
    }
}

/// Asks the kernel to drop a file's clean pages.
fn forget_pages(path: &Path) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}
