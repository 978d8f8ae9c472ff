//! Volumes behind one face: opened from directories, run by a thread each, closed with everything on the device.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::{
    Ailments, Check, DiskFuture, DiskMetrics, DiskRead, DiskTier, Kind, Name, Put, Refused,
    checkpoint::{Checkpoint, CheckpointError},
    device::{self, Device, Engine, Extent, IoBuf},
    directory::{Directory, DirectoryError},
    format::{
        Geometry, VolumeId,
        superblock::{SUPERBLOCKS_BYTES, Superblock, SuperblockError},
    },
    keeper::Keeper,
    metrics::Ailing,
    recover,
    survey::{self, Pace, Survey},
    volume::{Layout, Retained, Volume},
};

/// Of a volume's size this part is left for what lies beside the log: the saved index, twice, and the marks.
const BESIDE_PART: u64 = 64;

/// At the end a volume has so long to write what it holds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// One volume as the operator wants it.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Its directory; made if absent.
    pub path: PathBuf,
    /// Bytes that its files may take, all together. Never more than this and a segment.
    pub bytes: u64,
    /// What moves its blocks; `None` for the best that works.
    pub engine: Option<Engine>,
    /// Bytes a day that may be written to it; `None` for no limit.
    pub bytes_a_day: Option<u64>,
    /// Bytes a second at which it is looked through for damage; `None` for not at all.
    pub scrub_bytes_a_second: Option<u64>,
}

/// Why a volume cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] device::OpenError),
    /// It holds something that this build does not read.
    #[error("{path}: {source}", path = path.display())]
    Superblock {
        /// The file.
        path: PathBuf,
        /// What it holds.
        source: SuperblockError,
    },
    /// Looked at without being opened: it holds nothing that was stored by this node.
    #[error("{path}: {why}", path = path.display())]
    Nothing {
        /// The directory.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// It is too small.
    #[error("{path}: {bytes} bytes are too few for a log; give it at least 64MiB", path = path.display())]
    Size {
        /// The directory.
        path: PathBuf,
        /// What was asked for.
        bytes: u64,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What was found when a volume was opened, for the log and for people.
#[derive(Clone, Debug)]
pub struct Found {
    /// Records it holds.
    pub records: u64,
    /// What moves its blocks, and why it is not the best.
    pub device: device::Opened,
    /// Why it begins empty, if it does so against expectation.
    pub emptied: Option<String>,
    /// How long it took to find out.
    pub took: Duration,
}

/// What a volume is and holds.
#[derive(Clone, Debug)]
pub struct VolumeStats {
    /// Its directory.
    pub path: String,
    /// What moves its blocks.
    pub engine: Engine,
    /// Whether the page cache is passed by.
    pub direct: bool,
    /// Bytes its segments may have together.
    pub capacity_bytes: u64,
    /// Bytes its file has.
    pub allocated_bytes: u64,
    /// Bytes of records that can be found, headers and padding included.
    pub live_bytes: u64,
    /// Records that can be found.
    pub records: u64,
    /// Bytes of memory its index takes.
    pub index_bytes: u64,
    /// Bytes of bodies put since the start that were new.
    pub put_bytes: u64,
    /// Bytes of bodies put since the start that were there.
    pub present_bytes: u64,
    /// Bytes written since the start. Over `put_bytes`: the write amplification.
    pub written_bytes: u64,
    /// The length of a segment.
    pub segment_bytes: u32,
    /// Segments in use by age: below each of [`AGE_BOUNDS_SECONDS`](super::AGE_BOUNDS_SECONDS), and older.
    pub segments_by_age: [u64; 6],
    /// What is wrong with it.
    pub ailments: Ailments,
}

/// Volumes behind one face. Names are spread over them by their sizes.
pub struct Disk {
    volumes: Vec<Arc<Running>>,
}

/// A volume and the thread that runs it.
struct Running {
    volume: Arc<Volume>,
    /// For the spread of names.
    weight: f64,
    salt: u64,
    found: Found,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held until the volume is closed.
    directory: Directory,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.volumes.iter().map(|running| &running.volume))
            .finish()
    }
}

