//! What a holder knows of one owner: what the owner has by all it accepted, and what it has yet to hear.
//!
//! The invariant: unless a message is under way or was lost, `believed` is the digests of what an honest owner has. A change that
//! waits notes what the owner has of its key now ([`Waiting::before`], zero for nothing), so that once it is accepted `believed` moves by exactly what changed
//! there, however often the key changed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{HolderLimits, change_of};
use crate::{
    Key,
    index::{
        message::{CHANGES_MAX, Change},
        record::{BUCKETS, Digests, Record, bucket, root},
    },
};

/// Keys looked at for one announcement, some microseconds each: of most of a bucket's keys another node may be the owner.
const LOOKED_AT_MAX: usize = 1_024;

pub(super) enum Due {
    At(Duration),
    Never,
}

pub(super) enum Built {
    /// There is nothing to send yet; where it still is due, more is to be looked through.
    Nothing,
    Changes(Vec<Change>),
    /// With this root.
    Renewal(u64),
}

/// What a change that is under way does to what the owner has.
#[derive(Debug, Clone, Copy)]
enum Sent {
    Clear(u8),
    Key {
        key: Key,
        since: Duration,
        /// What the owner had of the key, as a digest.
        before: u64,
        /// What it has once it accepts.
        after: u64,
        /// Whether its bucket is told anew.
        is_retold: bool,
    },
}

#[derive(Debug)]
enum InFlight {
    /// As the announcement's changes are, one for each.
    Announcement {
        sent: Vec<Sent>,
        since: Duration,
    },
    Renewal,
}

/// A change that waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// What the owner has of the key, as a digest.
    before: u64,
    /// Whether it may have something else, since it may have taken what it did not say it has.
    is_uncertain: bool,
}

/// A bucket that is told anew: cleared, and keys up to `after` said.
#[derive(Debug, Clone, Copy)]
struct Retelling {
    bucket: u8,
    after: Option<Key>,
}

#[derive(Debug)]
pub(super) struct Desk {
    generation: u64,
    sequence: u64,
    since: Duration,
    /// Whether the owner has said what it has since the desk began.
    is_established: bool,
    believed: Box<Digests>,
    /// Buckets of `believed` that are not zero.
    nonempty: usize,
    /// When the owner last took something, and when it last compared digests.
    renewed: Duration,
    compared: Duration,
    /// Changes in their order, and what the owner has of their keys; both have the same ones.
    queue: VecDeque<(Duration, Key)>,
    waiting: BTreeMap<Key, Waiting>,
    /// How many of them are uncertain. While any is, no digests are compared.
    uncertain: usize,
    /// Buckets to be told anew, since when any is.
    differing: BTreeSet<u8>,
    differing_since: Option<Duration>,
    retelling: Option<Retelling>,
    /// Records the owner had no room for.
    declined: BTreeSet<Key>,
    in_flight: Option<InFlight>,
    failures: u32,
    not_before: Duration,
}

