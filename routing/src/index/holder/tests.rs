//! Holders and owners on a network that loses and delays: what owners know in the end is what is held, and it costs what it should.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::index::{
    record::BUCKETS,
    table::{Table, TableLimits},
    testing::{Pen, Trust, node, view},
};

const MS: Duration = Duration::from_millis(1);
const WALL: u64 = 1_800_000_000_000;

fn id(n: u8) -> NodeId {
    NodeId(*blake3::hash(&[n]).as_bytes())
}

fn key(n: u16) -> Key {
    Key(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

/// Few buckets, so that one does not fit a message.
fn near(n: u16) -> Key {
    let mut key = key(n);
    key.0[31] = n.to_be_bytes()[1] % 3;
    key
}

fn wall(now: Duration) -> u64 {
    WALL + u64::try_from(now.as_millis()).unwrap()
}

/// One holder, number 0, and owners that are tables.
struct World {
    holder: Holder,
    tables: BTreeMap<NodeId, Table>,
    table: TableLimits,
    view: BTreeSet<u8>,
    generation: u64,
    now: Duration,
    /// Requests on their way, replies on theirs: from whom, when they arrive.
    requests: VecDeque<(Duration, NodeId, Request)>,
    replies: VecDeque<(Duration, NodeId, Option<Reply>)>,
    /// What becomes of the next messages, used in turns: the request arrives, the reply does.
    luck: Vec<(bool, bool)>,
    sent: usize,
    bytes: usize,
}

impl World {
    fn new(
        view: impl IntoIterator<Item = u8>,
        limits: HolderLimits,
        luck: Vec<(bool, bool)>,
    ) -> Self {
        let mut world = Self {
            holder: Holder::new(id(0), 1, limits, true),
            tables: BTreeMap::new(),
            table: TableLimits::default(),
            view: view.into_iter().collect(),
            generation: 0,
            now: Duration::ZERO,
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            luck,
            sent: 0,
            bytes: 0,
        };
        world.look();
        world
    }

    fn owners(&self) -> Arc<Owners> {
        let zone = |n: u8| [("eu", "fra"), ("eu", "ams"), ("us", "nyc")][usize::from(n % 3)];
        let nodes = self
            .view
            .iter()
            .map(|n| node(id(*n), zone(*n).0, zone(*n).1));
        Arc::new(Owners::of(view(id(0), true, nodes)))
    }

    /// The holder sees who is there.
    fn look(&mut self) {
        self.generation += 1;
        self.holder.follow(self.owners(), self.now);
    }

    fn table(&mut self, of: NodeId) -> &mut Table {
        let limits = self.table;
        let new = || Table::new(limits, false);
        self.tables.entry(of).or_insert_with(new)
    }

    fn serve(&mut self, to: NodeId, request: &Request) -> Reply {
        // As on the wire.
        let request = Request::decode(&request.encode()).unwrap();
        let now = self.now;
        let table = self.table(to);
        let from = id(0);
        match request {
            Request::Find { .. } => unreachable!("a holder seeks nothing"),
            Request::Announce(signed) => {
                signed.check(&to, &from, &Trust::default()).unwrap();
                let announcement = signed.statement;
                match table.announce(&announcement.terms, &announcement.changes, now) {
                    Ok(refused) => Reply::Accepted { refused },
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
            Request::Renew(signed) => {
                signed.check(&to, &from, &Trust::default()).unwrap();
                let room = table.has_room(&from);
                match table.renew(&signed.statement.terms, signed.statement.root, now) {
                    Ok(None) => Reply::Kept { room },
                    Ok(Some(digests)) => Reply::Differs { digests, room },
                    Err(refusal) => Reply::Refused(refusal),
                }
            }
        }
    }

    /// Lets all run until this time.
    fn run(&mut self, until: Duration) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 1_000_000, "it never comes to rest");
            let wait = match self.holder.step(self.now, wall(self.now), &Pen(id(0))) {
                HolderStep::Send { to, request } => {
                    self.sent += 1;
                    self.bytes += request.encode().len();
                    self.requests.push_back((self.now + 20 * MS, to, request));
                    continue;
                }
                HolderStep::Wait(at) if at <= self.now => continue,
                HolderStep::Wait(at) => Some(at),
                HolderStep::Idle => None,
            };
            let next = [
                wait,
                self.requests.front().map(|(at, _, _)| *at),
                self.replies.front().map(|(at, _, _)| *at),
            ];
            let Some(at) = next.into_iter().flatten().min().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            if let Some((at, _, _)) = self.requests.front()
                && *at <= self.now
                && let Some((_, to, request)) = self.requests.pop_front()
            {
                let (arrives, replied) = self
                    .luck
                    .get(self.sent % self.luck.len().max(1))
                    .copied()
                    .unwrap_or((true, true));
                let alive = self.view.iter().any(|n| id(*n) == to);
                let reply = (arrives && alive).then(|| self.serve(to, &request));
                self.replies
                    .push_back((self.now + 20 * MS, to, reply.filter(|_| replied)));
            }
            if let Some((at, _, _)) = self.replies.front()
                && *at <= self.now
                && let Some((_, from, reply)) = self.replies.pop_front()
            {
                match reply {
                    Some(reply) => self.holder.replied(&from, reply, self.now),
                    None => self.holder.failed(&from, self.now),
                }
            }
        }
    }

    fn rest(&mut self) {
        self.luck.clear();
        // Past the longest pause and a renewal; past a lease, too: what a holder forgot by starting again at an owner that is none any more lapses.
        self.run(self.now + Duration::from_secs(700));
        for table in self.tables.values_mut() {
            table.sweep(self.now, usize::MAX);
        }
    }

    fn held(&self) -> Vec<Record> {
        let pages = (0..=u8::MAX).map(|bucket| self.holder.page(bucket, None, usize::MAX));
        pages.flatten().collect()
    }

    /// Each owner has exactly the records it owns, and the holder knows.
    fn check(&self) {
        let owners = self.owners();
        let bound = self.table.records;
        for (owner, table) in &self.tables {
            if !self.view.iter().any(|n| id(*n) == *owner) {
                continue;
            }
            let mut count = 0;
            for record in self.held() {
                let owns = owners.of_key(&record.key, REPLICAS).contains(owner);
                let known: Vec<_> = table.holders(&record.key, self.now).collect();
                count += usize::from(owns);
                let expected = if owns { vec![(id(0), record)] } else { vec![] };
                let is_declined = known.is_empty() && table.tally().records == bound;
                assert!(
                    known == expected || is_declined,
                    "{owner:?} of {record:?}: {known:?}"
                );
            }
            assert_eq!(
                table.tally().records,
                count.min(bound),
                "{owner:?} has others too"
            );
        }
        let lag = self.holder.lag(self.now);
        assert_eq!((lag.waiting, lag.is_behind), (0, false), "{lag:?}");
    }
}

#[derive(Debug, Clone)]
enum Op {
    Provide(u16, u8),
    Withdraw(u16),
    Joins(u8),
    Leaves(u8),
    Wiped(u8),
    Restarts,
    Sleeps(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0u16..60, any::<u8>()).prop_map(|(n, fraction)| Op::Provide(n, fraction)),
        6 => (0u16..60).prop_map(Op::Withdraw),
        1 => (0u8..9).prop_map(Op::Joins),
        1 => (1u8..9).prop_map(Op::Leaves),
        1 => (1u8..9).prop_map(Op::Wiped),
        1 => Just(Op::Restarts),
        6 => (0u64..3_000).prop_map(Op::Sleeps),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn owners_end_up_with_what_is_held_whatever_is_lost_and_whoever_comes_and_goes(
        ops in prop::collection::vec(op(), 1..120),
        luck in prop::collection::vec((prop::bool::weighted(0.8), prop::bool::weighted(0.8)), 1..40),
        queue in prop_oneof![Just(3usize), Just(4_096)],
    ) {
        let limits = HolderLimits { queue, ..HolderLimits::default() };
        let mut world = World::new(0..6, limits, luck);
        let mut disk: BTreeMap<Key, Record> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Provide(n, fraction) => {
                    world.holder.provide(key(n), [n.to_be_bytes()[1] % 3; 32], fraction, world.now, wall(world.now));
                }
                Op::Withdraw(n) => {
                    world.holder.withdraw(&key(n), world.now);
                }
                Op::Joins(n) => {
                    world.view.insert(n);
                    world.look();
                }
                Op::Leaves(n) => {
                    world.view.remove(&n);
                    world.look();
                }
                Op::Wiped(n) => {
                    // A process starts again without its disk, and nobody notices.
                    world.tables.remove(&id(n));
                }
                Op::Restarts => {
                    let mut holder = Holder::new(id(0), 1, limits, true);
                    disk.values().for_each(|record| holder.restore(record));
                    world.holder = holder;
                    world.replies.clear();
                    world.requests.clear();
                    world.look();
                }
                Op::Sleeps(ms) => world.run(world.now + MS * u32::try_from(ms).unwrap()),
            }
            for write in world.holder.take_journal() {
                match write {
                    HeldWrite::Put(record) => { disk.insert(record.key, record); }
                    HeldWrite::Delete(key) => { disk.remove(&key); }
                }
            }
        }
        world.rest();
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What differs is mended, which would hide that a holder does not know what its owners have. So here nothing may differ.
    #[test]
    fn whatever_is_lost_a_holder_knows_what_its_owners_have(
        ops in prop::collection::vec((0u16..40, prop::bool::weighted(0.7), 0u64..60_000), 1..150),
        // Where much is lost, little that takes many messages ends while things change: so nothing is, half of the time.
        luck in prop_oneof![
            Just(Vec::new()),
            prop::collection::vec((prop::bool::weighted(0.7), prop::bool::weighted(0.7)), 1..40),
        ],
        queue in prop_oneof![Just(3usize), Just(4_096)],
        changes in prop_oneof![Just(1usize), Just(3), Just(CHANGES_MAX)],
        records in prop_oneof![Just(9usize), Just(1_000)],
    ) {
        let limits = HolderLimits { queue, changes, ..HolderLimits::default() };
        let mut world = World::new(0..6, limits, luck);
        world.table.records = records;
        for (n, is_held, ms) in ops {
            if is_held {
                let manifest = [ms.to_be_bytes()[7]; 32];
                world.holder.provide(near(n), manifest, WHOLE, world.now, wall(world.now));
            } else {
                world.holder.withdraw(&near(n), world.now);
            }
            // Half of the time the next change comes while messages are under way.
            let ms = if ms.is_multiple_of(2) { ms } else { ms % 50 };
            world.run(world.now + MS * u32::try_from(ms).unwrap());
        }
        world.rest();
        world.check();
        let tally = world.holder.tally();
        // Each owner differs once, when it is new.
        prop_assert!(tally.differed <= 6, "{tally:?}");
    }
}

