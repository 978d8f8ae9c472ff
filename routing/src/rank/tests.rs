//! What outweighs what, who is cut, and what the choice by chance is worth.

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng, rngs::StdRng};

use super::*;
use crate::latency::world::{World, node, seed, view};

const MS: Duration = Duration::from_millis(1);

fn loaded(number: u32, load: f64) -> NodeState {
    NodeState {
        load,
        ..node(number, ("eu", "fra"))
    }
}

fn at(node: &NodeState, rtt: u32) -> Candidate<'_> {
    Candidate {
        node,
        rtt: Some((MS * rtt, Source::Path)),
        by_geography: None,
        rate: None,
    }
}

fn order(candidates: &[Candidate<'_>], wish: &Wish<'_>) -> Vec<NodeId> {
    rank(candidates, wish).fit().collect()
}

#[test]
fn the_nearest_is_best_until_its_load_outweighs_the_way() {
    let anywhere = Residency::anywhere();
    let wish = Wish::nearest(&anywhere);
    let (near, far) = (loaded(1, 0.5), loaded(2, 0.0));
    assert_eq!(
        order(&[at(&far, 8), at(&near, 1)], &wish),
        [near.id, far.id]
    );
    // 5 ms × 0.85 / 0.15 = 28 ms.
    let near = loaded(1, 0.85);
    assert_eq!(
        order(&[at(&far, 8), at(&near, 1)], &wish),
        [far.id, near.id]
    );
    // Load counts at a round trip of nothing, where a factor would not.
    assert_eq!(
        order(&[at(&far, 0), at(&near, 0)], &wish),
        [far.id, near.id]
    );
}

#[test]
fn cuts_outweigh_any_distance_and_say_why() {
    let europe = Residency::new(&["eu-*"]).unwrap();
    let wish = Wish::nearest(&europe);
    let ill = NodeState {
        health: Health::Ill,
        ..loaded(1, 0.0)
    };
    let draining = NodeState {
        draining: true,
        ..loaded(2, 0.0)
    };
    let (full, nearly, broken) = (loaded(3, 0.9), loaded(4, 0.89), loaded(5, f64::NAN));
    let abroad = node(6, ("na", "nyc"));
    let ranking = rank(
        &[&ill, &draining, &full, &nearly, &broken, &abroad].map(|node| at(node, 1)),
        &wish,
    );
    assert_eq!(ranking.fit().collect::<Vec<_>>(), [nearly.id]);
    assert_eq!(
        ranking.choose(&mut StdRng::seed_from_u64(1)),
        Some(nearly.id)
    );
    let why = |id: &NodeId| {
        let row = ranking.rows().iter().find(|row| row.id == *id).unwrap();
        match row.verdict {
            Verdict::Cut(cut) => cut.to_string(),
            Verdict::Fit { .. } => String::new(),
        }
    };
    assert_eq!(why(&ill.id), "ill");
    assert_eq!(why(&draining.id), "draining");
    assert_eq!(why(&full.id), "load 0.90, at most 0.9");
    assert_eq!(why(&broken.id), "load NaN, at most 0.9");
    assert_eq!(why(&abroad.id), "outside the site's zones");
}

#[test]
fn where_all_are_cut_nobody_is_chosen() {
    let anywhere = Residency::anywhere();
    let full = loaded(1, 1.0);
    let ranking = rank(&[at(&full, 1)], &Wish::nearest(&anywhere));
    let rng = &mut StdRng::seed_from_u64(1);
    assert_eq!(ranking.choose(rng), None);
    assert!(ranking.order(rng).is_empty());
    assert_eq!(rank(&[], &Wish::nearest(&anywhere)).choose(rng), None);
}

#[test]
fn the_degraded_come_after_all_that_are_well_and_are_asked_where_none_is() {
    let anywhere = Residency::anywhere();
    let degraded = NodeState {
        health: Health::Degraded,
        ..loaded(1, 0.0)
    };
    let well = loaded(2, 0.0);
    for policy in Policy::ALL {
        let wish = Wish {
            policy,
            turn: 1,
            ..Wish::nearest(&anywhere)
        };
        assert_eq!(
            order(&[at(&degraded, 1), at(&well, 2)], &wish),
            [well.id, degraded.id],
            "{policy}"
        );
        assert_eq!(order(&[at(&degraded, 1)], &wish), [degraded.id]);
    }
    let ranking = rank(&[at(&degraded, 1), at(&well, 2)], &Wish::nearest(&anywhere));
    for seed in 0..50 {
        let chosen = ranking.choose(&mut StdRng::seed_from_u64(seed));
        assert_eq!(chosen, Some(well.id));
    }
}

#[test]
fn of_a_large_object_the_faster_way_counts_and_of_a_small_one_the_shorter() {
    let anywhere = Residency::anywhere();
    let (near, far) = (loaded(1, 0.0), loaded(2, 0.0));
    let slow = Candidate {
        rate: Some(5 << 20),
        ..at(&near, 2)
    };
    let fast = Candidate {
        rate: Some(100 << 20),
        ..at(&far, 30)
    };
    let of = |bytes| {
        let wish = Wish {
            bytes,
            ..Wish::nearest(&anywhere)
        };
        order(&[slow, fast], &wish)[0]
    };
    assert_eq!(of(None), near.id);
    assert_eq!(of(Some(LARGE - 1)), near.id);
    assert_eq!(of(Some(64 << 20)), far.id);
}

#[test]
fn a_rate_that_was_not_measured_is_taken_for_no_better_than_those_that_were() {
    let anywhere = Residency::anywhere();
    let wish = Wish {
        bytes: Some(64 << 20),
        ..Wish::nearest(&anywhere)
    };
    let mut boaster = loaded(1, 0.5);
    boaster.capacity = 10 << 30;
    let (known, silent) = (loaded(2, 0.0), loaded(3, 0.0));
    let rates = |candidates: &[Candidate<'_>]| -> Vec<_> {
        let ranking = rank(candidates, &wish);
        let rate = |node: &NodeState| {
            let row = ranking.rows().iter().find(|row| row.id == node.id)?;
            match row.verdict {
                Verdict::Fit { parts, .. } => parts.rate,
                Verdict::Cut(_) => None,
            }
        };
        [&boaster, &known, &silent].map(rate).to_vec()
    };
    let measured = Candidate {
        rate: Some(50 << 20),
        ..at(&known, 5)
    };
    assert_eq!(
        rates(&[at(&boaster, 5), measured, at(&silent, 5)]),
        [
            Some((50 << 20, RateSource::Published)),
            Some((50 << 20, RateSource::Measured)),
            Some((50 << 20, RateSource::Others)),
        ]
    );
    // Where nothing was measured, what is published and free counts, also of those that are silent: silence is no speed.
    let free = 5 << 30;
    assert_eq!(
        rates(&[at(&boaster, 5), at(&known, 5), at(&silent, 5)]),
        [
            Some((free, RateSource::Published)),
            Some((free, RateSource::Others)),
            Some((free, RateSource::Others)),
        ]
    );
    assert_eq!(rates(&[at(&known, 5), at(&silent, 5)]), [None, None, None]);
}

#[test]
fn one_of_which_nothing_is_known_comes_after_those_on_the_other_side_of_the_earth() {
    let anywhere = Residency::anywhere();
    let (unknown, far) = (loaded(1, 0.0), loaded(2, 0.0));
    let nothing = Candidate {
        rtt: None,
        ..at(&unknown, 0)
    };
    assert_eq!(
        order(&[nothing, at(&far, 330)], &Wish::nearest(&anywhere)),
        [far.id, unknown.id]
    );
}

#[test]
fn each_policy_orders_by_what_it_is_named_for() {
    let anywhere = Residency::anywhere();
    let nodes = [loaded(1, 0.6), loaded(2, 0.1), loaded(3, 0.3)];
    let [one, two, three] = nodes.each_ref().map(|node| node.id);
    let geography = |ms| Some((MS * ms, Source::Geography));
    let mut candidates = [at(&nodes[0], 5), at(&nodes[1], 80), at(&nodes[2], 40)];
    candidates[0].by_geography = geography(70);
    candidates[1].by_geography = geography(90);
    candidates[2].by_geography = geography(10);
    let by = |policy, turn| {
        let wish = Wish {
            policy,
            turn,
            key: Some(&Key([7; 32])),
            ..Wish::nearest(&anywhere)
        };
        order(&candidates, &wish)
    };
    assert_eq!(by(Policy::Latency, 0), [one, three, two]);
    assert_eq!(by(Policy::LeastLoaded, 0), [two, three, one]);
    assert_eq!(by(Policy::Geo, 0), [three, one, two]);
    let turns: Vec<_> = (0..3).map(|turn| by(Policy::RoundRobin, turn)[0]).collect();
    assert!(turns.contains(&one) && turns.contains(&two) && turns.contains(&three));
    assert_eq!(by(Policy::RoundRobin, 3), by(Policy::RoundRobin, 0));
    assert_eq!(
        by(Policy::RoundRobin, u64::MAX)[0],
        by(Policy::RoundRobin, 0)[0]
    );
}

#[test]
fn affinity_keeps_to_one_node_for_a_key_whoever_else_comes_or_goes() {
    let anywhere = Residency::anywhere();
    let nodes: Vec<_> = (0..12).map(|number| loaded(number, 0.2)).collect();
    let candidates: Vec<_> = nodes.iter().map(|node| at(node, 10)).collect();
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..200 {
        let key = Key(rng.random());
        let wish = Wish {
            policy: Policy::Affinity,
            key: Some(&key),
            ..Wish::nearest(&anywhere)
        };
        let all = order(&candidates, &wish);
        let without: Vec<_> = candidates
            .iter()
            .filter(|candidate| candidate.node.id != all[3])
            .copied()
            .collect();
        assert_eq!(order(&without, &wish)[0], all[0]);
        assert_eq!(rank(&candidates, &wish).choose(&mut rng), Some(all[0]));
    }
}

#[test]
fn the_choice_is_among_those_about_as_good_and_leans_to_the_less_loaded() {
    let anywhere = Residency::anywhere();
    let nodes = [
        loaded(1, 0.4),
        loaded(2, 0.1),
        loaded(3, 0.2),
        loaded(4, 0.0),
    ];
    // Scores: 10 + 3.3, 12 + 0.6, 12 + 1.3, and one far off that has nothing to do.
    let candidates = [
        at(&nodes[0], 10),
        at(&nodes[1], 12),
        at(&nodes[2], 12),
        at(&nodes[3], 60),
    ];
    let ranking = rank(&candidates, &Wish::nearest(&anywhere));
    let mut chosen = [0_u32; 4];
    for seed in 0..3_000 {
        let id = ranking.choose(&mut StdRng::seed_from_u64(seed)).unwrap();
        chosen[nodes.iter().position(|node| node.id == id).unwrap()] += 1;
    }
    println!("chosen {chosen:?}");
    // Of three, two are drawn: the least loaded is in two thirds of the pairs and wins each.
    assert!((1_900..2_100).contains(&chosen[1]), "{chosen:?}");
    assert!((900..1_100).contains(&chosen[2]), "{chosen:?}");
    assert_eq!((chosen[0], chosen[3]), (0, 0));
}

#[test]
fn many_who_choose_on_the_same_old_news_do_not_all_go_to_one() {
    let anywhere = Residency::anywhere();
    let nodes: Vec<_> = (0..10)
        .map(|number| loaded(number, 0.3 + f64::from(number) * 0.005))
        .collect();
    let candidates: Vec<_> = nodes.iter().map(|node| at(node, 4)).collect();
    let ranking = rank(&candidates, &Wish::nearest(&anywhere));
    let mut chosen = std::collections::HashMap::new();
    for seed in 0..1_000 {
        let id = ranking.choose(&mut StdRng::seed_from_u64(seed)).unwrap();
        *chosen.entry(id).or_insert(0) += 1;
    }
    let most = chosen.values().max().unwrap();
    assert!(*most <= 260, "{most} of 1,000 went to one of ten");
    assert!(chosen.len() >= 8);
}

#[test]
fn the_table_has_every_candidate_its_parts_and_why_one_is_not_asked() {
    let europe = Residency::new(&["eu-*"]).unwrap();
    let mut evil = loaded(1, 0.5);
    evil.name = "a\x1b[2Jb\nc".to_owned();
    let abroad = node(2, ("na", "nyc"));
    let gone = loaded(3, 0.0);
    let ranking = rank(
        &[at(&evil, 7), at(&abroad, 1), at(&gone, 90)],
        &Wish::nearest(&europe),
    );
    let table = ranking.table(&view(&[evil, abroad])).to_string();
    println!("{table}");
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("latency") && lines[0].contains("rtt ms"));
    assert!(lines[1].starts_with("a?[2Jb?c "), "{}", lines[1]);
    for part in ["12.0", "7.0", "path", "0.50", "5.0"] {
        assert!(lines[1].contains(part), "{part} in {}", lines[1]);
    }
    assert!(
        lines[2].starts_with(&format!("{:?} ", gone.id)),
        "{}",
        lines[2]
    );
    assert!(lines[3].ends_with("not asked: outside the site's zones"));
}

