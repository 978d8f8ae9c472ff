//! Who is asked for which chunk: the decisions of a fill from several holders at once.
//!
//! A value without sockets or clock. Chunks are wanted in the order of the body ([`Swarm::want`]), holders join ([`Swarm::join`]) and say what they
//! hold ([`Swarm::said`]); [`Swarm::next`] says whom to ask for what, and is told what came of it. What has arrived is taken out in order
//! ([`Swarm::take`]).
//!
//! # Invariants
//! * A chunk is asked of one holder at a time, and a holder sends what it is asked for in the order in which it was asked. A chunk is asked of
//!   another holder only after the first failed, and one that arrived is never asked for again: what is sent twice is at most what was
//!   on its way from a holder when it failed, for a round trip after it was broken off.
//! * A holder is asked only for what it holds, and for no more at once than its path carries in a round trip and 50 ms.
//! * A peer that lacks a chunk of what it was to hold whole is believed no more than what it says it holds, and one that lacks what it said it holds failed.
//! * A chunk for which two peers were waited for in vain is asked of the shield before all others.
//! * Who is silent for too long, breaks off or holds up the others rests, is then for a while asked only for what nobody else can give, and after
//!   three times is out, of which one is forgiven for each 16 MiB given since. Who sent other bytes than the chunk's is out at once, and so is a peer that gave less than 256 KiB in 30 s in
//!   which it was asked for something, though nobody else could be: who waits may know another way.
//! * Chunks that were asked for or have arrived, and were not taken yet, are at most [`Swarm::new`]'s `ahead_bytes`, or one chunk.

use std::collections::VecDeque;
use std::time::Duration;

use super::holder::{Holder, Offer, Patience, Tier};

/// Holders of one swarm: 32, one bit each.
pub const HOLDERS_MAX: usize = 32;

/// Chunks in one request; see [`CHUNKS_MAX`](crate::wire::CHUNKS_MAX).
const CHUNKS_MAX: usize = 64;

/// Peers that a chunk waits for in vain. After that the shield is asked for it before all others.
const WAITS_MAX: u8 = 2;

/// How many times what another would take somebody may take for the chunk that all wait for.
const HELD_UP_TIMES: u32 = 4;

/// A holder of a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(u8);

impl HolderId {
    /// Its place among the holders, in the order in which they joined.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    const fn bit(self) -> u32 {
        1 << self.0
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this holder for these chunks, to be sent in this order, after what it was asked for before.
    Ask {
        /// Whom.
        holder: HolderId,
        /// What: places of chunks in the order of the body, ascending.
        chunks: Vec<usize>,
    },
    /// Break off all that this holder was asked for; nothing more that comes of it counts.
    Cancel {
        /// Whose.
        holder: HolderId,
        /// What it did.
        why: Trouble,
    },
    /// Nothing until something is told, or until then.
    Wait(Option<Duration>),
    /// All chunks that will ever be wanted have arrived.
    Done,
    /// Nobody is left to ask for this chunk.
    Failed {
        /// Its place in the body.
        chunk: usize,
    },
}

/// Why a holder is not relied upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It was silent for too long.
    Stalled,
    /// Everybody waited for it, and another could have been done long ago.
    Slow,
}

/// Why a holder gives nothing of what it was asked for and has not given yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ended the exchange in good order: it may be asked anew.
    Closed,
    /// It has not, or no longer, the chunk at this place. A peer that joined as whole is to say from now on what it holds.
    Lacks(usize),
    /// It could not be asked, refused, or broke off.
    Broke,
    /// It sent other bytes than a chunk's.
    Lied,
}

#[derive(Debug)]
enum State<T> {
    Wanted,
    Asked(HolderId, Duration),
    Here(T, HolderId),
}

#[derive(Debug)]
struct Slot<T> {
    len: u32,
    /// Who holds it, of those who said so.
    held: u32,
    /// Who has not said.
    unsaid: u32,
    /// How often a peer was waited for and did not give it.
    waits: u8,
    state: State<T>,
}

