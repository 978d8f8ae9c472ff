//! What always holds of the schedule, over scripts drawn at random, in virtual time; and the gate over tokio's.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::limits::{Class, ClassLimits, Limits, Rate};
use super::schedule::Schedule;
use super::{HEAD_START_BYTES, PIECE_BYTES_MAX, Shaper};

/// How one class behaves.
#[derive(Debug, Clone)]
struct Habit {
    weight: u16,
    cap: Option<(u64, u64)>,
    /// Piece sizes and the pauses after them, over and over.
    pieces: Vec<(u64, Duration)>,
}

/// A piece that was granted.
#[derive(Debug, Clone, Copy)]
struct Grant {
    at: Duration,
    class: Class,
    bytes: u64,
    /// When it was asked for.
    asked: Duration,
}

fn rate((bytes_per_second, burst): (u64, u64)) -> Rate {
    let some = |number| NonZeroU64::new(number).unwrap();
    Rate::new(some(bytes_per_second)).with_burst(some(burst))
}

fn limits(node: Option<(u64, u64)>, habits: &[Habit; 3]) -> Limits {
    let of = |habit: &Habit| ClassLimits {
        weight: NonZeroU16::new(habit.weight).unwrap(),
        cap: habit.cap.map(rate),
    };
    Limits {
        node: node.map(rate),
        serve: of(&habits[0]),
        fill: of(&habits[1]),
        replicate: of(&habits[2]),
    }
}

/// The classes at work, for as many grants.
struct World {
    schedule: Schedule,
    begun: Instant,
    now: Duration,
    habits: [Habit; 3],
    /// Of each class: how many pieces it asked for, when it asks next, and since when it waits.
    asked: [usize; 3],
    due: [Option<Duration>; 3],
    waits: [Option<Duration>; 3],
    grants: Vec<Grant>,
    /// Nothing more happens at this moment.
    quiet: bool,
}

impl World {
    fn new(node: Option<(u64, u64)>, habits: [Habit; 3]) -> Self {
        let begun = Instant::now();
        Self {
            schedule: Schedule::new(&limits(node, &habits), begun),
            begun,
            now: Duration::ZERO,
            // A class without pieces asks for nothing.
            due: [0, 1, 2]
                .map(|class: usize| (!habits[class].pieces.is_empty()).then_some(Duration::ZERO)),
            habits,
            asked: [0; 3],
            waits: [None; 3],
            grants: Vec::new(),
            quiet: false,
        }
    }

    fn piece(&self, class: Class) -> (u64, Duration) {
        let pieces = &self.habits[class.index()].pieces;
        pieces[self.asked[class.index()] % pieces.len()]
    }

    /// To the next moment at which anything happens, until `enough` says so. `give_back` says of a grant, by its number,
    /// whether its writer is gone.
    fn run(&mut self, give_back: impl Fn(usize) -> bool, enough: impl Fn(&Self) -> bool) {
        let most = 100_000;
        for _ in 0..most {
            for class in Class::ALL {
                let index = class.index();
                if self.due[index].is_some_and(|due| due <= self.now) {
                    self.due[index] = None;
                    self.waits[index] = Some(self.now);
                    self.schedule.ask(class, self.piece(class).0);
                }
            }
            let ran = self.schedule.run(self.begun + self.now);
            let mut again = false;
            for class in Class::ALL {
                let index = class.index();
                if !ran.granted[index] {
                    continue;
                }
                let withdrawn = give_back(self.grants.len());
                let bytes = if withdrawn {
                    self.schedule.withdraw(class);
                    0
                } else {
                    self.schedule.collect(class).unwrap()
                };
                let asked = self.waits[index].take().unwrap();
                let pause = self.piece(class).1;
                self.asked[index] += 1;
                self.due[index] = Some(self.now + pause);
                again |= withdrawn || pause.is_zero();
                self.grants.push(Grant {
                    at: self.now,
                    class,
                    bytes,
                    asked,
                });
            }
            self.quiet = !again;
            if enough(self) {
                return;
            }
            if again {
                continue;
            }
            let next = ran.next.map(|wait| self.now + wait);
            let next = self.due.into_iter().flatten().chain(next).min();
            let Some(next) = next else { return };
            assert!(
                next > self.now || self.due.contains(&Some(self.now)),
                "time stands still"
            );
            self.now = next;
        }
        panic!("no end after {most} steps at {:?}", self.now);
    }

    fn bytes(&self, class: Class) -> u64 {
        let of = self.grants.iter().filter(|grant| grant.class == class);
        of.map(|grant| grant.bytes).sum()
    }
}

