//! What an owner keeps of others: their records by key, and a lease for each holder.
//!
//! A value without I/O. Signatures are checked before anything comes here, and what has changed is to be had as a journal for the disk.
//! Every record is in its key's chain and in its lease's bucket, and each bucket's digest is the sum of its records'.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use hashbrown::HashTable;

use super::{
    message::{Change, Refusal, Terms},
    record::{BUCKETS, Digests, Record, bucket, root},
    slab::{Entry, NONE, Slab},
};
use crate::{Key, NodeId};

/// Bounds of what an owner keeps for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableLimits {
    /// Records; default 1,000,000: 88 B each and 10 to 20 of index, some 100 MB.
    pub records: usize,
    /// Holders; default 2,048, at most 65,535. 3 KiB each.
    pub holders: usize,
    /// How long records live after the last word of their holder; default 10 min.
    pub lease: Duration,
    /// Changes that may wait to be written; default 65,536 × 96 B = 6 MiB. Beyond it announcements are refused as [`Refusal::Busy`].
    pub journal: usize,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            records: 1_000_000,
            holders: 2_048,
            lease: Duration::from_mins(10),
            journal: 65_536,
        }
    }
}

/// Holders of one key that an answer chooses from: those that announced last.
pub const CONSIDERED_MAX: usize = 256;

/// A change to be written, in the order of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// A lease, new or renewed.
    Lease {
        /// Its place, which its records name.
        place: u16,
        /// Its terms so far; `owner` is this node.
        terms: Terms,
    },
    /// A lease has ended, and all its records with it.
    End {
        /// Its place.
        place: u16,
    },
    /// A record, new or changed.
    Put {
        /// Its lease's place.
        place: u16,
        /// The record.
        record: Record,
    },
    /// All records of a lease's bucket are gone.
    Clear {
        /// The lease's place.
        place: u16,
        /// The bucket.
        bucket: u8,
    },
    /// A record is gone.
    Delete {
        /// Its lease's place.
        place: u16,
        /// Its key.
        key: Key,
    },
}

/// What the table has counted since it began, and how full it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableTally {
    /// Records there are, those of ended leases that wait to be cleared included.
    pub records: usize,
    /// Leases there are.
    pub leases: usize,
    /// Leases that lapsed.
    pub lapsed: u64,
    /// Records that left at the bound, for those of holders with less than their share.
    pub evicted: u64,
    /// Records that were not taken at the bound.
    pub refused: u64,
    /// Records found on disk that belong to no lease or are too many.
    pub strays: u64,
}

#[derive(Debug)]
struct Lease {
    terms: Terms,
    renewed: Duration,
    /// An ended lease's records are in nobody's answers; they are cleared a few at a time.
    is_live: bool,
    records: usize,
    digests: Box<Digests>,
    heads: Box<[u32; BUCKETS]>,
}

/// What an owner keeps of others.
#[derive(Debug)]
pub struct Table {
    limits: TableLimits,
    slab: Slab,
    /// The first entry of each key.
    heads: HashTable<u32>,
    /// Keyed: who announces chooses the keys.
    hasher: RandomState,
    leases: Vec<Option<Lease>>,
    live: HashMap<NodeId, u16>,
    ended: VecDeque<u16>,
    /// None where nothing is to be written.
    journal: Option<Vec<Write>>,
    tally: TableTally,
}

impl Table {
    /// An empty one. Without a journal nothing is written down for the disk.
    #[must_use]
    pub fn new(limits: TableLimits, is_journaled: bool) -> Self {
        Self {
            limits: TableLimits {
                holders: limits.holders.min(usize::from(u16::MAX)),
                records: limits.records.min(NONE as usize - 1),
                ..limits
            },
            slab: Slab::new(),
            heads: HashTable::new(),
            hasher: RandomState::new(),
            leases: Vec::new(),
            live: HashMap::new(),
            ended: VecDeque::new(),
            journal: is_journaled.then(Vec::new),
            tally: TableTally::default(),
        }
    }

