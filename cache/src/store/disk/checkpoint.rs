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

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    format::{Fields, Row, SEGMENTS_MAX, Salt, VolumeId},
    index::{Index, Place, SHARDS, Slot},
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

/// A checkpoint whose head was read and checked, and whose entries were not looked at yet.
#[derive(Debug)]
pub struct Checkpoint<R = BufReader<File>> {
    reader: R,
    /// Bytes not read yet.
    left: u64,
    seed: u64,
    salt: Salt,
    head: CheckpointHead,
}

impl Checkpoint {
    /// Opens the checkpoint of this volume. Blocks.
    ///
    /// # Errors
    /// [`CheckpointError`], [`Io`](CheckpointError::Io) with [`NotFound`](io::ErrorKind::NotFound) if there is none.
    pub fn open(path: &Path, volume: VolumeId) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::Io)?;
        let bytes = file.metadata().map_err(CheckpointError::Io)?.len();
        Self::from_reader(BufReader::with_capacity(BUFFER_BYTES, file), bytes, volume)
    }
}

impl<R: Read> Checkpoint<R> {
    /// Reads the head of a checkpoint that is this long.
    fn from_reader(reader: R, bytes: u64, volume: VolumeId) -> Result<Self, CheckpointError> {
        let salt = volume.salt();
        let position = Position {
            sequence: 0,
            segment: 0,
            offset: 0,
        };
        let head = CheckpointHead {
            volume,
            position,
            sequences: Vec::new(),
        };
        let mut this = Self {
            reader,
            left: bytes,
            seed: 0,
            salt,
            head,
        };
        let fixed: [u8; HEAD_BYTES] = this.array()?;
        let segments = this.fixed(&fixed)?;
        let mut sequences = Vec::new();
        this.bytes(segments as usize * 8, &mut sequences)?;
        if this.array()? != salt.checksum(&sequences).to_le_bytes() {
            return Err(CheckpointError::Damaged(Part::Sequences));
        }
        let (sequences, _) = sequences.as_chunks();
        this.head.sequences = sequences.iter().map(|it| u64::from_le_bytes(*it)).collect();
        Ok(this)
    }

    /// What it says beside the entries.
    pub const fn head(&self) -> &CheckpointHead {
        &self.head
    }

    /// Reads the entries into an index, without those whose place is not to be kept. Blocks: some 0.3 s for ten million.
    ///
    /// Memory: the index, and one shard of the file.
    ///
    /// # Errors
    /// [`CheckpointError`]; nothing of the entries is then known.
    pub fn load(mut self, mut keep: impl FnMut(Place) -> bool) -> Result<Index, CheckpointError> {
        let index = Index::new(self.seed);
        let mut entries = 0;
        let mut bytes = Vec::new();
        for shard in 0..SHARDS_U32 {
            let damaged = || CheckpointError::Damaged(Part::Shard(shard));
            let head: [u8; SHARD_HEAD_BYTES] = self.array()?;
            let mut fields = Fields(&head);
            let (Some(number), Some(count), Some(sum)) = (fields.u32(), fields.u32(), fields.u64())
            else {
                return Err(damaged());
            };
            if number != shard {
                return Err(damaged());
            }
            self.bytes(count as usize * SLOT_BYTES, &mut bytes)?;
            if sum != self.salt.checksum(&bytes) {
                return Err(damaged());
            }
            let (slots, _) = bytes.as_chunks();
            let slots = || {
                slots
                    .iter()
                    .map(|bits| Slot::from_bits(u128::from_le_bytes(*bits)))
            };
            if slots().any(|slot| slot.is_none()) {
                return Err(damaged());
            }
            let kept = slots().flatten().filter(|slot| keep(slot.place()));
            index.restore_shard(shard as usize, count as usize, kept);
            entries += u64::from(count);
        }
        self.end(entries)?;
        Ok(index)
    }

