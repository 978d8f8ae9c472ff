//! The index against a map, its tables against their invariants.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use proptest::prelude::*;

use super::{table::TABLE_MIN, *};
use crate::store::disk::format::SEGMENTS_MAX;

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
        assert_eq!(used, shard.used);
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
        bits in prop::collection::vec(prop_oneof![any::<u128>(), (0..8_u128).prop_map(|n| n << 54 | 1 << 2)], 0..300),
        count in 0..1_000_usize,
    ) {
        let index = Index::new(1);
        index.insert(&name(1), place(1));
        index.restore_shard(3, count, bits.iter().filter_map(|bits| Slot::from_bits(*bits)));
        assert_sound(&index);
        prop_assert_eq!(index.get(&name(1)), Some(place(1)));
        let slots = bits.iter().filter_map(|bits| Slot::from_bits(*bits));
        let distinct = slots.map(|slot| slot.bits() >> 54).collect::<HashSet<_>>().len();
        prop_assert_eq!(index.retain(|_| false), distinct + 1);
    }
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
    let mut table = Table::default();
    // The same 32 bits of home, other bits below: all want the last slot of their table.
    let tags: Vec<_> = (0..200_u128)
        .map(|n| Tag::of_hash(0xffff_ffff << 96 | n << 54))
        .collect();
    for (n, tag) in tags.iter().enumerate() {
        let at = place(u32::try_from(n).unwrap());
        assert!(table.put(Slot::new(*tag, at, 0)).is_none());
    }
    for (n, tag) in tags.iter().enumerate() {
        let at = table.find(*tag).unwrap();
        assert_eq!(table.slots[at].place(), place(u32::try_from(n).unwrap()));
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