    /// What it has counted.
    #[must_use]
    pub fn tally(&self) -> TableTally {
        TableTally {
            records: self.slab.len(),
            leases: self.live.len(),
            ..self.tally
        }
    }

    /// Who holds a key: of at most [`CONSIDERED_MAX`] holders, those whose lease has not lapsed, the latest to announce first.
    pub fn holders(&self, key: &Key, now: Duration) -> impl Iterator<Item = (NodeId, Record)> + '_ {
        let chain = self.chain(*key).take(CONSIDERED_MAX);
        chain.filter_map(move |at| {
            let entry = self.slab[at];
            let lease = self.lease(entry.lease)?;
            let is_kept = lease.is_live && !self.has_lapsed(lease, now);
            is_kept.then_some((lease.terms.holder, record_of(&entry)))
        })
    }

    /// Applies an announcement whose signature is good. Gives the places of those changes that there is no room for.
    ///
    /// Whether this node owns the keys is not asked: views differ for moments, and what a holder may take up is bounded all the same.
    ///
    /// # Errors
    /// Where it is stale, or where nothing of it can be taken; then nothing has changed.
    pub fn announce(
        &mut self,
        terms: &Terms,
        changes: &[Change],
        now: Duration,
    ) -> Result<Vec<u16>, Refusal> {
        // Each change writes itself, and at the bound what it pushes out; a lease writes three at most.
        self.may_owe(2 * changes.len() + 3)?;
        let place = self.enter(terms, now)?;
        let mut refused = Vec::new();
        for (at, change) in (0u16..).zip(changes) {
            match change {
                Change::Clear(bucket) => self.clear(place, *bucket),
                Change::Remove(key) => {
                    if let Some(at) = self.find(key, place) {
                        self.remove(at, true);
                    }
                }
                Change::Add(record) => {
                    if !self.put(place, record, now) {
                        refused.push(at);
                    }
                }
            }
        }
        Ok(refused)
    }

    /// Renews a lease by a renewal whose signature is good. Gives the digests where they are not those the holder has.
    ///
    /// # Errors
    /// Where it is stale, or there is no room for another holder.
    pub fn renew(
        &mut self,
        terms: &Terms,
        expected: u64,
        now: Duration,
    ) -> Result<Option<Box<Digests>>, Refusal> {
        self.may_owe(3)?;
        let place = self.enter(terms, now)?;
        let digests = self.lease(place).map(|lease| &lease.digests);
        Ok(digests.filter(|digests| root(digests) != expected).cloned())
    }

    /// Whether a record more of this holder would be taken.
    #[must_use]
    pub fn has_room(&self, holder: &NodeId) -> bool {
        if self.slab.len() < self.limits.records {
            return true;
        }
        let place = self.live.get(holder).and_then(|place| self.lease(*place));
        place.is_none_or(|lease| lease.records < self.share())
    }

    /// Ends leases that have lapsed and clears at most `budget` records of ended ones. Whether there is more to clear.
    pub fn sweep(&mut self, now: Duration, budget: usize) -> bool {
        let lapsed: Vec<u16> = self
            .live
            .values()
            .copied()
            .filter(|place| {
                self.lease(*place)
                    .is_some_and(|lease| self.has_lapsed(lease, now))
            })
            .collect();
        for place in lapsed {
            self.tally.lapsed += 1;
            self.end(place);
        }
        self.clear_ended(budget);
        !self.ended.is_empty()
    }

    /// Ends the lease of a holder that is not to be believed any more.
    pub fn forget(&mut self, holder: &NodeId) {
        if let Some(place) = self.live.get(holder) {
            self.end(*place);
        }
    }

    /// What has changed since it was last asked, in order. Empty where nothing is journaled.
    pub fn take_journal(&mut self) -> Vec<Write> {
        self.journal.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Nothing is to be written any more.
    pub fn stop_journal(&mut self) {
        self.journal = None;
    }

    /// A lease from disk, before its records. All get a whole lease: while this node was down nobody could renew.
    pub fn restore_lease(&mut self, place: u16, terms: Terms, now: Duration) {
        let at = usize::from(place);
        let known = self.leases.get(at).is_some_and(Option::is_some);
        if at >= self.limits.holders || known || self.live.contains_key(&terms.holder) {
            self.tally.strays += 1;
            return;
        }
        if self.leases.len() <= at {
            self.leases.resize_with(at + 1, || None);
        }
        self.begin(place, terms, now);
    }

    /// A record from disk.
    pub fn restore(&mut self, place: u16, record: &Record) {
        let has_lease = self.lease(place).is_some_and(|lease| lease.is_live);
        let fits = self.slab.len() < self.limits.records;
        let is_new = has_lease && fits && self.find(&record.key, place).is_none();
        if !is_new || !self.insert(place, record) {
            self.tally.strays += 1;
        }
    }

    fn lease(&self, place: u16) -> Option<&Lease> {
        self.leases.get(usize::from(place))?.as_ref()
    }

    fn lease_mut(&mut self, place: u16) -> Option<&mut Lease> {
        self.leases.get_mut(usize::from(place))?.as_mut()
    }

    fn has_lapsed(&self, lease: &Lease, now: Duration) -> bool {
        now.saturating_sub(lease.renewed) >= self.limits.lease
    }

    fn may_owe(&self, more: usize) -> Result<(), Refusal> {
        let owed = self.journal.as_ref().map_or(0, Vec::len);
        if owed + more > self.limits.journal {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    fn write(&mut self, write: Write) {
        if let Some(journal) = &mut self.journal {
            journal.push(write);
        }
    }

    /// The lease these terms are of, renewed; a new one where there is none or the terms begin a new generation.
    fn enter(&mut self, terms: &Terms, now: Duration) -> Result<u16, Refusal> {
        if let Some(place) = self.live.get(&terms.holder).copied()
            && let Some(lease) = self.lease_mut(place)
        {
            let known = (lease.terms.generation, lease.terms.sequence);
            if (terms.generation, terms.sequence) <= known {
                let (generation, sequence) = known;
                return Err(Refusal::Stale {
                    generation,
                    sequence,
                });
            }
            if terms.generation == lease.terms.generation {
                lease.terms.sequence = terms.sequence;
                lease.renewed = now;
                self.write(Write::Lease {
                    place,
                    terms: *terms,
                });
                return Ok(place);
            }
            // A new lease needs a place of its own until the old one's records are cleared: one such a holder, or generations without end would take
            // all places.
            let is_of = |place: &u16| {
                let lease = self.lease(*place);
                lease.is_some_and(|lease| lease.terms.holder == terms.holder)
            };
            if self.ended.iter().any(is_of) {
                return Err(Refusal::Busy);
            }
            let free = self.free_place().ok_or(Refusal::Full)?;
            self.end(place);
            return Ok(self.start(free, *terms, now));
        }
        let free = self.free_place().ok_or(Refusal::Full)?;
        Ok(self.start(free, *terms, now))
    }

    fn start(&mut self, place: u16, terms: Terms, now: Duration) -> u16 {
        self.begin(place, terms, now);
        // Nothing of a lease that could not be read at the start is left for this one.
        self.write(Write::End { place });
        self.write(Write::Lease { place, terms });
        place
    }

    fn free_place(&mut self) -> Option<u16> {
        let free = self.leases.iter().position(Option::is_none);
        let free = free.unwrap_or(self.leases.len());
        if free >= self.limits.holders {
            return None;
        }
        if free == self.leases.len() {
            self.leases.push(None);
        }
        u16::try_from(free).ok()
    }

    fn begin(&mut self, place: u16, terms: Terms, now: Duration) {
        if let Some(free) = self.leases.get_mut(usize::from(place)) {
            *free = Some(Lease {
                terms,
                renewed: now,
                is_live: true,
                records: 0,
                digests: Box::new([0; BUCKETS]),
                heads: Box::new([NONE; BUCKETS]),
            });
            self.live.insert(terms.holder, place);
        }
    }

    fn end(&mut self, place: u16) {
        let Some(lease) = self.lease_mut(place) else {
            return;
        };
        if std::mem::replace(&mut lease.is_live, false) {
            let holder = lease.terms.holder;
            self.live.remove(&holder);
            self.ended.push_back(place);
            self.write(Write::End { place });
        }
    }

    /// Removes at most `budget` records of ended leases, and frees the places of those that have none left. How many it removed.
    fn clear_ended(&mut self, budget: usize) -> usize {
        let mut cleared = 0;
        while let Some(place) = self.ended.front().copied() {
            match self.any_of(place, 0) {
                Some(_) if cleared == budget => break,
                Some(at) => {
                    self.remove(at, false);
                    cleared += 1;
                }
                None => {
                    self.ended.pop_front();
                    if let Some(lease) = self.leases.get_mut(usize::from(place)) {
                        *lease = None;
                    }
                }
            }
        }
        cleared
    }

    /// Any record of a lease, from this bucket on where it has one there.
    fn any_of(&self, place: u16, from: usize) -> Option<u32> {
        let heads = &self.lease(place)?.heads;
        let (before, after) = heads.split_at(from.min(BUCKETS));
        let mut heads = after.iter().chain(before);
        heads.find(|head| **head != NONE).copied()
    }

    /// Costs no more than it cost to fill the bucket.
    fn clear(&mut self, place: u16, bucket: u8) {
        let head = |table: &Self| {
            let lease = table.lease(place)?;
            let head = lease.heads.get(usize::from(bucket)).copied();
            head.filter(|at| *at != NONE)
        };
        if head(self).is_some() {
            self.write(Write::Clear { place, bucket });
        }
        while let Some(at) = head(self) {
            self.remove(at, false);
        }
    }

    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    fn head(&self, key: &Key) -> Option<u32> {
        let is_it = |at: &u32| self.slab[*at].key == *key;
        self.heads.find(self.hash(key), is_it).copied()
    }

    fn chain(&self, key: Key) -> impl Iterator<Item = u32> + '_ {
        let next = |at: &u32| Some(self.slab[*at].next_of_key).filter(|at| *at != NONE);
        std::iter::successors(self.head(&key), next)
    }

    fn find(&self, key: &Key, place: u16) -> Option<u32> {
        self.chain(*key).find(|at| self.slab[*at].lease == place)
    }

    /// Whether there was room.
    fn put(&mut self, place: u16, record: &Record, now: Duration) -> bool {
        if let Some(at) = self.find(&record.key, place) {
            let entry = &mut self.slab[at];
            let before = record_of(entry).digest();
            entry.manifest = record.manifest;
            entry.fraction = record.fraction;
            entry.generation = record.generation;
            self.account(place, &record.key, record.digest().wrapping_sub(before));
        } else {
            let full = self.slab.len() >= self.limits.records;
            if (full && !self.make_room(place, now)) || !self.insert(place, record) {
                self.tally.refused += 1;
                return false;
            }
        }
        self.write(Write::Put {
            place,
            record: *record,
        });
        true
    }

    fn account(&mut self, place: u16, key: &Key, difference: u64) {
        let at = usize::from(bucket(key));
        if let Some(lease) = self.lease_mut(place)
            && let Some(digest) = lease.digests.get_mut(at)
        {
            *digest = digest.wrapping_add(difference);
        }
    }

    /// A record that is not there yet. Whether it could be.
    fn insert(&mut self, place: u16, record: &Record) -> bool {
        let bucket = usize::from(bucket(&record.key));
        let hash = self.hash(&record.key);
        let of_key = self.head(&record.key);
        let Some(of_lease) = self.lease(place).and_then(|lease| lease.heads.get(bucket)) else {
            return false;
        };
        let entry = Entry {
            key: record.key,
            manifest: record.manifest,
            generation: record.generation,
            next_of_key: of_key.unwrap_or(NONE),
            next: *of_lease,
            previous: NONE,
            lease: place,
            fraction: record.fraction,
        };
        let next = entry.next;
        let Some(at) = self.slab.insert(entry) else {
            return false;
        };
        if next != NONE {
            self.slab[next].previous = at;
        }
        if let Some(lease) = self.lease_mut(place) {
            lease.records += 1;
            if let Some(head) = lease.heads.get_mut(bucket) {
                *head = at;
            }
        }
        match of_key {
            Some(head) => {
                if let Some(known) = self.heads.find_mut(hash, |known| *known == head) {
                    *known = at;
                }
            }
            None => {
                let (slab, hasher) = (&self.slab, &self.hasher);
                let hash_of = |at: &u32| hasher.hash_one(slab[*at].key);
                self.heads.insert_unique(hash, at, hash_of);
            }
        }
        self.account(place, &record.key, record.digest());
        true
    }

    fn remove(&mut self, at: u32, is_journaled: bool) {
        let entry = self.slab[at];
        let bucket = usize::from(bucket(&entry.key));
        if entry.next != NONE {
            self.slab[entry.next].previous = entry.previous;
        }
        if entry.previous != NONE {
            self.slab[entry.previous].next = entry.next;
        }
        if let Some(lease) = self.lease_mut(entry.lease) {
            lease.records -= 1;
            if let Some(head) = lease.heads.get_mut(bucket)
                && *head == at
            {
                *head = entry.next;
            }
        }
        let before = self
            .chain(entry.key)
            .take_while(|known| *known != at)
            .last();
        match before {
            Some(before) => self.slab[before].next_of_key = entry.next_of_key,
            None => {
                let hash = self.hash(&entry.key);
                if let Ok(mut known) = self.heads.find_entry(hash, |known| *known == at) {
                    if entry.next_of_key == NONE {
                        known.remove();
                    } else {
                        *known.get_mut() = entry.next_of_key;
                    }
                }
            }
        }
        let digest = record_of(&entry).digest();
        self.account(entry.lease, &entry.key, digest.wrapping_neg());
        self.slab.remove(at);
        if is_journaled {
            self.write(Write::Delete {
                place: entry.lease,
                key: entry.key,
            });
        }
    }

    /// Records a holder has a right to at the bound.
    fn share(&self) -> usize {
        self.limits.records / self.live.len().max(1)
    }

    /// At the bound, room for one record of this holder: what belongs to nobody goes first; then, where the holder has less than its share, a record of
    /// the lease that was renewed longest ago among those with more. So no holder can push out others by announcing much.
    fn make_room(&mut self, place: u16, now: Duration) -> bool {
        if self.clear_ended(1) > 0 {
            return true;
        }
        let share = self.share();
        let mut oldest: Option<(Duration, u16)> = None;
        for other in self.live.values().copied() {
            let Some(lease) = self.lease(other) else {
                continue;
            };
            let is_lapsed = lease.records > 0 && self.has_lapsed(lease, now);
            let is_over = lease.records > share || is_lapsed;
            if other != place && is_over && oldest.is_none_or(|(at, _)| lease.renewed < at) {
                oldest = Some((lease.renewed, other));
            }
        }
        let has_less = self.lease(place).is_some_and(|lease| lease.records < share);
        let Some((_, victim)) = oldest else {
            return false;
        };
        let lapsed = self
            .lease(victim)
            .is_some_and(|lease| self.has_lapsed(lease, now));
        if !has_less && !lapsed {
            return false;
        }
        // Not always of the same bucket, so that no part of the keys suffers alone.
        let from = usize::try_from(self.tally.evicted % 256).unwrap_or(0);
        let Some(at) = self.any_of(victim, from) else {
            return false;
        };
        self.remove(at, true);
        self.tally.evicted += 1;
        true
    }
}

fn record_of(entry: &Entry) -> Record {
    Record {
        key: entry.key,
        manifest: entry.manifest,
        fraction: entry.fraction,
        generation: entry.generation,
    }
}

#[cfg(test)]
mod tests;
