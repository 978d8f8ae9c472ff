//! What the tier on disk is worth: its reads beside fio, what it costs a fill, and how fast a large one starts.
//!
//!     cargo bench -p stoq-cache --bench disk -- DIRECTORY reads [SECONDS]
//!     cargo bench -p stoq-cache --bench disk -- DIRECTORY ingest
//!     cargo bench -p stoq-cache --bench disk -- DIRECTORY start [MILLIONS]
//!
//! - `reads`: random chunks of 64 KiB, verified under their key, 32 at a time, from a volume of 2 GiB with each engine, and fio's random reads of as many
//!   blocks from the same file; and foyer, a hybrid cache, with as many of the same chunks. Contenders take turns; each figure is the median of three.
//! - `ingest`: 1 GiB of random bytes cut and named, then the same with a store behind it (4 GiB on disk, 256 MiB in memory), beside FastCDC and BLAKE3 alone, and beside the same
//!   store without deduplication: blocks of one length.
//! - `start`: a volume of so many million records of 200 bytes (10), saved; then a process of its own opens it, and looks up 10,000 of them at random two seconds after it began.
//!
//! Prints MB/s (10⁶ bytes), CPU seconds a GB (10⁹ bytes; user and system of this process) and the time of one operation. Without a directory the
//! bench says so and ends well, for `cargo test --benches`.

#![expect(
    clippy::cast_precision_loss,
    reason = "bytes and nanoseconds become rates"
)]

use std::{
    env,
    ffi::OsString,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder as _, FsDeviceBuilder, HybridCacheBuilder, IoEngineConfig,
    UringIoEngineConfig,
};
use futures_util::future::join_all;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use rustix::time::{ClockId, clock_gettime};
use stoq_cache::{
    content::{ChunkId, ChunkKey, Chunker, Profile},
    store::{
        S3FifoTier, Store,
        disk::{self, Disk, DiskMetrics, DiskRead, DiskTier, Kind, VolumeConfig, device::Engine},
    },
};
use tokio::runtime::{Builder, Runtime};

const TURNS: usize = 3;
const CHUNK: usize = 64 << 10;
const KEY_ID: [u8; 16] = [7; 16];