impl Desk {
    pub(super) fn new(generation: u64, now: Duration) -> Self {
        Self {
            generation,
            sequence: 0,
            since: now,
            is_established: false,
            believed: Box::new([0; BUCKETS]),
            nonempty: 0,
            renewed: now,
            compared: now,
            queue: VecDeque::new(),
            waiting: BTreeMap::new(),
            uncertain: 0,
            differing: BTreeSet::new(),
            differing_since: None,
            retelling: None,
            declined: BTreeSet::new(),
            in_flight: None,
            failures: 0,
            not_before: now,
        }
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn is_announcing(&self) -> bool {
        matches!(self.in_flight, Some(InFlight::Announcement { .. }))
    }

    pub(super) fn is_renewing(&self) -> bool {
        matches!(self.in_flight, Some(InFlight::Renewal))
    }

    pub(super) fn declined(&self) -> usize {
        self.declined.len()
    }

    /// Changes that wait or are under way, and since when the oldest does.
    pub(super) fn waiting(&self) -> (usize, Option<Duration>) {
        let (sent, sent_since) = match &self.in_flight {
            Some(InFlight::Announcement { sent, since }) => (sent.len(), Some(*since)),
            Some(InFlight::Renewal) | None => (0, None),
        };
        let unestablished = (!self.is_established && self.nonempty > 0).then_some(self.since);
        let retelling = usize::from(self.retelling.is_some());
        let since = [
            sent_since,
            self.queue.front().map(|(since, _)| *since),
            self.differing_since,
            unestablished,
        ];
        (
            self.waiting.len() + self.differing.len() + retelling + sent,
            since.into_iter().flatten().min(),
        )
    }

    pub(super) fn is_lapsing(&self, limits: &HolderLimits, now: Duration) -> bool {
        self.nonempty > 0 && now.saturating_sub(self.renewed) > limits.lease / 3 * 2
    }

    /// What the owner should have of a key has changed: its digest, zero for nothing.
    pub(super) fn changed(
        &mut self,
        key: &Key,
        before: u64,
        after: u64,
        limits: &HolderLimits,
        now: Duration,
    ) {
        let of = bucket(key);
        let was_declined = self.declined.remove(key);
        let is_retold = self.differing.contains(&of)
            || self.retelling.is_some_and(|retelling| {
                retelling.bucket == of && retelling.after.is_none_or(|after| *key > after)
            });
        if is_retold || self.waiting.contains_key(key) {
            return;
        }
        let before = if was_declined { 0 } else { before };
        if !self.is_established && self.in_flight.is_none() {
            // What the owner has is only assumed yet, and compared before anything is told.
            self.shift(of, after.wrapping_sub(before));
            return;
        }
        if before == 0 && after == 0 {
            return;
        }
        if self.waiting.len() >= limits.queue {
            self.retell(of, now);
            return;
        }
        self.wait(*key, before, now);
    }

    /// Compares digests at the next occasion.
    pub(super) fn doubt(&mut self) {
        self.is_established = false;
    }

    /// When it is this desk's turn.
    pub(super) fn due(&self, limits: &HolderLimits, now: Duration) -> Due {
        if self.in_flight.is_some() {
            return Due::Never;
        }
        let queued = self.queue.front().map(|(since, _)| {
            if self.queue.len() >= limits.changes || self.uncertain > 0 {
                *since
            } else {
                since.saturating_add(limits.batch)
            }
        });
        let retells = self.retelling.is_some() || !self.differing.is_empty();
        let at = if !self.is_established {
            (self.nonempty > 0 || queued.is_some() || retells).then_some(self.since)
        } else if retells {
            Some(now)
        } else {
            let compares = (self.nonempty > 0 && self.uncertain == 0)
                .then(|| self.compared.saturating_add(limits.lease / 3));
            queued.into_iter().chain(compares).min()
        };
        at.map_or(Due::Never, |at| Due::At(at.max(self.not_before)))
    }

    /// What the next message of the lease is numbered.
    pub(super) fn next_message(&mut self, wall: u64) -> (u64, u64) {
        self.sequence = self.sequence.saturating_add(1).max(wall);
        (self.generation, self.sequence)
    }

    /// The next message. `held` gives a key's record where this owner should have it, `keys` all keys of a bucket after one, in order.
    pub(super) fn build<I: Iterator<Item = Key>>(
        &mut self,
        held: &impl Fn(&Key) -> Option<Record>,
        keys: &impl Fn(u8, Option<Key>) -> I,
        limits: &HolderLimits,
        now: Duration,
    ) -> Built {
        let is_quiet = self.differing.is_empty() && self.retelling.is_none();
        let compares = self.nonempty > 0 && self.compared.saturating_add(limits.lease / 3) <= now;
        if !self.is_established || (is_quiet && compares && self.uncertain == 0) {
            self.in_flight = Some(InFlight::Renewal);
            return Built::Renewal(root(&self.believed));
        }
        let most = limits.changes.clamp(1, CHANGES_MAX);
        let mut changes = Vec::new();
        let mut sent = Vec::new();
        let mut looked_at = 0;
        while changes.len() < most && looked_at < LOOKED_AT_MAX {
            let Some(retelling) = &mut self.retelling else {
                let Some(next) = self.differing.pop_first() else {
                    break;
                };
                self.waiting.retain(|key, _| bucket(key) != next);
                self.queue.retain(|(_, key)| bucket(key) != next);
                let uncertain = self.waiting.values().filter(|waiting| waiting.is_uncertain);
                self.uncertain = uncertain.count();
                changes.push(Change::Clear(next));
                sent.push(Sent::Clear(next));
                self.retelling = Some(Retelling {
                    bucket: next,
                    after: None,
                });
                continue;
            };
            let mut is_done = true;
            for key in keys(retelling.bucket, retelling.after) {
                if changes.len() == most || looked_at == LOOKED_AT_MAX {
                    is_done = false;
                    break;
                }
                looked_at += 1;
                retelling.after = Some(key);
                if self.declined.contains(&key) {
                    continue;
                }
                if let Some(record) = held(&key) {
                    changes.push(Change::Add(record));
                    sent.push(Sent::Key {
                        key,
                        since: self.differing_since.unwrap_or(now),
                        before: 0,
                        after: record.digest(),
                        is_retold: true,
                    });
                }
            }
            if is_done {
                self.retelling = None;
            }
        }
        while changes.len() < most {
            let Some((since, key)) = self.queue.pop_front() else {
                break;
            };
            let Some(waiting) = self.waiting.remove(&key) else {
                continue;
            };
            self.uncertain -= usize::from(waiting.is_uncertain);
            let record = held(&key);
            changes.push(change_of(&key, record));
            sent.push(Sent::Key {
                key,
                since,
                before: waiting.before,
                after: record.map_or(0, |record| record.digest()),
                is_retold: false,
            });
        }
        if changes.is_empty() {
            self.told();
            return Built::Nothing;
        }
        let since = sent.iter().map(|sent| match sent {
            Sent::Clear(_) => self.differing_since.unwrap_or(now),
            Sent::Key { since, .. } => *since,
        });
        let since = since.min().unwrap_or(now);
        self.in_flight = Some(InFlight::Announcement { sent, since });
        Built::Changes(changes)
    }

    /// The owner has taken what was announced, but for these places.
    pub(super) fn accepted(&mut self, refused: &[u16], now: Duration) {
        let Some(InFlight::Announcement { sent, .. }) = self.in_flight.take() else {
            return;
        };
        for (place, sent) in (0u16..).zip(sent) {
            match sent {
                Sent::Clear(bucket) => {
                    let all = self.believed.get(usize::from(bucket)).copied();
                    self.shift(bucket, all.unwrap_or(0).wrapping_neg());
                }
                Sent::Key {
                    key, before, after, ..
                } => {
                    let is_refused = after != 0 && refused.binary_search(&place).is_ok();
                    let has = if is_refused { 0 } else { after };
                    self.shift(bucket(&key), has.wrapping_sub(before));
                    if !is_refused {
                        continue;
                    }
                    // The key may have changed again since.
                    match self.waiting.get_mut(&key) {
                        Some(waiting) => waiting.before = 0,
                        None => {
                            self.declined.insert(key);
                        }
                    }
                }
            }
        }
        self.worked(now);
        self.told();
    }

    /// The owner has compared, and these are its digests where they differ.
    pub(super) fn renewed(
        &mut self,
        digests: Option<&Digests>,
        room: bool,
        limits: &HolderLimits,
        now: Duration,
    ) {
        self.in_flight = None;
        self.is_established = true;
        self.compared = now;
        self.worked(now);
        if let Some(digests) = digests {
            let pairs = (0..=u8::MAX).zip(self.believed.iter().zip(digests));
            let differing = pairs.filter(|(_, (believed, has))| believed != has);
            let differing: Vec<u8> = differing.map(|(bucket, _)| bucket).collect();
            for bucket in differing {
                self.retell(bucket, now);
            }
        }
        while room
            && self.waiting.len() < limits.queue
            && let Some(key) = self.declined.pop_first()
        {
            self.wait(key, 0, now);
        }
    }

    /// The owner has had a later message, or a later generation, than this holder knows of: its clock was set back, or it lost what it knew.
    pub(super) fn overtake(&mut self, generation: u64, sequence: u64) {
        if generation < self.generation {
            return;
        }
        if generation > self.generation || sequence == u64::MAX {
            // The owner voids what it has once it hears of the new one, and says so when it compares.
            self.generation = generation.saturating_add(1);
            self.sequence = 0;
            self.is_established = false;
        } else {
            self.sequence = self.sequence.max(sequence);
        }
    }

    /// The owner did not take the message, or did and its reply was lost.
    pub(super) fn failed(&mut self, limits: &HolderLimits, now: Duration) {
        let most = (limits.lease / 6).max(limits.retry);
        let pause = limits.retry.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(pause.min(most));
        let Some(InFlight::Announcement { sent, since }) = self.in_flight.take() else {
            return;
        };
        for sent in &sent {
            let of = match sent {
                Sent::Clear(bucket) => *bucket,
                Sent::Key { key, is_retold, .. } if *is_retold => bucket(key),
                Sent::Key { .. } => continue,
            };
            self.retelling = self.retelling.filter(|retelling| retelling.bucket != of);
            self.retell(of, since);
        }
        for sent in sent.iter().rev() {
            let Sent::Key {
                key, since, before, ..
            } = sent
            else {
                continue;
            };
            if self.differing.contains(&bucket(key)) {
                continue;
            }
            let waiting = Waiting {
                before: *before,
                is_uncertain: true,
            };
            let known = self.waiting.insert(*key, waiting);
            self.uncertain += usize::from(known.is_none_or(|known| !known.is_uncertain));
            if known.is_none() {
                self.queue.push_front((*since, *key));
            }
        }
    }

    /// A key that does not wait yet, of which the owner has this.
    fn wait(&mut self, key: Key, before: u64, now: Duration) {
        let waiting = Waiting {
            before,
            is_uncertain: false,
        };
        self.waiting.insert(key, waiting);
        self.queue.push_back((now, key));
    }

    fn worked(&mut self, now: Duration) {
        self.renewed = now;
        self.failures = 0;
        self.not_before = now;
    }

    fn retell(&mut self, bucket: u8, now: Duration) {
        self.differing.insert(bucket);
        self.differing_since.get_or_insert(now);
    }

    /// Nothing is told anew any more, once nothing is.
    fn told(&mut self) {
        if self.differing.is_empty() && self.retelling.is_none() && self.in_flight.is_none() {
            self.differing_since = None;
        }
    }

    fn shift(&mut self, bucket: u8, by: u64) {
        if let Some(believed) = self.believed.get_mut(usize::from(bucket)) {
            let was_empty = *believed == 0;
            *believed = believed.wrapping_add(by);
            match (was_empty, *believed == 0) {
                (true, false) => self.nonempty += 1,
                (false, true) => self.nonempty -= 1,
                (true, true) | (false, false) => {}
            }
        }
    }
}