    /// The fields of the head. Returns the number of segments.
    fn fixed(&mut self, fixed: &[u8; HEAD_BYTES]) -> Result<u32, CheckpointError> {
        let damaged = CheckpointError::Damaged(Part::Head);
        let mut fields = Fields(fixed);
        if fields.array() != Some(MAGIC) {
            return Err(CheckpointError::Magic);
        }
        let version = fields.u32();
        let shards = fields.u32();
        let (Some(version), Some(shards), Some(got)) = (version, shards, fields.array()) else {
            return Err(damaged);
        };
        let (got, want) = (VolumeId::from_bytes(got), self.head.volume);
        if version != CHECKPOINT_VERSION {
            return Err(CheckpointError::Version(version));
        }
        if got != want {
            return Err(CheckpointError::Volume { got, want });
        }
        let (said, sum) = fixed.split_at(HEAD_BYTES - 8);
        let whole = Fields(sum).u64() == Some(self.salt.checksum(said));
        let (Some(seed), Some(sequence), Some(segment), Some(offset), Some(segments), Some(0)) = (
            fields.u64(),
            fields.u64(),
            fields.u32(),
            fields.u32(),
            fields.u32(),
            fields.u32(),
        ) else {
            return Err(damaged);
        };
        if !whole || shards != SHARDS_U32 || segments > SEGMENTS_MAX {
            return Err(damaged);
        }
        self.seed = seed;
        self.head.position = Position {
            sequence,
            segment,
            offset,
        };
        Ok(segments)
    }

