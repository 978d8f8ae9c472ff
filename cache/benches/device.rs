//! What moving blocks costs by each engine, beside fio on the same file.
//!
//!     cargo bench -p stoq-cache --bench device -- DIRECTORY [SECONDS]
//!
//! Makes a file of 1 GiB in the directory, fills it, and prints MB/s, CPU seconds per GB (10⁹ bytes; user and system, the kernel's workers of
//! io_uring included) and the time of one operation (median, 99th percentile). Random reads of 64 KiB at depths 1, 8 and 32, and writes of 1 MiB in
//! order, 4 at a time, all past the page cache. Contenders take turns, and each figure is the median of three turns of SECONDS (3). Without the
//! directory the bench says so and ends well, for `cargo test --benches`.

#![expect(
    clippy::cast_precision_loss,
    reason = "bytes and nanoseconds become rates"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use stoq_cache::store::disk::device::{Device, Engine, Extent, IoBuf, open};
use tokio::runtime::Builder;

const FILE_BYTES: u64 = 1 << 30;
const TURNS: usize = 3;

/// One row of the table.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    write: bool,
    bytes: usize,
    depth: usize,
}

const LOADS: [Load; 4] = [
    load("read 64 KiB, depth 1", false, 64 << 10, 1),
    load("read 64 KiB, depth 8", false, 64 << 10, 8),
    load("read 64 KiB, depth 32", false, 64 << 10, 32),
    load("write 1 MiB, depth 4", true, 1 << 20, 4),
];

const fn load(name: &'static str, write: bool, bytes: usize, depth: usize) -> Load {
    Load {
        name,
        write,
        bytes,
        depth,
    }
}

#[derive(Clone, Copy)]
struct Measured {
    mb_per_s: f64,
    cpu_s_per_gb: f64,
    median: Duration,
    slow: Duration,
}

fn main() -> Result<()> {
    let mut arguments = env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(directory) = arguments.next() else {
        println!("skipped: no directory to make a file in (see the head of benches/device.rs)");
        return Ok(());
    };
    let seconds = match arguments.next() {
        None => 3.0,
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .context("SECONDS")?,
    };
    let turn = Duration::from_secs_f64(seconds);
    let path = PathBuf::from(directory).join("device.bench");
    let outcome = fill(&path).and_then(|()| table(&path, turn));
    std::fs::remove_file(&path).context("the file of the bench")?;
    outcome
}

/// Makes the file, of bytes that no layer below can leave out.
fn fill(path: &Path) -> Result<()> {
    let (device, opened) = open(path, None)?;
    println!(
        "engine {}, direct {}, {:?}",
        opened.engine, opened.direct, opened.why
    );
    let whole = Extent {
        offset: 0,
        len: usize::try_from(FILE_BYTES)?,
    };
    device.allocate(whole)?;
    let mut rng = StdRng::seed_from_u64(1);
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        for offset in (0..FILE_BYTES).step_by(1 << 20) {
            let mut buffer = IoBuf::zeroed(1 << 20);
            rng.fill_bytes(&mut buffer);
            device.write(offset, Arc::new(buffer)).await?;
        }
        device.sync().await?;
        Ok(())
    })
}

fn table(path: &Path, turn: Duration) -> Result<()> {
    let fio = Command::new("fio").arg("--version").output().is_ok();
    if !fio {
        println!("SKIPPED: fio is not installed, so there is nothing to compare with");
    }
    println!(
        "{:24} {:10} {:>7} {:>9} {:>9} {:>9}",
        "load", "by", "MB/s", "CPU s/GB", "median", "99 %"
    );
    for load in LOADS {
        let mut by: [(&str, Vec<Measured>); 3] =
            ["io_uring", "threads", "fio"].map(|name| (name, Vec::new()));
        for _ in 0..TURNS {
            by[0].1.push(ours(path, Engine::IoUring, load, turn)?);
            by[1].1.push(ours(path, Engine::Threads, load, turn)?);
            if fio {
                by[2].1.push(theirs(path, load, turn)?);
            }
        }
        for (name, mut turns) in by {
            turns.sort_by(|a, b| a.mb_per_s.total_cmp(&b.mb_per_s));
            if let Some(middle) = turns.get(turns.len() / 2) {
                println!(
                    "{:24} {name:10} {:7.0} {:9.3} {:>9} {:>9}",
                    load.name,
                    middle.mb_per_s,
                    middle.cpu_s_per_gb,
                    format!("{} µs", middle.median.as_micros()),
                    format!("{} µs", middle.slow.as_micros()),
                );
            }
        }
    }
    Ok(())
}