/// What an owner may reply that wants to do harm, or has lost its mind.
fn nonsense() -> impl Strategy<Value = Option<Reply>> {
    let number = prop_oneof![any::<u64>(), Just(u64::MAX), Just(WALL), 0u64..3];
    let refused = prop::collection::btree_set(0u16..512, 0..60);
    prop_oneof![
        Just(None),
        refused.prop_map(|refused| Some(Reply::Accepted {
            refused: refused.into_iter().collect()
        })),
        any::<bool>().prop_map(|room| Some(Reply::Kept { room })),
        (any::<u64>(), any::<bool>()).prop_map(|(digest, room)| Some(Reply::Differs {
            digests: Box::new([digest; BUCKETS]),
            room
        })),
        (number.clone(), number).prop_map(|(generation, sequence)| Some(Reply::Refused(
            Refusal::Stale {
                generation,
                sequence
            }
        ))),
        Just(Some(Reply::Refused(Refusal::Busy))),
        Just(Some(Reply::Refused(Refusal::Revoked))),
        Just(Some(Reply::Providers(crate::index::Answer::default()))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_owners_reply_a_holder_says_little_and_keeps_its_bounds(
        replies in prop::collection::vec(nonsense(), 1..60),
    ) {
        let mut world = World::new(0..4, HolderLimits { queue: 16, ..HolderLimits::default() }, Vec::new());
        for n in 0..80 {
            world.holder.provide(key(n), [1; 32], WHOLE, world.now, wall(world.now));
        }
        let mut replies = replies.iter().cycle();
        let mut waiting: VecDeque<(Duration, NodeId)> = VecDeque::new();
        let mut sent = 0u64;
        let end = Duration::from_secs(1_200);
        while world.now < end {
            match world.holder.step(world.now, wall(world.now), &Pen(id(0))) {
                HolderStep::Send { to, .. } => {
                    sent += 1;
                    prop_assert!(waiting.iter().all(|(_, other)| *other != to), "two at once to one");
                    waiting.push_back((world.now + 10 * MS, to));
                    // It goes on changing meanwhile.
                    let n = u16::try_from(sent % 90).unwrap();
                    if sent.is_multiple_of(3) {
                        world.holder.withdraw(&key(n), world.now);
                    } else if sent.is_multiple_of(7) {
                        world.holder.provide(key(n), [2; 32], WHOLE, world.now, wall(world.now));
                    }
                }
                HolderStep::Wait(at) if at <= world.now => {}
                step => {
                    let at = match step {
                        HolderStep::Wait(at) => at,
                        HolderStep::Send { .. } | HolderStep::Idle => end,
                    };
                    let arrives = waiting.front().map(|(at, _)| *at);
                    world.now = arrives.map_or(at, |arrives| arrives.min(at)).max(world.now);
                    if let Some((_, from)) = waiting.pop_front_if(|(at, _)| *at <= world.now) {
                        match replies.next().cloned().flatten() {
                            Some(reply) => world.holder.replied(&from, reply, world.now),
                            None => world.holder.failed(&from, world.now),
                        }
                    }
                }
            }
        }
        // Nobody is spoken to more than twice a second.
        prop_assert!(sent <= 4 * 2 * 1_200, "{sent}");
        let lag = world.holder.lag(world.now);
        prop_assert!(lag.declined <= 4 * 90 && lag.waiting <= 4 * (16 + BUCKETS + 512), "{lag:?}");
    }
}

/// Two thousand objects held, told to nine nodes.
fn settled() -> World {
    let mut world = World::new(0..9, HolderLimits::default(), Vec::new());
    for n in 0..2_000 {
        world
            .holder
            .provide(key(n), [1; 32], WHOLE, world.now, wall(world.now));
    }
    world.rest();
    world.check();
    world
}

#[test]
fn keeping_records_costs_the_same_however_many_there_are() {
    let cost = |records: u16| {
        let mut world = World::new(0..9, HolderLimits::default(), Vec::new());
        for n in 0..records {
            world
                .holder
                .provide(key(n), [1; 32], WHOLE, world.now, wall(world.now));
        }
        world.rest();
        (world.sent, world.bytes) = (0, 0);
        world.run(world.now + Duration::from_secs(6_000));
        world.check();
        (world.sent, world.bytes)
    };
    let (few, many) = (cost(300), cost(3_000));
    println!(
        "renewals of 9 owners in 10 leases: {} messages, {} bytes",
        many.0, many.1
    );
    assert_eq!(few, many);
    // Thirty a lease's ten thirds, of some 200 bytes.
    assert_eq!(many.0, 9 * 30);
    assert!(many.1 < many.0 * 256, "{}", many.1);
}

#[test]
fn after_a_restart_of_all_what_is_on_disk_does_not_travel() {
    let mut world = settled();
    let held = world.held();
    let mut holder = Holder::new(id(0), 1, HolderLimits::default(), true);
    held.iter().for_each(|record| holder.restore(record));
    world.holder = holder;
    // The members come back one after the other, and not at once: programs take their time to start.
    let all = std::mem::take(&mut world.view);
    for n in all {
        world.view.insert(n);
        world.look();
        world.run(world.now + 1_100 * MS);
    }
    world.rest();
    world.check();
    let tally = world.holder.tally();
    assert_eq!((tally.announcements, tally.differed), (0, 0), "{tally:?}");
    // What the edge then finds in its store is what it announced: nothing new.
    for record in held {
        let again = world.holder.provide(
            record.key,
            record.manifest,
            record.fraction,
            world.now,
            wall(world.now),
        );
        assert_eq!(again, Provided::Same);
    }
}

#[test]
fn one_change_is_one_small_message_an_owner() {
    let mut world = settled();
    let owners = world.owners().of_key(&key(5), REPLICAS).len();
    world.sent = 0;
    world.bytes = 0;
    world.holder.withdraw(&key(5), world.now);
    world.run(world.now + Duration::from_secs(2));
    assert_eq!(world.sent, owners);
    assert!(world.bytes < owners * 256, "{} bytes", world.bytes);
    world.check();
}

#[test]
fn an_owner_that_lost_its_disk_is_told_all_again_and_others_nothing() {
    let mut world = settled();
    let before = world.holder.tally();
    world.tables.remove(&id(4));
    world.rest();
    world.check();
    let tally = world.holder.tally();
    assert_eq!(tally.differed - before.differed, 1);
    let owned = world
        .held()
        .iter()
        .filter(|record| {
            world
                .owners()
                .of_key(&record.key, REPLICAS)
                .contains(&id(4))
        })
        .count();
    // A clear a bucket, and each record once, in few messages.
    let changes = tally.changes - before.changes;
    assert!(changes <= (owned + BUCKETS) as u64, "{changes} of {owned}");
    let messages = tally.announcements - before.announcements;
    assert!(messages <= changes / 256 + 1, "{messages} for {changes}");
}

#[test]
fn what_changes_in_a_bucket_that_is_being_told_anew_is_told_too() {
    let limits = HolderLimits {
        changes: 2,
        ..HolderLimits::default()
    };
    let mut world = World::new([0, 1], limits, Vec::new());
    for n in 0..60 {
        world
            .holder
            .provide(near(n), [1; 32], WHOLE, world.now, wall(world.now));
    }
    world.rest();
    let before = world.holder.tally().differed;
    world.tables.remove(&id(1));
    world.holder.doubt(&id(1));
    // A comparison, then messages of two changes each, 40 ms apart: one key changes between any two of them.
    for n in 0..60u16 {
        world.run(world.now + 23 * MS);
        if n.is_multiple_of(3) {
            world.holder.withdraw(&near(n), world.now);
        } else {
            world
                .holder
                .provide(near(n), [2; 32], WHOLE, world.now, wall(world.now));
        }
    }
    world.rest();
    world.check();
    assert_eq!(
        world.holder.tally().differed - before,
        1,
        "it did not know what the owner had"
    );
}

#[test]
fn an_owner_that_does_not_answer_is_an_alarm_before_anything_lapses() {
    let mut world = settled();
    // Everything is lost.
    world.luck = vec![(false, false)];
    world
        .holder
        .provide(key(60_000), [1; 32], WHOLE, world.now, wall(world.now));
    let began = world.now;
    world.run(began + Duration::from_secs(190));
    assert!(!world.holder.lag(world.now).is_behind);
    world.run(began + Duration::from_secs(205));
    let lag = world.holder.lag(world.now);
    assert!(
        lag.is_behind && lag.oldest > Duration::from_secs(200),
        "{lag:?}"
    );
    assert!(world.tables.values().all(|table| table.tally().records > 0));
    let known = world
        .tables
        .values()
        .filter(|table| table.holders(&key(5), world.now).count() == 1);
    assert!(known.count() > 0, "lapsed before the alarm");
    // And the holder does not hammer: pauses double up to a sixth of the lease.
    world.sent = 0;
    world.run(world.now + Duration::from_secs(600));
    assert!(world.sent <= 9 * 7, "{}", world.sent);
}

#[test]
fn what_an_owner_has_no_room_for_is_told_once_there_is() {
    let limits = TableLimits {
        records: 100,
        ..TableLimits::default()
    };
    let mut world = World::new([0, 1], HolderLimits::default(), Vec::new());
    for n in [0, 1] {
        world.tables.insert(id(n), Table::new(limits, false));
    }
    for n in 0..150 {
        world
            .holder
            .provide(key(n), [1; 32], WHOLE, world.now, wall(world.now));
    }
    world.rest();
    let lag = world.holder.lag(world.now);
    assert_eq!((lag.declined, lag.waiting), (100, 0), "50 at each of two");
    let before = world.holder.tally();
    world.rest();
    assert_eq!(
        world.holder.tally().changes,
        before.changes,
        "told again although there is no room"
    );
    // Half of them are dropped; each that went makes room for one.
    for n in 0..75 {
        world.holder.withdraw(&key(n), world.now);
    }
    world.rest();
    world.rest();
    world.check();
    assert_eq!(world.holder.lag(world.now).declined, 0);
}

#[test]
fn a_holder_that_lost_its_state_and_its_clock_starts_a_new_generation_where_it_must() {
    let mut world = settled();
    // It begins with a generation its owners are past, and holds something else.
    world.holder = Holder::new(id(0), 0, HolderLimits::default(), true);
    world.look();
    for n in 5_000..5_100 {
        world.holder.provide(key(n), [2; 32], WHOLE, world.now, 3);
    }
    world.rest();
    world.check();
}

#[test]
fn small_steps_of_a_growing_object_are_not_told() {
    let mut holder = Holder::new(id(0), 1, HolderLimits::default(), false);
    let mut provide =
        |fraction, manifest: u8| holder.provide(key(1), [manifest; 32], fraction, MS, WALL);
    assert_eq!(provide(0, 1), Provided::Taken);
    assert_eq!(provide(32, 1), Provided::Same);
    assert_eq!(provide(33, 1), Provided::Taken);
    assert_eq!(provide(254, 1), Provided::Taken);
    assert_eq!(provide(WHOLE, 1), Provided::Taken);
    assert_eq!(provide(WHOLE, 1), Provided::Same);
    assert_eq!(provide(WHOLE, 2), Provided::Taken);
}

#[test]
fn more_than_may_be_announced_is_not_and_is_counted() {
    let limits = HolderLimits {
        records: 2,
        journal: 3,
        ..HolderLimits::default()
    };
    let mut holder = Holder::new(id(0), 1, limits, true);
    let mut provide = |n, manifest: u8| holder.provide(key(n), [manifest; 32], WHOLE, MS, WALL);
    assert_eq!(provide(1, 1), Provided::Taken);
    assert_eq!(provide(2, 1), Provided::Taken);
    assert_eq!(provide(3, 1), Provided::Full);
    assert_eq!(provide(2, 2), Provided::Taken);
    assert_eq!(provide(2, 3), Provided::Busy);
    assert_eq!(holder.tally().full, 1);
}
