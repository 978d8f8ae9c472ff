//! A swarm against modelled holders, in virtual time: whatever they do, the body comes whole, in order, and hardly a byte twice.
//!
//! A modelled holder that is broken off sends nothing more. A real one does for a round trip, which these bounds leave out.

use proptest::prelude::*;

use super::super::holder::STRIKES_MAX;
use super::*;

const TICK: Duration = Duration::from_millis(1);
/// No fill of these tests takes this long; one that does not end fails.
const LONGEST: Duration = Duration::from_secs(600);

/// Bytes a tick of a holder that drips: a third of what the slowest that gives does, and enough that even alone it is through in time.
const DRIP: u64 = 16;

/// What becomes of a holder.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Gives,
    /// Breaks off after so many bytes, and whenever it is asked again.
    Dies(u64),
    /// Is silent after so many bytes, for ever.
    Stalls(u64),
    /// Gives next to nothing after so many bytes: [`DRIP`] a tick.
    Drips(u64),
    /// Gives so little that it is not to be waited for, be there nobody else: a byte a tick after so many bytes.
    Trickles(u64),
    /// What comes in so many milliseconds comes at their end, as after a packet was lost.
    Bursts(u64),
    /// Sends this chunk with other bytes.
    Lies(usize),
    /// Has lost this chunk when it is asked for it, though it said otherwise.
    Lost(usize),
    /// Has none of those it says it holds, and says so so many milliseconds after it was asked.
    Empty(u64),
}

#[derive(Debug, Clone)]
struct Model {
    fate: Fate,
    tier: Tier,
    /// Bytes a second.
    rate: u64,
    rtt: Duration,
    /// Which chunks it holds; `None`: all.
    holds: Option<Vec<bool>>,
}

impl Model {
    fn new(fate: Fate, rate: u64, rtt_ms: u64) -> Self {
        Self {
            fate,
            tier: Tier::Peer,
            rate,
            rtt: Duration::from_millis(rtt_ms),
            holds: None,
        }
    }

    fn holds(&self, chunk: usize) -> bool {
        self.holds
            .as_ref()
            .is_none_or(|holds| holds.get(chunk) == Some(&true))
    }
}

/// A model at work.
#[derive(Debug)]
struct Running {
    model: Model,
    /// What it was asked for, each with when its first byte can be here.
    queue: VecDeque<(usize, Duration)>,
    /// Bytes of the front that are here.
    partial: u64,
    given: u64,
    /// What could have come and waits for the end of a burst.
    held_back: u64,
    /// When its end will be noticed.
    breaks_at: Option<Duration>,
    /// Whether it is still believed to hold all.
    whole: bool,
    /// When it says what it holds.
    says_at: Option<Duration>,
}

#[derive(Debug, Default, Clone)]
struct Outcome {
    elapsed: Duration,
    /// Bytes that came off the network, those for nothing included.
    received: u64,
    failures: u64,
    by_holder: Vec<u64>,
    failed: Option<usize>,
}