fn main() -> Result<()> {
    let mut arguments = env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(directory) = arguments.next() else {
        println!("skipped: no directory for volumes (see the head of benches/disk.rs)");
        return Ok(());
    };
    let what = arguments.next().unwrap_or_default();
    let number = arguments
        .next()
        .map(|text| text.to_string_lossy().parse::<u64>().context("a number"))
        .transpose()?;
    let directory = Path::new(&directory);
    match what.to_str() {
        Some("reads") => reads(directory, Duration::from_secs(number.unwrap_or(3))),
        Some("ingest") => ingest(directory),
        Some("start") => start(directory, number.unwrap_or(10)),
        Some("started") => started(directory, number.unwrap_or(10)),
        _ => bail!("say reads, ingest or start after the directory"),
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn config(path: &Path, bytes: u64, engine: Option<Engine>) -> VolumeConfig {
    VolumeConfig {
        path: path.to_owned(),
        bytes,
        engine,
        bytes_a_day: None,
        scrub_bytes_a_second: None,
    }
}

/// CPU seconds of this process.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn chunk(number: u64) -> Vec<u8> {
    let mut bytes = vec![0; CHUNK];
    StdRng::seed_from_u64(number).fill_bytes(&mut bytes);
    bytes
}

// Reads.

struct Read {
    mb_per_s: f64,
    cpu_s_per_gb: f64,
    median: Duration,
    slow: Duration,
}

fn reads(directory: &Path, turn: Duration) -> Result<()> {
    const CHUNKS: u64 = 24_000;
    let path = directory.join("reads");
    let key = ChunkKey::derive(&[7; 32], "bench");
    let runtime = runtime()?;
    let disk = Disk::open(&[config(&path, 2 << 30, None)], KEY_ID)?;
    let mut ids = Vec::new();
    for number in 0..CHUNKS {
        let bytes = chunk(number);
        let id = key.id(&bytes);
        runtime.block_on(disk.room());
        let put = disk.put(Kind::Chunk, *id.as_bytes(), &bytes);
        ensure!(put != disk::Put::Refused(disk::Refused::Busy), "{put:?}");
        ids.push(id);
    }
    ensure!(disk.close(), "the volume did not close");
    drop(disk);
    println!("64 KiB chunks at random, verified, 32 at a time; {CHUNKS} in a volume of 2 GiB");
    println!("| | MB/s | CPU s/GB | median | 99th |");
    println!("|---|---|---|---|---|");
    let theirs = directory.join("foyer");
    fill_foyer(&theirs, CHUNKS)?;
    let mut all: [Vec<Read>; 4] = std::array::from_fn(|_| Vec::new());
    for round in 0..TURNS {
        for (at, engine) in [Engine::IoUring, Engine::Threads].into_iter().enumerate() {
            let disk = Disk::open(&[config(&path, 2 << 30, Some(engine))], KEY_ID)?;
            all[at].push(runtime.block_on(read_turn(&disk, &key, &ids, turn, round as u64))?);
        }
        if let Some(read) = fio(&path.join("log"), turn)? {
            all[2].push(read);
        }
        all[3].push(read_foyer(&theirs, CHUNKS, turn, round as u64)?);
    }
    let mut rates = Vec::new();
    for (name, reads) in ["io_uring", "threads", "fio", "foyer"]
        .into_iter()
        .zip(&all)
    {
        if reads.is_empty() {
            println!("| {name} | SKIPPED: not installed | | | |");
            continue;
        }
        let of = |figure: fn(&Read) -> f64| median(reads.iter().map(figure).collect());
        let rate = of(|read| read.mb_per_s);
        println!(
            "| {name} | {rate:.0} | {:.3} | {:.0} µs | {:.0} µs |",
            of(|read| read.cpu_s_per_gb),
            of(|read| read.median.as_secs_f64() * 1e6),
            of(|read| read.slow.as_secs_f64() * 1e6),
        );
        rates.push(rate);
    }
    if let [uring, threads, fio, foyer] = rates[..] {
        println!(
            "io_uring over fio {:.2}, over threads {:.2}, over foyer {:.2}",
            uring / fio,
            uring / threads,
            uring / foyer
        );
    }
    std::fs::remove_dir_all(path)?;
    std::fs::remove_dir_all(theirs)?;
    Ok(())
}

type Foyer = foyer::HybridCache<u64, Vec<u8>>;

/// Next to no memory, so that reads are the disk's; its defaults otherwise, past the page cache.
async fn open_foyer(directory: &Path) -> Result<Foyer> {
    let device = FsDeviceBuilder::new(directory)
        .with_capacity(2 << 30)
        .with_direct(true)
        .build()?;
    let cache = HybridCacheBuilder::new()
        .memory(1 << 20)
        .with_weighter(|_, value: &Vec<u8>| value.len())
        .storage()
        .with_io_engine_config(Box::new(UringIoEngineConfig::new()) as Box<dyn IoEngineConfig>)
        .with_engine_config(BlockEngineConfig::new(device).with_buffer_pool_size(64 << 20))
        .build()
        .await?;
    Ok(cache)
}

fn foyer_runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

fn fill_foyer(directory: &Path, chunks: u64) -> Result<()> {
    foyer_runtime()?.block_on(async {
        let cache = open_foyer(directory).await?;
        for number in 0..chunks {
            cache.storage_writer(number).insert(chunk(number));
            if number % 256 == 255 {
                // What its buffers have no room for is dropped unsaid: so they are emptied now and then.
                cache.storage().wait().await;
            }
        }
        cache.close().await?;
        anyhow::Ok(())
    })
}

fn read_foyer(directory: &Path, chunks: u64, turn: Duration, seed: u64) -> Result<Read> {
    foyer_runtime()?.block_on(async {
        let cache = open_foyer(directory).await?;
        let (begun, cpu_before) = (Instant::now(), cpu());
        let lanes = (0..32).map(|lane| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed << 8 | lane);
                let (mut times, mut lost) = (Vec::new(), 0_u32);
                while begun.elapsed() < turn {
                    let number = rng.random_range(0..chunks);
                    let asked = Instant::now();
                    match cache.get(&number).await? {
                        Some(entry) => {
                            ensure!(entry.value().len() == CHUNK);
                            times.push(asked.elapsed());
                        }
                        None => lost += 1,
                    }
                }
                anyhow::Ok((times, lost))
            })
        });
        let (mut times, mut lost) = (Vec::new(), 0);
        for lane in join_all(lanes).await {
            let (of_lane, lost_there) = lane??;
            times.extend(of_lane);
            lost += lost_there;
        }
        let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
        ensure!(
            !times.is_empty() && lost as usize <= times.len() / 100,
            "foyer lost {lost} of {}",
            times.len()
        );
        cache.close().await?;
        let bytes = (times.len() * CHUNK) as f64;
        times.sort_unstable();
        Ok(Read {
            mb_per_s: bytes / took / 1e6,
            cpu_s_per_gb: cpu / bytes * 1e9,
            median: times[times.len() / 2],
            slow: times[times.len() * 99 / 100],
        })
    })
}

