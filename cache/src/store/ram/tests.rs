//! What holds for every tier in memory, whatever its policy.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    content::CHUNK_BYTES_MAX,
    store::{MokaTier, QuickTier, S3FifoTier, moka, quick, s3fifo},
};

const MIB: u64 = 1024 * 1024;

/// Each policy, with what it accounts for beside a chunk's bytes.
type Policy = (fn(u64) -> Box<dyn RamTier>, u64);

const POLICIES: [Policy; 3] = [
    (
        |capacity| Box::new(QuickTier::new(capacity)),
        quick::ENTRY_OVERHEAD_BYTES,
    ),
    (
        |capacity| Box::new(MokaTier::new(capacity)),
        moka::ENTRY_BYTES,
    ),
    (
        |capacity| Box::new(S3FifoTier::new(capacity)),
        s3fifo::ENTRY_BYTES,
    ),
];

fn id(n: u64) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// The bytes a chunk of this number has, as content addressing makes it: always the same.
fn bytes(n: u64) -> Bytes {
    let len = 1 + blake3::hash(&n.to_be_bytes()).as_bytes()[0] as usize * 200;
    vec![n.to_le_bytes()[0]; len].into()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Get(u64),
    Insert(u64),
    Contains(u64),
    Pin(u64),
    Unpin(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..400u64;
    let step = prop_oneof![
        3 => n.clone().prop_map(Step::Get),
        3 => n.clone().prop_map(Step::Insert),
        2 => n.clone().prop_map(Step::Contains),
        1 => n.clone().prop_map(Step::Pin),
        1 => n.prop_map(Step::Unpin),
    ];
    prop::collection::vec(step, 1..1_500)
}

/// Against the set of all that was ever put in: a tier may forget, and nothing else; and not what is pinned.
fn may_only_forget(policy: Policy, capacity: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let (new, overhead) = policy;
    let tier = new(capacity);
    let mut put = HashMap::new();
    let mut pins = HashMap::<u64, u32>::new();
    let mut stored = 0;
    for step in steps {
        match *step {
            Step::Get(n) => {
                if let Some(got) = tier.get(&id(n)) {
                    prop_assert_eq!(Some(&got), put.get(&n));
                }
            }
            Step::Contains(n) => {
                prop_assert!(!tier.contains(&id(n)) || put.contains_key(&n));
            }
            Step::Insert(n) => {
                let held = tier.contains(&id(n));
                match tier.insert(id(n), bytes(n)) {
                    Inserted::Present => prop_assert!(held),
                    Inserted::TooLarge => prop_assert!(!tier.contains(&id(n))),
                    Inserted::Stored => {
                        prop_assert!(!held);
                        stored += 1;
                        put.insert(n, bytes(n));
                    }
                }
            }
            Step::Pin(n) => {
                let held = tier.contains(&id(n));
                if tier.pin(&id(n)) {
                    prop_assert!(held);
                    *pins.entry(n).or_default() += 1;
                }
            }
            Step::Unpin(n) => {
                tier.unpin(&id(n));
                if let Some(count) = pins.get_mut(&n) {
                    *count -= 1;
                    if *count == 0 {
                        pins.remove(&n);
                    }
                }
            }
        }
        prop_assert!(tier.bytes_used() <= tier.capacity());
        prop_assert_eq!(tier.len() as u64 + tier.evicted(), stored);
        let pinned: u64 = pins.keys().map(|n| bytes(*n).len() as u64 + overhead).sum();
        prop_assert_eq!(tier.bytes_pinned(), pinned);
        prop_assert!(pinned <= capacity / 4);
        prop_assert!(pins.keys().all(|n| tier.contains(&id(*n))));
    }
    // The figure is the sum over what is held, to the byte.
    let held: u64 = put
        .iter()
        .filter(|(n, _)| tier.contains(&id(**n)))
        .map(|(_, bytes)| bytes.len() as u64 + overhead)
        .sum();
    prop_assert_eq!(tier.bytes_used(), held);
    Ok(())
}

fn is_a_map(tier: &dyn RamTier, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = HashMap::new();
    for step in steps {
        match *step {
            Step::Get(n) => prop_assert_eq!(tier.get(&id(n)), model.get(&n).cloned()),
            Step::Contains(n) => prop_assert_eq!(tier.contains(&id(n)), model.contains_key(&n)),
            Step::Insert(n) => {
                let new = model.insert(n, bytes(n)).is_none();
                let expected = if new {
                    Inserted::Stored
                } else {
                    Inserted::Present
                };
                prop_assert_eq!(tier.insert(id(n), bytes(n)), expected);
            }
            Step::Pin(n) => {
                tier.pin(&id(n));
            }
            Step::Unpin(n) => tier.unpin(&id(n)),
        }
    }
    prop_assert_eq!(tier.len(), model.len());
    prop_assert_eq!(tier.evicted(), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn holds_only_what_was_put_and_never_more_than_its_capacity(
        steps in steps(), capacity in 64 * 1024..4 * MIB
    ) {
        for policy in POLICIES {
            may_only_forget(policy, capacity, &steps)?;
        }
    }

    /// Where nothing needs to be evicted.
    #[test]
    fn with_room_for_all_it_is_a_map(steps in steps()) {
        for (new, _) in POLICIES {
            is_a_map(&*new(256 * MIB), &steps)?;
        }
    }
}

#[test]
fn threads_never_see_it_above_its_capacity() {
    for (new, overhead) in POLICIES {
        let tier = new(16 * MIB);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let tier = &tier;
                scope.spawn(move || {
                    for n in 0..4_000 {
                        // Half of the numbers are common to all threads.
                        let n = if n % 2 == 0 { n } else { n * 4 + thread };
                        tier.insert(id(n), bytes(n));
                        if n % 8 == 0 && tier.pin(&id(n)) {
                            assert!(tier.contains(&id(n)));
                            tier.unpin(&id(n));
                        }
                        assert!(tier.bytes_used() <= tier.capacity());
                    }
                });
            }
        });
        assert!(tier.evicted() > 0, "{tier:?}");
        assert!(tier.bytes_used() > tier.capacity() / 2, "{tier:?}");
        assert_eq!(tier.bytes_pinned(), 0);
        let held: u64 = (0..16_000)
            .filter(|n| tier.contains(&id(*n)))
            .map(|n| bytes(n).len() as u64 + overhead)
            .sum();
        assert_eq!(tier.bytes_used(), held);
    }
}

