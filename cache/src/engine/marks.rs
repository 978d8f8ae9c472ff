//! The order of fetches and invalidations, so that no fetch that began before an invalidation is taken for fresh after it.
//!
//! One sequence counts for the whole cache; there is no clock in it. Two kinds of marks stand on it:
//!
//! - **A URL's**: while fetches of a URL are under way it has an entry here, with the point at which it was last invalidated. A fetch may
//!   store only where that has not moved since it began. Stored responses need no mark: an invalidation rewrites the at most 16 of
//!   its URL. Exact, O(1), and bounded by the fetches under way.
//!   On disk it does need one, until what is stored there is rewritten: see [`persist`](super::persist).
//! - **A group's** (RFC 9875): nobody walks its members. The group's name is hashed to one of [`SLOTS`] slots, which holds the point of its last
//!   invalidation; a response is invalid once any of its slots is past the point at which its fetch began. Two groups that share a slot are
//!   invalidated together: at worst a response is validated once too often.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;
use http::HeaderMap;
use parking_lot::{Mutex, RwLockReadGuard};

use super::persist::{Ledger, Recovered, Stamp};
use crate::{
    http::groups::{self, CACHE_GROUPS, GROUPS_MAX},
    key::CacheKey,
};

/// Slots for marks of groups: 65,536 × 8 B = 512 KiB a cache. With `n` other groups invalidated, a group is hit with a chance of `n` in 65,536.
const SLOTS: usize = 1 << 16;

/// Domain separation of the hash of groups.
const CONTEXT: &str = "stoq 2026-11-21 cache group v1";

/// The table of marks.
#[derive(Debug)]
pub(super) struct Marks {
    /// The last point given out.
    sequence: AtomicU64,
    /// URLs with fetches under way.
    open: DashMap<CacheKey, Open>,
    slots: Box<[AtomicU64]>,
    /// The last invalidation of any group. Never ahead of the slots.
    last: AtomicU64,
    /// Taken by those who invalidate groups, so that `last` grows with its slots.
    marking: Mutex<()>,
    /// So that nobody can tell which names share a slot.
    key: [u8; 32],
    /// Which sequence the points are of: another one wherever an earlier one may have been lost.
    era: u64,
    /// For marks that outlive the process.
    ledger: Option<Arc<Ledger>>,
}

#[derive(Debug, Default)]
struct Open {
    fetches: usize,
    /// The point of the last invalidation while it was open; 0 for none.
    outdated: u64,
}

/// A fetch under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Begun {
    marks: Arc<Marks>,
    key: CacheKey,
    /// What the URL's entry said when it began.
    generation: u64,
    /// The point at which it began.
    at: u64,
}

/// The groups a response belongs to, and since when that counts.
#[derive(Debug)]
pub(crate) struct Membership {
    slots: Box<[u32]>,
    /// The point at which its fetch began.
    begun: u64,
    /// Up to here no invalidation concerned it.
    cleared: AtomicU64,
}

impl Membership {
    /// Bytes it weighs.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.slots)
    }

    /// The point at which its fetch began and its slots, to be stored.
    pub(super) fn parts(&self) -> (u64, &[u32]) {
        (self.begun, &self.slots)
    }

    /// What was made of these parts; `None` where nothing can have been.
    pub(super) fn from_parts(begun: u64, slots: Box<[u32]>) -> Option<Self> {
        let is_known = |slot: &u32| (*slot as usize) < SLOTS;
        (slots.len() <= GROUPS_MAX + 1 && slots.iter().all(is_known)).then(|| Self {
            slots,
            begun,
            cleared: AtomicU64::new(begun),
        })
    }
}

impl Marks {
    /// No marks yet. `secret` keeps the slots of names from being known outside.
    pub(super) fn new(secret: &[u8; 32]) -> Arc<Self> {
        Self::recovered(secret, &Recovered::new(), None)
    }

    /// The marks an earlier process left, and where those to come go.
    pub(super) fn recovered(
        secret: &[u8; 32],
        recovered: &Recovered,
        ledger: Option<Arc<Ledger>>,
    ) -> Arc<Self> {
        let slots: Box<[AtomicU64]> = std::iter::repeat_with(AtomicU64::default)
            .take(SLOTS)
            .collect();
        for (slot, point) in &recovered.slots {
            if let Some(mark) = slots.get(*slot as usize) {
                mark.store(*point, Ordering::SeqCst);
            }
        }
        let last = recovered.slots.values().max().copied().unwrap_or(0);
        Arc::new(Self {
            sequence: AtomicU64::new(recovered.ceiling),
            open: DashMap::new(),
            slots,
            last: AtomicU64::new(last),
            marking: Mutex::new(()),
            key: blake3::derive_key(CONTEXT, secret),
            era: recovered.era,
            ledger,
        })
    }