#[test]
fn a_world_of_nodes_is_ranked_with_what_is_known_of_each() {
    let mut rng = StdRng::seed_from_u64(seed(21));
    let world = World::new(50, &mut rng);
    let me = &world.nodes[0];
    let mut latency = Latency::new(me.id);
    for at in 1..25 {
        let rtt = world.measure(0, at, &mut rng);
        latency.measured(world.nodes[at].id, rtt, MS);
    }
    let candidates: Vec<_> = world.nodes[1..]
        .iter()
        .map(|node| Candidate::new(&latency, me, node, MS))
        .collect();
    let anywhere = Residency::anywhere();
    let ranking = rank(&candidates, &Wish::nearest(&anywhere));
    let sources = |wanted| {
        let of = |row: &&Row| matches!(row.verdict, Verdict::Fit { parts, .. } if parts.rtt_source == Some(wanted));
        ranking.rows().iter().filter(of).count()
    };
    assert_eq!(
        (sources(Source::Path), sources(Source::Geography)),
        (24, 25)
    );
}

proptest! {
    #[test]
    fn whatever_nodes_say_every_candidate_has_its_row_and_the_chosen_may_be_asked(
        said in proptest::collection::vec(
            (proptest::num::f64::ANY, any::<u64>(), any::<bool>(), 0_u8..3, any::<Option<u64>>(), any::<Option<u32>>()),
            0..20
        ),
        bytes in any::<Option<u64>>(),
        turn in any::<u64>(),
        policy in 0_usize..5,
        seed in any::<u64>(),
    ) {
        let nodes: Vec<_> = said
            .iter()
            .zip(0..)
            .map(|((load, capacity, draining, health, ..), number)| NodeState {
                load: *load,
                capacity: *capacity,
                draining: *draining,
                health: [Health::Well, Health::Degraded, Health::Ill][usize::from(*health)],
                ..node(number, ("eu", "fra"))
            })
            .collect();
        let candidates: Vec<_> = nodes
            .iter()
            .zip(&said)
            .map(|(node, (.., rate, rtt))| Candidate {
                rate: *rate,
                rtt: rtt.map(|rtt| (Duration::from_micros(rtt.into()), Source::Path)),
                ..at(node, 0)
            })
            .collect();
        let anywhere = Residency::anywhere();
        let key = Key([3; 32]);
        let wish = Wish { policy: Policy::ALL[policy], bytes, key: Some(&key), turn, residency: &anywhere };
        let ranking = rank(&candidates, &wish);
        prop_assert_eq!(ranking.rows().len(), nodes.len());
        let fit: Vec<_> = ranking.fit().collect();
        for node in &nodes {
            let may = node.health != Health::Ill && !node.draining && node.load < LOAD_MAX;
            prop_assert_eq!(fit.contains(&node.id), may);
        }
        let rng = &mut StdRng::seed_from_u64(seed);
        match ranking.choose(rng) {
            None => prop_assert!(fit.is_empty()),
            Some(id) => prop_assert!(fit.contains(&id)),
        }
        prop_assert_eq!(ranking.order(rng).len(), fit.len());
        let lines = nodes.first().map(|_| ranking.table(&view(&nodes)).to_string().lines().count());
        prop_assert!(lines.is_none_or(|lines| lines == nodes.len() + 1));
    }
}