/// Runs a fill of chunks of these lengths to its end.
fn run(models: &[Model], lengths: &[u32], ahead_bytes: u64) -> Outcome {
    let mut swarm: Swarm<()> = Swarm::new(ahead_bytes, Patience::default());
    let mut holders: Vec<Running> = Vec::new();
    for model in models {
        let offer = Offer {
            tier: model.tier,
            whole: model.holds.is_none(),
            rtt: Some(model.rtt),
        };
        assert_eq!(swarm.join(offer).unwrap().index(), holders.len());
        holders.push(Running {
            model: model.clone(),
            queue: VecDeque::new(),
            partial: 0,
            given: 0,
            held_back: 0,
            breaks_at: None,
            whole: model.holds.is_none(),
            says_at: model.holds.is_some().then_some(model.rtt),
        });
    }
    for (place, len) in lengths.iter().enumerate() {
        assert_eq!(swarm.want(*len), place);
    }
    swarm.no_more();
    let mut outcome = Outcome {
        by_holder: vec![0; models.len()],
        ..Outcome::default()
    };
    let (mut now, mut taken) = (Duration::ZERO, 0);
    while now < LONGEST {
        for (holder, at) in holders.iter_mut().zip(0u8..) {
            let id = HolderId(at);
            if holder.says_at.is_some_and(|at| now >= at) {
                holder.says_at = None;
                for chunk in 0..lengths.len() {
                    swarm.said(id, chunk, holder.model.holds(chunk));
                }
            }
            outcome.failures += u64::from(give(
                id,
                holder,
                lengths,
                &mut swarm,
                now,
                &mut outcome.received,
            ));
        }
        while let Some((place, (), of)) = swarm.take() {
            assert_eq!(place, taken, "out of order");
            outcome.by_holder[of.index()] += u64::from(lengths[place]);
            taken += 1;
        }
        loop {
            match swarm.next(now) {
                Step::Ask { holder, chunks } => {
                    let running = &mut holders[holder.index()];
                    for chunk in chunks {
                        assert!(running.model.holds(chunk), "asked for what it has not");
                        running.queue.push_back((chunk, now + running.model.rtt));
                    }
                }
                Step::Cancel { holder, .. } => {
                    let running = &mut holders[holder.index()];
                    running.queue.clear();
                    (running.partial, running.breaks_at) = (0, None);
                    outcome.failures += 1;
                }
                Step::Wait(until) => {
                    let under_way = holders
                        .iter()
                        .any(|holder| !holder.queue.is_empty() || holder.says_at.is_some());
                    assert!(under_way || until.is_some(), "waits for nothing");
                    break;
                }
                Step::Done => {
                    if swarm.is_empty() {
                        assert_eq!(taken, lengths.len());
                        outcome.elapsed = now;
                        return outcome;
                    }
                    break;
                }
                Step::Failed { chunk } => {
                    outcome.failed = Some(chunk);
                    return outcome;
                }
            }
        }
        // One holder a chunk, and no more ahead than allowed.
        let asked: Vec<_> = holders
            .iter()
            .flat_map(|holder| holder.queue.iter().map(|(chunk, _)| *chunk))
            .collect();
        let mut distinct = asked.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), asked.len(), "asked of two at once");
        let reach = asked.iter().max().map_or(taken, |last| last + 1);
        let ahead: u64 = lengths[taken.min(reach)..reach]
            .iter()
            .map(|len| u64::from(*len))
            .sum();
        assert!(
            ahead <= ahead_bytes || reach <= taken + 1,
            "{ahead} bytes ahead"
        );
        now += TICK;
    }
    panic!(
        "not done after {LONGEST:?}: {taken} of {} chunks, {holders:?}",
        lengths.len()
    );
}

