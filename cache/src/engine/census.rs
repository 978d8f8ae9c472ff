//! What is stored on disk altogether: how much of it there is, whether it is what was written, and what of it nobody needs.
//!
//! The volumes know records, the engine knows what a record names: a census walks through the records of responses, then through the pages they
//! name, and counts the chunks of both. It holds a name of each chunk in memory for as long as it takes ([`NameSet`]): less than the index has for it.
//!
//! A sweep ([`Cache::sweep`]) drops chunks and pages that nothing names. What may name one, and how it is seen:
//!
//! | who | how |
//! |---|---|
//! | a record on disk | the walk; a second walk through what moved or was written during the first |
//! | a response in memory whose record the disk did not take | [`Index::for_each`](super::index::Index::for_each) |
//! | a body under way | [`Fill::for_each_name`], and what it puts from then on by [`Disk::collect`] |
//!
//! Where a part cannot be read, nothing is dropped: it might name anything.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{
    Cache,
    persist::{Body, Named, Records},
};
use crate::{
    content::{Entry, Page},
    fill::Fill,
    store::disk::{Disk, DiskRead, DiskTier, Ends, Kind, Name, NameSet, Survey},
};

/// What a node stores on disk.
///
/// On a node that runs, as of about now: what changes while it is counted may be in it or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// URLs with stored responses.
    pub urls: u64,
    /// Stored responses: several of a URL that varies.
    pub objects: u64,
    /// The sum of their lengths, in bytes.
    pub logical_bytes: u64,
    /// Of them, those of which a chunk or page is not there. It is fetched when it is asked for.
    pub incomplete_objects: u64,
    /// Chunks they are made of, each once.
    pub chunks: u64,
    /// Bytes of those that are there. `logical_bytes` over it is what naming by content saves.
    pub physical_bytes: u64,
    /// Chunks that are not there.
    pub absent_chunks: u64,
    /// Objects of which blocks alone are known. They are not among `objects`.
    pub partial_objects: u64,
    /// Those blocks, each once.
    pub blocks: u64,
    /// Records that another build or another cluster wrote, or of a damaged page. They are used by nobody.
    pub unknown_records: u64,
    /// Segments that could not be read. Where there are any, there is more than is counted here.
    pub unreadable_segments: u64,
}

/// What [`Cache::verify`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Every record against the hash it was written with.
    pub survey: Survey,
    /// What is there after the damaged were dropped.
    pub census: Census,
}

impl Checked {
    /// Whether everything is what was written. Chunks that made room are no damage.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.survey.damaged == 0
            && self.survey.unreadable == 0
            && self.census.unreadable_segments == 0
    }
}

/// What [`Cache::sweep`] dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Chunks and pages that something names, or may name.
    pub named: u64,
    /// Records dropped.
    pub records: u64,
    /// Their bytes in the log, which are room once their segments are reclaimed.
    pub bytes: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CensusError {
    /// Nothing is stored on disk.
    #[error("this cache has no disk")]
    NoDisk,
    /// Another sweep is under way.
    #[error("another sweep is under way")]
    Busy,
    /// What cannot be read might name anything.
    #[error(
        "{0} segments cannot be read, so that what they name is not known: nothing was dropped"
    )]
    Unreadable(u64),
    /// The device failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
}

impl Cache {
    /// Counts what is stored on `disk`, which is this cache's. Reads every record of a response, no chunk.
    ///
    /// # Errors
    /// [`CensusError::NoDisk`].
    pub async fn census(&self, disk: &Disk) -> Result<Census, CensusError> {
        let mut tally = Tally::new(disk, self.records()?);
        tally.walk(None).await;
        tally.read_pages().await;
        Ok(tally.finish())
    }

    /// Reads everything on `disk`, which is this cache's, drops what is not what was written, and counts what is left. As fast as the devices read.
    ///
    /// # Errors
    /// [`CensusError::NoDisk`].
    pub async fn verify(&self, disk: &Disk) -> Result<Checked, CensusError> {
        self.records()?;
        let kinds = [Kind::Chunk, Kind::Page, Kind::Head];
        let survey = disk.walk_kinds(&kinds, None, &mut |_, _, _| ()).await;
        let census = self.census(disk).await?;
        Ok(Checked { survey, census })
    }

