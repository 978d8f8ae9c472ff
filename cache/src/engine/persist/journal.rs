//! The marks of what was invalidated, in a file that outlives the process.
//!
//! The file is a header and a row of marks, each 56 bytes with a checksum of its own:
//!
//! | bytes | what (little-endian) |
//! |---|---|
//! | 1 | kind: 1 a URL, 2 a slot of groups, 3 the floor, 4 the ceiling |
//! | 3 | zero |
//! | 4 | slot |
//! | 8 | point |
//! | 32 | key of the URL |
//! | 8 | xxh3-64 of the bytes before, seeded with the era |
//!
//! Of marks about the same thing the highest point counts, so writing one twice changes nothing. The **ceiling** is a point that no point given out in
//! this process will exceed, synced before the first is: the next process begins there, so points never go back whatever was lost. The
//! **floor** says that everything from before it is invalid, for when single marks had to be given up. The **era** names the sequence: a file
//! that is missing, of another cluster or damaged is begun anew under another, and records of an earlier era count as invalid.
//!
//! A mark is written before the answer that caused it is passed on, which survives the end of the process; it is synced within a second, so
//! a loss of power may take the last second's with it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3;

use crate::key::CacheKey;

const MAGIC: [u8; 8] = *b"stoqmark";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 56;
const KEY_CONTEXT: &str = "stoq 2026-11-21 file of marks v1";

/// Points a process may give out before it has to raise the ceiling, which it does at half of them.
const CEILING_STEP: u64 = 1 << 32;

/// A file longer than this is not one of ours: all slots, as many URLs, and as much again before it is rewritten come to less.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why the file of marks cannot be used. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A newer build wrote it.
    #[error(
        "{} has format {got}, this build reads up to {VERSION}: use the newer build, or remove the file, which makes everything stored be validated once",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        got: u32,
    },
}

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Entry {
    /// What is stored of this URL from before the point is invalid.
    Url(CacheKey, u64),
    /// What belongs to a group of this slot and was asked for before the point is invalid.
    Slot(u32, u64),
    /// Everything from before the point is invalid.
    Floor(u64),
    /// No point above this one was given out.
    Ceiling(u64),
}

impl Entry {
    fn encode(&self, era: u64) -> [u8; ENTRY_BYTES] {
        let (kind, slot, point, key) = match self {
            Self::Url(key, point) => (1, 0, *point, *key.as_bytes()),
            Self::Slot(slot, point) => (2, *slot, *point, [0; 32]),
            Self::Floor(point) => (3, 0, *point, [0; 32]),
            Self::Ceiling(point) => (4, 0, *point, [0; 32]),
        };
        let mut bytes = [0; ENTRY_BYTES];
        let (body, check) = bytes.split_at_mut(ENTRY_BYTES - 8);
        body[0] = kind;
        body[4..8].copy_from_slice(&u32::to_le_bytes(slot));
        body[8..16].copy_from_slice(&point.to_le_bytes());
        body[16..].copy_from_slice(&key);
        check.copy_from_slice(&xxh3::xxh3_64_with_seed(body, era).to_le_bytes());
        bytes
    }

    /// `None` for anything that was not encoded under this era.
    fn decode(bytes: &[u8; ENTRY_BYTES], era: u64) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<8>()?;
        if xxh3::xxh3_64_with_seed(body, era) != u64::from_le_bytes(*check) {
            return None;
        }
        let (head, body) = body.split_first_chunk::<4>()?;
        let (slot, body) = body.split_first_chunk::<4>()?;
        let (point, key) = body.split_first_chunk::<8>()?;
        let (slot, point) = (u32::from_le_bytes(*slot), u64::from_le_bytes(*point));
        match head {
            [1, 0, 0, 0] => Some(Self::Url(CacheKey::from_bytes(key.try_into().ok()?), point)),
            [2, 0, 0, 0] => Some(Self::Slot(slot, point)),
            [3, 0, 0, 0] => Some(Self::Floor(point)),
            [4, 0, 0, 0] => Some(Self::Ceiling(point)),
            _ => None,
        }
    }
}

/// All that the marks of a file come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Recovered {
    pub(in crate::engine) era: u64,
    /// Points begin after this one.
    pub(in crate::engine) ceiling: u64,
    pub(in crate::engine) floor: u64,
    pub(in crate::engine) urls: HashMap<CacheKey, u64>,
    pub(in crate::engine) slots: HashMap<u32, u64>,
}

impl Recovered {
    /// Nothing, in an era of its own.
    pub(in crate::engine) fn new() -> Self {
        Self {
            era: rand::random(),
            ceiling: 0,
            floor: 0,
            urls: HashMap::new(),
            slots: HashMap::new(),
        }
    }

    fn take(&mut self, entry: Entry) {
        let raise = |place: &mut u64, point: u64| *place = point.max(*place);
        match entry {
            Entry::Url(key, point) => raise(self.urls.entry(key).or_default(), point),
            Entry::Slot(slot, point) => raise(self.slots.entry(slot).or_default(), point),
            Entry::Floor(point) => raise(&mut self.floor, point),
            Entry::Ceiling(point) => raise(&mut self.ceiling, point),
        }
    }

