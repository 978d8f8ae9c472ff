//! What a holder does so that owners know what it holds: as a value, which says what to send to whom and is told the answers.
//!
//! For each owner there is a desk. It has the changes the owner has not heard of, and the digests of what the owner has by all that it
//! accepted. Changes go in batches; every third of a lease a renewal says what the owner should have, and what differs is cleared and told again.
//!
//! An owner that is new to the holder is not told anything at first: the holder assumes that it has what it should, renews, and repairs
//! what turns out to differ. So after a restart of either side, or of all, what is on disk need not travel.
//!
//! Owners follow the view once that has been quiet for [`HolderLimits::settle`]: a node that comes back at once changes nothing, and a node
//! that starts does not tell the first member it sees all it has.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use self::desk::{Built, Desk, Due};
use super::{
    message::{Announcement, CHANGES_MAX, Change, Refusal, Renewal, Reply, Request, Signed, Terms},
    owners::{Level, Owners, REPLICAS},
    record::{BUCKETS, Record, WHOLE, bucket},
};
use crate::{Key, NodeId, Signer};

mod desk;

/// What a holder may keep and how it goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HolderLimits {
    /// Objects announced; default 262,144 of some 120 B each, 32 MiB. More are not announced, and counted.
    pub records: usize,
    /// Changes that wait for one owner; default 4,096 × 150 B = 600 KiB. Beyond it the change's bucket is told anew as a whole.
    pub queue: usize,
    /// Changes in one announcement; default and at most [`CHANGES_MAX`], at least 1.
    pub changes: usize,
    /// Owners of a key in each level, as those who seek reckon them; default [`REPLICAS`].
    pub replicas: usize,
    /// Messages under way; default 32, of at most 48 KiB.
    pub in_flight: usize,
    /// How long an owner keeps records after the holder's last word. The same on all nodes; default 10 min.
    pub lease: Duration,
    /// How long changes wait for others to go with; default 500 ms.
    pub batch: Duration,
    /// How long the view has to be quiet before owners follow it; default 1 s.
    pub settle: Duration,
    /// How long it has to be quiet before the first are followed of a holder that [kept](Holder::restore) what it holds: where all restart, the others come up in the seconds after it,
    /// and who owns what until then would be told for nothing. Default 3 s.
    pub settle_kept: Duration,
    /// How long they wait at most where it is not; default 10 s.
    pub settle_max: Duration,
    /// The least time between two tries of an owner that fails; doubled each time up to a sixth of the lease; default 1 s.
    pub retry: Duration,
    /// Changes of what is held that may wait to be written; default 65,536. Beyond it [`Provided::Busy`].
    pub journal: usize,
}

impl Default for HolderLimits {
    fn default() -> Self {
        Self {
            records: 262_144,
            queue: 4_096,
            changes: CHANGES_MAX,
            replicas: REPLICAS,
            in_flight: 32,
            lease: Duration::from_mins(10),
            batch: Duration::from_millis(500),
            settle: Duration::from_secs(1),
            settle_kept: Duration::from_secs(3),
            settle_max: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            journal: 65_536,
        }
    }
}

/// By how much, in 255ths, the fraction held of an object changes before owners are told.
pub const FRACTION_STEP: u8 = 32;

/// What became of an object that was to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provided {
    /// Owners will hear of it.
    Taken,
    /// They know as much already.
    Same,
    /// As many are announced as may be: it is not.
    Full,
    /// More waits for the disk than may: it is not, for now.
    Busy,
}

/// What a holder does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HolderStep {
    /// Ask this node, which may be the node itself; its reply, or that there was none, is to be told. Then step again at once.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        request: Request,
    },
    /// Nothing before this time, unless something is told it. May be now: then there is more to do and others may go first.
    Wait(Duration),
    /// Nothing until something is told it.
    Idle,
}

/// A change of what is held, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldWrite {
    /// Held, new or changed.
    Put(Record),
    /// Not held any more.
    Delete(Key),
}