    /// Drops chunks and pages on `disk`, which is this cache's, that nothing names and that were written more than `seconds` ago.
    ///
    /// # Errors
    /// [`CensusError`]. Nothing is dropped where what is stored could not be read in whole.
    pub async fn sweep(&self, disk: &Disk, seconds: u64) -> Result<Swept, CensusError> {
        let mut tally = Tally::new(disk, self.records()?);
        // From here on: what is put is noted. So whoever is not seen now and comes later is seen by that.
        let collecting = disk.collect().ok_or(CensusError::Busy)?;
        let inner = &self.inner;
        inner.fills.for_each_name(|name| {
            tally.others.insert(name);
        });
        let ends = disk.ends();
        tally.walk(None).await;
        tally.walk(Some(&ends)).await;
        inner.index.for_each(|object| tally.object(object));
        inner.partials.blocks.for_each_name(|id| {
            tally.others.insert(id.as_bytes());
        });
        tally.read_pages().await;
        if tally.census.unreadable_segments > 0 {
            return Err(CensusError::Unreadable(tally.census.unreadable_segments));
        }
        let keep = |name: &Name| tally.names(name);
        let kinds = [Kind::Chunk, Kind::Page];
        let (records, bytes) = disk.sweep(&kinds, seconds, &keep).await?;
        drop(collecting);
        Ok(Swept {
            named: (tally.chunks.len() + tally.pages.len() + tally.others.len()) as u64,
            records,
            bytes,
        })
    }

    fn records(&self) -> Result<&Records, CensusError> {
        let records = self.inner.index.records();
        Ok(records.ok_or(CensusError::NoDisk)?)
    }
}

/// Bodies under way, for their names.
#[derive(Debug, Default)]
pub(super) struct OpenFills(Mutex<Vec<Weak<Fill>>>);

impl OpenFills {
    /// Adds one, before it puts anything. It leaves when it ends.
    pub(super) fn add(&self, fill: &Arc<Fill>) {
        let mut open = self.0.lock();
        // Looked through when it would grow: so it is at most twice as long as there are bodies, at a constant cost for each.
        if open.len() == open.capacity() {
            open.retain(|fill| fill.strong_count() > 0);
            let len = open.len();
            open.reserve(len.max(16));
        }
        open.push(Arc::downgrade(fill));
    }

    fn for_each_name(&self, mut see: impl FnMut(&Name)) {
        let open: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for fill in open {
            fill.for_each_name(&mut see);
        }
    }
}

/// A census under way.
struct Tally<'a> {
    disk: &'a Disk,
    records: &'a Records,
    /// URLs counted.
    urls: NameSet,
    /// Chunks of stored responses.
    chunks: NameSet,
    /// Pages of stored responses, and whether all of it is there; `None` until it was read.
    pages: HashMap<Name, Option<bool>>,
    /// The pages of each response that has them.
    paged: Vec<Vec<Name>>,
    blocks: NameSet,
    /// What else must not go.
    others: NameSet,
    census: Census,
}

impl<'a> Tally<'a> {
    fn new(disk: &'a Disk, records: &'a Records) -> Self {
        Self {
            disk,
            records,
            urls: NameSet::default(),
            chunks: NameSet::default(),
            pages: HashMap::new(),
            paged: Vec::new(),
            blocks: NameSet::default(),
            others: NameSet::default(),
            census: Census::default(),
        }
    }

    /// Walks through the records of responses.
    async fn walk(&mut self, since: Option<&Ends>) {
        let disk = self.disk;
        let see = &mut |_: Kind, name: &Name, body: &[u8]| self.record(name, body);
        let survey = disk.walk_kinds(&[Kind::Head], since, see).await;
        self.census.unreadable_segments += survey.unreadable;
    }