/// What a holder does in one tick; whether it failed.
fn give(
    id: HolderId,
    holder: &mut Running,
    lengths: &[u32],
    swarm: &mut Swarm<()>,
    now: Duration,
    received: &mut u64,
) -> bool {
    if holder.breaks_at.is_some_and(|at| now >= at) {
        holder.queue.clear();
        (holder.partial, holder.breaks_at) = (0, None);
        swarm.ended(id, End::Broke, now);
        return true;
    }
    let tick = u64::try_from(TICK.as_millis()).unwrap();
    let mut budget = (holder.model.rate * tick / 1000).max(1);
    if matches!(holder.model.fate, Fate::Drips(after) if holder.given >= after) {
        budget = DRIP;
    }
    if matches!(holder.model.fate, Fate::Trickles(after) if holder.given >= after) {
        budget = 1;
    }
    if let Fate::Bursts(every) = holder.model.fate {
        // Of what was asked for by then.
        let waits = holder.queue.iter().filter(|(_, at)| now >= *at);
        let waits: u64 = waits.map(|(chunk, _)| u64::from(lengths[*chunk])).sum();
        budget = (holder.held_back + budget).min(waits);
        holder.held_back = 0;
        if !u64::try_from(now.as_millis())
            .unwrap()
            .is_multiple_of(every)
        {
            (holder.held_back, budget) = (budget, 0);
        }
    }
    while let Some((chunk, at)) = holder.queue.front().copied() {
        if now < at || budget == 0 {
            break;
        }
        let len = u64::from(lengths[chunk]);
        let left = match holder.model.fate {
            Fate::Dies(after) | Fate::Stalls(after) => after.saturating_sub(holder.given),
            Fate::Gives
            | Fate::Drips(_)
            | Fate::Trickles(_)
            | Fate::Bursts(_)
            | Fate::Lies(_)
            | Fate::Lost(_)
            | Fate::Empty(_) => u64::MAX,
        };
        let lacks_at = match holder.model.fate {
            Fate::Lost(lost) if lost == chunk => Some(at),
            Fate::Empty(late) => Some(at + Duration::from_millis(late)),
            _ => None,
        };
        if let Some(at) = lacks_at {
            if now < at {
                break;
            }
            holder.queue.clear();
            holder.partial = 0;
            swarm.ended(id, End::Lacks(chunk), now);
            if holder.whole && holder.model.tier == Tier::Peer {
                // It is asked what it holds.
                holder.whole = false;
                holder.says_at = Some(now + holder.model.rtt);
            }
            return true;
        }
        let piece = budget.min(len - holder.partial).min(left);
        if piece == 0 {
            if matches!(holder.model.fate, Fate::Dies(_)) && holder.breaks_at.is_none() {
                holder.breaks_at = Some(now + holder.model.rtt * 2);
            }
            break;
        }
        budget -= piece;
        holder.partial += piece;
        holder.given += piece;
        *received += piece;
        swarm.heard(id, now);
        if holder.partial < len {
            continue;
        }
        holder.partial = 0;
        holder.queue.pop_front();
        if matches!(holder.model.fate, Fate::Lies(lie) if lie == chunk) {
            holder.queue.clear();
            swarm.ended(id, End::Lied, now);
            return true;
        }
        assert!(swarm.arrived(id, chunk, (), now), "not waited for");
        assert!(!swarm.arrived(id, chunk, (), now), "taken twice");
    }
    false
}

