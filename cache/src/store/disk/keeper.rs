//! The tasks of a volume: what is full or old goes to the device, old segments are reclaimed ahead of need, the index is saved now and then, and
//! a device that failed is tried again.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    checkpoint::{self, CheckpointHead, Position},
    device::{BLOCK_BYTES, Extent, IoBuf},
    format::footer::{self, FooterEntry, footer_bytes},
    log::{Flight, Work},
    reclaim,
    segments::Life,
    survey,
    volume::Volume,
};

/// Appends under way at once.
const WRITES_MAX: usize = 4;

/// An open buffer leaves at the second tick after its first byte: so within a second, with room for a busy machine.
const TICK: Duration = Duration::from_millis(300);

/// Between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// The block that a failed device is tried with, behind the superblocks.
const PROBE_OFFSET: u64 = 2 * BLOCK_BYTES as u64;

/// A probe that takes longer has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What runs a volume. Ends some time after it was told to, when all that was put is on the device.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) volume: Arc<Volume>,
    /// Where the index is saved; `None` for nowhere.
    pub(super) checkpoint: Option<PathBuf>,
    /// How fast what lies on the device is looked through for damage; `None` for not at all.
    pub(super) scrub_bytes_a_second: Option<u64>,
    /// Tells it to end.
    pub(super) end: CancellationToken,
}

impl Keeper {
    /// Runs the volume until its end.
    pub(super) async fn run(self) {
        let written = CancellationToken::new();
        let write = async {
            write(&self.volume, &self.end).await;
            written.cancel();
        };
        // It appends too: nothing may be after the log was sealed for good.
        let reclaim = self.end.run_until_cancelled(reclaim::run(&self.volume));
        let probe = written.run_until_cancelled(probe(&self.volume));
        let scrub = async {
            if let Some(rate) = self.scrub_bytes_a_second {
                survey::scrub(&self.volume, rate).await;
            }
        };
        let scrub = written.run_until_cancelled(scrub);
        let save = self.save_until(&written);
        tokio::join!(write, reclaim, probe, scrub, save);
    }

    /// Saves the index now and then, after a failure, and once everything is written.
    async fn save_until(&self, written: &CancellationToken) {
        let Some(path) = &self.checkpoint else { return };
        let mut saved = None;
        loop {
            let ended = tokio::select! {
                () = written.cancelled() => true,
                () = tokio::time::sleep(CHECKPOINT_EVERY) => false,
                () = self.volume.recovered.notified() => false,
            };
            // What was put before is in the index by now, and what is behind the position on the device.
            let position = self.volume.log.lock().position();
            if saved != Some(position) {
                match save(&self.volume, path, position).await {
                    Ok(()) => saved = Some(position),
                    Err(error) => {
                        self.volume.metrics.checkpoints_failed.inc();
                        tracing::warn!(volume = %self.volume.label, %error, "the index could not be saved; the next start reads more of the log");
                    }
                }
            }
            if ended {
                return;
            }
        }
    }
}

/// Saves the index as of a position of the log.
async fn save(volume: &Arc<Volume>, path: &Path, position: Position) -> io::Result<()> {
    let head = CheckpointHead {
        volume: volume.layout.id,
        position,
        sequences: volume.segments.sequences(),
    };
    // What the checkpoint speaks of must be there after a power loss before it is.
    volume.device.sync().await?;
    let (volume, path) = (Arc::clone(volume), path.to_owned());
    tokio::task::spawn_blocking(move || {
        let started = std::time::Instant::now();
        let written = checkpoint::write(&path, &head, &volume.index)?;
        volume.metrics.checkpoints.inc();
        tracing::debug!(volume = %volume.label, entries = written.entries, bytes = written.bytes, took = ?started.elapsed(), "index saved");
        Ok(())
    })
    .await
    .map_err(io::Error::other)?
}

/// Writes what the log hands over, until its end.
async fn write(volume: &Arc<Volume>, end: &CancellationToken) {
    let mut flying = FuturesUnordered::new();
    // A sync may take seconds on a busy filesystem: what comes after it is written meanwhile.
    let mut sealing = FuturesUnordered::new();
    let mut entries: HashMap<u32, Vec<FooterEntry>> = HashMap::new();
    let mut seal: Option<(u32, u64)> = None;
    let mut ending = false;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while seal.is_none() && flying.len() < WRITES_MAX {
            let work = volume.log.lock().next_work();
            match work {
                None => break,
                Some(Work::Write(flight)) => flying.push(fly(volume, flight)),
                Some(Work::Seal { segment, sequence }) => seal = Some((segment, sequence)),
            }
        }
        if flying.is_empty()
            && let Some((segment, sequence)) = seal.take()
        {
            let of_segment = entries.remove(&segment).unwrap_or_default();
            sealing.push(seal_segment(volume, segment, sequence, of_segment));
            continue;
        }
        if ending && flying.is_empty() && sealing.is_empty() {
            return;
        }
        tokio::select! {
            Some((flight, result)) = flying.next(), if !flying.is_empty() => {
                land(volume, flight, result, &mut entries);
            }
            Some(()) = sealing.next(), if !sealing.is_empty() => {}
            () = volume.work.notified() => {}
            _ = ticks.tick() => volume.log.lock().age(),
            () = end.cancelled(), if !ending => {
                ending = true;
                volume.log.lock().seal();
            }
        }
    }
}