#[test]
fn a_chunk_larger_than_the_tier_is_refused_and_evicts_nothing() {
    for (new, _) in POLICIES {
        // Too small for the largest chunk in every policy, and large enough for `moka`'s fixed cost.
        let tier = new(260 * 1024);
        let small = Bytes::from_static(b"small");
        assert_eq!(tier.insert(id(1), small.clone()), Inserted::Stored);
        let large = Bytes::from(vec![0; CHUNK_BYTES_MAX]);
        assert_eq!(tier.insert(id(2), large), Inserted::TooLarge, "{tier:?}");
        assert_eq!((tier.len(), tier.evicted()), (1, 0));
        assert_eq!(new(0).insert(id(1), small), Inserted::TooLarge);
    }
}

#[test]
fn every_chunk_fits_from_the_documented_capacity_on() {
    for (new, _) in POLICIES {
        for capacity in [8 * MIB, 9 * MIB, 100 * MIB, 256 * MIB, 1 << 40] {
            let largest = Bytes::from(vec![0; CHUNK_BYTES_MAX]);
            let tier = new(capacity);
            assert_eq!(tier.insert(id(1), largest), Inserted::Stored, "{capacity}");
        }
    }
}

#[test]
fn a_scan_does_not_push_out_what_is_read_often() {
    for (new, _) in POLICIES {
        let tier = new(8 * MIB);
        let chunk = || Bytes::from(vec![0; 16 * 1024]);
        for n in 0..100 {
            tier.insert(id(n), chunk());
        }
        for n in 0..10_000 {
            tier.insert(id(1_000_000 + n), chunk());
            for hot in 0..100 {
                if n % 50 == 0 {
                    tier.get(&id(hot));
                }
            }
        }
        let kept = (0..100).filter(|&n| tier.contains(&id(n))).count();
        assert!(kept >= 95, "{tier:?} kept {kept} of 100");
    }
}

#[test]
fn the_docs_name_what_a_chunk_is_counted_with() {
    let [quick, moka, ours] = POLICIES.map(|(_, overhead)| overhead);
    let written = |page: &str, words: &str| {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + page;
        let text = std::fs::read_to_string(page).unwrap().replace('\n', " ");
        assert!(text.contains(words), "no {words:?}");
    };
    written(
        "docs/store.md",
        &format!("{ours} bytes; {quick} with `QuickTier`, {moka} with `MokaTier`"),
    );
    written("ARCHITECTURE.md", &format!("{ours} B of bookkeeping"));
    for (page, overhead) in [("s3fifo", ours), ("quick", quick), ("moka", moka)] {
        let page = format!("cache/src/store/{page}.rs");
        written(&page, &format!("chunk bytes plus {overhead} for each"));
    }
}