fn total(lengths: &[u32]) -> u64 {
    lengths.iter().map(|len| u64::from(*len)).sum()
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Gives),
        1 => (0u64..4 << 20).prop_map(Fate::Dies),
        1 => (0u64..4 << 20).prop_map(Fate::Stalls),
        1 => (0u64..4 << 20).prop_map(Fate::Drips),
        1 => (0u64..4 << 20).prop_map(Fate::Trickles),
        1 => (1u64..100).prop_map(Fate::Bursts),
        1 => (0usize..150).prop_map(Fate::Lies),
        1 => (0usize..150).prop_map(Fate::Lost),
        1 => (0u64..2_000).prop_map(Fate::Empty),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    (
        fate(),
        50_000u64..100_000_000,
        0u64..200,
        prop::option::of(prop::collection::vec(any::<bool>(), 150)),
    )
        .prop_map(|(fate, rate, rtt_ms, holds)| Model {
            holds,
            ..Model::new(fate, rate, rtt_ms)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With one good holder behind them, whatever the others do: the body comes whole and in order, no chunk is asked of two at once or of somebody
    /// who lacks it, and what came for nothing is at most a chunk for each failure.
    #[test]
    fn body_comes_whole_whatever_holders_do(
        models in prop::collection::vec(model(), 0..7),
        lengths in prop::collection::vec(1u32..=256 << 10, 1..150),
        ahead_kib in 64u64..16_384,
        rate in 1_000_000u64..50_000_000,
    ) {
        let mut models = models;
        models.push(Model { tier: Tier::Shield, ..Model::new(Fate::Gives, rate, 30) });
        let outcome = run(&models, &lengths, ahead_kib << 10);
        prop_assert_eq!(outcome.failed, None);
        let longest = u64::from(*lengths.iter().max().unwrap());
        prop_assert!(
            outcome.received <= total(&lengths) + outcome.failures * longest,
            "{} bytes came for {} with {} failures", outcome.received, total(&lengths), outcome.failures
        );
    }

    /// Where nobody is left, that is said, and not waited for.
    #[test]
    fn what_nobody_can_give_fails(
        models in prop::collection::vec(model(), 1..5),
        lengths in prop::collection::vec(1u32..=64 << 10, 1..100),
        missing in any::<prop::sample::Index>(),
    ) {
        let missing = missing.index(lengths.len());
        let mut models = models;
        for model in &mut models {
            let holds = model.holds.get_or_insert_with(|| vec![true; 150]);
            holds[missing] = false;
        }
        prop_assert!(run(&models, &lengths, 1 << 20).failed.is_some());
    }
}

/// Five peers of 100 Mbit/s, as far as 20 ms: one sends a wrong chunk, one falls silent, one dies. 256 MiB.
#[test]
fn two_good_peers_of_five_carry_eight_tenths_of_what_they_can() {
    const RATE: u64 = 12_500_000;
    let models = [
        Model::new(Fate::Lies(333), RATE, 20),
        Model::new(Fate::Stalls(9 << 20), RATE, 10),
        Model::new(Fate::Dies(17 << 20), RATE, 5),
        Model::new(Fate::Gives, RATE, 20),
        Model::new(Fate::Gives, RATE, 2),
    ];
    let lengths = vec![64 << 10; 4096];
    let outcome = run(&models, &lengths, 16 << 20);
    #[expect(clippy::cast_precision_loss, reason = "a share to print")]
    let share = total(&lengths) as f64 / outcome.elapsed.as_secs_f64() / (2 * RATE) as f64;
    println!("{outcome:?}: {share:.2} of what the two good ones carry");
    // The liar is out at once, the two others after their third failure.
    let failures_max = 1 + 2 * u64::from(STRIKES_MAX);
    assert_eq!(outcome.failed, None);
    assert!(outcome.failures <= failures_max, "{}", outcome.failures);
    assert!(share >= 0.8, "{share}");
    assert!(outcome.received <= total(&lengths) + outcome.failures * (64 << 10));
}

/// Peers of very different rates are used by what they carry, and the slowest does not hold up the rest.
#[test]
fn unequal_peers_are_used_by_what_they_carry() {
    let rates = [50_000_000, 12_500_000, 1_000_000];
    let models = rates.map(|rate| Model::new(Fate::Gives, rate, 10));
    let lengths = vec![64 << 10; 4096];
    let outcome = run(&models, &lengths, 16 << 20);
    #[expect(clippy::cast_precision_loss, reason = "a share to print")]
    let share =
        total(&lengths) as f64 / outcome.elapsed.as_secs_f64() / rates.iter().sum::<u64>() as f64;
    println!("{outcome:?}: {share:.2} of what they carry");
    assert!(share >= 0.8, "{share}");
    assert!(outcome.by_holder[0] > 3 * outcome.by_holder[1]);
    assert!(outcome.by_holder[1] > 3 * outcome.by_holder[2]);
}

/// Peers whose bytes come in bursts are all used, and none is taken for one that is slow beside an idle shield of which nothing is known.
#[test]
fn peers_whose_bytes_come_in_bursts_carry_what_they_can() {
    const RATE: u64 = 12_500_000;
    let bursts = [20, 50, 33].map(|every| Model::new(Fate::Bursts(every), RATE, 10));
    let shield = Model {
        tier: Tier::Shield,
        ..Model::new(Fate::Gives, RATE, 10)
    };
    let models: Vec<_> = bursts.into_iter().chain([shield]).collect();
    let lengths = vec![256 << 10; 1024];
    let outcome = run(&models, &lengths, 8 << 20);
    #[expect(clippy::cast_precision_loss, reason = "a share to print")]
    let share = total(&lengths) as f64 / outcome.elapsed.as_secs_f64() / (3 * RATE) as f64;
    println!("{outcome:?}: {share:.2} of what they carry");
    assert_eq!((outcome.failures, outcome.by_holder[3]), (0, 0));
    assert!(share >= 0.8, "{share}");
}

/// Slow peers are not given up for a shield of which nothing is known, and which is no faster.
#[test]
fn slow_peers_are_not_given_up_for_a_shield_that_nothing_is_known_of() {
    const RATE: u64 = 400_000;
    let models = [
        Model::new(Fate::Gives, RATE, 20),
        Model::new(Fate::Gives, RATE, 20),
        Model {
            tier: Tier::Shield,
            ..Model::new(Fate::Gives, RATE, 20)
        },
    ];
    let lengths = vec![256 << 10; 40];
    let outcome = run(&models, &lengths, 8 << 20);
    println!("{outcome:?}");
    assert_eq!((outcome.failures, outcome.by_holder[2]), (0, 0));
    // 10 MiB take 13.1 s of both.
    assert!(outcome.elapsed < Duration::from_secs(15), "{outcome:?}");
}

/// Who gives next to nothing is not waited for, be it the only peer: the shield has the rest.
#[test]
fn dripping_peer_does_not_hold_up_the_body() {
    let models = [
        Model::new(Fate::Drips(1 << 20), 10_000_000, 10),
        Model {
            tier: Tier::Shield,
            ..Model::new(Fate::Gives, 10_000_000, 30)
        },
    ];
    let lengths = vec![64 << 10; 256];
    let outcome = run(&models, &lengths, 4 << 20);
    println!("{outcome:?}");
    // 16 MiB take 1.7 s of either.
    assert!(outcome.elapsed < Duration::from_secs(5), "{outcome:?}");
    assert!(outcome.by_holder[1] > 14 << 20);
}

/// Who says that it holds all and has nothing, as late as it may, is out after a few chunks.
#[test]
fn peer_that_lacks_what_it_says_it_holds_does_not_hold_up_the_body() {
    let models = [
        Model::new(Fate::Empty(950), 10_000_000, 10),
        Model {
            tier: Tier::Shield,
            ..Model::new(Fate::Gives, 100_000, 10)
        },
    ];
    let lengths = vec![10_000; 100];
    let outcome = run(&models, &lengths, 4 << 20);
    println!("{outcome:?}");
    assert_eq!(outcome.by_holder[1], 1_000_000);
    // Once what was hearsay, and three times its own word.
    assert!(
        outcome.failures <= 1 + u64::from(STRIKES_MAX),
        "{outcome:?}"
    );
    // The shield alone takes 10 s.
    assert!(outcome.elapsed < Duration::from_secs(15), "{outcome:?}");
}

/// However many peers say nothing, a chunk waits for two of them, and then the shield has it.
#[test]
fn silent_peers_are_waited_for_twice_and_not_in_turns() {
    let mut models = vec![Model::new(Fate::Stalls(0), 10_000_000, 10); 6];
    models.push(Model {
        tier: Tier::Shield,
        ..Model::new(Fate::Gives, 10_000_000, 10)
    });
    for chunks in [1, 40] {
        let outcome = run(&models, &vec![64 << 10; chunks], 4 << 20);
        println!("{outcome:?}");
        assert_eq!(outcome.by_holder[6], chunks as u64 * (64 << 10));
        // Each wait is of 1 s and four round trips.
        assert!(
            outcome.elapsed < Duration::from_millis(2_500),
            "{outcome:?}"
        );
    }
}

/// Who gives a little again and again is given up in the end, though nobody else could be asked: who waits may know another way. However it is cut, and from whatever byte on.
#[test]
fn peer_that_trickles_does_not_hold_a_body_for_ever() {
    for (after, len) in [(0, 256 << 10), (0, 8 << 10), (1 << 20, 64 << 10)] {
        let models = [Model::new(Fate::Trickles(after), 10_000_000, 10)];
        let lengths = vec![len; 100];
        let outcome = run(&models, &lengths, 4 << 20);
        println!("{outcome:?}");
        // What came by then: a byte a millisecond, for 30 s.
        let first = usize::try_from(after / u64::from(len)).unwrap();
        let last = first + usize::try_from(30_000 / len).unwrap();
        assert!(matches!(outcome.failed, Some(at) if (first..=last).contains(&at)));
    }
}

/// Silence counts for nothing while the one who waits was late itself; but once only, or he who is always late would wait for ever.
#[test]
fn lateness_of_ones_own_is_held_against_nobody_once() {
    let ms = Duration::from_millis;
    let mut swarm: Swarm<()> = Swarm::new(1 << 20, Patience::default());
    let offer = Offer {
        tier: Tier::Peer,
        whole: true,
        rtt: Some(ms(10)),
    };
    let holders = [swarm.join(offer).unwrap(), swarm.join(offer).unwrap()];
    for _ in 0..6 {
        swarm.want(200 << 10);
    }
    let ask = |swarm: &mut Swarm<()>, now| {
        let mut steps = Vec::new();
        loop {
            match swarm.next(now) {
                Step::Wait(until) => return (steps, until),
                step => steps.push(step),
            }
        }
    };
    let struck = |steps: &[Step]| {
        let steps = steps.iter();
        steps
            .filter(|step| matches!(step, Step::Cancel { .. }))
            .count()
    };
    let (steps, until) = ask(&mut swarm, ms(0));
    assert_eq!((steps.len(), until), (2, Some(ms(1_040))));
    // Five seconds pass in which nobody looked.
    swarm.was_late(ms(6_000));
    let (steps, until) = ask(&mut swarm, ms(6_000));
    assert_eq!((steps.len(), until), (0, Some(ms(7_040))));
    // One of them gives something by then.
    swarm.heard(holders[0], ms(6_500));
    swarm.was_late(ms(7_400));
    let (steps, _) = ask(&mut swarm, ms(7_400));
    assert_eq!(struck(&steps), 1, "{steps:?}");
    assert!(steps.contains(&Step::Cancel {
        holder: holders[1],
        why: Trouble::Stalled
    }));
}

/// The shield is not asked for what a peer gives, and for all that no peer has.
#[test]
fn shield_gives_only_what_no_peer_has() {
    let half = (0..150).map(|chunk| chunk % 2 == 0).collect();
    let models = [
        Model {
            holds: Some(half),
            ..Model::new(Fate::Gives, 10_000_000, 10)
        },
        Model {
            tier: Tier::Shield,
            ..Model::new(Fate::Gives, 100_000_000, 1)
        },
    ];
    let lengths = vec![10_000; 100];
    let outcome = run(&models, &lengths, 1 << 20);
    assert_eq!(outcome.by_holder, [500_000, 500_000]);
    assert_eq!(outcome.received, 1_000_000);
}

/// Many requests are under way on a long fat path, and few on a short one.
#[test]
fn width_follows_the_path() {
    let width = |rate: u64, rtt_ms: u64| {
        let mut holder = Holder::new(Offer {
            tier: Tier::Peer,
            whole: true,
            rtt: Some(Duration::from_millis(rtt_ms)),
        });
        let chunk = Duration::from_secs_f64(65_536.0 / rate as f64);
        holder.asked(200 << 16, Duration::ZERO);
        for chunks in 1..=200 {
            holder.gave(64 << 10, Duration::from_millis(rtt_ms) + chunk * chunks);
        }
        holder.width()
    };
    let (near, far) = (width(125_000_000, 1), width(125_000_000, 100));
    assert!(near >= 512 << 10 && far >= 10 << 20, "{near} {far}");
    assert!(width(1_000_000, 10) < 256 << 10);
}