impl Disk {
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.iter().map(|running| &running.volume)
    }

    /// Opens volumes. `key_id` tells under which key chunks are named: what was written under another is of no use and leaves.
    ///
    /// Blocks for as long as their indexes take to load: about a second for ten million records.
    ///
    /// # Errors
    /// [`OpenError`]: the first volume that cannot be opened.
    pub fn open(volumes: &[VolumeConfig], key_id: [u8; 16]) -> Result<Self, OpenError> {
        let volumes = volumes
            .iter()
            .map(|config| open(config, key_id).map(Arc::new));
        Ok(Self {
            volumes: volumes.collect::<Result<_, _>>()?,
        })
    }

    /// What [`Disk::open`] would say of the directories and what lies in them; makes and changes nothing.
    ///
    /// # Errors
    /// As [`Disk::open`].
    pub fn check(volumes: &[VolumeConfig]) -> Result<(), OpenError> {
        for config in volumes {
            geometry(config)?;
            Directory::check(&config.path)?;
            let path = config.path.join("log");
            let (region, _) = superblocks(&path)?;
            match Superblock::read(&region) {
                Ok(_) | Err(SuperblockError::Absent) => {}
                Err(source) => return Err(OpenError::Superblock { path, source }),
            }
        }
        Ok(())
    }

    /// What was found in each volume, with its directory.
    pub fn found(&self) -> impl Iterator<Item = (&str, &Found)> {
        self.volumes
            .iter()
            .map(|running| (running.volume.label.as_str(), &running.found))
    }

    /// What is wrong with each volume.
    pub fn ailments(&self) -> impl Iterator<Item = (&str, Ailments)> {
        self.volumes.iter().map(|running| {
            (
                running.volume.label.as_str(),
                running.volume.health.ailments(),
            )
        })
    }

    /// The counters of each volume.
    pub fn metrics(&self) -> impl Iterator<Item = &DiskMetrics> {
        self.volumes.iter().map(|running| &running.volume.metrics)
    }

    /// Bytes of records that can be found now, headers included.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let live = |running: &Arc<Running>| running.volume.live_bytes.load(Ordering::Relaxed);
        self.volumes.iter().map(live).sum()
    }

    /// Records that can be found now.
    #[must_use]
    pub fn records(&self) -> u64 {
        let records = |running: &Arc<Running>| running.volume.index.len() as u64;
        self.volumes.iter().map(records).sum()
    }

    /// Bytes of the largest body of work: what all volumes may hold.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.volumes
            .iter()
            .map(|running| {
                let geometry = running.volume.layout.geometry;
                u64::from(geometry.segments()) * u64::from(geometry.segment_bytes())
            })
            .sum()
    }

    /// Walks through everything that lies on the devices and shows each record that is what was written. Records that are not are dropped. As fast as the devices read;
    /// what is in memory alone is not looked at.
    pub async fn walk(&self, see: &mut (dyn FnMut(Kind, &Name, &[u8]) + Send)) -> Survey {
        let mut survey = Survey::default();
        for running in &self.volumes {
            let mut pace = Pace::new(None);
            survey.add(&survey::all(&running.volume, &mut pace, see).await);
        }
        survey
    }

    /// Drops records of this kind that `keep` does not want, of those in segments that are older than `seconds`: what is younger may be part of
    /// something that is still arriving. How many, and their bytes in the log.
    ///
    /// # Errors
    /// What the device says.
    pub async fn sweep(
        &self,
        kinds: &[Kind],
        seconds: u64,
        keep: &(dyn Fn(&Name) -> bool + Sync),
    ) -> io::Result<(u64, u64)> {
        let mut swept = (0, 0);
        for running in &self.volumes {
            let (records, bytes) = survey::sweep(&running.volume, kinds, seconds, keep).await?;
            swept = (swept.0 + records, swept.1 + bytes);
        }
        Ok(swept)
    }

    /// What each volume is and holds.
    ///
    /// # Errors
    /// What a device says.
    pub async fn stats(&self) -> io::Result<Vec<VolumeStats>> {
        let mut all = Vec::with_capacity(self.volumes.len());
        for Running { volume, found, .. } in self.volumes.iter().map(|running| &**running) {
            let geometry = volume.layout.geometry;
            let allocated = volume.device.len();
            all.push(VolumeStats {
                path: volume.label.clone(),
                engine: found.device.engine,
                direct: found.device.direct,
                capacity_bytes: u64::from(geometry.segments())
                    * u64::from(geometry.segment_bytes()),
                allocated_bytes: allocated,
                live_bytes: volume.live_bytes.load(Ordering::Relaxed),
                records: volume.index.len() as u64,
                index_bytes: volume.index.bytes() as u64,
                put_bytes: volume.metrics.put_bytes.get(),
                present_bytes: volume.metrics.present_bytes.get(),
                written_bytes: volume.metrics.written_bytes.get(),
                segment_bytes: geometry.segment_bytes(),
                segments_by_age: survey::ages(volume, SystemTime::now()).await?,
                ailments: volume.health.ailments(),
            });
        }
        Ok(all)
    }

    /// Where what belongs to the whole cache is kept: the first volume's file of marks.
    #[must_use]
    pub fn marks(&self) -> Option<PathBuf> {
        self.volumes
            .first()
            .map(|running| running.directory.marks())
    }

    /// Says what the tiers above hold: a reason to keep it when its segment is reclaimed. The first answer counts.
    pub fn retain(&self, retained: &Retained) {
        for running in &self.volumes {
            let _ = running.volume.retained.set(Arc::clone(retained));
        }
    }

    /// Adds the counters to a registry, a label a volume.
    pub fn register(&self, registry: &mut Registry) {
        for running in &self.volumes {
            let label = running.volume.label.clone();
            let registry = registry.sub_registry_with_label(("volume".into(), label.into()));
            running.volume.metrics.register(registry);
            registry.register_collector(Box::new(Ailing(Arc::clone(&running.volume))));
        }
    }

    /// Ends all volumes: takes no more, writes what is in memory, saves the indexes. Blocks, at most 10 s a volume. Whether all was written.
    pub fn close(&self) -> bool {
        for running in &self.volumes {
            running.volume.health.close();
            running.end.cancel();
        }
        let unfinished = self.volumes.iter().filter(|running| !running.join());
        unfinished.count() == 0
    }

    fn of(&self, name: &Name) -> Option<&Arc<Volume>> {
        if let [only] = self.volumes.as_slice() {
            return Some(&only.volume);
        }
        let score = |running: &Arc<Running>| {
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, running.salt);
            // Weighted rendezvous hashing: a volume gets its part, and one that comes or goes moves no other's.
            let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -running.weight / unit.ln()
        };
        self.volumes
            .iter()
            .max_by(|a, b| score(a).total_cmp(&score(b)))
            .map(|running| &running.volume)
    }
}

