//! Crashes: whatever is lost, nothing wrong is read, and what had to be there is there.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    super::device::{Effect, Fault, Loss, Op},
    *,
};

/// Seeds of the normal suite; `STOQ_CRASH_SEEDS=10000` for the long form, `STOQ_CRASH_FIRST` for where to begin.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn no_crash_and_no_fault_of_the_device_makes_a_wrong_byte() {
    let first = number("STOQ_CRASH_FIRST").unwrap_or(0);
    let count = number("STOQ_CRASH_SEEDS").unwrap_or(SEEDS);
    let mut totals = Totals::default();
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(life(seed))
        }));
        match run {
            Ok(one) => totals.add(&one),
            Err(panic) => {
                eprintln!("seed {seed}: STOQ_CRASH_FIRST={seed} STOQ_CRASH_SEEDS=1 repeats it");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{count} seeds from {first}: {totals:?}");
    assert!(totals.hits > 0 && totals.crashes > 0, "nothing was tested");
}

#[derive(Debug, Default)]
struct Totals {
    crashes: u64,
    closes: u64,
    hits: u64,
    misses: u64,
    throttled: u64,
    corrupt: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.closes += other.closes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.throttled += other.throttled;
        self.corrupt += other.corrupt;
    }

    fn count(&mut self, read: &DiskRead) {
        match read {
            DiskRead::Hit(_) => self.hits += 1,
            DiskRead::Miss => self.misses += 1,
            DiskRead::Throttled => self.throttled += 1,
            DiskRead::Corrupt => self.corrupt += 1,
        }
    }
}

/// What must be there after the process alone dies.
#[derive(Default)]
struct Durable {
    /// Chunks put more than a second ago.
    chunks: Vec<u64>,
    /// The place in the history of each head, of which nothing older may be seen.
    heads: HashMap<u64, usize>,
}

/// A few lives of one volume.
async fn life(seed: u64) -> Totals {
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = tempfile::tempdir().unwrap();
    let saved_at = rng
        .random_bool(0.7)
        .then(|| directory.path().join("checkpoint"));
    let mut device = Sim::new(rng.random(), SMALL);
    let mut totals = Totals::default();
    let mut heads = Heads::new();
    let mut chunks = 0..0;
    let mut rotten = false;
    for _ in 0..rng.random_range(2..5) {
        let rig = Rig::start(&device, SMALL, saved_at.clone()).await;
        verify(&rig, &heads, chunks.clone(), &mut rng, &mut totals).await;
        let mut durable = Durable::default();
        let healthy = rng.random_bool(0.5);
        if !healthy {
            // What a device claims to have written and has not is found later.
            rotten = true;
            device.fail(fault(&mut rng));
        }
        for _ in 0..rng.random_range(1..120) {
            step(
                &rig,
                &mut rng,
                &mut heads,
                &mut chunks,
                &mut durable,
                healthy,
            )
            .await;
        }
        device.heal();
        if rng.random_bool(0.2) {
            totals.closes += 1;
            rig.close().await;
            continue;
        }
        totals.crashes += 1;
        let loss = if rng.random_bool(0.5) {
            Loss::Power
        } else {
            Loss::Process
        };
        rig.kill();
        tokio::task::yield_now().await;
        device = device.after(loss, rng.random());
        if rng.random_bool(0.2) {
            rotten = true;
            let offsets = device.rot(rng.random_range(1..20));
            // Both superblocks gone is no volume any more.
            if offsets.iter().any(|offset| *offset < 2 * 4096) {
                return totals;
            }
        }
        if loss == Loss::Process && healthy && !rotten && chunks.end < 300 {
            let rig = Rig::start(&device.after(Loss::Process, 0), SMALL, None).await;
            for chunk in &durable.chunks {
                let read = rig.get(*chunk).await;
                assert!(matches!(read, DiskRead::Hit(_)), "chunk {chunk}: {read:?}");
            }
            for (head, least) in &durable.heads {
                let version = head_version(&rig, *head, &heads).await;
                assert!(
                    version.is_some_and(|version| version >= *least),
                    "head {head}: {version:?}, not {least}"
                );
            }
            rig.kill();
        }
    }
    totals
}

