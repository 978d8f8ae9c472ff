//! The table against a model of it, and what happens at its bounds.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::index::record::WHOLE;

const ME: NodeId = NodeId([0xee; 32]);

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// Few buckets, so that they have neighbours in them.
fn key(n: u16) -> Key {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    bytes[31] = n.to_be_bytes()[1] % 4;
    Key(bytes)
}

fn record(n: u16, generation: u64) -> Record {
    Record {
        key: key(n),
        manifest: [3; 32],
        fraction: WHOLE,
        generation,
    }
}

fn terms(holder: u8, generation: u64, sequence: u64) -> Terms {
    Terms {
        holder: id(holder),
        owner: ME,
        generation,
        sequence,
    }
}

fn limits(records: usize) -> TableLimits {
    TableLimits {
        records,
        lease: Duration::from_secs(600),
        ..TableLimits::default()
    }
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Table {
    /// Everything that is said of the table at the heads of its files.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (place, lease) in (0u16..).zip(&self.leases) {
            let Some(lease) = lease else { continue };
            let mut records = 0;
            for (of, head) in lease.heads.iter().enumerate() {
                let (mut at, mut previous, mut digest) = (*head, NONE, 0u64);
                while at != NONE {
                    let entry = self.slab[at];
                    assert!(seen.insert(at), "in two lists");
                    assert_eq!((entry.lease, entry.previous), (place, previous));
                    assert_eq!(usize::from(bucket(&entry.key)), of);
                    assert!(
                        self.chain(entry.key).any(|known| known == at),
                        "not in its chain"
                    );
                    digest = digest.wrapping_add(record_of(&entry).digest());
                    records += 1;
                    (previous, at) = (at, entry.next);
                }
                assert_eq!(lease.digests[of], digest);
            }
            assert_eq!(lease.records, records);
            assert_eq!(
                lease.is_live,
                self.live.get(&lease.terms.holder) == Some(&place)
            );
        }
        assert_eq!(seen.len(), self.slab.len());
        assert!(self.slab.len() <= self.limits.records);
        let chained: usize = self
            .heads
            .iter()
            .map(|head| self.chain(self.slab[*head].key).count())
            .sum();
        assert_eq!(chained, self.slab.len());
    }

    fn known(&self, key: &Key, now: Duration) -> BTreeMap<NodeId, Record> {
        self.holders(key, now).collect()
    }
}

