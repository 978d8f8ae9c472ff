//! Where each record of a volume lies: 16 bytes an entry, in memory.
//!
//! The index keeps no names, only 86 bits of a keyed hash of each: what it answers is where a name would lie, and the record's own name settles it.
//! Two names of one hash share an entry, and the one that was put first is lost; among 10^8 names there is such a pair with a chance of 10^-10. The
//! seed is secret, so that nobody can choose names that meet.
//!
//! An entry is a slot of 128 bits: hash 74, [`Place`] 52 (segment 20, offset 19, length 13), uses 2. Slots lie in [`SHARDS`] tables under a lock each,
//! the shard chosen by another 12 bits of the hash; a table is a robin hood table without tombstones, whose slots are in the order of their hashes but
//! for the wrap-around. Tables grow by a quarter at 7/8 full and shrink below 11/16, so that an entry costs at most 24 bytes, whatever was put and
//! removed, once there are [`DENSE_ENTRIES`]. While one table is moved both its forms exist, which is 1/4096 of the whole.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    Name,
    format::{
        SEGMENT_BYTES_MAX, SEGMENTS_MAX, UNIT_BYTES,
        record::{BODY_MAX, record_bytes},
    },
};

/// Tables of an index. At ten million entries one has 2,400, 55 KB, moved in some 50 µs when it grows.
pub const SHARDS: usize = 1 << SHARD_BITS;
/// From this many entries on, one costs at most 24 bytes. An empty index costs 128 KiB.
pub const DENSE_ENTRIES: usize = 500_000;
/// Uses are counted up to this.
pub const USES_MAX: u8 = 3;

const SHARD_BITS: u32 = 12;
/// Where the hash begins in a slot.
const TAG_SHIFT: u32 = 54;
const USES_BITS: u32 = 2;
const UNITS_BITS: u32 = 13;
const OFFSET_BITS: u32 = 19;
const PLACE_MASK: u64 = (1 << (TAG_SHIFT - USES_BITS)) - 1;

/// The smallest table that is not empty.
const TABLE_MIN: usize = 8;

/// Where a record lies: 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// The place of a record with such a body, whose header begins `offset` bytes into a segment.
    ///
    /// None for what no volume has: segments from [`SEGMENTS_MAX`] up, offsets off the 64-byte grid or beyond the longest segment, bodies above
    /// [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX).
    #[must_use]
    pub const fn new(segment: u32, offset: u32, body_bytes: u32) -> Option<Self> {
        if segment >= SEGMENTS_MAX
            || offset >= SEGMENT_BYTES_MAX
            || !offset.is_multiple_of(UNIT_BYTES)
            || body_bytes > BODY_MAX
        {
            return None;
        }
        let units = record_bytes(body_bytes) / UNIT_BYTES;
        Some(Self(
            (segment as u64) << (OFFSET_BITS + UNITS_BITS)
                | ((offset / UNIT_BYTES) as u64) << UNITS_BITS
                | units as u64,
        ))
    }

    /// The segment.
    #[must_use]
    pub const fn segment(self) -> u32 {
        self.field(OFFSET_BITS + UNITS_BITS, 32)
    }

    /// Where the record's header begins in the segment, in bytes; a multiple of 64.
    #[must_use]
    pub const fn offset(self) -> u32 {
        self.field(UNITS_BITS, OFFSET_BITS) * UNIT_BYTES
    }

    /// What the record takes: header, body and padding, in bytes. The header has the body's length.
    #[must_use]
    pub const fn record_bytes(self) -> u32 {
        self.field(0, UNITS_BITS) * UNIT_BYTES
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most 32 bits are left")]
    const fn field(self, shift: u32, bits: u32) -> u32 {
        ((self.0 >> shift) & ((1 << bits) - 1)) as u32
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (segment, offset, bytes) = (self.segment(), self.offset(), self.record_bytes());
        write!(f, "Place({segment}:{offset}+{bytes})")
    }
}

/// An entry as it lies in memory and in a checkpoint. All zeroes where there is none: a record takes at least one unit.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Slot(u128);

impl Slot {
    const EMPTY: Self = Self(0);

    fn new(tag: Tag, place: Place, uses: u8) -> Self {
        Self(tag.0 | u128::from(place.0) << USES_BITS | u128::from(uses.min(USES_MAX)))
    }