/// The decisions of one fill. `T` is what an arrived chunk is kept as until it is taken.
#[derive(Debug)]
pub struct Swarm<T> {
    holders: Vec<Holder>,
    /// From the first that was not taken on.
    slots: VecDeque<Slot<T>>,
    /// Place of the first slot in the body.
    first: usize,
    /// Whether more will be wanted.
    open: bool,
    cancelled: VecDeque<(HolderId, Trouble)>,
    ahead_bytes: u64,
    patience: Patience,
}

impl<T> Swarm<T> {
    /// A swarm that keeps at most `ahead_bytes` of chunks asked for or here, not taken yet; one chunk if that is more.
    #[must_use]
    pub fn new(ahead_bytes: u64, patience: Patience) -> Self {
        Self {
            holders: Vec::new(),
            slots: VecDeque::new(),
            first: 0,
            open: true,
            cancelled: VecDeque::new(),
            ahead_bytes,
            patience,
        }
    }

    /// A holder joins; `None` beyond [`HOLDERS_MAX`]. One that is not whole has said nothing yet of any chunk.
    pub fn join(&mut self, offer: Offer) -> Option<HolderId> {
        let place = u8::try_from(self.holders.len()).ok();
        let id = HolderId(place.filter(|place| usize::from(*place) < HOLDERS_MAX)?);
        for slot in &mut self.slots {
            if offer.whole {
                slot.held |= id.bit();
            } else {
                slot.unsaid |= id.bit();
            }
        }
        self.holders.push(Holder::new(offer));
        Some(id)
    }

    /// The next chunk of the body is wanted; its place.
    pub fn want(&mut self, len: u32) -> usize {
        let of = |whole: bool| {
            let holders = self.holders.iter().zip(0u8..);
            holders
                .filter(|(holder, _)| holder.whole == whole)
                .fold(0, |bits, (_, place)| bits | HolderId(place).bit())
        };
        self.slots.push_back(Slot {
            len,
            held: of(true),
            unsaid: of(false),
            waits: 0,
            state: State::Wanted,
        });
        self.first + self.slots.len() - 1
    }

    /// No more chunks will be wanted.
    pub fn no_more(&mut self) {
        self.open = false;
    }

    /// A holder says whether it holds the chunk at this place. Nothing where it was not to say so: it was found to lack it.
    pub fn said(&mut self, holder: HolderId, chunk: usize, holds: bool) {
        if let Some(slot) = self.slot_mut(chunk)
            && slot.unsaid & holder.bit() != 0
        {
            slot.unsaid &= !holder.bit();
            if holds {
                slot.held |= holder.bit();
            }
        }
    }

    /// The round trip to a holder, as the path to it was measured.
    pub fn measured(&mut self, holder: HolderId, rtt: Duration) {
        if let Some(holder) = self.holders.get_mut(holder.index()) {
            holder.measured_rtt(rtt);
        }
    }

    /// Bytes of what a holder was asked for come in.
    pub fn heard(&mut self, holder: HolderId, now: Duration) {
        if let Some(holder) = self.holders.get_mut(holder.index()) {
            holder.heard(now);
        }
    }

    /// Whoever drives this looked much later than it was told to, so that nobody can tell who was silent meanwhile. None is held against a holder, once until it is heard again.
    pub fn was_late(&mut self, now: Duration) {
        for (holder, place) in self.holders.iter_mut().zip(0u8..) {
            if !holder.excuse(now) {
                continue;
            }
            for slot in &mut self.slots {
                if let State::Asked(of, since) = &mut slot.state
                    && *of == HolderId(place)
                {
                    *since = now;
                }
            }
        }
    }