/// In no time of the run more than burst and rate allow.
fn assert_within(grants: &[Grant], (rate, burst): (u64, u64), what: &str) {
    for (first, from) in grants.iter().enumerate() {
        let mut bytes = 0;
        for to in &grants[first..] {
            bytes += u128::from(to.bytes);
            let nanos = (to.at - from.at).as_nanos();
            let most = u128::from(burst) * 1_000_000_000 + u128::from(rate) * nanos;
            assert!(
                bytes * 1_000_000_000 <= most,
                "{what}: {bytes} bytes in {nanos} ns"
            );
        }
    }
}

fn a_rate() -> impl Strategy<Value = (u64, u64)> {
    (1_000_u64..2_000_000_000, 1_u64..300_000)
}

fn a_habit() -> impl Strategy<Value = Habit> {
    let pause = prop_oneof![
        3 => Just(Duration::ZERO),
        1 => (0_u64..20_000_000).prop_map(Duration::from_nanos)
    ];
    let piece = prop_oneof![1_u64..2_000, 1_u64..200_000];
    (
        1_u16..100,
        prop::option::of(a_rate()),
        prop::collection::vec((piece, pause), 0..6),
    )
        .prop_map(|(weight, cap, pieces)| Habit {
            weight,
            cap,
            pieces,
        })
}

/// One that always wants whole pieces.
fn always(weight: u16) -> Habit {
    Habit {
        weight,
        cap: None,
        pieces: vec![(PIECE_BYTES_MAX, Duration::ZERO)],
    }
}

fn silent() -> Habit {
    Habit {
        weight: 1,
        cap: None,
        pieces: Vec::new(),
    }
}

proptest! {
    #[test]
    fn nobody_is_granted_more_than_limits_allow(
        node in prop::option::of(a_rate()),
        habits in [a_habit(), a_habit(), a_habit()],
        gone in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let caps = habits.clone().map(|habit| habit.cap);
        let mut world = World::new(node, habits);
        // One of some is dropped after it was granted and before it wrote; never all, which would be no progress.
        world.run(
            |grant| grant % 2 == 1 && gone[grant % gone.len()],
            |world| world.grants.len() >= 200,
        );
        if let Some(node) = node {
            assert_within(&world.grants, node, "node");
        }
        for (class, cap) in Class::ALL.into_iter().zip(caps) {
            if let Some(cap) = cap {
                let of: Vec<_> = world.grants.iter().copied().filter(|grant| grant.class == class).collect();
                assert_within(&of, cap, class.name());
            }
        }
    }

    #[test]
    fn the_rate_is_used_up_while_one_waits_whom_nothing_else_holds_back(
        node in (1_000_u64..2_000_000_000, PIECE_BYTES_MAX..300_000),
        eager in 0_usize..3,
        habits in [a_habit(), a_habit(), a_habit()],
        gone in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let mut habits = habits;
        habits[eager] = always(habits[eager].weight);
        let mut world = World::new(Some(node), habits);
        world.run(
            |grant| grant % 2 == 1 && gone[grant % gone.len()],
            |world| world.grants.len() >= 200 && world.quiet,
        );
        let all: u64 = Class::ALL.into_iter().map(|class| world.bytes(class)).sum();
        let (rate, burst) = node;
        let there = u128::from(rate) * world.now.as_nanos() / 1_000_000_000 + u128::from(burst);
        // What is missing is less than the piece that waits.
        prop_assert!(
            u128::from(all + PIECE_BYTES_MAX) >= there,
            "{all} of {there} bytes in {:?}", world.now
        );
    }

    #[test]
    fn who_always_waits_has_at_least_its_weights_share(
        node in (1_000_u64..2_000_000_000, PIECE_BYTES_MAX..300_000),
        who in 0_usize..3,
        habits in [a_habit(), a_habit(), a_habit()],
    ) {
        let mut habits = habits;
        habits[who] = always(habits[who].weight);
        let weights = habits.clone().map(|habit| u64::from(habit.weight));
        let mut world = World::new(Some(node), habits);
        world.run(|_| false, |world| world.grants.len() >= 500);
        let own = world.bytes(Class::ALL[who]);
        for other in (0..3).filter(|other| *other != who) {
            // Ahead of it another is by its head start and two pieces at most, and by one of its own at the other's weight.
            let others = world.bytes(Class::ALL[other]);
            let most = (own + PIECE_BYTES_MAX) * weights[other] / weights[who]
                + HEAD_START_BYTES + 2 * PIECE_BYTES_MAX;
            prop_assert!(others <= most, "{others} beside {own} at {weights:?}");
        }
    }

    #[test]
    fn one_who_asks_waits_for_few_bytes_of_others(
        node in (1_000_u64..2_000_000_000, PIECE_BYTES_MAX..300_000),
        serve in prop::collection::vec((1_u64..200_000, (0_u64..50_000_000).prop_map(Duration::from_nanos)), 1..6),
        fill in a_habit(),
        replicate in a_habit(),
    ) {
        let weights = [fill.weight, replicate.weight];
        let mut habits = [Habit { weight: 16, cap: None, pieces: serve }, fill, replicate];
        for habit in &mut habits[1..] {
            habit.cap = None;
        }
        let mut world = World::new(Some(node), habits);
        world.run(|_| false, |world| world.grants.len() >= 300);
        for served in world.grants.iter().filter(|grant| grant.class == Class::Serve) {
            for (class, weight) in [Class::Fill, Class::Replicate].into_iter().zip(weights) {
                let meanwhile = world.grants.iter().filter(|grant| {
                    grant.class == class && grant.at > served.asked && grant.at < served.at
                });
                let passed: u64 = meanwhile.map(|grant| grant.bytes).sum();
                let most = HEAD_START_BYTES + 2 * PIECE_BYTES_MAX
                    + PIECE_BYTES_MAX * u64::from(weight) / 16;
                prop_assert!(passed <= most, "{passed} bytes of {class:?} went before one of serve");
            }
        }
    }
}

