//! A volume and the thread that runs it.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Name, device,
    directory::Directory,
    open::{self, Found, OpenError, VolumeConfig},
    volume::Volume,
};

/// At the end a volume has so long to write what it holds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A volume and the thread that runs it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) volume: Arc<Volume>,
    /// What it held when it was opened.
    pub(super) found: Found,
    /// Held until the volume is closed.
    pub(super) directory: Directory,
    /// For the spread of names.
    weight: f64,
    salt: u64,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Running {
    /// Opens one volume and lets it run on a thread of its own.
    pub(super) fn start(config: &VolumeConfig, key_id: [u8; 16]) -> Result<Self, OpenError> {
        let started = Instant::now();
        let wanted = open::geometry(config)?;
        let directory = Directory::open(&config.path)?;
        let path = directory.log();
        let failed = |source| OpenError::Io {
            path: path.clone(),
            source,
        };
        let (superblock, emptied) = open::settle(&path, wanted, key_id)?;
        let (device, opened) = device::open(&path, config.engine)?;
        directory.sync().map_err(failed)?;
        let label = config.path.display().to_string();
        let checkpoint = Some(directory.checkpoint());
        let (bytes_a_day, scrub) = (config.bytes_a_day, config.scrub_bytes_a_second);
        // The thread that runs the volume also opens it: whoever waits here may be a runtime's own.
        let (tell, told) = mpsc::sync_channel(1);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let started = runtime.and_then(|runtime| {
                let started = open::start(label, device, &superblock, checkpoint, bytes_a_day);
                runtime.block_on(started).map(|started| (runtime, started))
            });
            match started {
                Ok((runtime, (volume, mut keeper))) => {
                    keeper.scrub_bytes_a_second = scrub;
                    let _alive = Alive(Arc::clone(&volume));
                    if tell.send(Ok((volume, keeper.end.clone()))).is_ok() {
                        runtime.block_on(keeper.run());
                    }
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new()
            .name("stoq-disk".to_owned())
            .spawn(run)
            .map_err(failed)?;
        let ended = |_| io::Error::other("its thread ended");
        let (volume, end) = told
            .recv()
            .map_err(ended)
            .and_then(|started| started)
            .map_err(failed)?;
        let found = Found {
            records: volume.index.len() as u64,
            device: opened,
            emptied,
            took: started.elapsed(),
        };
        let salt = volume.layout.id.as_bytes().first_chunk();
        Ok(Self {
            weight: config.bytes as f64,
            salt: u64::from_le_bytes(salt.copied().unwrap_or_default()),
            volume,
            found,
            directory,
            end,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Weighted rendezvous hashing: a name lies where this is highest. So a volume gets its part, and one that comes or goes moves no other's names.
    pub(super) fn score(&self, name: &Name) -> f64 {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, self.salt);
        let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -self.weight / unit.ln()
    }

    /// Takes no more, and has the thread write what it holds. [`Running::join`] waits for that.
    pub(super) fn end(&self) {
        self.volume.health.close();
        self.end.cancel();
    }

    /// Waits for the thread, at most 10 s. Whether it has written everything.
    pub(super) fn join(&self) -> bool {
        let Some(thread) = self.thread.lock().take() else {
            return true;
        };
        let until = Instant::now() + CLOSE_TIMEOUT;
        while !thread.is_finished() {
            if Instant::now() >= until {
                tracing::error!(volume = %self.volume.label, "the volume's last writes take too long; left to itself");
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        thread.join().is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        self.join();
    }
}

/// Held by the thread. However that ends, nobody waits any longer for what it would have written.
struct Alive(Arc<Volume>);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(volume = %self.0.label, "the thread that writes this volume has failed; nothing is stored in it until the next start");
        }
        self.0.health.end();
        self.0.landed.notify_waiters();
    }
}
