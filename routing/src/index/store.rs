//! The index on disk: what an owner keeps of others and what a holder announces, in one file.
//!
//! Written behind, in batches, each one transaction: after a crash it is as it was a moment before, and the digests of the next renewals
//! find what is missing. So it is a shortcut past announcing everything again, never the truth: a file that is damaged, of another
//! format or of another node is set aside, and the index begins empty. All of it blocks.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    holder::{HeldWrite, Holder, HolderLimits},
    message::Terms,
    record::{Record, bucket},
    table::{Table, TableLimits, Write},
};
use crate::{Key, NodeId};

/// The version of the tables below. Another one is not read.
const FORMAT: u64 = 1;

/// Memory for pages of the file: the tables are read once, in order, and written in batches.
const CACHE_BYTES: usize = 8 << 20;

/// "format" and "generation".
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// "node": whose index it is.
const NAMES: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("names");
/// By place: holder, generation, sequence.
const LEASES: TableDefinition<'_, u16, &[u8; 48]> = TableDefinition::new("leases");
/// By place, bucket and key.
const RECORDS: TableDefinition<'_, &[u8; 35], &[u8; 41]> = TableDefinition::new("records");
/// By key.
const HELD: TableDefinition<'_, &[u8; 32], &[u8; 41]> = TableDefinition::new("held");

/// What went wrong with the file. What it says of damage is told to people, and the file is set aside.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: Box<redb::Error>,
    },
    /// A damaged file could not be moved away.
    #[error("{path} is no index of this node ({why}), and cannot be set aside: {error}")]
    SetAside {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What happened.
        error: io::Error,
    },
}

/// The index's file.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

/// What was found on disk.
#[derive(Debug)]
pub struct Opened {
    /// The file, to write to.
    pub store: Store,
    /// What an owner keeps of others.
    pub table: Table,
    /// What this node announces.
    pub holder: Holder,
    /// Where a file that could not be read is now, and what is wrong with it. One is kept; an older one is overwritten.
    pub set_aside: Option<(PathBuf, String)>,
}

/// Whose index it is and what it may keep.
#[derive(Debug, Clone, Copy)]
pub struct StoreTerms {
    /// This node.
    pub me: NodeId,
    /// Bounds of what is kept of others.
    pub table: TableLimits,
    /// Bounds of what is announced.
    pub holder: HolderLimits,
    /// The present.
    pub now: Duration,
    /// The present in unix milliseconds: a new file's generation.
    pub wall: u64,
}

/// Why a file is not read.
enum Fault {
    Damaged(String),
    Failed(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_damaged = match &error {
            redb::Error::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ),
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::RepairAborted => true,
            _ => false,
        };
        if is_damaged {
            Self::Damaged(error.to_string())
        } else {
            Self::Failed(error)
        }
    }
}

impl Store {
    /// Opens the file or makes it, and reads all of it. A file of which it can make nothing is set aside and one is made.
    ///
    /// # Errors
    /// Where the file is in use or the disk does not work.
    pub fn open(path: &Path, terms: &StoreTerms) -> Result<Opened, StoreError> {
        let why = match Self::read(path, terms) {
            Ok((store, table, holder)) => {
                return Ok(Opened {
                    store,
                    table,
                    holder,
                    set_aside: None,
                });
            }
            Err(Fault::Failed(error)) => return Err(failed(path, error)),
            Err(Fault::Damaged(why)) => why,
        };
        let aside = aside(path);
        fs::rename(path, &aside).map_err(|error| StoreError::SetAside {
            path: path.to_owned(),
            why: why.clone(),
            error,
        })?;
        match Self::read(path, terms) {
            Ok((store, table, holder)) => Ok(Opened {
                store,
                table,
                holder,
                set_aside: Some((aside, why)),
            }),
            Err(Fault::Failed(error)) => Err(failed(path, error)),
            Err(Fault::Damaged(why)) => Err(failed(path, redb::Error::Corrupted(why))),
        }
    }