    /// A chunk is here, verified. Whether it was waited for from this holder.
    pub fn arrived(&mut self, holder: HolderId, chunk: usize, kept: T, now: Duration) -> bool {
        let Some(slot) = self.slot_mut(chunk) else {
            return false;
        };
        if !matches!(slot.state, State::Asked(of, _) if of == holder) {
            return false;
        }
        slot.state = State::Here(kept, holder);
        let len = u64::from(slot.len);
        if let Some(holder) = self.holders.get_mut(holder.index()) {
            holder.gave(len, now);
        }
        true
    }

    /// A holder gives no more of what it was asked for, which is wanted again.
    pub fn ended(&mut self, holder: HolderId, end: End, now: Duration) {
        self.release(holder, now);
        match end {
            End::Closed => {}
            End::Lacks(chunk) => self.lacks(holder, chunk, now),
            End::Broke => {
                if let Some(holder) = self.holders.get_mut(holder.index()) {
                    holder.strike(now);
                }
            }
            End::Lied => {
                if let Some(holder) = self.holders.get_mut(holder.index()) {
                    holder.leave();
                }
            }
        }
    }

    /// A holder has not the chunk at this place. A peer that was to hold all has said nothing of any chunk now; one that said so of this very chunk failed. A shield is left what it has:
    /// there is nobody behind it.
    fn lacks(&mut self, id: HolderId, chunk: usize, now: Duration) {
        if let Some(slot) = self.slot_mut(chunk) {
            slot.held &= !id.bit();
        }
        let holder = self.holders.get_mut(id.index());
        let Some(peer) = holder.filter(|holder| holder.tier == Tier::Peer) else {
            return;
        };
        let was_said = !std::mem::replace(&mut peer.whole, false);
        if was_said {
            peer.strike(now);
        }
        if let Some(slot) = self.slot_mut(chunk) {
            slot.waits = slot.waits.saturating_add(1);
        }
        if !was_said {
            for slot in &mut self.slots {
                slot.unsaid |= slot.held & id.bit();
                slot.held &= !id.bit();
            }
        }
    }

    /// A holder is not to be asked any more, for reasons the swarm does not see. What it was asked for is wanted again.
    pub fn leave(&mut self, holder: HolderId, now: Duration) {
        self.release(holder, now);
        if let Some(holder) = self.holders.get_mut(holder.index()) {
            holder.leave();
        }
    }

    /// The next chunk of the body, if it is here: its place, what it was kept as, and whose it is.
    pub fn take(&mut self) -> Option<(usize, T, HolderId)> {
        if !self.is_ready() {
            return None;
        }
        let slot = self.slots.pop_front()?;
        let place = self.first;
        self.first += 1;
        match slot.state {
            State::Here(kept, holder) => Some((place, kept, holder)),
            State::Wanted | State::Asked(..) => None,
        }
    }