    /// The marks that come to this.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let urls = self
            .urls
            .iter()
            .map(|(key, point)| Entry::Url(*key, *point));
        let slots = self.slots.iter();
        let slots = slots.map(|(slot, point)| Entry::Slot(*slot, *point));
        [Entry::Ceiling(self.ceiling), Entry::Floor(self.floor)]
            .into_iter()
            .chain(urls)
            .chain(slots)
    }

    /// What a file comes to; `None` where it is none of this cluster's, or is damaged elsewhere than at its end.
    fn read(bytes: &[u8], key_id: &[u8; 16]) -> Result<Option<Self>, u32> {
        let Some((header, entries)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let Some((version, era)) = open_header(header, key_id) else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(version);
        }
        let mut recovered = Self { era, ..Self::new() };
        let mut is_cut = false;
        // What is no whole entry at the end was torn off.
        for bytes in entries.chunks_exact(ENTRY_BYTES) {
            let entry = bytes.try_into().ok();
            match entry.and_then(|bytes| Entry::decode(bytes, era)) {
                Some(_) if is_cut => return Ok(None),
                Some(entry) => recovered.take(entry),
                None => is_cut = true,
            }
        }
        Ok(Some(recovered))
    }
}

fn encode_header(era: u64, key_id: &[u8; 16]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&era.to_le_bytes());
    bytes[24..40].copy_from_slice(key_id);
    let check = xxh3::xxh3_64(&bytes[..40]);
    bytes[40..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Format and era of a file of this cluster's.
fn open_header(bytes: &[u8; HEADER_BYTES], key_id: &[u8; 16]) -> Option<(u32, u64)> {
    let (body, check) = bytes.split_last_chunk::<8>()?;
    let (magic, rest) = body.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let version = u32::from_le_bytes(*version);
    if *magic != MAGIC {
        return None;
    }
    if version > VERSION {
        // What follows may mean something else.
        return Some((version, 0));
    }
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let (era, id) = rest.split_first_chunk::<8>()?;
    let holds = xxh3::xxh3_64(body) == u64::from_le_bytes(*check) && id == key_id;
    holds.then(|| (version, u64::from_le_bytes(*era)))
}

/// The file of marks, opened. One process has it at a time, which is for its directory's lock to see to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    key_id: [u8; 16],
    era: u64,
    ceiling: u64,
    /// Bytes of the file that hold marks.
    len: u64,
    recovered: Option<Recovered>,
    began_anew: bool,
}

impl Journal {
    /// Opens the file of marks at `path`, or begins one. Reads and writes it whole, at most 64 MiB, and syncs it: milliseconds.
    ///
    /// # Errors
    /// It cannot be read or written, or a newer build wrote it.
    pub fn open(path: &Path, secret: &[u8; 32]) -> Result<Self, JournalError> {
        let path = path.to_path_buf();
        let failed = |source| JournalError::Io {
            path: path.clone(),
            source,
        };
        let mut key_id = [0; 16];
        key_id.copy_from_slice(&blake3::derive_key(KEY_CONTEXT, secret)[..16]);
        let found = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() <= FILE_BYTES_MAX => {
                let bytes = fs::read(&path).map_err(failed)?;
                Recovered::read(&bytes, &key_id).map_err(|got| JournalError::Version {
                    path: path.clone(),
                    got,
                })?
            }
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let began_anew = found.is_none();
        let recovered = found.unwrap_or_else(Recovered::new);
        let start = recovered.ceiling;
        let ceiling = start.saturating_add(CEILING_STEP);
        let raised = Recovered {
            ceiling,
            ..recovered.clone()
        };
        let (file, len) = rewrite(&path, &key_id, &raised).map_err(failed)?;
        Ok(Self {
            file,
            key_id,
            era: recovered.era,
            ceiling,
            len,
            recovered: Some(recovered),
            began_anew,
            path,
        })
    }

    /// Whether nothing of an earlier process could be used: its responses will be validated before they are.
    #[must_use]
    pub const fn began_anew(&self) -> bool {
        self.began_anew
    }

    /// What the file came to when it was opened. Once.
    pub(in crate::engine) fn recovered(&mut self) -> Recovered {
        self.recovered.take().unwrap_or_else(Recovered::new)
    }