fn ours(path: &Path, engine: Engine, load: Load, turn: Duration) -> Result<Measured> {
    let (device, opened) = open(path, Some(engine))?;
    ensure!(
        opened.direct,
        "the directory's filesystem refuses direct access"
    );
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let cpu = cpu_seconds(libc::RUSAGE_SELF)?;
    let begun = Instant::now();
    let lanes = (0..load.depth).map(|lane| lane_of(&*device, load, lane, begun, turn));
    let lanes = runtime.block_on(try_join_all(lanes))?;
    let elapsed = begun.elapsed();
    // The device's and the ring's ends are theirs to pay for.
    drop((device, runtime));
    let cpu = cpu_seconds(libc::RUSAGE_SELF)? - cpu;
    let mut times: Vec<Duration> = lanes.into_iter().flatten().collect();
    times.sort_unstable();
    let bytes = (times.len() * load.bytes) as f64;
    Ok(Measured {
        mb_per_s: bytes / 1e6 / elapsed.as_secs_f64(),
        cpu_s_per_gb: cpu / (bytes / 1e9),
        median: times[times.len() / 2],
        slow: times[times.len() * 99 / 100],
    })
}

/// One operation after the other, and how long each took.
async fn lane_of(
    device: &dyn Device,
    load: Load,
    lane: usize,
    begun: Instant,
    turn: Duration,
) -> Result<Vec<Duration>> {
    let mut rng = StdRng::seed_from_u64(lane as u64);
    let mut times = Vec::with_capacity(1 << 16);
    let places = FILE_BYTES / load.bytes as u64;
    let mut buffer = IoBuf::zeroed(load.bytes);
    rng.fill_bytes(&mut buffer);
    let buffer = Arc::new(buffer);
    let mut next = lane as u64;
    while begun.elapsed() < turn {
        let asked = Instant::now();
        if load.write {
            let offset = next % places * load.bytes as u64;
            device.write(offset, Arc::clone(&buffer)).await?;
            next += load.depth as u64;
        } else {
            let offset = rng.random_range(0..places) * load.bytes as u64;
            let len = load.bytes;
            let read = device.read(Extent { offset, len }).await?;
            ensure!(read.len() == len, "a short read");
        }
        times.push(asked.elapsed());
    }
    Ok(times)
}

/// fio with io_uring, flags of its own choice, and its own accounts of time; its CPU is what the system counts of it, its start included.
fn theirs(path: &Path, load: Load, turn: Duration) -> Result<Measured> {
    let cpu = cpu_seconds(libc::RUSAGE_CHILDREN)?;
    let output = Command::new("fio")
        .arg("--name=device")
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--size={FILE_BYTES}"))
        .args([
            "--ioengine=io_uring",
            "--direct=1",
            "--time_based",
            "--thread",
        ])
        .arg(format!(
            "--rw={}",
            if load.write { "write" } else { "randread" }
        ))
        .arg(format!("--bs={}", load.bytes))
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--runtime={}ms", turn.as_millis()))
        .arg("--output-format=json")
        .output()?;
    let cpu = cpu_seconds(libc::RUSAGE_CHILDREN)? - cpu;
    if !output.status.success() {
        bail!("fio: {}", String::from_utf8_lossy(&output.stderr));
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let side = &report["jobs"][0][if load.write { "write" } else { "read" }];
    let bytes = side["io_bytes"].as_f64().context("io_bytes")?;
    let seconds = side["runtime"].as_f64().context("runtime")? / 1e3;
    let percentile = |percent: &str| {
        let nanoseconds = side["clat_ns"]["percentile"][percent].as_u64();
        nanoseconds.map(Duration::from_nanos).context("percentile")
    };
    Ok(Measured {
        mb_per_s: bytes / 1e6 / seconds,
        cpu_s_per_gb: cpu / (bytes / 1e9),
        median: percentile("50.000000")?,
        slow: percentile("99.000000")?,
    })
}

/// User and system time.
#[expect(unsafe_code, reason = "the call has no safe wrapper here")]
fn cpu_seconds(who: i32) -> Result<f64> {
    // SAFETY: all zeroes are a valid `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        ensure!(libc::getrusage(who, &raw mut usage) == 0, "getrusage");
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
