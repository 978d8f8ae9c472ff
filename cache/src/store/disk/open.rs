//! Opening a volume: what its directory holds against what the operator wants.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    checkpoint::{Checkpoint, CheckpointError},
    device::{self, Device, Engine, Extent, IoBuf},
    directory::{Directory, DirectoryError},
    format::{
        Geometry, VolumeId,
        superblock::{SUPERBLOCKS_BYTES, Superblock, SuperblockError},
    },
    keeper::Keeper,
    recover,
    volume::{Layout, Volume},
};

/// Of a volume's size this part is left for what lies beside the log: the saved index, twice, and the marks.
const BESIDE_PART: u64 = 64;

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

/// How a new log of this size is divided.
pub(super) fn geometry(config: &VolumeConfig) -> Result<Geometry, OpenError> {
    let beside = config.bytes / BESIDE_PART;
    Geometry::for_size(config.bytes - beside).ok_or_else(|| OpenError::Size {
        path: config.path.clone(),
        bytes: config.bytes,
    })
}

/// What opening would say of a volume's directory and what lies in it; makes and changes nothing.
pub(super) fn check(config: &VolumeConfig) -> Result<(), OpenError> {
    geometry(config)?;
    Directory::check(&config.path)?;
    let path = config.path.join("log");
    let (region, _) = superblocks(&path)?;
    match Superblock::read(&region) {
        Ok(_) | Err(SuperblockError::Absent) => Ok(()),
        Err(source) => Err(OpenError::Superblock { path, source }),
    }
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
pub(super) fn settle(
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
