//! A checkpoint read: its head first, by which the caller finds out what of it still counts, then its entries.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use super::{
    BUFFER_BYTES, CHECKPOINT_VERSION, CheckpointError, CheckpointHead, END, END_BYTES, HEAD_BYTES,
    MAGIC, Part, Position, SHARD_HEAD_BYTES, SHARDS_U32, SLOT_BYTES,
};
use crate::store::disk::{
    format::{Fields, SEGMENTS_MAX, Salt, VolumeId},
    index::{Index, Place, Slot},
};

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
    pub(super) fn from_reader(
        reader: R,
        bytes: u64,
        volume: VolumeId,
    ) -> Result<Self, CheckpointError> {
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