    /// What a checkpoint has. None if there is no record in it.
    pub(super) fn from_bits(bits: u128) -> Option<Self> {
        Some(Self(bits)).filter(|slot| slot.place().record_bytes() > 0)
    }

    pub(super) const fn bits(self) -> u128 {
        self.0
    }

    fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    const fn tag(self) -> Tag {
        Tag(self.0 >> TAG_SHIFT << TAG_SHIFT)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the place is the low half without the uses"
    )]
    pub(super) const fn place(self) -> Place {
        Place((self.0 >> USES_BITS) as u64 & PLACE_MASK)
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to 2 bits")]
    const fn uses(self) -> u8 {
        self.0 as u8 & USES_MAX
    }
}

/// 74 bits of a name's hash, at the top.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u128);

impl Tag {
    /// Where a slot of this hash wants to lie among `slots`: in proportion, so that growing keeps the order.
    const fn home(self, slots: usize) -> usize {
        ((((self.0 >> 96) as u64) * slots as u64) >> 32) as usize
    }
}

/// One table.
#[derive(Default)]
struct Shard {
    slots: Box<[Slot]>,
    used: u32,
}

impl Shard {
    const fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }

    /// How far from its home the slot at `at` lies.
    fn displacement(&self, at: usize) -> usize {
        let home = self.slots[at].tag().home(self.slots.len());
        if at >= home {
            at - home
        } else {
            at + self.slots.len() - home
        }
    }

    /// Where a hash lies. Ends at an empty slot, of which there is always one, or at one that would have given way.
    fn find(&self, tag: Tag) -> Option<usize> {
        let mut at = tag.home(self.slots.len());
        for distance in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.is_empty() {
                return None;
            }
            if slot.tag() == tag {
                return Some(at);
            }
            if self.displacement(at) < distance {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Puts in a slot whose hash is not in the table, which has room.
    fn place(&mut self, mut slot: Slot) {
        let mut at = slot.tag().home(self.slots.len());
        let mut distance = 0;
        while !self.slots[at].is_empty() {
            let theirs = self.displacement(at);
            if theirs < distance {
                std::mem::swap(&mut self.slots[at], &mut slot);
                distance = theirs;
            }
            at = self.next(at);
            distance += 1;
        }
        self.slots[at] = slot;
    }

    /// Takes a slot out; those behind it move up.
    fn take(&mut self, mut at: usize) {
        loop {
            let next = self.next(at);
            if self.slots[next].is_empty() || self.displacement(next) == 0 {
                self.slots[at] = Slot::EMPTY;
                return;
            }
            self.slots[at] = self.slots[next];
            at = next;
        }
    }

    /// The length a table of so many entries should have: this one's, while it is neither too full nor too empty.
    fn length_for(&self, used: usize) -> usize {
        let slots = self.slots.len();
        if used * 8 > slots * 7 {
            // At least what is asked for, when many come at once.
            (slots + slots / 4).max(used * 8 / 7 + 1).max(TABLE_MIN)
        } else if used == 0 {
            0
        } else if used * 16 < slots * 11 && slots > TABLE_MIN {
            // Halfway between the two bounds: 25/32 full.
            (used * 32).div_ceil(25).max(TABLE_MIN)
        } else {
            slots
        }
    }

    /// Moves all to a table of this length, if it is another. Returns by how many slots the table grew.
    fn resize(&mut self, length: usize) -> isize {
        let before = self.slots.len();
        if length != before {
            let old = std::mem::replace(&mut self.slots, vec![Slot::EMPTY; length].into());
            for slot in old.into_iter().filter(|slot| !slot.is_empty()) {
                self.place(slot);
            }
        }
        length.cast_signed() - before.cast_signed()
    }
}

/// Where each record of a volume lies. See the head of this file.
///
/// Every method holds one shard's lock for about 100 ns, but for those that say otherwise. None does I/O.
pub struct Index {
    seed: u64,
    shards: Box<[Mutex<Shard>]>,
    entries: AtomicUsize,
    /// Slots of all tables.
    slots: AtomicUsize,
}

impl Index {
    /// An empty index. The seed is random and secret.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            entries: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
        }
    }

    /// Where the record of this name lies. No use of it.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Place> {
        self.with(name, |shard, at| shard.slots[at].place())
    }

    /// Where the record of this name lies, counted as a use of it.
    pub fn touch(&self, name: &Name) -> Option<Place> {
        self.with(name, |shard, at| {
            let slot = &mut shard.slots[at];
            *slot = Slot::new(slot.tag(), slot.place(), slot.uses() + 1);
            slot.place()
        })
    }

    /// Whether there is something under this name.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.with(name, |_, _| ()).is_some()
    }

    /// The uses counted, if the record of this name lies at this place: whether it is worth keeping. None if it lies elsewhere or nowhere.
    #[must_use]
    pub fn uses(&self, name: &Name, place: Place) -> Option<u8> {
        self.with(name, |shard, at| {
            let slot = shard.slots[at];
            (slot.place() == place).then(|| slot.uses())
        })
        .flatten()
    }

    /// Says where the record of this name lies from now on. Returns where it lay before; its uses stay, those of a new one are 0.
    pub fn insert(&self, name: &Name, place: Place) -> Option<Place> {
        let (shard, tag) = self.hash(name);
        self.put(&mut shard.lock(), tag, place, 0)
    }

    /// Says that the record of this name has moved, if it still lies where it was taken from. Its uses begin again at 0.
    pub fn relocate(&self, name: &Name, from: Place, to: Place) -> bool {
        self.with(name, |shard, at| {
            let slot = &mut shard.slots[at];
            let is_there = slot.place() == from;
            if is_there {
                *slot = Slot::new(slot.tag(), to, 0);
            }
            is_there
        })
        .unwrap_or(false)
    }

    /// Forgets this name. Returns where its record lay.
    pub fn remove(&self, name: &Name) -> Option<Place> {
        self.remove_where(name, |_| true)
    }

    /// Forgets this name if its record lies at this place.
    pub fn remove_if(&self, name: &Name, place: Place) -> bool {
        self.remove_where(name, |there| there == place).is_some()
    }

    /// Forgets all whose place is not to be kept. Looks at every entry, one shard after another: milliseconds for each million. Returns how many it forgot.
    pub fn retain(&self, mut keep: impl FnMut(Place) -> bool) -> usize {
        let mut forgot = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut table = Shard {
                slots: std::mem::take(&mut shard.slots),
                used: 0,
            };
            let before = shard.used;
            for slot in table.slots.iter_mut().filter(|slot| !slot.is_empty()) {
                if keep(slot.place()) {
                    table.used += 1;
                } else {
                    *slot = Slot::EMPTY;
                }
            }
            let dropped = (before - table.used) as usize;
            if dropped > 0 {
                // Into a table of its own even if the length stays: what is left may lie behind a hole.
                let length = table.length_for(table.used as usize);
                let old = std::mem::replace(&mut table.slots, vec![Slot::EMPTY; length].into());
                self.grew(length.cast_signed() - old.len().cast_signed());
                for slot in old.into_iter().filter(|slot| !slot.is_empty()) {
                    table.place(slot);
                }
                self.entries.fetch_sub(dropped, Ordering::Relaxed);
                forgot += dropped;
            }
            *shard = table;
        }
        forgot
    }

    /// Shows every entry's place and uses, one shard after another, in no order. What changes meanwhile is seen or not. Milliseconds for each million.
    pub fn for_each(&self, mut see: impl FnMut(Place, u8)) {
        for shard in &self.shards {
            let shard = shard.lock();
            for slot in shard.slots.iter().filter(|slot| !slot.is_empty()) {
                see(slot.place(), slot.uses());
            }
        }
    }

    /// Entries now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether there is no entry now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, in bytes: all tables and their heads, without what an allocator keeps beside them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + SHARDS * size_of::<Mutex<Shard>>()
            + self.slots.load(Ordering::Relaxed) * size_of::<Slot>()
    }

    /// The seed, for a checkpoint.
    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Appends the entries of a shard below [`SHARDS`].
    pub(super) fn copy_shard(&self, shard: usize, out: &mut Vec<Slot>) {
        if let Some(shard) = self.shards.get(shard) {
            let shard = shard.lock();
            out.extend(shard.slots.iter().filter(|slot| !slot.is_empty()));
        }
    }

    /// Puts at most about `count` entries back into a shard below [`SHARDS`] of an index of the same seed. Whatever they are, the index stays sound.
    pub(super) fn restore_shard(
        &self,
        shard: usize,
        count: usize,
        slots: impl Iterator<Item = Slot>,
    ) {
        let Some(shard) = self.shards.get(shard) else {
            return;
        };
        let mut shard = shard.lock();
        let length = shard.length_for(shard.used as usize + count);
        self.grew(shard.resize(length));
        for slot in slots {
            self.put(&mut shard, slot.tag(), slot.place(), slot.uses());
        }
        // The caller may have left out many.
        let length = shard.length_for(shard.used as usize);
        self.grew(shard.resize(length));
    }

    /// The shard of a name, and what it goes by there.
    fn hash(&self, name: &Name) -> (&Mutex<Shard>, Tag) {
        let hash = xxh3_128_with_seed(name, self.seed);
        let shard = hash as usize % SHARDS;
        (&self.shards[shard], Tag(hash >> TAG_SHIFT << TAG_SHIFT))
    }

    fn with<T>(&self, name: &Name, see: impl FnOnce(&mut Shard, usize) -> T) -> Option<T> {
        let (shard, tag) = self.hash(name);
        let mut shard = shard.lock();
        let at = shard.find(tag)?;
        Some(see(&mut shard, at))
    }

    fn put(&self, shard: &mut Shard, tag: Tag, place: Place, uses: u8) -> Option<Place> {
        if let Some(at) = shard.find(tag) {
            let slot = &mut shard.slots[at];
            let before = slot.place();
            *slot = Slot::new(tag, place, slot.uses().max(uses));
            return Some(before);
        }
        let length = shard
            .length_for(shard.used as usize + 1)
            .max(shard.slots.len());
        self.grew(shard.resize(length));
        shard.place(Slot::new(tag, place, uses));
        shard.used += 1;
        self.entries.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn remove_where(&self, name: &Name, wanted: impl FnOnce(Place) -> bool) -> Option<Place> {
        let (shard, tag) = self.hash(name);
        let mut shard = shard.lock();
        let at = shard.find(tag)?;
        let place = shard.slots[at].place();
        if !wanted(place) {
            return None;
        }
        shard.take(at);
        shard.used -= 1;
        self.entries.fetch_sub(1, Ordering::Relaxed);
        let length = shard.length_for(shard.used as usize);
        self.grew(shard.resize(length));
        Some(place)
    }

    fn grew(&self, slots: isize) {
        // Wraps as signed numbers do: what is taken away was added before.
        self.slots
            .fetch_add(slots.cast_unsigned(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("entries", &self.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        sync::LazyLock,
    };

    use proptest::prelude::*;

    use super::*;

    fn name(n: u64) -> Name {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn place(n: u32) -> Place {
        Place::new(n % SEGMENTS_MAX, n % 1_000 * 64, n % 262_144).unwrap()
    }

    /// What must hold of every table at any time.
    fn assert_sound(index: &Index) {
        let (mut entries, mut slots) = (0, 0);
        for shard in &index.shards {
            let shard = shard.lock();
            let used = shard.slots.iter().filter(|slot| !slot.is_empty()).count();
            assert_eq!(used, shard.used as usize);
            assert!(used * 8 <= shard.slots.len() * 7);
            assert!(shard.slots.len() <= TABLE_MIN || used * 16 >= shard.slots.len() * 11);
            for at in 0..shard.slots.len() {
                let slot = shard.slots[at];
                assert!(slot.is_empty() || shard.find(slot.tag()) == Some(at));
            }
            entries += used;
            slots += shard.slots.len();
        }
        assert_eq!(index.len(), entries);
        assert_eq!(index.slots.load(Ordering::Relaxed), slots);
    }

    /// Names that all fall into one shard of an index of seed 1, so that few of them make a table. One in 4,096 does.
    static CROWDED: LazyLock<Vec<Name>> = LazyLock::new(|| {
        let index = Index::new(1);
        let named = |n: u64| {
            let mut name = Name::default();
            name.as_chunks_mut::<8>().0[0] = n.to_le_bytes();
            name
        };
        let shard: *const _ = index.hash(&named(0)).0;
        let crowded = (0..)
            .map(named)
            .filter(|name| std::ptr::eq(index.hash(name).0, shard));
        crowded.take(1_200).collect()
    });

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Get(usize),
        Touch(usize),
        Insert(usize, u32),
        Relocate(usize, u32, u32),
        Remove(usize),
        RemoveIf(usize, u32),
        Retain(u32),
    }

    fn steps(names: usize) -> impl Strategy<Value = Vec<Step>> {
        let (n, p) = (0..names, 0..4_u32);
        let step = prop_oneof![
            4 => n.clone().prop_map(Step::Get),
            4 => n.clone().prop_map(Step::Touch),
            12 => (n.clone(), p.clone()).prop_map(|(n, p)| Step::Insert(n, p)),
            2 => (n.clone(), p.clone(), p.clone()).prop_map(|(n, p, q)| Step::Relocate(n, p, q)),
            4 => n.clone().prop_map(Step::Remove),
            4 => (n, p.clone()).prop_map(|(n, p)| Step::RemoveIf(n, p)),
            1 => p.prop_map(Step::Retain),
        ];
        prop::collection::vec(step, 1..600)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// With every name in one shard, so that displacement, wrap-around, growth and shrinking all happen.
        #[test]
        fn it_is_a_map_with_counted_uses(steps in steps(150)) {
            let index = Index::new(1);
            let names = &CROWDED[..150];
            let mut model: HashMap<usize, (Place, u8)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Get(n) => {
                        prop_assert_eq!(index.get(&names[n]), model.get(&n).map(|e| e.0));
                        prop_assert_eq!(index.contains(&names[n]), model.contains_key(&n));
                    }
                    Step::Touch(n) => {
                        let expected = model.get_mut(&n).map(|e| {
                            e.1 = (e.1 + 1).min(USES_MAX);
                            e.0
                        });
                        prop_assert_eq!(index.touch(&names[n]), expected);
                    }
                    Step::Insert(n, p) => {
                        let before = model.get(&n).copied();
                        model.insert(n, (place(p), before.map_or(0, |e| e.1)));
                        prop_assert_eq!(index.insert(&names[n], place(p)), before.map(|e| e.0));
                    }
                    Step::Relocate(n, from, to) => {
                        let there = model.get_mut(&n).filter(|e| e.0 == place(from));
                        let expected = there.map(|e| *e = (place(to), 0)).is_some();
                        prop_assert_eq!(index.relocate(&names[n], place(from), place(to)), expected);
                    }
                    Step::Remove(n) => {
                        prop_assert_eq!(index.remove(&names[n]), model.remove(&n).map(|e| e.0));
                    }
                    Step::RemoveIf(n, p) => {
                        let expected = model.get(&n).is_some_and(|e| e.0 == place(p));
                        if expected {
                            model.remove(&n);
                        }
                        prop_assert_eq!(index.remove_if(&names[n], place(p)), expected);
                    }
                    Step::Retain(p) => {
                        let before = model.len();
                        model.retain(|_, e| e.0 != place(p));
                        prop_assert_eq!(index.retain(|there| there != place(p)), before - model.len());
                    }
                }
            }
            assert_sound(&index);
            for (n, name) in names.iter().enumerate() {
                let expected = model.get(&n);
                prop_assert_eq!(index.get(name), expected.map(|e| e.0));
                for p in (0..4).map(place) {
                    let uses = expected.filter(|e| e.0 == p).map(|e| e.1);
                    prop_assert_eq!(index.uses(name, p), uses);
                }
            }
        }

        /// As from a checkpoint that somebody forged: no entry need be where its name leads.
        #[test]
        fn whatever_is_restored_the_tables_are_sound(
            bits in prop::collection::vec(prop_oneof![any::<u128>(), (0..8_u128).prop_map(|n| n << TAG_SHIFT | 1 << 2)], 0..300),
            count in 0..1_000_usize,
        ) {
            let index = Index::new(1);
            index.insert(&name(1), place(1));
            index.restore_shard(3, count, bits.iter().filter_map(|bits| Slot::from_bits(*bits)));
            assert_sound(&index);
            prop_assert_eq!(index.get(&name(1)), Some(place(1)));
            let slots = bits.iter().filter_map(|bits| Slot::from_bits(*bits));
            let distinct = slots.map(|slot| slot.tag().0).collect::<HashSet<_>>().len();
            prop_assert_eq!(index.retain(|_| false), distinct + 1);
        }

        #[test]
        fn a_place_keeps_its_numbers(
            segment in 0..SEGMENTS_MAX, offset in 0..SEGMENT_BYTES_MAX / 64, body in 0..=262_144_u32, uses in 0..=3_u8, tag: u128
        ) {
            let place = Place::new(segment, offset * 64, body).unwrap();
            prop_assert_eq!(
                (place.segment(), place.offset(), place.record_bytes()),
                (segment, offset * 64, record_bytes(body))
            );
            let tag = Tag(tag >> TAG_SHIFT << TAG_SHIFT);
            let slot = Slot::new(tag, place, uses);
            prop_assert!(slot.tag() == tag && slot.place() == place && slot.uses() == uses);
            prop_assert!(Slot::from_bits(slot.bits()) == Some(slot));
        }
    }

    #[test]
    fn places_no_volume_has_are_none() {
        for (segment, offset, body) in [
            (SEGMENTS_MAX, 0, 0),
            (0, SEGMENT_BYTES_MAX, 0),
            (0, 63, 0),
            (0, 0, 262_145),
        ] {
            assert_eq!(Place::new(segment, offset, body), None);
        }
        assert!(Slot::from_bits(u128::MAX << 15).is_none());
    }

    #[test]
    fn an_entry_costs_at_most_24_bytes_at_any_number_of_them() {
        let index = Index::new(1);
        let fixed = index.bytes();
        assert!(fixed <= 132 * 1024, "{fixed}");
        let names = &*CROWDED;
        let cost = |index: &Index| (index.bytes() - fixed) as f64 / index.len() as f64;
        for (n, name) in names.iter().enumerate() {
            index.insert(name, place(1));
            assert!(n < 100 || cost(&index) <= 23.5, "{n}: {}", cost(&index));
        }
        for (n, name) in names.iter().enumerate() {
            index.remove(name);
            assert!(n > 1_100 || cost(&index) <= 23.5, "{n}: {}", cost(&index));
        }
        assert_eq!((index.len(), index.bytes()), (0, fixed));
    }

    #[test]
    fn adding_and_removing_at_a_bound_moves_no_table_each_time() {
        let index = Index::new(1);
        let names = &*CROWDED;
        let mut moves = 0;
        let mut before = index.bytes();
        let mut step = |index: &Index| {
            moves += usize::from(index.bytes() != before);
            before = index.bytes();
        };
        for (n, name) in names.iter().enumerate() {
            index.insert(name, place(1));
            step(&index);
            for _ in 0..8 {
                let other = &names[n / 2];
                index.remove(other);
                step(&index);
                index.insert(other, place(2));
                step(&index);
            }
        }
        assert!(moves <= 60, "{moves}");
    }

    #[test]
    fn names_of_one_place_in_a_table_are_all_found() {
        let index = Index::new(1);
        let mut shard = Shard::default();
        // The same 32 bits of home, other bits below: all want the last slot of their table.
        let tags: Vec<_> = (0..200_u128)
            .map(|n| Tag(0xffff_ffff << 96 | n << TAG_SHIFT))
            .collect();
        for (n, tag) in tags.iter().enumerate() {
            let at = place(u32::try_from(n).unwrap());
            assert_eq!(index.put(&mut shard, *tag, at, 0), None);
        }
        for (n, tag) in tags.iter().enumerate() {
            let at = shard.find(*tag).unwrap();
            assert_eq!(shard.slots[at].place(), place(u32::try_from(n).unwrap()));
        }
    }

    #[test]
    fn threads_lose_nothing() {
        let index = Index::new(1);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let index = &index;
                scope.spawn(move || {
                    for n in (0..20_000).map(|n| n * 4 + thread) {
                        index.insert(&name(n), place(7));
                        assert_eq!(index.touch(&name(n)), Some(place(7)));
                        if n % 3 == 0 {
                            assert!(index.remove_if(&name(n), place(7)));
                        }
                    }
                });
            }
        });
        assert_sound(&index);
        assert_eq!(index.len(), (0..80_000).filter(|n| n % 3 != 0).count());
    }
}