impl Running {
    /// Waits for the thread.
    fn join(&self) -> bool {
        let Some(thread) = self.thread.lock().take() else {
            return true;
        };
        let until = std::time::Instant::now() + CLOSE_TIMEOUT;
        while !thread.is_finished() {
            if std::time::Instant::now() >= until {
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
        self.end.cancel();
        self.join();
    }
}

impl DiskTier for Disk {
    fn put(&self, kind: Kind, name: Name, body: &[u8]) -> Put {
        self.of(&name).map_or(Put::Refused(Refused::Off), |volume| {
            volume.put(kind, name, body)
        })
    }

    fn forget(&self, name: &Name) {
        if let Some(volume) = self.of(name) {
            volume.forget(name);
        }
    }

    fn contains(&self, name: &Name) -> bool {
        self.of(name)
            .is_some_and(|volume| volume.index.get(name).is_some())
    }

    fn read<'a>(
        &'a self,
        kind: Kind,
        name: &'a Name,
        check: Check<'a>,
    ) -> DiskFuture<'a, DiskRead> {
        Box::pin(async move {
            match self.of(name) {
                Some(volume) => volume.read(kind, name, check).await,
                None => DiskRead::Miss,
            }
        })
    }

    fn read_run<'a>(
        &'a self,
        names: &'a [Name],
        check: &'a (dyn Fn(usize, &[u8]) -> bool + Send + Sync),
    ) -> DiskFuture<'a, Vec<DiskRead>> {
        Box::pin(async move {
            let mut answers = vec![DiskRead::Miss; names.len()];
            let of_volumes = self.volumes.iter().map(|running| {
                let names = names.iter().copied().enumerate();
                let here = names.filter(|(_, name)| {
                    self.of(name)
                        .is_some_and(|volume| Arc::ptr_eq(volume, &running.volume))
                });
                (&running.volume, here.collect::<Vec<_>>())
            });
            let reads = of_volumes
                .filter(|(_, names)| !names.is_empty())
                .map(|(volume, names)| async move { volume.read_run(&names, check).await });
            for (at, read) in futures_util::future::join_all(reads)
                .await
                .into_iter()
                .flatten()
            {
                if let Some(answer) = answers.get_mut(at) {
                    *answer = read;
                }
            }
            answers
        })
    }

    fn room(&self) -> DiskFuture<'_, ()> {
        Box::pin(async move {
            for running in &self.volumes {
                running.volume.room().await;
            }
        })
    }

    fn flush(&self) -> DiskFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let flushes = self.volumes.iter().map(|running| running.volume.flush());
            futures_util::future::join_all(flushes)
                .await
                .into_iter()
                .collect()
        })
    }
}