async fn read_turn(
    disk: &Disk,
    key: &ChunkKey,
    ids: &[ChunkId],
    turn: Duration,
    seed: u64,
) -> Result<Read> {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let lanes = (0..32).map(|lane| async move {
        let mut rng = StdRng::seed_from_u64(seed << 8 | lane);
        let mut times = Vec::new();
        while begun.elapsed() < turn {
            let id = &ids[rng.random_range(0..ids.len())];
            let asked = Instant::now();
            let check = |bytes: &[u8]| key.id(bytes) == *id;
            match disk.read(Kind::Chunk, id.as_bytes(), &check).await {
                DiskRead::Hit(bytes) => ensure!(bytes.len() == CHUNK),
                // What a close leaves in the unfinished segment is there; a miss is a fault of the bench.
                other => bail!("{id}: {other:?}"),
            }
            times.push(asked.elapsed());
        }
        Ok(times)
    });
    let times: Result<Vec<Vec<Duration>>> = join_all(lanes).await.into_iter().collect();
    let mut times = times?.concat();
    let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu() - cpu_before);
    let bytes = (times.len() * CHUNK) as f64;
    times.sort_unstable();
    Ok(Read {
        mb_per_s: bytes / took / 1e6,
        cpu_s_per_gb: cpu / bytes * 1e9,
        median: times[times.len() / 2],
        slow: times[times.len() * 99 / 100],
    })
}