async fn fly(volume: &Arc<Volume>, flight: Arc<Flight>) -> (Arc<Flight>, io::Result<()>) {
    let offset = volume.layout.offset(flight.segment, flight.start as u64);
    let result = volume.device.write(offset, Arc::clone(&flight.bytes)).await;
    (flight, result)
}

/// A flight is on the device, or lost.
fn land(
    volume: &Volume,
    flight: Arc<Flight>,
    result: io::Result<()>,
    entries: &mut HashMap<u32, Vec<FooterEntry>>,
) {
    let is_written = result.is_ok();
    match result {
        Ok(()) => {
            volume
                .metrics
                .written_bytes
                .inc_by(flight.bytes.len() as u64);
            let written = entries.entry(flight.segment).or_default();
            written.extend_from_slice(&flight.entries);
        }
        Err(error) => {
            for entry in &flight.entries {
                volume.lose(entry, flight.segment);
            }
            write_failed(volume, &error);
        }
    }
    let mut log = volume.log.lock();
    log.landed(&flight);
    if !is_written {
        // Recovery ends a segment at a hole, so nothing more goes behind this one.
        log.seal_if_open(flight.sequence);
    }
    log.recycle(flight);
    drop(log);
    volume.pay_tombstones();
    volume.landed.notify_waiters();
}

fn write_failed(volume: &Volume, error: &io::Error) {
    volume.metrics.write_errors.inc();
    if volume.health.write_failed(error) {
        tracing::error!(volume = %volume.label, %error, "the disk tier writes no more until its device works again; requests are served without it");
    }
}

/// Ends a segment whose records are all written.
async fn seal_segment(
    volume: &Arc<Volume>,
    segment: u32,
    sequence: u64,
    mut entries: Vec<FooterEntry>,
) {
    // Flights land in any order.
    entries.sort_unstable_by_key(|entry| entry.offset);
    let segment_bytes = volume.layout.geometry.segment_bytes();
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let len = usize::try_from(footer_bytes(count)).unwrap_or(0);
    let mut buffer = IoBuf::zeroed(len);
    let salt = volume.layout.salt;
    let encoded = footer::encode(&entries, sequence, segment_bytes, salt, &mut buffer);
    let within = u64::from(segment_bytes).saturating_sub(len as u64);
    let offset = volume.layout.offset(segment, within);
    let durable = match encoded {
        Ok(()) => match volume.device.write(offset, Arc::new(buffer)).await {
            Ok(()) => volume.device.sync().await,
            Err(error) => Err(error),
        },
        Err(error) => Err(io::Error::other(error)),
    };
    match durable {
        Ok(()) => {
            volume.metrics.written_bytes.inc_by(len as u64);
        }
        // Without a footer its records are found one by one.
        Err(error) => write_failed(volume, &error),
    }
    volume.segments.turn(segment, Life::Open, Life::Sealed);
    volume.opened.notify_one();
}

/// Tries a device that failed, until it works.
async fn probe(volume: &Arc<Volume>) {
    let mut stamp: u64 = 0;
    loop {
        let fallen_ill = volume.health.fallen_ill();
        let Some(due) = volume.health.probe_due() else {
            fallen_ill.await;
            continue;
        };
        sleep_until(due).await;
        let mut block = IoBuf::zeroed(BLOCK_BYTES);
        stamp = stamp.wrapping_add(1);
        block
            .iter_mut()
            .zip(stamp.to_le_bytes())
            .for_each(|(byte, stamp)| *byte = stamp);
        let block = Arc::new(block);
        let attempt = async {
            volume
                .device
                .write(PROBE_OFFSET, Arc::clone(&block))
                .await?;
            volume.device.sync().await?;
            let extent = Extent {
                offset: PROBE_OFFSET,
                len: BLOCK_BYTES,
            };
            let read = volume.device.read(extent).await?;
            Ok::<bool, io::Error>(read[..] == block[..])
        };
        let worked = matches!(timeout(PROBE_TIMEOUT, attempt).await, Ok(Ok(true)));
        if volume.health.probed(worked) {
            tracing::info!(volume = %volume.label, "the disk tier works again");
            // The log may have lost the start of a segment, where recovery would end: it begins behind that now.
            volume.recovered.notify_one();
            volume.pay_tombstones();
            volume.landed.notify_waiters();
        }
    }
}