    /// What a record that is written now is from after.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            era: self.era,
            point: self.sequence.load(Ordering::SeqCst),
        }
    }

    /// Whether a record of this URL is from before the URL's last invalidation, as far as can be told.
    pub(super) fn is_past(&self, stamp: Stamp, key: &CacheKey) -> bool {
        let mark = self
            .ledger
            .as_ref()
            .map_or(0, |ledger| ledger.url_mark(key));
        stamp.era != self.era || stamp.point < mark
    }

    /// Marks a URL for what is on disk. What is stored of it is to be rewritten while the guard is held.
    pub(super) fn mark_url(&self, key: CacheKey) -> Option<RwLockReadGuard<'_, ()>> {
        let ledger = self.ledger.as_ref()?;
        Some(ledger.mark_url(key, || self.next()))
    }

    /// Waits until the marks so far outlive the process, at most a second. Whether they do. Cancel safe.
    pub(super) async fn written(&self) -> bool {
        match &self.ledger {
            Some(ledger) => ledger.written().await,
            None => true,
        }
    }

    /// All that is to be kept.
    pub(super) fn snapshot(&self) -> Recovered {
        // No group is being marked: what was marked in a slot is in all of its slots.
        let _marking = self.marking.lock();
        let marks = self.slots.iter().map(|mark| mark.load(Ordering::SeqCst));
        let slots = (0_u32..).zip(marks).filter(|(_, point)| *point > 0);
        let ledger = self.ledger.as_ref().map(|ledger| ledger.marked());
        let (urls, floor) = ledger.unwrap_or_default();
        Recovered {
            era: self.era,
            ceiling: self.sequence.load(Ordering::SeqCst),
            floor,
            urls,
            slots: slots.collect(),
        }
    }

    /// Begins a fetch of a URL. To be called before the request leaves.
    pub(super) fn begin(self: &Arc<Self>, key: CacheKey) -> Begun {
        let mut open = self.open.entry(key).or_default();
        open.fetches += 1;
        let generation = open.outdated;
        drop(open);
        Begun {
            marks: Arc::clone(self),
            key,
            generation,
            at: self.sequence.load(Ordering::SeqCst),
        }
    }

    /// Tells the fetches of a URL that began before its last invalidation from those that began after it.
    pub(super) fn generation(&self, key: &CacheKey) -> u64 {
        self.open.get(key).map_or(0, |open| open.outdated)
    }

    /// Keeps what fetches of this URL bring that are under way from being stored, and from being joined. Whether there were any.
    pub(super) fn outdate(&self, key: &CacheKey) -> bool {
        let Some(mut open) = self.open.get_mut(key) else {
            return false;
        };
        open.outdated = self.next();
        true
    }

    /// As [`Self::outdate`], for all fetches of the URL but this one, which stays current if it was. Whether there were others.
    pub(super) fn outdate_others(&self, own: &mut Begun) -> bool {
        let Some(mut open) = self.open.get_mut(&own.key) else {
            return false;
        };
        let was_current = open.outdated == own.generation;
        open.outdated = self.next();
        if was_current {
            own.generation = open.outdated;
        }
        open.fetches > 1
    }

    /// As [`Self::outdate`], unless another did since the URL had this generation.
    pub(super) fn outdate_from(&self, key: &CacheKey, generation: u64) {
        if let Some(mut open) = self.open.get_mut(key)
            && open.outdated == generation
        {
            open.outdated = self.next();
        }
    }

    /// The groups a response belongs to; `None` for none. `origin` names its URI's origin.
    pub(super) fn membership(
        &self,
        origin: &CacheKey,
        headers: &HeaderMap,
        begun: u64,
    ) -> Option<Arc<Membership>> {
        let names = groups::names(headers, &CACHE_GROUPS);
        if names.is_empty() {
            return None;
        }
        let more = (names.len() > GROUPS_MAX).then(|| self.slot(origin, None));
        let named = names.iter().take(GROUPS_MAX);
        let slots = named.map(|name| self.slot(origin, Some(name)));
        Some(Arc::new(Membership {
            slots: slots.chain(more).collect(),
            begun,
            cleared: AtomicU64::new(begun),
        }))
    }

    /// Makes groups of this origin invalid, by name: O(1) each, however many responses they have.
    pub(super) fn outdate_groups(&self, origin: &CacheKey, names: &[String]) {
        let slots = names.iter().map(|name| self.slot(origin, Some(name)));
        self.outdate_slots(slots.chain([self.slot(origin, None)]));
    }

    /// Makes the groups of these responses invalid.
    pub(super) fn outdate_memberships<'a>(
        &self,
        memberships: impl Iterator<Item = &'a Membership>,
    ) {
        self.outdate_slots(memberships.flat_map(|membership| membership.slots.iter().copied()));
    }

    fn outdate_slots(&self, slots: impl Iterator<Item = u32>) {
        let slots: Vec<u32> = slots.collect();
        let _marking = self.marking.lock();
        let point = self.next();
        for slot in &slots {
            if let Some(mark) = self.slots.get(*slot as usize) {
                mark.store(point, Ordering::SeqCst);
            }
        }
        self.last.store(point, Ordering::SeqCst);
        if let Some(ledger) = &self.ledger {
            ledger.mark_slots(&slots, point);
        }
    }

    /// Whether a group of this response was invalidated after its fetch began. One comparison where no group was since it was asked last.
    pub(super) fn is_outdated(&self, membership: Option<&Membership>) -> bool {
        let Some(membership) = membership else {
            return false;
        };
        let last = self.last.load(Ordering::SeqCst);
        if last <= membership.cleared.load(Ordering::Relaxed) {
            return false;
        }
        let outdated = membership.slots.iter().any(|slot| {
            self.slots
                .get(*slot as usize)
                .is_some_and(|mark| mark.load(Ordering::SeqCst) > membership.begun)
        });
        if !outdated {
            membership.cleared.fetch_max(last, Ordering::Relaxed);
        }
        outdated
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The slot of a group; of "any group of this origin" where it has no name.
    fn slot(&self, origin: &CacheKey, name: Option<&str>) -> u32 {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(origin.as_bytes());
        if let Some(name) = name {
            hasher.update(b"\"").update(name.as_bytes());
        }
        let hash = hasher.finalize();
        let [low, high, ..] = *hash.as_bytes();
        u32::from(u16::from_le_bytes([low, high]))
    }
}