/// How a new log of this size is divided.
pub(super) fn geometry(config: &VolumeConfig) -> Result<Geometry, OpenError> {
    let beside = config.bytes / BESIDE_PART;
    Geometry::for_size(config.bytes - beside).ok_or_else(|| OpenError::Size {
        path: config.path.clone(),
        bytes: config.bytes,
    })
}

/// Opens one volume and lets it run on a thread of its own.
fn open(config: &VolumeConfig, key_id: [u8; 16]) -> Result<Running, OpenError> {
    let started = std::time::Instant::now();
    let wanted = geometry(config)?;
    let directory = Directory::open(&config.path)?;
    let path = directory.log();
    let failed = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let (superblock, emptied) = settle(&path, wanted, key_id)?;
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
            let started = start(label, device, &superblock, checkpoint, bytes_a_day);
            runtime.block_on(started).map(|started| (runtime, started))
        });
        match started {
            Ok((runtime, (volume, mut keeper))) => {
                keeper.scrub_bytes_a_second = scrub;
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
    let salt = u64::from_le_bytes(*first_eight(volume.layout.id.as_bytes()));
    Ok(Running {
        weight: config.bytes as f64,
        salt,
        volume,
        found,
        end,
        thread: Mutex::new(Some(thread)),
        directory,
    })
}

fn first_eight(bytes: &[u8; 16]) -> &[u8; 8] {
    bytes.first_chunk().unwrap_or(&[0; 8])
}

/// The region of the superblocks, as much of it as there is, and the length of the file.
fn superblocks(path: &Path) -> Result<(Vec<u8>, u64), OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let mut region = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((region, 0)),
        Err(error) => return Err(failed(error)),
    };
    let len = file.metadata().map_err(failed)?.len();
    let mut superblocks = file.take(SUPERBLOCKS_BYTES as u64);
    superblocks.read_to_end(&mut region).map_err(failed)?;
    Ok((region, len))
}

/// The superblock of this opening, and why the volume begins empty where it held something. The file is made as short as that demands.
fn settle(
    path: &Path,
    wanted: Geometry,
    key_id: [u8; 16],
) -> Result<(Superblock, Option<String>), OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_owned(),
        source,
    };
    let (region, len) = superblocks(path)?;
    let (superblock, emptied) =
        decide(&region, wanted, key_id).map_err(|source| OpenError::Superblock {
            path: path.to_owned(),
            source,
        })?;
    let most = if superblock.epoch == FIRST_EPOCH {
        0
    } else {
        superblock.geometry.device_bytes()
    };
    if len > most {
        let file = File::options().write(true).open(path).map_err(failed)?;
        file.set_len(most).map_err(failed)?;
    }
    Ok((superblock, emptied))
}

