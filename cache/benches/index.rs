//! What the index of a volume costs: time an operation, memory an entry, and the time of a checkpoint.
//!
//!     cargo bench -p stoq-cache --bench index [-- ENTRIES]
//!
//! 10 million entries unless told. Operations are on names in random order, made by a few multiplications each; what that costs is a row of its own and
//! part of every other. CPU is this thread's, which on a busy machine says more than the time that passed. RSS is the kernel's figure for the process, less what it
//! was before. Checkpoints go to cargo's target directory, so their times are that device's; each is loaded by a process of its own, with the
//! file in the page cache and without.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the measurement")]

use std::{
    env, fs,
    hint::black_box,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Advice, fadvise},
    time::{ClockId, clock_gettime},
};
use stoq_cache::store::disk::{
    Name,
    checkpoint::{self, Checkpoint, CheckpointHead, Position},
    format::VolumeId,
    index::{Index, Place},
};

/// Operations timed, at most: what is more gives no other figure.
const OPERATIONS_MAX: u64 = 5_000_000;
/// Segments that places are in.
const SEGMENTS: u32 = 10_000;

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
    let [a, b, c, d, e, f, ..] = mixed(n).to_le_bytes();
    let (low, high) = (
        u32::from_le_bytes([a, b, c, 0]),
        u32::from_le_bytes([d, e, f, 0]),
    );
    Place::new(high % SEGMENTS, low % 500_000 * 64, 48 * 1024).unwrap()
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

/// The time, and this thread's CPU time.
struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), Self::cpu())
    }

    fn cpu() -> Duration {
        clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
    }

    fn took(&self) -> (Duration, Duration) {
        (self.0.elapsed(), Self::cpu() - self.1)
    }
}

/// Runs an operation on so many numbers and prints what one took.
fn each(what: &str, count: u64, mut operation: impl FnMut(u64)) {
    let clock = Clock::start();
    for n in 0..count {
        operation(n);
    }
    let (wall, cpu) = clock.took();
    let one = |took: Duration| took.as_secs_f64() * 1e9 / count as f64;
    println!(
        "{what:<40} {:>8.1} ns, CPU {:>7.1} ns   ({count})",
        one(wall),
        one(cpu)
    );
}

/// Runs something once and prints what it took, and what it says of itself.
fn once(what: &str, run: impl FnOnce() -> String) {
    let clock = Clock::start();
    let said = run();
    let (wall, cpu) = clock.took();
    println!(
        "{what:<40} {:>8.3} s,  CPU {:>7.3} s    {said}",
        wall.as_secs_f64(),
        cpu.as_secs_f64()
    );
}

fn memory(index: &Index, rss_before: u64) -> String {
    let entries = index.len() as f64;
    format!(
        "{} entries, {:.2} bytes each, RSS {:.2} each",
        index.len(),
        index.bytes() as f64 / entries,
        rss().saturating_sub(rss_before) as f64 / entries,
    )
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [load, how, path] = &*arguments
        && load == "load"
    {
        return loaded(how, Path::new(path));
    }
    if !arguments.iter().any(|it| it == "--bench") {
        println!("index: nothing measured; run it with `cargo bench`");
        return;
    }
    let entries = arguments
        .iter()
        .find_map(|it| it.parse().ok())
        .unwrap_or(10_000_000_u64);
    println!(
        "{entries} entries, seed 1, load {}",
        fs::read_to_string("/proc/loadavg").unwrap().trim()
    );
    let before = rss();
    let index = Index::new(1);
    operations(&index, entries, before);
    write(&index);
}

fn operations(index: &Index, entries: u64, before: u64) {
    let operations = entries.min(OPERATIONS_MAX);
    each("a name alone", operations, |n| {
        black_box(name(mixed(n) % entries));
    });
    each("insert, tables growing", entries, |n| {
        index.insert(&name(n), place(n));
    });
    println!("{}", memory(index, before));
    each("get, there", operations, |n| {
        assert!(index.get(&name(mixed(n) % entries)).is_some());
    });
    each("get, not there", operations, |n| {
        assert!(index.get(&name(entries + mixed(n) % entries)).is_none());
    });
    each("touch", operations, |n| {
        assert!(index.touch(&name(mixed(n) % entries)).is_some());
    });
    each("insert, there already", operations, |n| {
        let n = mixed(n) % entries;
        assert!(index.insert(&name(n), place(n)).is_some());
    });
    each("remove one and insert another", operations, |n| {
        assert!(index.remove(&name(n)).is_some());
        assert!(
            index
                .insert(&name(entries + n), place(entries + n))
                .is_none()
        );
    });
    println!("{}", memory(index, before));
    thread::scope(|scope| {
        for thread in 1..=2 {
            scope.spawn(move || {
                each(&format!("touch, thread {thread} of two"), operations, |n| {
                    black_box(index.touch(&name(mixed(n + thread) % entries)));
                });
            });
        }
    });
    once("retain, a hundredth goes", || {
        let gone = index.retain(|place| place.segment() % 100 != 0);
        format!("{gone} gone")
    });
}

fn volume() -> VolumeId {
    VolumeId::from_bytes([1; 16])
}

fn write(index: &Index) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("checkpoint");
    let head = CheckpointHead {
        volume: volume(),
        position: Position {
            sequence: u64::from(SEGMENTS),
            segment: 0,
            offset: 64,
        },
        sequences: (1..=u64::from(SEGMENTS)).collect(),
    };
    let before = rss();
    once("checkpoint written and durable", || {
        let written = checkpoint::write(&path, &head, index).unwrap();
        format!(
            "{} bytes, RSS grew by {}",
            written.bytes,
            rss().saturating_sub(before)
        )
    });
    for how in ["from the page cache", "from the device"] {
        let status = Command::new(env::current_exe().unwrap())
            .args(["load", how])
            .arg(&path)
            .status();
        assert!(status.unwrap().success());
    }
}

/// In a process of its own: loads a checkpoint.
fn loaded(how: &str, path: &Path) {
    if how == "from the device" {
        let file = fs::File::open(path).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
    let before = rss();
    once(&format!("loaded {how}"), || {
        let checkpoint = Checkpoint::open(path, volume()).unwrap();
        let index = checkpoint.load(|place| place.segment() < SEGMENTS).unwrap();
        memory(&index, before)
    });
}