    fn read(path: &Path, terms: &StoreTerms) -> Result<(Self, Table, Holder), Fault> {
        // The library has had panics on damaged files; one more must not keep a node from starting.
        let read = catch_unwind(AssertUnwindSafe(|| Self::read_unguarded(path, terms)));
        read.unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Fault::Damaged(words.unwrap_or("unreadable").to_owned()))
        })
    }

    fn read_unguarded(path: &Path, terms: &StoreTerms) -> Result<(Self, Table, Holder), Fault> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)?;
        let generation = begin(&database, terms)?;
        let mut table = Table::new(terms.table, true);
        let mut holder = Holder::new(terms.me, generation, terms.holder, true);
        let reading = database.begin_read()?;
        for lease in reading.open_table(LEASES)?.iter()? {
            let (place, lease) = lease?;
            table.restore_lease(
                place.value(),
                lease_terms(lease.value(), terms.me),
                terms.now,
            );
        }
        for record in reading.open_table(RECORDS)?.iter()? {
            let (at, record) = record?;
            let (place, key) = place_and_key(at.value());
            if let Some(record) = record_of(key, record.value()) {
                table.restore(place, &record);
            }
        }
        for held in reading.open_table(HELD)?.iter()? {
            let (key, held) = held?;
            if let Some(record) = record_of(Key(*key.value()), held.value()) {
                holder.restore(&record);
            }
        }
        drop(reading);
        let path = path.to_owned();
        Ok((Self { database, path }, table, holder))
    }

    /// Writes what has changed, in this order, as one transaction that is on the device when it returns.
    ///
    /// # Errors
    /// Where the disk does not work; then nothing of it is written.
    pub fn write(&self, table: &[Write], held: &[HeldWrite]) -> Result<(), StoreError> {
        if table.is_empty() && held.is_empty() {
            return Ok(());
        }
        self.try_write(table, held)
            .map_err(|error| failed(&self.path, error))
    }

    fn try_write(&self, table: &[Write], held: &[HeldWrite]) -> Result<(), redb::Error> {
        let writing = self.database.begin_write()?;
        {
            let mut leases = writing.open_table(LEASES)?;
            let mut records = writing.open_table(RECORDS)?;
            for write in table {
                match write {
                    Write::Lease { place, terms } => {
                        leases.insert(place, &lease_bytes(terms))?;
                    }
                    Write::End { place } => {
                        leases.remove(place)?;
                        let (first, last) = (at(*place, 0, 0), at(*place, 0xff, 0xff));
                        records.retain_in::<&[u8; 35], _>(&first..=&last, |_, _| false)?;
                    }
                    Write::Put { place, record } => {
                        let at = at_key(*place, &record.key);
                        records.insert(&at, &record_bytes(record))?;
                    }
                    Write::Clear { place, bucket } => {
                        let (first, last) = (at(*place, *bucket, 0), at(*place, *bucket, 0xff));
                        records.retain_in::<&[u8; 35], _>(&first..=&last, |_, _| false)?;
                    }
                    Write::Delete { place, key } => {
                        records.remove(&at_key(*place, key))?;
                    }
                }
            }
            let mut own = writing.open_table(HELD)?;
            for write in held {
                match write {
                    HeldWrite::Put(record) => {
                        own.insert(&record.key.0, &record_bytes(record))?;
                    }
                    HeldWrite::Delete(key) => {
                        own.remove(&key.0)?;
                    }
                }
            }
        }
        writing.commit()?;
        Ok(())
    }
}

/// Makes the tables of a new file, and holds those of an old one to this format and node. Gives the holder's generation.
fn begin(database: &Database, terms: &StoreTerms) -> Result<u64, Fault> {
    let writing = database.begin_write()?;
    let generation = {
        let mut numbers = writing.open_table(NUMBERS)?;
        let mut names = writing.open_table(NAMES)?;
        let format = numbers.get("format")?.map(|format| format.value());
        match format {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Fault::Damaged(format!("format {other}, not {FORMAT}")));
            }
            None => {
                numbers.insert("format", FORMAT)?;
                numbers.insert("generation", terms.wall)?;
                names.insert("node", &terms.me.0)?;
            }
        }
        let node = names.get("node")?.map(|node| NodeId(*node.value()));
        if node != Some(terms.me) {
            return Err(Fault::Damaged(format!("of another node, {node:?}")));
        }
        writing.open_table(LEASES)?;
        writing.open_table(RECORDS)?;
        writing.open_table(HELD)?;
        let generation = numbers
            .get("generation")?
            .map(|generation| generation.value());
        generation.unwrap_or(terms.wall)
    };
    writing.commit()?;
    Ok(generation)
}

fn failed(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
        error => StoreError::Io {
            path,
            error: Box::new(error),
        },
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".set-aside");
    path.with_file_name(name)
}

fn at(place: u16, bucket: u8, rest: u8) -> [u8; 35] {
    let mut at = [rest; 35];
    let [high, low] = place.to_be_bytes();
    (at[0], at[1], at[2]) = (high, low, bucket);
    at
}

fn at_key(place: u16, key: &Key) -> [u8; 35] {
    let mut at = at(place, bucket(key), 0);
    at[3..].copy_from_slice(&key.0);
    at
}

fn place_and_key(at: &[u8; 35]) -> (u16, Key) {
    let [high, low, _, key @ ..] = at;
    (u16::from_be_bytes([*high, *low]), Key(*key))
}

fn record_bytes(record: &Record) -> [u8; 41] {
    let mut bytes = [0; 41];
    bytes[..32].copy_from_slice(&record.manifest);
    bytes[32] = record.fraction;
    bytes[33..].copy_from_slice(&record.generation.to_be_bytes());
    bytes
}

/// None where the bytes are no record.
fn record_of(key: Key, bytes: &[u8; 41]) -> Option<Record> {
    let (manifest, rest) = bytes.split_first_chunk()?;
    let (fraction, generation) = rest.split_first()?;
    let generation = u64::from_be_bytes(*generation.first_chunk()?);
    (*fraction > 0).then_some(Record {
        key,
        manifest: *manifest,
        fraction: *fraction,
        generation,
    })
}

fn lease_bytes(terms: &Terms) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(&terms.holder.0);
    bytes[32..40].copy_from_slice(&terms.generation.to_be_bytes());
    bytes[40..].copy_from_slice(&terms.sequence.to_be_bytes());
    bytes
}

fn lease_terms(bytes: &[u8; 48], owner: NodeId) -> Terms {
    let number = |at: usize| {
        let bytes = bytes
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let [holder @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = bytes;
    Terms {
        holder: NodeId(*holder),
        owner,
        generation: number(32),
        sequence: number(40),
    }
}

#[cfg(test)]
mod tests;