/// How far owners are behind what is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Objects announced.
    pub held: usize,
    /// Changes that wait or are under way, over all owners; a bucket that is told anew counts as one.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
    /// The alarm: a change has waited for more than a third of the lease, or a lease has not been renewed for two thirds. Two thirds, and one, are left to do
    /// something about it before a record lapses.
    pub is_behind: bool,
    /// Leases that have not been renewed for two thirds of their time.
    pub lapsing: usize,
    /// Records that owners had no room for.
    pub declined: usize,
    /// Owners that know of this holder or should.
    pub owners: usize,
}

/// What a holder has counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HolderTally {
    /// Announcements sent.
    pub announcements: u64,
    /// Changes in them.
    pub changes: u64,
    /// Renewals sent.
    pub renewals: u64,
    /// Renewals that found the owner to have something else.
    pub differed: u64,
    /// Messages refused, or not answered.
    pub failures: u64,
    /// Objects not announced at the bound.
    pub full: u64,
    /// Changes of the owners that it followed.
    pub settled: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    manifest: [u8; 32],
    generation: u64,
    fraction: u8,
}

impl Held {
    fn record(&self, key: Key) -> Record {
        Record {
            key,
            manifest: self.manifest,
            fraction: self.fraction,
            generation: self.generation,
        }
    }
}

/// Owners that are to be followed once they stay.
#[derive(Debug)]
struct Coming {
    owners: Arc<Owners>,
    first: Duration,
    last: Duration,
}

/// On the way from one view's owners to the next one's: buckets before `bucket` are there.
#[derive(Debug)]
struct Move {
    from: Option<Arc<Owners>>,
    bucket: usize,
}

/// A holder's part of the index.
#[derive(Debug)]
pub struct Holder {
    me: NodeId,
    limits: HolderLimits,
    /// Of its leases, unless an owner knows a greater one.
    generation: u64,
    /// Of its last record; about unix milliseconds.
    clock: u64,
    /// By bucket.
    held: Vec<BTreeMap<Key, Held>>,
    count: usize,
    /// Whether some of it was restored.
    has_kept: bool,
    owners: Option<Arc<Owners>>,
    coming: Option<Coming>,
    moving: Option<Move>,
    desks: BTreeMap<NodeId, Desk>,
    /// Whose turn it was.
    last: Option<NodeId>,
    in_flight: usize,
    journal: Option<Vec<HeldWrite>>,
    tally: HolderTally,
}

impl Holder {
    /// One that holds nothing yet. `generation` is kept with what is held: where that was lost it has to be a greater one, such as the
    /// time in unix milliseconds.
    #[must_use]
    pub fn new(me: NodeId, generation: u64, limits: HolderLimits, is_journaled: bool) -> Self {
        Self {
            me,
            limits,
            generation,
            clock: generation,
            held: vec![BTreeMap::new(); BUCKETS],
            count: 0,
            has_kept: false,
            owners: None,
            coming: None,
            moving: None,
            desks: BTreeMap::new(),
            last: None,
            in_flight: 0,
            journal: is_journaled.then(Vec::new),
            tally: HolderTally::default(),
        }
    }

    /// A record that it held when it was last written. Before any owners are known.
    pub fn restore(&mut self, record: &Record) {
        if self.count >= self.limits.records {
            self.tally.full += 1;
            return;
        }
        self.has_kept = true;
        self.clock = self.clock.max(record.generation);
        let held = Held {
            manifest: record.manifest,
            generation: record.generation,
            fraction: record.fraction.max(1),
        };
        if self.keys(&record.key).insert(record.key, held).is_none() {
            self.count += 1;
        }
    }

    /// The view has changed.
    pub fn follow(&mut self, owners: Arc<Owners>, now: Duration) {
        let first = self.coming.as_ref().map_or(now, |coming| coming.first);
        self.coming = Some(Coming {
            owners,
            first,
            last: now,
        });
    }