fn fault(rng: &mut StdRng) -> Fault {
    let op = [Op::Read, Op::Write, Op::Sync, Op::Allocate][rng.random_range(0..4)];
    let errno = [libc::EIO, libc::ENOSPC][rng.random_range(0..2)];
    let effect = if op != Op::Allocate && op != Op::Read && rng.random_bool(0.3) {
        Effect::Lost
    } else {
        Effect::Errno(errno)
    };
    Fault {
        op,
        range: None,
        after: rng.random_range(0..20),
        times: rng.random_bool(0.7).then(|| rng.random_range(1..10)),
        effect,
    }
}

async fn step(
    rig: &Rig,
    rng: &mut StdRng,
    heads: &mut Heads,
    chunks: &mut std::ops::Range<u64>,
    durable: &mut Durable,
    healthy: bool,
) {
    match rng.random_range(0..10) {
        0..5 => {
            for _ in 0..rng.random_range(1..8) {
                rig.put(chunks.end).await;
                chunks.end += 1;
            }
        }
        5 => {
            let head = rng.random_range(0..6);
            let body = filled(rng.random_range(0..5_000), rng.random());
            let put = rig.volume.put(Kind::Head, name(head | 1 << 40), &body);
            if put == Put::Queued {
                heads.entry(head).or_default().push(Some(body));
            }
        }
        6 => {
            let head = rng.random_range(0..6);
            rig.volume.forget(&name(head | 1 << 40));
            heads.entry(head).or_default().push(None);
        }
        7 if !chunks.is_empty() => {
            let chunk = rng.random_range(chunks.clone());
            let _ = rig.get(chunk).await;
        }
        8 => {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            if healthy {
                durable.chunks = chunks
                    .clone()
                    .filter(|chunk| rig.volume.index.contains(&name(*chunk)))
                    .collect();
                durable.heads.clear();
                for head in heads.keys() {
                    // As it is seen now: what an earlier life lost is lost.
                    let version = head_version(rig, *head, heads).await;
                    durable
                        .heads
                        .extend(version.map(|version| (*head, version)));
                }
            }
        }
        _ => {
            let _ = rig.volume.flush().await;
        }
    }
}

/// Reads everything that ever was: it is right, or not there.
async fn verify(
    rig: &Rig,
    heads: &Heads,
    chunks: std::ops::Range<u64>,
    rng: &mut StdRng,
    totals: &mut Totals,
) {
    for chunk in chunks {
        if !rng.random_bool(0.5) {
            continue;
        }
        // The check of this read lets everything pass: the log's own guards are what is tested.
        let read = rig.volume.read(Kind::Chunk, &name(chunk), &|_| true).await;
        if let DiskRead::Hit(got) = &read {
            let expected = body(chunk);
            // A flipped bit in a body is for the caller's check to find.
            if got[..] != expected[..] {
                let read = rig.get(chunk).await;
                assert_eq!(read, DiskRead::Corrupt, "chunk {chunk}");
            }
        }
        totals.count(&read);
    }
    for head in heads.keys() {
        head_version(rig, *head, heads).await;
    }
}

/// Which version of a head is there. The latest of several alike.
async fn head_version(rig: &Rig, head: u64, heads: &Heads) -> Option<usize> {
    let versions = &heads[&head];
    let known = |got: &[u8]| versions.iter().flatten().any(|version| version == got);
    let read = rig
        .volume
        .read(Kind::Head, &name(head | 1 << 40), &known)
        .await;
    match read {
        DiskRead::Hit(got) => versions
            .iter()
            .rposition(|version| version.as_deref() == Some(&got[..])),
        DiskRead::Miss => versions.iter().rposition(Option::is_none),
        DiskRead::Throttled | DiskRead::Corrupt => None,
    }
}