impl Begun {
    /// Whether the URL was not invalidated since this fetch began.
    pub(super) fn is_current(&self) -> bool {
        self.marks.generation(&self.key) == self.generation
    }

    /// The point at which it began.
    pub(super) fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.marks.open.remove_if_mut(&self.key, |_, open| {
            open.fetches -= 1;
            open.fetches == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);
    const OTHER: CacheKey = CacheKey::from_bytes([2; 32]);

    fn in_groups(line: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_GROUPS.clone(), HeaderValue::try_from(line).unwrap());
        headers
    }

    #[test]
    fn a_fetch_is_outdated_by_an_invalidation_of_its_url_after_its_begin_alone() {
        let marks = Marks::new(&[7; 32]);
        assert!(!marks.outdate(&KEY), "nothing is under way");
        let before = marks.begin(KEY);
        let other = marks.begin(OTHER);
        assert!(marks.outdate(&KEY));
        let after = marks.begin(KEY);
        assert!(!before.is_current() && after.is_current() && other.is_current());
        marks.outdate_from(&KEY, before.generation);
        assert!(after.is_current(), "another did before");
        drop(before);
        assert!(after.is_current());
        drop((after, other));
        assert!(marks.open.is_empty(), "bounded by what is under way");
        assert_eq!(marks.generation(&KEY), 0);
    }

    #[test]
    fn a_fetch_that_outdates_the_others_stays_current_only_if_it_was() {
        let marks = Marks::new(&[7; 32]);
        let mut first = marks.begin(KEY);
        assert!(!marks.outdate_others(&mut first), "there are no others");
        assert!(first.is_current());
        let mut second = marks.begin(KEY);
        assert!(marks.outdate_others(&mut second));
        assert!(second.is_current() && !first.is_current());
        assert!(marks.outdate_others(&mut first));
        assert!(!second.is_current() && !first.is_current());
    }

    #[test]
    fn a_group_is_invalid_for_what_was_asked_before_and_in_its_origin_alone() {
        let marks = Marks::new(&[7; 32]);
        let of = |origin, line: &str| {
            let at = marks.begin(KEY).at();
            marks.membership(origin, &in_groups(line), at)
        };
        let old = of(&KEY, "\"a\", \"b\"");
        let case = of(&KEY, "\"A\"");
        let foreign = of(&OTHER, "\"a\"");
        marks.outdate_groups(&KEY, &["a".to_owned(), "c".to_owned()]);
        let new = of(&KEY, "\"a\"");
        let is_outdated = |membership: &Option<Arc<Membership>>| {
            // Twice: what was found once is remembered.
            let found = marks.is_outdated(membership.as_deref());
            assert_eq!(marks.is_outdated(membership.as_deref()), found);
            found
        };
        assert!(is_outdated(&old));
        assert!(!is_outdated(&case) && !is_outdated(&foreign) && !is_outdated(&new));
        marks.outdate_memberships(new.as_deref().into_iter());
        assert!(is_outdated(&new) && !is_outdated(&foreign));
        assert!(of(&KEY, "token").is_none());
    }

    #[test]
    fn a_response_in_more_groups_than_are_kept_is_in_all_of_its_origin() {
        let marks = Marks::new(&[7; 32]);
        let names: Vec<String> = (0..=GROUPS_MAX).map(|i| format!("\"{i:04}\"")).collect();
        let crowd = marks.membership(&KEY, &in_groups(&names.join(", ")), 0);
        assert_eq!(
            crowd.as_ref().map(|crowd| crowd.slots.len()),
            Some(GROUPS_MAX + 1)
        );
        marks.outdate_groups(&OTHER, &["x".to_owned()]);
        assert!(!marks.is_outdated(crowd.as_deref()));
        marks.outdate_groups(&KEY, &["x".to_owned()]);
        assert!(marks.is_outdated(crowd.as_deref()));
    }
}