    /// Announces an object, or what has changed of it. `wall` is the time in unix milliseconds: it need not be right, but greater later.
    pub fn provide(
        &mut self,
        key: Key,
        manifest: [u8; 32],
        fraction: u8,
        now: Duration,
        wall: u64,
    ) -> Provided {
        let fraction = fraction.max(1);
        let before = self.get(&key).copied();
        if let Some(before) = before {
            let is_near = before.fraction.abs_diff(fraction) < FRACTION_STEP;
            let is_whole = (before.fraction == WHOLE) == (fraction == WHOLE);
            if before.manifest == manifest && is_near && is_whole {
                return Provided::Same;
            }
        } else if self.count >= self.limits.records {
            self.tally.full += 1;
            return Provided::Full;
        }
        let owed = self.journal.as_ref().map_or(0, Vec::len);
        if owed >= self.limits.journal {
            return Provided::Busy;
        }
        self.clock = self.clock.saturating_add(1).max(wall);
        let held = Held {
            manifest,
            generation: self.clock,
            fraction,
        };
        self.keys(&key).insert(key, held);
        self.count += usize::from(before.is_none());
        let record = held.record(key);
        self.write(HeldWrite::Put(record));
        let before = before.map_or(0, |before| before.record(key).digest());
        self.changed(&key, before, record.digest(), now);
        Provided::Taken
    }

    /// Takes back what was announced of an object. Whether anything was.
    pub fn withdraw(&mut self, key: &Key, now: Duration) -> bool {
        let Some(held) = self.keys(key).remove(key) else {
            return false;
        };
        self.count -= 1;
        self.write(HeldWrite::Delete(*key));
        self.changed(key, held.record(*key).digest(), 0, now);
        true
    }

    /// What it announces of an object.
    #[must_use]
    pub fn held(&self, key: &Key) -> Option<Record> {
        self.get(key).map(|held| held.record(*key))
    }