    /// Adds marks. After an error the file is as if nothing had been added.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.encode(self.era))
            .collect();
        // At the end of what counts: what an earlier write left behind it is written over.
        self.file.write_all_at(&bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Waits until what was added is there for good.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether points have come so near the ceiling that it should be raised, and to what.
    pub(super) fn next_ceiling(&self, point: u64) -> Option<u64> {
        (self.ceiling.saturating_sub(point) < CEILING_STEP / 2)
            .then(|| self.ceiling.saturating_add(CEILING_STEP))
    }

    /// Raises the ceiling, for good.
    pub(super) fn raise(&mut self, ceiling: u64) -> io::Result<()> {
        self.append(&[Entry::Ceiling(ceiling)])?;
        self.sync()?;
        self.ceiling = ceiling;
        Ok(())
    }

    /// Bytes of marks.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Bytes that so many marks take.
    pub(super) const fn bytes_of(entries: usize) -> u64 {
        (HEADER_BYTES + entries * ENTRY_BYTES) as u64
    }

    /// Puts a file that holds just these marks in this one's place.
    pub(super) fn compact(&mut self, state: &Recovered) -> io::Result<()> {
        let state = Recovered {
            era: self.era,
            ceiling: self.ceiling,
            ..state.clone()
        };
        (self.file, self.len) = rewrite(&self.path, &self.key_id, &state)?;
        Ok(())
    }
}

/// Writes a file anew beside the old one and puts it in its place.
fn rewrite(path: &Path, key_id: &[u8; 16], state: &Recovered) -> io::Result<(File, u64)> {
    let new = path.with_extension("new");
    let mut bytes = encode_header(state.era, key_id).to_vec();
    for entry in state.entries() {
        bytes.extend_from_slice(&entry.encode(state.era));
    }
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    fn key(n: u8) -> CacheKey {
        CacheKey::from_bytes([n; 32])
    }

    fn marks() -> Vec<Entry> {
        vec![
            Entry::Url(key(1), 5),
            Entry::Slot(9, 6),
            Entry::Url(key(1), 8),
            Entry::Floor(3),
        ]
    }

    #[test]
    fn marks_come_back_and_points_never_go_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("marks");
        let mut journal = Journal::open(&path, &SECRET).unwrap();
        assert!(journal.began_anew());
        let first = journal.recovered();
        journal.append(&marks()).unwrap();
        // No sync, no orderly end.
        drop(journal);
        let mut journal = Journal::open(&path, &SECRET).unwrap();
        assert!(!journal.began_anew());
        let again = journal.recovered();
        assert_eq!(again.era, first.era);
        assert!(again.ceiling >= first.ceiling + CEILING_STEP);
        assert_eq!(again.urls, HashMap::from([(key(1), 8)]));
        assert_eq!(again.slots, HashMap::from([(9, 6)]));
        assert_eq!(again.floor, 3);
        journal.compact(&again).unwrap();
        drop(journal);
        let third = Journal::open(&path, &SECRET).unwrap().recovered();
        assert_eq!((&third.urls, &third.slots), (&again.urls, &again.slots));
        assert!(third.ceiling > again.ceiling);
    }

    #[test]
    fn a_torn_end_costs_what_was_torn_and_damage_before_it_the_era() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("marks");
        let mut journal = Journal::open(&path, &SECRET).unwrap();
        let era = journal.era;
        journal.append(&marks()).unwrap();
        let whole = fs::read(&path).unwrap();
        let reopen = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Journal::open(&path, &SECRET).unwrap().recovered()
        };
        let torn = reopen(&whole[..whole.len() - ENTRY_BYTES - 10]);
        assert_eq!((torn.era, torn.floor), (era, 0));
        assert_eq!(torn.urls, HashMap::from([(key(1), 5)]));
        let mut damaged = whole.clone();
        let at = whole.len() - 3 * ENTRY_BYTES;
        damaged[at] ^= 1;
        assert_ne!(reopen(&damaged).era, era);
        let mut header = whole.clone();
        header[20] ^= 1;
        assert_ne!(reopen(&header).era, era);
        assert_ne!(reopen(b"").era, era);
        let other = {
            fs::write(&path, &whole).unwrap();
            Journal::open(&path, &[8; 32]).unwrap()
        };
        assert!(other.began_anew(), "of another cluster");
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("marks");
        drop(Journal::open(&path, &SECRET).unwrap());
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 2;
        fs::write(&path, &bytes).unwrap();
        let error = Journal::open(&path, &SECRET).unwrap_err();
        assert!(
            matches!(error, JournalError::Version { got: 2, .. }),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes, "and left alone");
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_a_mark_is_taken_for_another(
            point: u64, slot: u32, era: u64, key: [u8; 32], kind in 0..4_u8, bit in 0..ENTRY_BYTES * 8
        ) {
            let entry = match kind {
                0 => Entry::Url(CacheKey::from_bytes(key), point),
                1 => Entry::Slot(slot, point),
                2 => Entry::Floor(point),
                _ => Entry::Ceiling(point),
            };
            let mut bytes = entry.encode(era);
            prop_assert_eq!(Entry::decode(&bytes, era), Some(entry));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Entry::decode(&bytes, era), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Recovered::read(&bytes, &[0; 16]);
            let mut framed = encode_header(1, &[0; 16]).to_vec();
            framed.extend_from_slice(&bytes);
            prop_assert!(Recovered::read(&framed, &[0; 16]).is_ok());
        }
    }
}
