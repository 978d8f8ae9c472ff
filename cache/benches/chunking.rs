//! What the cut algorithms cost and what they find again, on successive releases of real packages.
//!
//!     cache/benches/corpus.sh DIR
//!     STOQ_CORPUS=DIR taskset -c 1 cargo bench -p stoq-cache --bench chunking
//!
//! Prints the tables of `docs/chunking.md`. Speeds are the best of the rounds, all contenders taking
//! turns within each round, so that what else the machine does hits all alike. Without the variable
//! the bench says so and ends well, for `cargo test --benches`.

#![expect(
    clippy::cast_precision_loss,
    reason = "byte counts become percentages and rates"
)]

use std::{
    collections::{BTreeMap, HashSet},
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use fastcdc::v2020::{FastCDC, Normalization};
use mincdc::{MinCdcHash4, SliceChunker};
use stoq_cache::content::{ChunkKey, Chunker, Profile};

const ROUNDS: usize = 7;
const SPEED_BYTES: usize = 192 << 20;
/// How bodies arrive: what a socket read or a batch of packets hands over.
const PIECES: [usize; 2] = [64 << 10, 1350];

fn main() -> Result<()> {
    let Some(dir) = env::var_os("STOQ_CORPUS") else {
        println!("skipped: STOQ_CORPUS names no corpus (see cache/benches/corpus.sh)");
        return Ok(());
    };
    let corpus = Corpus::load(Path::new(&dir))?;
    print_dedupe(&corpus);
    print_speed(&corpus);
    Ok(())
}

/// Class → package → versions in order.
struct Corpus(BTreeMap<String, BTreeMap<String, Vec<Bytes>>>);

impl Corpus {
    fn load(dir: &Path) -> Result<Self> {
        let mut classes = BTreeMap::<_, BTreeMap<_, _>>::new();
        for class in sorted(dir)? {
            for package in sorted(&class)? {
                let versions = sorted(&package)?
                    .iter()
                    .map(|file| Ok(Bytes::from(fs::read(file)?)))
                    .collect::<Result<Vec<_>>>()?;
                classes
                    .entry(name(&class))
                    .or_default()
                    .insert(name(&package), versions);
            }
        }
        anyhow::ensure!(!classes.is_empty(), "{} is empty", dir.display());
        Ok(Self(classes))
    }

    /// The first versions of all tars, up to the size the speed rounds use.
    fn bytes(&self, max: usize) -> Bytes {
        let mut all = Vec::with_capacity(max);
        for version in self.0.values().flat_map(|packages| packages.values()) {
            let Some(first) = version.first() else {
                continue;
            };
            let left = max - all.len();
            all.extend_from_slice(&first[..left.min(first.len())]);
        }
        all.into()
    }
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

type Cutter = fn(&Bytes, &mut dyn FnMut(&[u8]));

fn fast<const MIN: usize, const AVG: usize, const MAX: usize>(
    data: &Bytes,
    out: &mut dyn FnMut(&[u8]),
) {
    for chunk in FastCDC::with_level(data, MIN, AVG, MAX, Normalization::Level1) {
        out(&data[chunk.offset..chunk.offset + chunk.length]);
    }
}

fn min<const MIN: usize, const MAX: usize>(data: &Bytes, out: &mut dyn FnMut(&[u8])) {
    for chunk in SliceChunker::new(data, MIN, MAX, MinCdcHash4::new()) {
        out(&chunk);
    }
}

fn fixed<const LEN: usize>(data: &Bytes, out: &mut dyn FnMut(&[u8])) {
    data.chunks(LEN).for_each(out);
}

const K: usize = 1024;

/// Each named by its least, aimed-at and greatest chunk length in KiB.
const CUTTERS: &[(&str, Cutter)] = &[
    ("FastCDC 4/16/64", fast::<{ 4 * K }, { 16 * K }, { 64 * K }>),
    ("FastCDC 8/16/64", fast::<{ 8 * K }, { 16 * K }, { 64 * K }>),
    ("MinCDC 12-20", min::<{ 12 * K }, { 20 * K }>),
    ("MinCDC 8-24", min::<{ 8 * K }, { 24 * K }>),
    ("MinCDC 4-28", min::<{ 4 * K }, { 28 * K }>),
    // As long on average as the FastCDC chunks above really are: dedupe at equal chunk number.
    ("MinCDC 12-34", min::<{ 12 * K }, { 34 * K }>),
    (
        "FastCDC 32/64/256",
        fast::<{ 32 * K }, { 64 * K }, { 256 * K }>,
    ),
    ("MinCDC 32-96", min::<{ 32 * K }, { 96 * K }>),
    ("MinCDC 48-140", min::<{ 48 * K }, { 140 * K }>),
    ("fixed 256", fixed::<{ 256 * K }>),
];

fn print_dedupe(corpus: &Corpus) {
    println!("Bytes of version n+1 in chunks version n has not, % (mean chunk, KiB)\n");
    print!("| class/package | pairs | MB |");
    CUTTERS.iter().for_each(|(name, _)| print!(" {name} |"));
    print!("\n|---|---|---|");
    CUTTERS.iter().for_each(|_| print!("---|"));
    println!();
    for (class, packages) in &corpus.0 {
        let mut sums = vec![Found::default(); CUTTERS.len()];
        let mut pairs = 0;
        for (package, versions) in packages {
            let found: Vec<_> = CUTTERS
                .iter()
                .map(|(_, cut)| compare(versions, *cut))
                .collect();
            row(&format!("{class}/{package}"), versions.len() - 1, &found);
            pairs += versions.len() - 1;
            sums.iter_mut()
                .zip(&found)
                .for_each(|(sum, found)| sum.add(found));
        }
        row(&format!("**all of {class}**"), pairs, &sums);
    }
    println!();
}

fn row(name: &str, pairs: usize, found: &[Found]) {
    let bytes = found.first().map_or(0, |found| found.bytes);
    print!("| {name} | {pairs} | {:.1} |", bytes as f64 / 1e6);
    for found in found {
        print!(
            " {:.1} ({:.1}) |",
            100.0 * found.new_bytes as f64 / found.bytes as f64,
            found.bytes as f64 / found.chunks as f64 / 1024.0
        );
    }
    println!();
}

#[derive(Clone, Default)]
struct Found {
    bytes: usize,
    new_bytes: usize,
    chunks: usize,
}

impl Found {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.new_bytes += other.new_bytes;
        self.chunks += other.chunks;
    }
}

/// What each version but the first would have to fetch, given the one before.
fn compare(versions: &[Bytes], cut: Cutter) -> Found {
    let mut found = Found::default();
    let mut held = HashSet::new();
    for (n, version) in versions.iter().enumerate() {
        let mut seen = HashSet::new();
        cut(version, &mut |chunk| {
            let id = *blake3::hash(chunk).as_bytes();
            let is_new = !held.contains(&id) && !seen.contains(&id);
            seen.insert(id);
            if n > 0 {
                found.bytes += chunk.len();
                found.chunks += 1;
                found.new_bytes += if is_new { chunk.len() } else { 0 };
            }
        });
        held = seen;
    }
    found
}

fn print_speed(corpus: &Corpus) {
    let data = corpus.bytes(SPEED_BYTES);
    let key = ChunkKey::derive(&[7; 32], "bench");
    let mut contenders = Vec::<(String, Box<dyn Fn() + '_>)>::new();
    let data = &data;
    let key = &key;
    for &(name, cut) in CUTTERS {
        contenders.push((
            name.to_owned(),
            Box::new(move || {
                cut(data, &mut |chunk| {
                    black_box(chunk.len());
                });
            }),
        ));
        contenders.push((
            format!("{name} + BLAKE3"),
            Box::new(move || {
                cut(data, &mut |chunk| {
                    black_box(key.id(chunk));
                });
            }),
        ));
    }
    for profile in [Profile::Fine, Profile::Coarse, Profile::Fixed] {
        for piece in PIECES {
            contenders.push((
                format!("Chunker {profile:?}, pieces of {piece}"),
                Box::new(move || {
                    stream(data, profile, piece, |chunk| {
                        black_box(chunk.len());
                    })
                }),
            ));
            contenders.push((
                format!("Chunker {profile:?}, pieces of {piece} + BLAKE3"),
                Box::new(move || {
                    stream(data, profile, piece, |chunk| {
                        black_box(key.id(&chunk));
                    })
                }),
            ));
        }
    }

    let mut best = vec![f64::INFINITY; contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, run), best) in contenders.iter().zip(&mut best) {
            let start = Instant::now();
            run();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    println!(
        "Speed over {} MB, best of {ROUNDS} rounds\n",
        data.len() / 1_000_000
    );
    println!("| what | GB/s |\n|---|---|");
    for ((name, _), seconds) in contenders.iter().zip(&best) {
        println!("| {name} | {:.2} |", data.len() as f64 / seconds / 1e9);
    }
}

/// The streaming chunker as a fill drives it: each chunk is dropped when it was looked at.
fn stream(data: &Bytes, profile: Profile, piece: usize, mut out: impl FnMut(Bytes)) {
    let mut chunker = Chunker::new(profile);
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + piece);
        chunker.push(data.slice(at..end));
        at = end;
        while let Some(chunk) = chunker.next_chunk() {
            out(chunk);
        }
    }
    chunker.finish();
    while let Some(chunk) = chunker.next_chunk() {
        out(chunk);
    }
}
