//! The index as a file, so that a start need not read the log.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `STOQ-IDX` |
//! | 4 | version, 1 |
//! | 4 | shards |
//! | 16 | the volume's id |
//! | 8 | seed of the index |
//! | 8, 4, 4 | position of the log: sequence, segment, offset |
//! | 4 | segments |
//! | 4 | zeroes |
//! | 8 | salted xxh3 of the 64 bytes before |
//! | 8 each | sequence of each segment |
//! | 8 | salted xxh3 of these |
//! | | each shard: its number (4), entries (4), salted xxh3 of them (8), entries as they lie in memory (16 each) |
//! | 8 | magic, `STOQ-END` |
//! | 8 | entries of all shards |
//! | 8 | salted xxh3 of the 16 bytes before |
//!
//! The file is written beside its place, made durable, and moved there: what lies under its name was once whole. What has been damaged since is
//! refused, and the log read from its beginning instead.
//!
//! Shards are copied one after another while the volume goes on. A checkpoint therefore knows everything put or forgotten before its position, and an unknown
//! part of what came after. Who loads it replays the log from the position, and keeps no entry whose record lies behind the position or in a
//! segment that had another sequence when the checkpoint was taken: the replay brings back those of them that reached the device.

mod load;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub use self::load::Checkpoint;
use super::{
    format::{Row, SEGMENTS_MAX, VolumeId},
    index::{Index, SHARDS, Slot},
};

/// The version of checkpoints that this build writes, and the only one it reads. Another one is no error of the volume: its log is replayed.
pub const CHECKPOINT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"STOQ-IDX";
const END: [u8; 8] = *b"STOQ-END";
const HEAD_BYTES: usize = 72;
const SHARD_HEAD_BYTES: usize = 16;
const END_BYTES: usize = 24;
const SLOT_BYTES: usize = 16;
/// What is read or written at once, about.
const BUFFER_BYTES: usize = 1024 * 1024;
/// [`SHARDS`] as files count.
#[expect(clippy::cast_possible_truncation, reason = "4,096")]
const SHARDS_U32: u32 = SHARDS as u32;

/// A place in the log: where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The sequence of the open segment.
    pub sequence: u64,
    /// The open segment.
    pub segment: u32,
    /// Where its next record begins, in bytes.
    pub offset: u32,
}

/// What a checkpoint says beside the entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The volume.
    pub volume: VolumeId,
    /// All that was put or forgotten before is in the checkpoint.
    pub position: Position,
    /// The sequence each segment had, 0 for one that was never opened. At most [`SEGMENTS_MAX`].
    pub sequences: Vec<u64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Entries.
    pub entries: u64,
    /// The file's length in bytes.
    pub bytes: u64,
}

/// Why a file is no checkpoint of the volume. In each case the whole log is replayed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is none, or it cannot be read.
    #[error(transparent)]
    Io(io::Error),
    /// Something else.
    #[error("no checkpoint's magic")]
    Magic,
    /// Another build wrote it.
    #[error("checkpoint version {0}, this build reads {CHECKPOINT_VERSION}")]
    Version(u32),
    /// Left over from another volume.
    #[error("checkpoint of volume {got}, this is {want}")]
    Volume {
        /// The volume it is of.
        got: VolumeId,
        /// The volume it was looked for.
        want: VolumeId,
    },
    /// Damaged.
    #[error("checkpoint damaged: {0}")]
    Damaged(Part),
    /// The file ends too early.
    #[error("checkpoint ends early")]
    Truncated,
    /// The file goes on after the end.
    #[error("{0} bytes after the end of a checkpoint")]
    Trailing(u64),
}

/// A part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The head.
    Head,
    /// The segments' sequences.
    Sequences,
    /// A shard, by its number.
    Shard(u32),
    /// The end.
    End,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("head"),
            Self::Sequences => f.write_str("sequences of the segments"),
            Self::Shard(shard) => write!(f, "shard {shard}"),
            Self::End => f.write_str("end"),
        }
    }
}

/// Writes a checkpoint to `path`, in place of the one there. Blocks: about a second for ten million entries, most of it the device's.
///
/// Memory: a buffer of 1 MiB and a copy of one shard. No lock is held while the device is waited for.
///
/// # Errors
/// What the filesystem says. The checkpoint that was there is then still there.
pub fn write(path: &Path, head: &CheckpointHead, index: &Index) -> io::Result<Written> {
    let unfinished = unfinished(path);
    let written = write_durably(&unfinished, head, index).and_then(|written| {
        fs::rename(&unfinished, path)?;
        // Without this the name may still lead to the old file after a crash, which is whole as well: only its replay is longer.
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        Ok(written)
    });
    if written.is_err() {
        // What is left of it may be what a full device lacks.
        drop(fs::remove_file(&unfinished));
    }
    written
}

/// Where the file lies until it is whole. One that a crash left is overwritten by the next.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn write_durably(path: &Path, head: &CheckpointHead, index: &Index) -> io::Result<Written> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let written = encode(&mut out, head, index)?;
    out.into_inner()?.sync_data()?;
    Ok(written)
}

fn encode(out: &mut impl Write, head: &CheckpointHead, index: &Index) -> io::Result<Written> {
    let salt = head.volume.salt();
    let segments = u32::try_from(head.sequences.len())
        .ok()
        .filter(|segments| *segments <= SEGMENTS_MAX)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut fixed = [0; HEAD_BYTES];
    let (said, sum) = fixed.split_at_mut(HEAD_BYTES - 8);
    let mut row = Row(said);
    row.put(&MAGIC);
    row.put(&CHECKPOINT_VERSION.to_le_bytes());
    row.put(&SHARDS_U32.to_le_bytes());
    row.put(head.volume.as_bytes());
    row.put(&index.seed().to_le_bytes());
    row.put(&head.position.sequence.to_le_bytes());
    row.put(&head.position.segment.to_le_bytes());
    row.put(&head.position.offset.to_le_bytes());
    row.put(&segments.to_le_bytes());
    sum.copy_from_slice(&salt.checksum(said).to_le_bytes());
    out.write_all(&fixed)?;

    let mut bytes: Vec<u8> = Vec::new();
    bytes.extend(head.sequences.iter().flat_map(|it| it.to_le_bytes()));
    out.write_all(&bytes)?;
    out.write_all(&salt.checksum(&bytes).to_le_bytes())?;
    let mut written = Written {
        entries: 0,
        bytes: (HEAD_BYTES + bytes.len() + 8 + END_BYTES) as u64,
    };

    let mut slots: Vec<Slot> = Vec::new();
    for shard in 0..SHARDS_U32 {
        slots.clear();
        index.copy_shard(shard as usize, &mut slots);
        let entries = u32::try_from(slots.len()).map_err(io::Error::other)?;
        bytes.clear();
        bytes.extend(slots.iter().flat_map(|slot| slot.bits().to_le_bytes()));
        out.write_all(&shard.to_le_bytes())?;
        out.write_all(&entries.to_le_bytes())?;
        out.write_all(&salt.checksum(&bytes).to_le_bytes())?;
        out.write_all(&bytes)?;
        written.entries += u64::from(entries);
        written.bytes += (SHARD_HEAD_BYTES + bytes.len()) as u64;
    }

    let mut end = [0; END_BYTES];
    let (said, sum) = end.split_at_mut(END_BYTES - 8);
    let mut row = Row(said);
    row.put(&END);
    row.put(&written.entries.to_le_bytes());
    sum.copy_from_slice(&salt.checksum(said).to_le_bytes());
    out.write_all(&end)?;
    Ok(written)
}