    fn record(&mut self, name: &Name, body: &[u8]) {
        // What moved or was written anew during a walk is seen twice: it counts once, but all that it names is kept.
        let is_new = self.urls.insert(name);
        match self.records.look(name, body) {
            Named::Responses(bodies) => {
                self.census.urls += u64::from(is_new);
                for body in bodies {
                    self.response(body, is_new);
                }
            }
            Named::Blocks => self.census.partial_objects += u64::from(is_new),
            Named::Chunks(names) => {
                for name in &names {
                    self.blocks.insert(name);
                }
            }
            Named::Unknown => self.census.unknown_records += u64::from(is_new),
        }
    }

    fn response(&mut self, body: Body, is_new: bool) {
        let mut is_whole = true;
        for entry in &body.entries {
            is_whole &= self.chunk(entry);
        }
        for page in &body.pages {
            self.pages.entry(*page).or_default();
        }
        if is_new {
            self.census.objects += 1;
            self.census.logical_bytes += body.bytes;
            if body.pages.is_empty() {
                self.census.incomplete_objects += u64::from(!is_whole);
            } else {
                self.paged.push(body.pages);
            }
        }
    }

    /// Counts a chunk. Whether it is there.
    fn chunk(&mut self, entry: &Entry) -> bool {
        let name = entry.id.as_bytes();
        let is_there = self.disk.contains(name);
        if self.chunks.insert(name) {
            self.census.chunks += 1;
            if is_there {
                self.census.physical_bytes += u64::from(entry.len);
            } else {
                self.census.absent_chunks += 1;
            }
        }
        is_there
    }

    /// What memory has of a response.
    fn object(&mut self, object: &crate::object::Object) {
        let manifest = &object.manifest;
        for entry in manifest.entries_from(0) {
            self.others.insert(entry.id.as_bytes());
        }
        for page in manifest.page_digests() {
            self.others.insert(page);
        }
    }

    /// Reads the pages that were named, by walking, and those that moved meanwhile one by one.
    async fn read_pages(&mut self) {
        if self.pages.is_empty() {
            return;
        }
        let disk = self.disk;
        let see = &mut |_: Kind, name: &Name, body: &[u8]| self.page(name, body);
        let survey = disk.walk_kinds(&[Kind::Page], None, see).await;
        self.census.unreadable_segments += survey.unreadable;
        let unread = self.pages.iter().filter(|(_, read)| read.is_none());
        let unread: Vec<Name> = unread.map(|(name, _)| *name).collect();
        for name in unread {
            let check = |body: &[u8]| is_page(&name, body);
            if let DiskRead::Hit(body) = disk.read(Kind::Page, &name, &check).await {
                self.page(&name, &body);
            }
        }
    }

    fn page(&mut self, name: &Name, body: &[u8]) {
        if !matches!(self.pages.get(name), Some(None)) {
            return;
        }
        let Some(page) = is_page(name, body)
            .then(|| Page::decode(body).ok())
            .flatten()
        else {
            self.census.unknown_records += 1;
            return;
        };
        let mut is_whole = true;
        for entry in page.entries() {
            is_whole &= self.chunk(&entry);
        }
        self.pages.insert(*name, Some(is_whole));
    }

    /// Whether anything names it.
    fn names(&self, name: &Name) -> bool {
        self.chunks.contains(name)
            || self.others.contains(name)
            || self.blocks.contains(name)
            || self.pages.contains_key(name)
    }

    fn finish(mut self) -> Census {
        let is_whole = |pages: &Vec<Name>| {
            pages
                .iter()
                .all(|page| self.pages.get(page).copied().flatten() == Some(true))
        };
        let incomplete = self.paged.iter().filter(|pages| !is_whole(pages)).count();
        self.census.incomplete_objects += incomplete as u64;
        self.census.blocks = self.blocks.len() as u64;
        self.census
    }
}

fn is_page(name: &Name, body: &[u8]) -> bool {
    blake3::hash(body) == blake3::Hash::from_bytes(*name)
}