/// What a journal makes of what was there, as the disk would have it.
fn replay(
    journal: &[Write],
    leases: &mut BTreeMap<u16, Terms>,
    records: &mut BTreeMap<(u16, Key), Record>,
) {
    for write in journal {
        match *write {
            Write::Lease { place, terms } => {
                leases.insert(place, terms);
            }
            Write::End { place } => {
                leases.remove(&place);
                records.retain(|(of, _), _| *of != place);
            }
            Write::Put { place, record } => {
                records.insert((place, record.key), record);
            }
            Write::Clear {
                place,
                bucket: cleared,
            } => {
                records.retain(|(of, key), _| *of != place || bucket(key) != cleared);
            }
            Write::Delete { place, key } => {
                records.remove(&(place, key));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Announce {
        holder: u8,
        generation: u64,
        changes: Vec<(u8, u16)>,
    },
    Renew {
        holder: u8,
        generation: u64,
    },
    Forget(u8),
    Sleep(u64),
    Sweep(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let holder = 0u8..5;
    let generation = prop_oneof![8 => Just(1u64), 1 => 0u64..4];
    prop_oneof![
        6 => (holder.clone(), generation.clone(), prop::collection::vec((0u8..8, 0u16..40), 0..30))
            .prop_map(|(holder, generation, changes)| Op::Announce { holder, generation, changes }),
        2 => (holder.clone(), generation).prop_map(|(holder, generation)| Op::Renew { holder, generation }),
        1 => holder.prop_map(Op::Forget),
        1 => (0u64..400).prop_map(Op::Sleep),
        2 => (0usize..20).prop_map(Op::Sweep),
    ]
}

proptest! {
    #[test]
    fn it_says_what_a_map_of_maps_would_and_its_journal_too(ops in prop::collection::vec(op(), 1..60)) {
        let mut table = Table::new(limits(10_000), true);
        // Holder: generation, sequence, renewed, records.
        type Known = (u64, u64, u64, BTreeMap<Key, Record>);
        let mut model: BTreeMap<u8, Known> = BTreeMap::new();
        let (mut leases, mut records) = (BTreeMap::new(), BTreeMap::new());
        let (mut now, mut sequence) = (0, 0);
        for op in ops {
            sequence += 1;
            let enter = |model: &mut BTreeMap<u8, Known>, holder, generation| {
                let known = model.entry(holder).or_insert((generation, 0, now, BTreeMap::new()));
                if generation < known.0 {
                    return Err(Refusal::Stale { generation: known.0, sequence: known.1 });
                }
                if generation > known.0 {
                    *known = (generation, 0, now, BTreeMap::new());
                }
                (known.1, known.2) = (sequence, now);
                Ok(())
            };
            match op {
                Op::Announce { holder, generation, changes } => {
                    let changes: Vec<Change> = changes.iter().map(|(kind, n)| match kind {
                        0 => Change::Clear(n.to_be_bytes()[1] % 4),
                        1 | 2 => Change::Remove(key(*n)),
                        _ => Change::Add(record(*n, sequence)),
                    }).collect();
                    let expected = enter(&mut model, holder, generation).map(|()| Vec::new());
                    let got = table.announce(&terms(holder, generation, sequence), &changes, at(now));
                    prop_assert_eq!(&got, &expected);
                    if got.is_ok() {
                        let known = &mut model.get_mut(&holder).unwrap().3;
                        for change in changes {
                            match change {
                                Change::Clear(cleared) => known.retain(|key, _| bucket(key) != cleared),
                                Change::Remove(key) => { known.remove(&key); }
                                Change::Add(record) => { known.insert(record.key, record); }
                            }
                        }
                    }
                }
                Op::Renew { holder, generation } => {
                    let expected = enter(&mut model, holder, generation);
                    let digests = model[&holder].3.values().fold([0u64; BUCKETS], |mut digests, record| {
                        let digest = &mut digests[usize::from(bucket(&record.key))];
                        *digest = digest.wrapping_add(record.digest());
                        digests
                    });
                    let got = table.renew(&terms(holder, generation, sequence), root(&digests), at(now));
                    prop_assert_eq!(got.clone().map(|differing| differing.is_some()), expected.map(|()| false));
                    if expected.is_ok() {
                        sequence += 1;
                        model.get_mut(&holder).unwrap().1 = sequence;
                        let got = table.renew(&terms(holder, generation, sequence), 77, at(now));
                        prop_assert_eq!(got, Ok(Some(Box::new(digests))));
                    }
                }
                Op::Forget(holder) => {
                    table.forget(&id(holder));
                    model.remove(&holder);
                }
                Op::Sleep(seconds) => now += seconds,
                Op::Sweep(budget) => {
                    table.sweep(at(now), budget);
                    model.retain(|_, known| now - known.2 < 600);
                }
            }
            table.check();
            // Whoever begins two generations in a row would be told to wait: not in the model.
            table.clear_ended(usize::MAX);
            replay(&table.take_journal(), &mut leases, &mut records);
            for n in 0..40 {
                let of = |(holder, known): (&u8, &Known)| {
                    (now - known.2 < 600).then_some((id(*holder), *known.3.get(&key(n))?))
                };
                let expected: BTreeMap<NodeId, Record> = model.iter().filter_map(of).collect();
                prop_assert_eq!(table.known(&key(n), at(now)), expected);
            }
        }
        // What was written makes the same table again.
        let mut again = Table::new(limits(10_000), true);
        for (place, terms) in &leases {
            again.restore_lease(*place, *terms, at(now));
        }
        for ((place, _), record) in &records {
            again.restore(*place, record);
        }
        again.check();
        prop_assert_eq!(again.tally().strays, 0);
        for n in 0..40 {
            let of = |(holder, known): (&u8, &Known)| Some((id(*holder), *known.3.get(&key(n))?));
            let expected: BTreeMap<NodeId, Record> = model.iter().filter_map(of).collect();
            prop_assert_eq!(again.known(&key(n), at(now)), expected);
        }
    }

    #[test]
    fn at_the_bound_it_stays_whole_and_each_holder_gets_its_share(
        holders in prop::collection::vec((0u8..6, prop::collection::vec(0u16..400, 1..60)), 1..40),
    ) {
        let mut table = Table::new(limits(64), true);
        let mut refused = 0;
        let mut said: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
        for (at_once, (holder, keys)) in holders.into_iter().enumerate() {
            let changes: Vec<Change> = keys.iter().map(|n| Change::Add(record(*n, 1))).collect();
            let sequence = at_once as u64 + 1;
            refused += table.announce(&terms(holder, 1, sequence), &changes, at(sequence)).unwrap().len();
            said.entry(holder).or_default().extend(keys);
            table.check();
            // Whoever said something last has it, up to its share.
            let known = table.live.get(&id(holder)).and_then(|place| table.lease(*place)).unwrap();
            prop_assert!(known.records >= table.share().min(said[&holder].len()) || table.slab.len() < 64);
        }
        prop_assert_eq!(table.tally().refused, refused as u64);
        prop_assert!(table.slab.len() == 64 || refused == 0);
    }
}

#[test]
fn a_holder_that_announces_much_pushes_nobody_out() {
    let mut table = Table::new(limits(100), false);
    let adds = |range: std::ops::Range<u16>| -> Vec<Change> {
        range.map(|n| Change::Add(record(n, 1))).collect()
    };
    assert_eq!(
        table.announce(&terms(1, 1, 1), &adds(0..40), at(0)),
        Ok(vec![])
    );
    // The second takes what is left, and no more.
    let refused = table
        .announce(&terms(2, 1, 1), &adds(1_000..1_100), at(1))
        .unwrap();
    assert_eq!(refused, (60..100).collect::<Vec<u16>>());
    assert!(!table.has_room(&id(2)));
    assert!(table.has_room(&id(1)));
    // The first has less than its half: the second gives way.
    assert_eq!(
        table.announce(&terms(1, 1, 2), &adds(40..50), at(2)),
        Ok(vec![])
    );
    assert_eq!(
        table.announce(&terms(1, 1, 3), &adds(50..51), at(3)),
        Ok(vec![0])
    );
    assert_eq!(table.tally().evicted, 10);
    assert_eq!(table.tally().refused, 41);
    // Once the second's lease has lapsed, all of it is to be had, before anything is swept.
    let refused = table
        .announce(&terms(1, 1, 4), &adds(50..100), at(700))
        .unwrap();
    assert_eq!(refused, []);
    table.check();
}

#[test]
fn a_message_that_is_not_newer_is_refused_and_changes_nothing() {
    let mut table = Table::new(limits(100), false);
    let add = [Change::Add(record(1, 1))];
    assert_eq!(table.announce(&terms(1, 5, 9), &add, at(0)), Ok(vec![]));
    let stale = Err(Refusal::Stale {
        generation: 5,
        sequence: 9,
    });
    let gone = [Change::Remove(key(1))];
    assert_eq!(table.announce(&terms(1, 5, 9), &gone, at(1)), stale);
    assert_eq!(table.announce(&terms(1, 4, 99), &gone, at(1)), stale);
    assert_eq!(
        table.renew(&terms(1, 5, 3), 0, at(1)).map(|_| vec![]),
        stale
    );
    assert_eq!(table.known(&key(1), at(1)).len(), 1);
    // A greater generation voids all; the next has to wait until that is cleared.
    assert_eq!(table.announce(&terms(1, 6, 1), &[], at(2)), Ok(vec![]));
    assert_eq!(table.known(&key(1), at(2)).len(), 0);
    assert_eq!(
        table.announce(&terms(1, 7, 1), &[], at(2)),
        Err(Refusal::Busy)
    );
    assert!(!table.sweep(at(2), 10));
    assert_eq!(table.announce(&terms(1, 7, 1), &[], at(2)), Ok(vec![]));
}

#[test]
fn beyond_the_bound_of_holders_and_of_what_waits_for_the_disk_it_says_so() {
    let mut limits = limits(100);
    (limits.holders, limits.journal) = (2, 12);
    let mut table = Table::new(limits, true);
    assert_eq!(table.announce(&terms(1, 1, 1), &[], at(0)), Ok(vec![]));
    assert_eq!(table.announce(&terms(2, 1, 1), &[], at(0)), Ok(vec![]));
    assert_eq!(
        table.announce(&terms(3, 1, 1), &[], at(0)),
        Err(Refusal::Full)
    );
    let adds: Vec<Change> = (0..4).map(|n| Change::Add(record(n, 1))).collect();
    assert_eq!(
        table.announce(&terms(1, 1, 2), &adds, at(0)),
        Err(Refusal::Busy)
    );
    assert_eq!(table.take_journal().len(), 4);
    assert_eq!(table.announce(&terms(1, 1, 2), &adds, at(0)), Ok(vec![]));
    // One lapses and is swept: there is a place again.
    assert_eq!(table.renew(&terms(1, 1, 3), 0, at(599)).map(|_| ()), Ok(()));
    assert!(!table.sweep(at(600), 100));
    assert_eq!(table.announce(&terms(3, 1, 1), &[], at(600)), Ok(vec![]));
    assert_eq!(table.tally().lapsed, 1);
}