/// Random reads of 68 KiB, which is what a chunk and its header take in blocks, counted by the 64 KiB that are of use.
fn fio(file: &Path, turn: Duration) -> Result<Option<Read>> {
    let mut name = OsString::from("--filename=");
    name.push(file);
    let output = Command::new("fio")
        .arg(name)
        .args([
            "--name=r",
            "--rw=randread",
            "--bs=68k",
            "--direct=1",
            "--ioengine=io_uring",
            "--iodepth=32",
        ])
        .args([
            "--offset=1m",
            "--size=1400m",
            "--time_based",
            "--output-format=json",
            "--readonly",
        ])
        .arg(format!("--runtime={}", turn.as_secs()))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    ensure!(
        output.status.success(),
        "fio: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let job = &report["jobs"][0];
    let number =
        |value: &serde_json::Value| value.as_f64().context("fio's report has another form");
    let useful = 64.0 / 68.0;
    let rate = number(&job["read"]["bw_bytes"])? * useful;
    let busy = (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0;
    let latency = &job["read"]["clat_ns"]["percentile"];
    let time = |place: &str| number(&latency[place]).map(|ns| Duration::from_secs_f64(ns / 1e9));
    Ok(Some(Read {
        mb_per_s: rate / 1e6,
        cpu_s_per_gb: busy / rate * 1e9,
        median: time("50.000000")?,
        slow: time("99.000000")?,
    }))
}

// Ingest.

fn ingest(directory: &Path) -> Result<()> {
    const BYTES: usize = 1 << 30;
    let mut bytes = vec![0; BYTES];
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    let bytes = Bytes::from(bytes);
    let key = ChunkKey::derive(&[7; 32], "bench");
    let runtime = runtime()?;
    let path = directory.join("ingest");
    let mut figures: Vec<Vec<(f64, f64)>> = vec![Vec::new(); 4];
    let mut disk_bytes = 0;
    for _ in 0..TURNS {
        figures[0].push(timed(BYTES, || {
            let mut names = 0;
            for cut in fastcdc::v2020::FastCDC::new(&bytes, 32 << 10, 64 << 10, 256 << 10) {
                let name = blake3::hash(&bytes[cut.offset..cut.offset + cut.length]);
                names ^= name.as_bytes()[0];
            }
            std::hint::black_box(names);
            Ok(())
        })?);
        figures[1].push(timed(BYTES, || {
            cut(Profile::Coarse, &key, &bytes, &mut |_, _| Ok(()))
        })?);
        let fixed = |store: &mut Put<'_>| cut(Profile::Fixed, &key, &bytes, store);
        figures[2].push(stored(&runtime, &path, fixed)?.0);
        let coarse = |store: &mut Put<'_>| cut(Profile::Coarse, &key, &bytes, store);
        let (chunked, written) = stored(&runtime, &path, coarse)?;
        figures[3].push(chunked);
        disk_bytes = written;
    }
    println!("1 GiB of random bytes, cut in chunks of 64 KiB on average");
    println!("| | MB/s | CPU s/GB |");
    println!("|---|---|---|");
    let names = [
        "FastCDC + BLAKE3",
        "cut and named",
        "fixed blocks of 256 KiB, named, stored and synced",
        "cut, named, stored and synced",
    ];
    let mut rates = Vec::new();
    for (name, turns) in names.into_iter().zip(figures) {
        let rate = median(turns.iter().map(|(rate, _)| *rate).collect());
        let cpu = median(turns.iter().map(|(_, cpu)| *cpu).collect());
        println!("| {name} | {rate:.0} | {cpu:.3} |");
        rates.push((rate, cpu));
    }
    if let [plain, _, fixed, stored] = rates[..] {
        println!(
            "stored over FastCDC + BLAKE3: rate {:.2}, CPU {:.2}; over fixed blocks: time {:.3}; bytes on disk over bytes put {:.4}",
            stored.0 / plain.0,
            stored.1 / plain.1,
            fixed.0 / stored.0,
            disk_bytes as f64 / BYTES as f64
        );
    }
    Ok(())
}

/// Takes a chunk.
type Put<'a> = dyn FnMut(ChunkId, Bytes) -> Result<()> + 'a;

/// Puts 1 GiB into a new volume: its rate and CPU, and the bytes that were written for it.
fn stored(
    runtime: &Runtime,
    path: &Path,
    fill: impl FnOnce(&mut Put<'_>) -> Result<()>,
) -> Result<((f64, f64), u64)> {
    if path.exists() {
        std::fs::remove_dir_all(path)?;
    }
    let disk = Arc::new(Disk::open(&[config(path, 4 << 30, None)], KEY_ID)?);
    let ram = Arc::new(S3FifoTier::new(256 << 20));
    let store = Store::with_disk(ram, Arc::clone(&disk) as Arc<dyn DiskTier>);
    let figures = timed(1 << 30, || {
        fill(&mut |id, chunk| {
            runtime.block_on(disk.room());
            store.put(id, chunk);
            Ok(())
        })?;
        runtime.block_on(disk.flush())?;
        Ok(())
    })?;
    let sum = |of: fn(&DiskMetrics) -> u64| disk.metrics().map(of).sum();
    let put: u64 = sum(|metrics| metrics.put_bytes.get());
    ensure!(put == 1 << 30, "not all was stored");
    Ok((figures, sum(|metrics| metrics.written_bytes.get())))
}

fn timed(bytes: usize, work: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
    let (begun, before) = (Instant::now(), cpu());
    work()?;
    let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu() - before);
    Ok((bytes as f64 / took / 1e6, cpu / bytes as f64 * 1e9))
}

/// Cuts bytes that arrive in pieces of 64 KiB, and names the chunks.
fn cut(profile: Profile, key: &ChunkKey, bytes: &Bytes, store: &mut Put<'_>) -> Result<()> {
    let mut chunker = Chunker::new(profile);
    let mut emit = |chunker: &mut Chunker| {
        while let Some(chunk) = chunker.next_chunk() {
            store(key.id(&chunk), chunk)?;
        }
        Ok::<(), anyhow::Error>(())
    };
    for piece in (0..bytes.len()).step_by(64 << 10) {
        chunker.push(bytes.slice(piece..(piece + (64 << 10)).min(bytes.len())));
        emit(&mut chunker)?;
    }
    chunker.finish();
    emit(&mut chunker)
}

// Start.

fn small(number: u64) -> ([u8; 32], [u8; 200]) {
    let mut body = [0; 200];
    body[..8].copy_from_slice(&number.to_le_bytes());
    (*blake3::hash(&number.to_le_bytes()).as_bytes(), body)
}

/// Room for all of them: 320 bytes each in the log and 40 in a footer, and a tenth to spare.
fn start_config(directory: &Path, millions: u64) -> VolumeConfig {
    config(
        &directory.join("start"),
        millions * 1_000_000 * 360 * 11 / 10 + (128 << 20),
        None,
    )
}

fn start(directory: &Path, millions: u64) -> Result<()> {
    let config = start_config(directory, millions);
    if config.path.exists() {
        std::fs::remove_dir_all(&config.path)?;
    }
    let runtime = runtime()?;
    let disk = Disk::open(&[config], KEY_ID)?;
    let begun = Instant::now();
    for number in 0..millions * 1_000_000 {
        if number % 512 == 0 {
            runtime.block_on(disk.room());
        }
        let (name, body) = small(number);
        let mut put = disk.put(Kind::Chunk, name, &body);
        while let disk::Put::Refused(_) = put {
            runtime.block_on(disk.room());
            put = disk.put(Kind::Chunk, name, &body);
        }
    }
    println!(
        "{} records put in {:.1} s",
        disk.records(),
        begun.elapsed().as_secs_f64()
    );
    ensure!(
        disk.records() == millions * 1_000_000,
        "not all are in the volume"
    );
    let begun = Instant::now();
    ensure!(disk.close(), "the volume did not close");
    println!(
        "written and saved in {:.1} s more",
        begun.elapsed().as_secs_f64()
    );
    drop(disk);
    let status = Command::new(env::current_exe()?)
        .arg(directory)
        .args(["started", &millions.to_string()])
        .status()?;
    ensure!(status.success(), "the second process failed");
    std::fs::remove_dir_all(directory.join("start"))?;
    Ok(())
}

fn started(directory: &Path, millions: u64) -> Result<()> {
    let begun = Instant::now();
    let disk = Disk::open(&[start_config(directory, millions)], KEY_ID)?;
    let opened = begun.elapsed();
    let records = disk.records();
    let second_two = Duration::from_secs(2);
    let late = opened.saturating_sub(second_two);
    std::thread::park_timeout(second_two.saturating_sub(begun.elapsed()));
    let runtime = runtime()?;
    let (hits, took) = runtime.block_on(async {
        let mut rng = StdRng::seed_from_u64(9);
        let (asked, mut hits) = (Instant::now(), 0_u32);
        for _ in 0..100 {
            let lookups = (0..100).map(|_| rng.random_range(0..millions * 1_000_000));
            let lookups: Vec<_> = lookups.map(small).collect();
            let reads = lookups.iter().map(|(name, body)| {
                let disk = &disk;
                async move { disk.read(Kind::Chunk, name, &|got| got == body).await }
            });
            let reads = join_all(reads).await;
            hits += u32::try_from(
                reads
                    .iter()
                    .filter(|read| matches!(read, DiskRead::Hit(_)))
                    .count(),
            )?;
        }
        anyhow::Ok((hits, asked.elapsed()))
    })?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("?")
        .trim();
    println!(
        "opened {records} records in {:.2} s ({:.2} s after second 2); 10,000 random lookups: {hits} hits, {:.2} s; RSS {rss}",
        opened.as_secs_f64(),
        late.as_secs_f64(),
        took.as_secs_f64()
    );
    Ok(())
}