    /// Whether [`take`](Self::take) has something to give.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let front = self.slots.front();
        front.is_some_and(|slot| matches!(slot.state, State::Here(..)))
    }

    /// Whether all that was wanted so far has been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What to do next. To be called until it says [`Step::Wait`], [`Step::Done`] or [`Step::Failed`], and again after whatever it was told.
    pub fn next(&mut self, now: Duration) -> Step {
        self.notice_stalls(now);
        if let Some((holder, why)) = self.cancelled.pop_front() {
            return Step::Cancel { holder, why };
        }
        match self.assign(now) {
            Ok(Some(step)) => return step,
            Ok(None) => {}
            Err(chunk) => return Step::Failed { chunk },
        }
        let held_up = self.notice_held_up(now);
        if let Some((holder, why)) = self.cancelled.pop_front() {
            return Step::Cancel { holder, why };
        }
        let here = |slot: &Slot<T>| matches!(slot.state, State::Here(..));
        if !self.open && self.slots.iter().all(here) {
            return Step::Done;
        }
        Step::Wait(self.wake(held_up, now))
    }

    fn slot_mut(&mut self, chunk: usize) -> Option<&mut Slot<T>> {
        self.slots.get_mut(chunk.checked_sub(self.first)?)
    }

    /// Bits of the holders that may be asked, now or later.
    fn alive(&self) -> u32 {
        let holders = self.holders.iter().zip(0u8..);
        holders
            .filter(|(holder, _)| holder.is_in())
            .fold(0, |bits, (_, place)| bits | HolderId(place).bit())
    }

    /// How many slots from the front may be asked for, by the bound of what is ahead.
    fn within_reach(&self) -> usize {
        let mut bytes = 0;
        let within = self.slots.iter().take_while(|slot| {
            bytes += u64::from(slot.len);
            bytes <= self.ahead_bytes
        });
        within.count().max(1).min(self.slots.len())
    }

    /// The next request, if somebody has room for one.
    ///
    /// # Errors
    /// The place of a chunk that nobody can give.
    fn assign(&mut self, now: Duration) -> Result<Option<Step>, usize> {
        let alive = self.alive();
        let reach = self.within_reach();
        for at in 0..reach {
            let Some(slot) = self.slots.get(at) else {
                break;
            };
            if !matches!(slot.state, State::Wanted) {
                continue;
            }
            if (slot.held | slot.unsaid) & alive == 0 {
                return Err(self.first + at);
            }
            if let Some(holder) = self.best(slot, alive, now) {
                return Ok(Some(self.ask(holder, at, reach, alive, now)));
            }
        }
        Ok(None)
    }

    /// Those who are asked for a chunk before all others, by rank, and whether they may be asked now.
    fn preferred(&self, slot: &Slot<T>, alive: u32, now: Duration) -> (u32, bool) {
        let concerned = (slot.held | slot.unsaid) & alive;
        let first = match slot.waits < WAITS_MAX {
            true => Tier::Peer,
            false => Tier::Shield,
        };
        let ranks = || {
            self.holders
                .iter()
                .zip(0u8..)
                .map(|(holder, place)| (HolderId(place).bit(), holder.rank(first, now)))
                .filter(move |(bit, _)| concerned & bit != 0)
        };
        let Some(best) = ranks().map(|(_, rank)| rank).min() else {
            return (0, false);
        };
        let bits = ranks()
            .filter(|(_, rank)| *rank == best)
            .fold(0, |bits, (bit, _)| bits | bit);
        let (rests, ..) = best;
        (bits, !rests)
    }

    /// Who is to be asked for a chunk now: of those preferred who hold it and have room, the one that would have it here first.
    fn best(&self, slot: &Slot<T>, alive: u32, now: Duration) -> Option<HolderId> {
        let (preferred, awake) = self.preferred(slot, alive, now);
        let candidates = preferred & slot.held;
        if !awake || candidates == 0 {
            return None;
        }
        let holders = self
            .holders
            .iter()
            .zip(0u8..)
            .map(|(h, at)| (h, HolderId(at)));
        holders
            .filter(|(holder, id)| candidates & id.bit() != 0 && holder.has_room())
            .min_by_key(|(holder, _)| holder.time_for(u64::from(slot.len)))
            .map(|(_, id)| id)
    }

    /// Asks a holder for the slot at `from` and what follows of what it is preferred for, as much as one request carries.
    fn ask(&mut self, id: HolderId, from: usize, reach: usize, alive: u32, now: Duration) -> Step {
        let batch = self
            .holders
            .get(id.index())
            .map_or(0, |holder| holder.batch());
        let mut chunks = Vec::new();
        let mut bytes = 0;
        for at in from..reach {
            let Some(slot) = self.slots.get(at) else {
                break;
            };
            let fits = matches!(slot.state, State::Wanted)
                && slot.held & id.bit() != 0
                && self.preferred(slot, alive, now).0 & id.bit() != 0;
            if fits {
                chunks.push(self.first + at);
                bytes += u64::from(slot.len);
            }
            if bytes >= batch || chunks.len() >= CHUNKS_MAX {
                break;
            }
        }
        for chunk in &chunks {
            if let Some(slot) = self.slot_mut(*chunk) {
                slot.state = State::Asked(id, now);
            }
        }
        if let Some(holder) = self.holders.get_mut(id.index()) {
            holder.asked(bytes, now);
        }
        Step::Ask { holder: id, chunks }
    }

    /// Takes the work from those who were silent for too long.
    fn notice_stalls(&mut self, now: Duration) {
        let stalled: Vec<_> = self
            .holders
            .iter()
            .zip(0u8..)
            .filter(|(holder, _)| {
                let deadline = holder.deadline(&self.patience);
                deadline.is_some_and(|deadline| now >= deadline)
            })
            .map(|(_, place)| HolderId(place))
            .collect();
        for id in stalled {
            let holder = self.holders.get_mut(id.index());
            // Silence may end. Who gave so little for so long is not asked again.
            if let Some(holder) = holder
                && holder
                    .floor_ends(&self.patience)
                    .is_some_and(|at| now >= at)
            {
                holder.leave();
            }
            self.strike(id, Trouble::Stalled, now);
        }
    }

    /// Takes the work from who holds up the others: the body waits for a chunk of it, and somebody else, of whatever tier, has nothing to do and would
    /// have had it long ago. Else when that will be so.
    fn notice_held_up(&mut self, now: Duration) -> Option<Duration> {
        let slot = self.slots.front()?;
        let State::Asked(id, asked) = slot.state else {
            return None;
        };
        let slow = self.holders.get(id.index())?;
        // Whoever could be asked for something has been; so who idles has nothing else to do.
        let others = self.holders.iter().zip(0u8..).filter(|(holder, place)| {
            slot.held & HolderId(*place).bit() != 0
                && HolderId(*place) != id
                && holder.is_in()
                && holder.under_way == 0
                && holder.is_sound(now)
        });
        let soonest = others
            .map(|(holder, _)| holder.time_instead_of(slow, u64::from(slot.len)))
            .min()?;
        let least = slow.patience_unproven(&self.patience);
        let until = asked + (soonest * HELD_UP_TIMES + self.patience.held_up).max(least);
        if now < until {
            return Some(until);
        }
        self.strike(id, Trouble::Slow, now);
        None
    }

    /// A holder that was waited for is broken off: it rests or leaves, and its work is wanted of others.
    fn strike(&mut self, id: HolderId, why: Trouble, now: Duration) {
        if let Some(holder) = self.holders.get_mut(id.index()) {
            holder.strike(now);
            let is_peer = holder.tier == Tier::Peer;
            let theirs =
                |slot: &&mut Slot<T>| matches!(slot.state, State::Asked(of, _) if of == id);
            for slot in self.slots.iter_mut().filter(theirs) {
                slot.waits = slot.waits.saturating_add(u8::from(is_peer));
            }
        }
        self.release(id, now);
        self.cancelled.push_back((id, why));
    }

    /// What a holder was asked for and has not given is wanted again.
    fn release(&mut self, id: HolderId, now: Duration) {
        for slot in &mut self.slots {
            if matches!(slot.state, State::Asked(of, _) if of == id) {
                slot.state = State::Wanted;
            }
        }
        if let Some(holder) = self.holders.get_mut(id.index()) {
            holder.gives_not(now);
        }
    }

    /// When something is to be done again without being told anything: a silence that is too long, or the end of a rest.
    fn wake(&self, held_up: Option<Duration>, now: Duration) -> Option<Duration> {
        let deadlines = self
            .holders
            .iter()
            .filter_map(|holder| holder.deadline(&self.patience));
        let rests = self
            .holders
            .iter()
            .filter(|holder| holder.is_in())
            .flat_map(Holder::returns_at)
            .filter(|until| *until > now);
        deadlines.chain(rests).chain(held_up).min()
    }
}

#[cfg(test)]
mod tests;