#[test]
fn a_class_alone_has_the_whole_rate_whatever_its_weight() {
    for class in 0..3 {
        let mut habits = [silent(), silent(), silent()];
        habits[class] = always(1);
        let mut world = World::new(Some((1_000_000, PIECE_BYTES_MAX)), habits);
        world.run(|_| false, |world| world.now >= Duration::from_secs(10));
        let bytes = world.bytes(Class::ALL[class]);
        assert!((9_900_000..=10_100_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn three_that_always_wait_share_by_weight() {
    let habits = [always(16), always(4), always(1)];
    let mut world = World::new(Some((12_500_000, 100_000)), habits);
    world.run(|_| false, |world| world.now >= Duration::from_secs(30));
    let all: u64 = Class::ALL.into_iter().map(|class| world.bytes(class)).sum();
    for (class, weight) in Class::ALL.into_iter().zip([16, 4, 1]) {
        let share = all * weight / 21;
        assert!(
            world.bytes(class).abs_diff(share) < share / 50,
            "{class:?}: {} of {share}",
            world.bytes(class)
        );
    }
}

#[test]
fn one_that_paused_for_long_catches_up_no_more_than_its_head_start() {
    let mut replicate = silent();
    replicate.weight = 1;
    let mut world = World::new(
        Some((12_500_000, 100_000)),
        [silent(), always(4), replicate],
    );
    world.run(|_| false, |world| world.now >= Duration::from_secs(10));
    let before = world.bytes(Class::Fill);
    world.habits[2] = always(1);
    world.due[2] = Some(world.now);
    world.run(|_| false, |world| world.now >= Duration::from_secs(11));
    let (fill, replicate) = (
        world.bytes(Class::Fill) - before,
        world.bytes(Class::Replicate),
    );
    assert!(
        replicate <= fill / 4 + HEAD_START_BYTES + 2 * PIECE_BYTES_MAX,
        "{replicate} beside {fill}"
    );
}

#[test]
fn what_a_capped_class_may_not_use_the_others_have() {
    let mut serve = always(16);
    serve.cap = Some((1_000_000, PIECE_BYTES_MAX));
    let habits = [serve, always(4), silent()];
    let mut world = World::new(Some((10_000_000, PIECE_BYTES_MAX)), habits);
    world.run(|_| false, |world| world.now >= Duration::from_secs(10));
    let (serve, fill) = (world.bytes(Class::Serve), world.bytes(Class::Fill));
    assert!((9_900_000..=10_100_000).contains(&serve), "{serve}");
    assert!((89_000_000..=91_000_000).contains(&fill), "{fill}");
}

#[test]
fn without_limits_everything_passes_whole_and_at_once() {
    let mut schedule = Schedule::new(&Limits::default(), Instant::now());
    for class in Class::ALL {
        schedule.ask(class, u64::MAX);
    }
    let ran = schedule.run(Instant::now());
    assert_eq!((ran.granted, ran.next), ([true; 3], None));
    for class in Class::ALL {
        assert_eq!(schedule.collect(class), Some(u64::MAX));
    }
}

mod gate {
    use std::pin::pin;
    use std::sync::Arc;

    use futures_util::future::poll_immediate;
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
    use tokio::task::JoinSet;

    use super::*;

    fn limited(rate: u64) -> Limits {
        Limits {
            node: Some(Rate::new(NonZeroU64::new(rate).unwrap())),
            ..Limits::default()
        }
    }

    async fn take_all(shaper: &Shaper, class: Class, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            left -= shaper.take(class, left).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writers_are_held_to_the_rate() {
        let shaper = Shaper::new(&limited(1_000_000));
        let begun = tokio::time::Instant::now();
        let mut writers = JoinSet::new();
        for class in Class::ALL.into_iter().cycle().take(30) {
            let shaper = shaper.clone();
            writers.spawn(async move { take_all(&shaper, class, 1_000_000).await });
        }
        writers.join_all().await;
        // 30 MB but the burst of 64 KiB at 1 MB/s; timers are rounded up to their milliseconds.
        let took = begun.elapsed();
        let least = Duration::from_micros(30_000_000 - 65_536);
        assert!(
            took >= least && took < least + Duration::from_secs(1),
            "{took:?}"
        );
        let counters = shaper.counters();
        assert_eq!(counters.serve_bytes.get(), 10_000_000);
        assert!(counters.fill_waits.get() > 0 && counters.fill_waited_micros.get() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_fill_does_not_starve_one_who_serves() {
        let shaper = Shaper::new(&limited(1_250_000));
        let mut flood = JoinSet::new();
        for _ in 0..200 {
            let shaper = shaper.clone();
            flood.spawn(async move {
                loop {
                    shaper.take(Class::Fill, usize::MAX).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let begun = tokio::time::Instant::now();
        take_all(&shaper, Class::Serve, 10_000_000).await;
        // 16/20 of 10 Mbit/s.
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(10_500), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn writers_of_a_class_are_granted_in_the_order_they_came() {
        let shaper = Shaper::new(&limited(1_000_000));
        take_all(&shaper, Class::Fill, 65_536).await;
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut writers = JoinSet::new();
        for number in 0..50 {
            let (shaper, order) = (shaper.clone(), order.clone());
            writers.spawn(async move {
                shaper.take(Class::Fill, 10_000).await;
                order.lock().push(number);
            });
        }
        writers.join_all().await;
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_takes_nothing_and_holds_nobody_up() {
        let shaper = Shaper::new(&limited(1_000_000));
        take_all(&shaper, Class::Fill, 65_536).await;
        let begun = tokio::time::Instant::now();
        let mut first = Box::pin(shaper.take(Class::Serve, 65_536));
        let mut second = pin!(shaper.take(Class::Fill, 1_000));
        assert_eq!(poll_immediate(&mut first).await, None);
        assert_eq!(poll_immediate(&mut second).await, None);
        // The second waits for the first, whose 32 KiB take 33 ms; and then no longer.
        drop(first);
        assert_eq!(second.await, 1_000);
        assert!(begun.elapsed() <= Duration::from_millis(2));
        assert_eq!(shaper.counters().serve_bytes.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn other_limits_hold_at_once_for_those_who_wait_too() {
        let shaper = Shaper::new(&limited(1));
        take_all(&shaper, Class::Fill, 65_536).await;
        let begun = tokio::time::Instant::now();
        let waiting = shaper.clone();
        let waiting = tokio::spawn(async move { take_all(&waiting, Class::Fill, 60_000).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        shaper.set_limits(&Limits::default());
        waiting.await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(20));
    }

    /// Writers come, go midway and come back; whoever stays gets all it asked for in the time the rate needs.
    #[tokio::test(start_paused = true)]
    async fn no_wake_is_lost_however_writers_come_and_go() {
        let seed = std::env::var("STOQ_SEED")
            .map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("STOQ_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..50 {
            let rate = random.random_range(100_000..10_000_000);
            let shaper = Shaper::new(&limited(rate));
            let mut writers = JoinSet::new();
            let mut total = 0;
            for class in Class::ALL.into_iter().cycle().take(60) {
                let shaper = shaper.clone();
                let bytes = random.random_range(1..200_000);
                let patience = Duration::from_micros(random.random_range(0..200_000));
                if random.random() {
                    total += bytes as u64;
                    writers.spawn(async move { take_all(&shaper, class, bytes).await });
                } else {
                    writers.spawn(async move {
                        drop(tokio::time::timeout(patience, take_all(&shaper, class, bytes)).await);
                    });
                }
            }
            let begun = tokio::time::Instant::now();
            // What those took who gave up is at most what the rate gave in their 200 ms, and the burst.
            let bound =
                Duration::from_secs_f64(total as f64 / rate as f64) + Duration::from_millis(600);
            tokio::time::timeout(bound, writers.join_all())
                .await
                .unwrap_or_else(|_| panic!("{total} bytes at {rate} took more than {bound:?}"));
            let counters = shaper.counters();
            let granted = counters.serve_bytes.get()
                + counters.fill_bytes.get()
                + counters.replicate_bytes.get();
            let most = rate * u64::try_from(begun.elapsed().as_micros()).unwrap() / 1_000_000
                + 1
                + rate / 125
                + 65_536;
            assert!(
                granted >= total && granted <= most,
                "{granted} of {total}, at most {most}"
            );
        }
    }
}