/// Reads what a device holds, and formats it if its superblock is new. The volume runs once its keeper does.
pub(super) async fn start(
    label: String,
    device: Arc<dyn Device>,
    superblock: &Superblock,
    saved_at: Option<PathBuf>,
    bytes_a_day: Option<u64>,
) -> io::Result<(Arc<Volume>, Keeper)> {
    write_superblock(&*device, superblock).await?;
    let layout = Layout {
        id: superblock.volume,
        salt: superblock.volume.salt(),
        geometry: superblock.geometry,
        epoch: superblock.epoch,
    };
    let saved = match saved_at
        .as_deref()
        .map(|path| Checkpoint::open(path, layout.id))
    {
        Some(Ok(saved)) => Some(saved),
        Some(Err(CheckpointError::Io(error))) if error.kind() == io::ErrorKind::NotFound => None,
        Some(Err(error)) => {
            tracing::warn!(volume = %label, %error, "the saved index cannot be used; the whole log is read");
            None
        }
        None => None,
    };
    let contents = recover::recover(&*device, &layout, saved).await?;
    let volume = Arc::new(Volume::new(label, device, layout, contents, bytes_a_day));
    let keeper = Keeper {
        volume: Arc::clone(&volume),
        checkpoint: saved_at,
        scrub_bytes_a_second: None,
        end: CancellationToken::new(),
    };
    Ok((volume, keeper))
}

/// The epoch of a volume that was never opened before.
const FIRST_EPOCH: u64 = 1;

/// The superblock of the next opening, and why the volume begins empty where it held something.
pub(super) fn decide(
    region: &[u8],
    wanted: Geometry,
    key_id: [u8; 16],
) -> Result<(Superblock, Option<String>), SuperblockError> {
    let fresh = || Superblock {
        volume: VolumeId::from_bytes(rand::random()),
        key_id,
        geometry: wanted,
        epoch: FIRST_EPOCH,
    };
    let held = match Superblock::read(region) {
        Ok(held) => held,
        Err(SuperblockError::Absent) => return Ok((fresh(), None)),
        Err(error) => return Err(error),
    };
    if held.key_id != key_id {
        let why = "it was written under another secret, so nothing in it can be found".to_owned();
        return Ok((fresh(), Some(why)));
    }
    // The size may change; segments keep their length as long as there are enough of them.
    let segments = (wanted.device_bytes() - super::format::SEGMENTS_OFFSET)
        / u64::from(held.geometry.segment_bytes());
    let segments = u32::try_from(segments).unwrap_or(u32::MAX);
    let Some(geometry) = Geometry::new(held.geometry.segment_bytes(), segments) else {
        let why = "its new size does not fit the length of its segments".to_owned();
        return Ok((fresh(), Some(why)));
    };
    let superblock = Superblock {
        geometry,
        epoch: held.epoch + 1,
        ..held
    };
    Ok((superblock, None))
}

async fn write_superblock(device: &dyn Device, superblock: &Superblock) -> io::Result<()> {
    let block = |superblock: &Superblock| {
        let bytes = superblock.encode();
        let mut buffer = IoBuf::zeroed(bytes.len());
        buffer.copy_from_slice(&bytes);
        Arc::new(buffer)
    };
    if device.len() < super::format::SEGMENTS_OFFSET {
        device.allocate(Extent {
            offset: 0,
            len: usize::try_from(super::format::SEGMENTS_OFFSET).unwrap_or(usize::MAX),
        })?;
    }
    if superblock.epoch == FIRST_EPOCH {
        // Formatting writes both copies.
        let other = Superblock {
            epoch: 0,
            ..*superblock
        };
        device.write(other.offset(), block(&other)).await?;
        device.sync().await?;
    }
    device.write(superblock.offset(), block(superblock)).await?;
    device.sync().await
}