    fn end(&mut self, entries: u64) -> Result<(), CheckpointError> {
        let end: [u8; END_BYTES] = self.array()?;
        let mut fields = Fields(&end);
        let (said, _) = end.split_at(END_BYTES - 8);
        let expected = (Some(END), Some(entries), Some(self.salt.checksum(said)));
        if (fields.array(), fields.u64(), fields.u64()) != expected {
            return Err(CheckpointError::Damaged(Part::End));
        }
        match self.left {
            0 => Ok(()),
            left => Err(CheckpointError::Trailing(left)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    /// Reads so many bytes into a buffer of that length. A length beyond the file's allocates nothing.
    fn bytes(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), CheckpointError> {
        if len as u64 > self.left {
            return Err(CheckpointError::Truncated);
        }
        out.resize(len, 0);
        self.fill(out)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        self.left = self
            .left
            .checked_sub(out.len() as u64)
            .ok_or(CheckpointError::Truncated)?;
        self.reader
            .read_exact(out)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => CheckpointError::Truncated,
                _ => CheckpointError::Io(error),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::store::disk::Name;

    fn name(n: u64) -> Name {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn place(n: u32) -> Place {
        Place::new(n % 100, n % 1_000 * 64, n % 262_144).unwrap()
    }

    fn head(segments: u64) -> CheckpointHead {
        CheckpointHead {
            volume: VolumeId::from_bytes([7; 16]),
            position: Position {
                sequence: 40,
                segment: 3,
                offset: 4096,
            },
            sequences: (0..segments).map(|n| n * 3).collect(),
        }
    }

    fn index(entries: u32) -> Index {
        let index = Index::new(5);
        for n in 0..entries {
            index.insert(&name(n.into()), place(n));
            for _ in 0..n % 5 {
                index.touch(&name(n.into()));
            }
        }
        index
    }

    fn encoded(entries: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let written = encode(&mut out, &head(100), &index(entries)).unwrap();
        assert_eq!(
            (written.entries, written.bytes),
            (entries.into(), out.len() as u64)
        );
        out
    }

    fn decoded(bytes: &[u8]) -> Result<Index, CheckpointError> {
        let len = bytes.len() as u64;
        let checkpoint = Checkpoint::from_reader(bytes, len, head(0).volume)?;
        assert_eq!(*checkpoint.head(), head(100));
        checkpoint.load(|_| true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Names, places and uses, for those that are kept.
        #[test]
        fn loading_inverts_writing(numbers in prop::collection::vec(any::<u32>(), 0..3_000), seed: u64, dropped in 0..5_u32) {
            let index = Index::new(seed);
            let mut model = HashMap::new();
            for n in numbers {
                index.insert(&name((n % 2_000).into()), place(n));
                index.touch(&name((n % 2_000).into()));
                model.insert(n % 2_000, place(n));
            }
            let mut bytes = Vec::new();
            encode(&mut bytes, &head(3), &index).unwrap();
            let checkpoint =
                Checkpoint::from_reader(&*bytes, bytes.len() as u64, head(0).volume).unwrap();
            let keep = |place: Place| place.segment() % 5 != dropped;
            let loaded = checkpoint.load(keep).unwrap();
            for (n, place) in &model {
                let name = name((*n).into());
                let expected = keep(*place).then(|| index.uses(&name, *place)).flatten();
                prop_assert_eq!(loaded.uses(&name, *place), expected);
            }
            prop_assert_eq!(loaded.len(), model.values().filter(|place| keep(**place)).count());
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decoded(&bytes).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let mut bytes = encoded(2_000);
        // Every bit of the head and the end; elsewhere a bit of every 101st byte.
        let ends = |at: usize, len: usize| at < HEAD_BYTES || at + END_BYTES > len;
        for at in 0..bytes.len() {
            let bits = if ends(at, bytes.len()) {
                0..8
            } else {
                at % 8..at % 8 + usize::from(at % 101 == 0)
            };
            for bit in bits {
                bytes[at] ^= 1 << bit;
                assert!(decoded(&bytes).is_err(), "byte {at}, bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
        assert!(decoded(&bytes).is_ok());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let bytes = encoded(1_000);
        for len in (0..bytes.len()).step_by(397).chain([bytes.len() - 1]) {
            let got = decoded(&bytes[..len]);
            assert!(
                matches!(got, Err(CheckpointError::Truncated)),
                "{len}: {got:?}"
            );
        }
        let long = [&*bytes, b"x"].concat();
        assert!(matches!(decoded(&long), Err(CheckpointError::Trailing(1))));
    }

    #[test]
    fn counts_beyond_the_file_allocate_nothing() {
        let mut bytes = encoded(0);
        let shard = HEAD_BYTES + 100 * 8 + 8;
        bytes[shard + 4..shard + 8].fill(0xff);
        assert!(matches!(decoded(&bytes), Err(CheckpointError::Truncated)));
    }

    #[test]
    fn another_volume_and_another_version_are_named() {
        let bytes = encoded(10);
        let other = VolumeId::from_bytes([8; 16]);
        let got = Checkpoint::from_reader(&*bytes, bytes.len() as u64, other);
        assert!(matches!(got, Err(CheckpointError::Volume { want, .. }) if want == other));
        let mut newer = bytes;
        newer[8] = 2;
        assert!(matches!(decoded(&newer), Err(CheckpointError::Version(2))));
    }

    #[test]
    fn a_checkpoint_takes_the_place_of_the_one_before_or_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let volume = head(0).volume;
        let missing = Checkpoint::open(&path, volume);
        assert!(
            matches!(missing, Err(CheckpointError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
        );
        for entries in [1_000, 500] {
            // What a crash left does not matter.
            fs::write(unfinished(&path), vec![1; 1 << 20]).unwrap();
            let written = write(&path, &head(7), &index(entries)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), written.bytes);
            let loaded = Checkpoint::open(&path, volume)
                .unwrap()
                .load(|_| true)
                .unwrap();
            assert_eq!(loaded.len(), entries as usize);
        }
        // A directory in its way: the new one cannot be made.
        fs::create_dir(unfinished(&path)).unwrap();
        assert!(write(&path, &head(7), &index(10)).is_err());
        let loaded = Checkpoint::open(&path, volume)
            .unwrap()
            .load(|_| true)
            .unwrap();
        assert_eq!(loaded.len(), 500);
    }

    #[test]
    fn what_changes_meanwhile_is_in_it_or_not_and_all_else_is() {
        let index = index(5_000);
        let bytes = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 5_000..9_000 {
                    index.insert(&name(n), place(1));
                    index.remove(&name(n - 1_000));
                }
            });
            let mut bytes = Vec::new();
            encode(&mut bytes, &head(100), &index).unwrap();
            writer.join().unwrap();
            bytes
        });
        let loaded = decoded(&bytes).unwrap();
        for n in 0..4_000 {
            assert_eq!(loaded.get(&name(n.into())), Some(place(n)));
        }
    }
}