    /// At most `count` announced records of a bucket, from the first key after this one on: to compare with what is really held.
    #[must_use]
    pub fn page(&self, bucket: u8, after: Option<&Key>, count: usize) -> Vec<Record> {
        let Some(held) = self.held.get(usize::from(bucket)) else {
            return Vec::new();
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = held.range::<Key, _>((from, Bound::Unbounded));
        range
            .take(count)
            .map(|(key, held)| held.record(*key))
            .collect()
    }

    /// Renews with this owner as soon as may be: it may have lost something, as after a restart.
    pub fn doubt(&mut self, owner: &NodeId) {
        if let Some(desk) = self.desks.get_mut(owner) {
            desk.doubt();
        }
    }

    /// What to do now.
    pub fn step(&mut self, now: Duration, wall: u64, signer: &dyn Signer) -> HolderStep {
        self.settle(now);
        if self.move_on(now) {
            // What an owner has is compared only once all of what it should have is known.
            return HolderStep::Wait(now);
        }
        let mut wait: Option<Duration> = None;
        if self.in_flight < self.limits.in_flight {
            match self.due(now) {
                Turn::Now(owner) => match self.send(owner, now, wall, signer) {
                    Some(step) => return step,
                    // It has looked through many records and found none to tell yet.
                    None => return HolderStep::Wait(now),
                },
                Turn::At(at) => wait = Some(wait.map_or(at, |wait| wait.min(at))),
                Turn::Never => {}
            }
        }
        if let (Some(coming), None) = (&self.coming, &self.moving) {
            let at = self.settles_at(coming);
            wait = Some(wait.map_or(at, |wait| wait.min(at)));
        }
        wait.map_or(HolderStep::Idle, HolderStep::Wait)
    }

    /// An owner has replied.
    pub fn replied(&mut self, from: &NodeId, reply: Reply, now: Duration) {
        let Some(desk) = self.desks.get_mut(from) else {
            return;
        };
        if !desk.is_in_flight() {
            return;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        match reply {
            Reply::Accepted { refused } if desk.is_announcing() => desk.accepted(&refused, now),
            Reply::Kept { room } if desk.is_renewing() => {
                desk.renewed(None, room, &self.limits, now)
            }
            Reply::Differs { digests, room } if desk.is_renewing() => {
                self.tally.differed += 1;
                desk.renewed(Some(&digests), room, &self.limits, now);
            }
            Reply::Refused(refusal) => {
                self.tally.failures += 1;
                if let Refusal::Stale {
                    generation,
                    sequence,
                } = refusal
                {
                    desk.overtake(generation, sequence);
                }
                desk.failed(&self.limits, now);
            }
            Reply::Accepted { .. }
            | Reply::Kept { .. }
            | Reply::Differs { .. }
            | Reply::Providers(_) => {
                self.tally.failures += 1;
                desk.failed(&self.limits, now);
            }
        }
    }

    /// An owner has not replied.
    pub fn failed(&mut self, from: &NodeId, now: Duration) {
        let desk = self.desks.get_mut(from);
        if let Some(desk) = desk.filter(|desk| desk.is_in_flight()) {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.tally.failures += 1;
            desk.failed(&self.limits, now);
        }
    }

    /// How far owners are behind. Costs a look at each owner.
    #[must_use]
    pub fn lag(&self, now: Duration) -> Lag {
        let mut lag = Lag {
            held: self.count,
            owners: self.desks.len(),
            ..Lag::default()
        };
        for desk in self.desks.values() {
            let (waiting, since) = desk.waiting();
            lag.waiting += waiting;
            let waited = since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            lag.oldest = lag.oldest.max(waited);
            lag.lapsing += usize::from(desk.is_lapsing(&self.limits, now));
            lag.declined += desk.declined();
        }
        lag.is_behind = lag.oldest > self.limits.lease / 3 || lag.lapsing > 0;
        lag
    }

    /// What it has counted.
    #[must_use]
    pub fn tally(&self) -> HolderTally {
        self.tally
    }

    /// What has changed of what is held since it was last asked, in order.
    pub fn take_journal(&mut self) -> Vec<HeldWrite> {
        self.journal.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Nothing is to be written any more.
    pub fn stop_journal(&mut self) {
        self.journal = None;
    }

    fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(usize::from(bucket(key)))?.get(key)
    }

    fn keys(&mut self, key: &Key) -> &mut BTreeMap<Key, Held> {
        // There is one for each byte.
        &mut self.held[usize::from(bucket(key))]
    }

    fn write(&mut self, write: HeldWrite) {
        if let Some(journal) = &mut self.journal {
            journal.push(write);
        }
    }

    /// Tells the desks of a key's owners.
    fn changed(&mut self, key: &Key, before: u64, after: u64, now: Duration) {
        let owners = told(&self.moving, self.owners.as_ref(), key);
        for owner in owners_of(owners, key, self.limits.replicas) {
            let desk = desk_of(&mut self.desks, owner, self.generation, now);
            desk.changed(key, before, after, &self.limits, now);
        }
    }

    fn settles_at(&self, coming: &Coming) -> Duration {
        // Before the first owners are known all that is held was restored or is new and waits anyway.
        let settle = match self.owners.is_none() && self.has_kept {
            true => self.limits.settle_kept,
            false => self.limits.settle,
        };
        let quiet = coming.last.saturating_add(settle);
        quiet.min(coming.first.saturating_add(self.limits.settle_max))
    }

    fn settle(&mut self, now: Duration) {
        if self.moving.is_none()
            && let Some(coming) = &self.coming
            && self.settles_at(coming) <= now
            && let Some(coming) = self.coming.take()
        {
            let from = self.owners.replace(coming.owners);
            self.moving = Some(Move { from, bucket: 0 });
            self.tally.settled += 1;
        }
    }

    /// Moves one bucket to the owners it has now. Whether there are more.
    fn move_on(&mut self, now: Duration) -> bool {
        let (Some(moving), Some(owners)) = (&mut self.moving, &self.owners) else {
            return false;
        };
        let Some(held) = self.held.get(moving.bucket) else {
            // Who is no member any more is told nothing; when it comes back it is new.
            let world = owners.members(Level::World);
            let in_flight = &mut self.in_flight;
            self.desks.retain(|id, desk| {
                let stays = world.binary_search(id).is_ok();
                *in_flight = in_flight.saturating_sub(usize::from(!stays && desk.is_in_flight()));
                stays
            });
            self.moving = None;
            return true;
        };
        for (key, held) in held {
            let before = owners_of(moving.from.as_ref(), key, self.limits.replicas);
            let after = owners.of_key(key, self.limits.replicas);
            if before == after {
                continue;
            }
            let digest = held.record(*key).digest();
            for owner in after.iter().filter(|owner| !before.contains(owner)) {
                let desk = desk_of(&mut self.desks, *owner, self.generation, now);
                desk.changed(key, 0, digest, &self.limits, now);
            }
            for owner in before.iter().filter(|owner| !after.contains(owner)) {
                if let Some(desk) = self.desks.get_mut(owner) {
                    desk.changed(key, digest, 0, &self.limits, now);
                }
            }
        }
        moving.bucket += 1;
        true
    }

    /// Whose turn it is. After the one whose turn it was last, so that none waits for ever.
    fn due(&self, now: Duration) -> Turn {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.desks.range((after, Bound::Unbounded));
        let earlier = self.last.map(|last| self.desks.range(..=last));
        let mut soonest = Turn::Never;
        for (owner, desk) in later.chain(earlier.into_iter().flatten()) {
            match desk.due(&self.limits, now) {
                Due::At(at) if at <= now => return Turn::Now(*owner),
                Due::At(at) => {
                    soonest = match soonest {
                        Turn::At(soonest) if soonest <= at => Turn::At(soonest),
                        Turn::At(_) | Turn::Now(_) | Turn::Never => Turn::At(at),
                    }
                }
                Due::Never => {}
            }
        }
        soonest
    }

    fn send(
        &mut self,
        owner: NodeId,
        now: Duration,
        wall: u64,
        signer: &dyn Signer,
    ) -> Option<HolderStep> {
        self.last = Some(owner);
        let desk = self.desks.get_mut(&owner)?;
        let (moving, owners, replicas) = (&self.moving, self.owners.as_ref(), self.limits.replicas);
        let held = |key: &Key| {
            let owned = owners_of(told(moving, owners, key), key, replicas).contains(&owner);
            let held = self.held.get(usize::from(bucket(key)))?.get(key)?;
            owned.then(|| held.record(*key))
        };
        let keys = |bucket: u8, after: Option<Key>| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let keys = self.held.get(usize::from(bucket)).into_iter();
            keys.flat_map(move |keys| keys.range((from, Bound::Unbounded)).map(|(key, _)| *key))
        };
        let terms = |desk: &mut Desk| {
            let (generation, sequence) = desk.next_message(wall);
            Terms {
                holder: self.me,
                owner,
                generation,
                sequence,
            }
        };
        let request = match desk.build(&held, &keys, &self.limits, now) {
            Built::Nothing => return None,
            Built::Changes(changes) => {
                self.tally.announcements += 1;
                self.tally.changes += changes.len() as u64;
                let terms = terms(desk);
                Request::Announce(Signed::by(signer, Announcement { terms, changes }))
            }
            Built::Renewal(root) => {
                self.tally.renewals += 1;
                let terms = terms(desk);
                Request::Renew(Signed::by(signer, Renewal { terms, root }))
            }
        };
        self.in_flight += 1;
        Some(HolderStep::Send { to: owner, request })
    }
}

enum Turn {
    Now(NodeId),
    At(Duration),
    Never,
}

/// By which owners a key is told of: where a move is under way, those its bucket has got to.
fn told<'a>(
    moving: &'a Option<Move>,
    owners: Option<&'a Arc<Owners>>,
    key: &Key,
) -> Option<&'a Arc<Owners>> {
    match moving {
        Some(moving) if usize::from(bucket(key)) >= moving.bucket => moving.from.as_ref(),
        Some(_) | None => owners,
    }
}

fn owners_of(owners: Option<&Arc<Owners>>, key: &Key, replicas: usize) -> Vec<NodeId> {
    owners.map_or_else(Vec::new, |owners| owners.of_key(key, replicas))
}

fn desk_of(
    desks: &mut BTreeMap<NodeId, Desk>,
    owner: NodeId,
    generation: u64,
    now: Duration,
) -> &mut Desk {
    desks
        .entry(owner)
        .or_insert_with(|| Desk::new(generation, now))
}

/// Kept here so that the desk's file has no word of requests.
fn change_of(key: &Key, record: Option<Record>) -> Change {
    record.map_or(Change::Remove(*key), Change::Add)
}

#[cfg(test)]
mod tests;
