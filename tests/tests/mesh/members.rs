//! Who is there, as each edge sees it over a network that kills, splits, loses and lies about the time.

use std::time::{Duration, Instant};

use integration::tools;

use crate::clock;
use crate::nodes::{Mesh, Plan, sees};

const EDGES: usize = 10;

/// One way between any two hosts.
const DELAY: Duration = Duration::from_millis(10);

/// In which a dead node is out of every view.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// In which one that was started again is in every view: sooner than connections to its earlier process idle out.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// In which a split heals.
const HEALED_WITHIN: Duration = Duration::from_secs(2);
/// Only what fails waits so long.
const LIMIT: Duration = Duration::from_secs(60);

fn delayed(mesh: &Mesh, delay: Duration) {
    mesh.network
        .switch(|switch| switch.all_ways().for_each(|way| way.delay = delay));
}

/// `STOQ_MESH_SECONDS`, or so many.
fn seconds(default: u64) -> Duration {
    let given = std::env::var("STOQ_MESH_SECONDS").ok();
    let seconds = given.map_or(default, |text| {
        text.parse()
            .expect("STOQ_MESH_SECONDS is a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// Waits while nothing is to happen; what is seen to happen fails by itself.
pub(crate) fn pass(time: Duration, mut watch: impl FnMut()) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        watch();
        std::thread::park_timeout(left.min(Duration::from_secs(1)));
    }
}

/// Who is said to have left, and by whom.
fn departures(mesh: &Mesh) -> Vec<String> {
    let running = mesh.edges.iter().filter(|edge| edge.runs());
    let of = |edge: &crate::nodes::Node| {
        let report = edge.cluster();
        assert!(report.changes_total <= 100, "the log has forgotten some");
        let left = report.changes.into_iter().filter(|it| it.change == "left");
        left.map(|it| format!("{} saw {} leave", edge.name, it.name))
            .collect::<Vec<_>>()
    };
    running.flat_map(of).collect()
}

/// How long it takes until an edge that is killed is in no view.
fn gone(mesh: &mut Mesh, victim: usize) -> Duration {
    let name = mesh.edges[victim].name.clone();
    let at = mesh.edges[victim].kill();
    let others: Vec<_> = (0..mesh.edges.len())
        .filter(|edge| mesh.edges[*edge].runs())
        .collect();
    let took = mesh.until("it is gone", at, LIMIT, &others, |report| {
        !sees(report).contains(&name)
    });
    let longest = took.into_iter().max().unwrap();
    println!("{name}, killed, was out of the last view after {longest:?}");
    longest
}

#[test]
fn a_killed_edge_is_gone_from_every_view_within_five_seconds() {
    const TEST: &str = "a_killed_edge_is_gone_from_every_view_within_five_seconds";
    let zones = ["eu-fra", "eu-ams"].map(str::to_owned);
    let plan = Plan::edges(EDGES).zones(zones.into());
    let Some(mut mesh) = plan.start(TEST) else {
        return;
    };
    delayed(&mesh, DELAY);
    let peers = mesh.edges[0].ask(&["cluster", "peers", "--json"]);
    let peers: serde_json::Value = serde_json::from_str(&peers).unwrap();
    assert_eq!(peers["nodes"].as_array().map(Vec::len), Some(EDGES));

    // What it costs while nothing happens.
    let costs = |mesh: &Mesh| {
        let edges = mesh.edges.iter();
        edges
            .map(|edge| {
                let said = edge.metric("stoq_gossip_sent_bytes_total", &[]);
                let host = edge.host;
                (said, mesh.network.switch(|switch| switch.sent_bytes(host)))
            })
            .collect::<Vec<_>>()
    };
    let (before, began) = (costs(&mesh), Instant::now());
    pass(Duration::from_secs(10), || {});
    let (after, time) = (costs(&mesh), began.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let rates = before.iter().zip(&after).map(|(before, after)| {
        let rates = (
            (after.0 - before.0) / time,
            (after.1 - before.1) as f64 / time,
        );
        println!(
            "gossip: {:.0} B/s; on the wire, all that a node sends: {:.0} B/s",
            rates.0, rates.1
        );
        rates.0
    });
    let most = rates.fold(0.0, f64::max);
    assert!(most > 0.0 && most <= 10_000.0, "{most}");

    for victim in [3, 0] {
        let took = gone(&mut mesh, victim);
        assert!(took <= GONE_WITHIN, "{took:?}");
        mesh.edges[victim].start(&mesh.network);
        mesh.edges[victim].ready();
        let back = mesh.all_see_all(LIMIT);
        println!("started again, it was in all views {back:?} after it was ready");
        assert!(back <= BACK_WITHIN, "{back:?}");
    }
}

/// Cuts the mesh into halves for as long, and heals it; how long that takes.
fn split_and_healed(test: &str, cut: Duration) -> Option<Duration> {
    let mesh = Plan::edges(EDGES).start(test)?;
    delayed(&mesh, DELAY);
    let halves = [(0..EDGES / 2), (EDGES / 2..EDGES)];
    let [some, others] = halves.clone().map(|half| mesh.hosts(half));
    mesh.network
        .switch(|switch| switch.cut(&some, &others, true));
    let began = Instant::now();
    for half in halves {
        let half: Vec<_> = half.collect();
        let names: Vec<_> = half
            .iter()
            .map(|edge| mesh.edges[*edge].name.clone())
            .collect();
        let mut names = names;
        names.sort();
        let took = mesh.until("each sees its half", began, LIMIT, &half, |report| {
            sees(report) == names
        });
        println!(
            "cut off, each saw its half after {:?}",
            took.into_iter().max()
        );
    }
    pass(cut.saturating_sub(began.elapsed()), || {});
    mesh.network
        .switch(|switch| switch.cut(&some, &others, false));
    let healed = mesh.all_see_all(LIMIT);
    println!("healed {healed:?} after a cut of {cut:?}");
    Some(healed)
}

#[test]
fn a_split_in_halves_heals_within_two_seconds() {
    const TEST: &str = "a_split_in_halves_heals_within_two_seconds";
    if let Some(healed) = split_and_healed(TEST, seconds(15)) {
        assert!(healed <= HEALED_WITHIN, "{healed:?}");
    }
}

#[test]
#[ignore = "minutes: a split of 90 s"]
fn a_long_split_heals_within_two_seconds() {
    const TEST: &str = "a_long_split_heals_within_two_seconds";
    if let Some(healed) = split_and_healed(TEST, seconds(90)) {
        assert!(healed <= HEALED_WITHIN, "{healed:?}");
    }
}

/// A quarter of what one half sends to the other is lost, and nothing of what it gets back, for as long.
fn lossy(test: &str, time: Duration) {
    let Some(mesh) = Plan::edges(EDGES).start(test) else {
        return;
    };
    delayed(&mesh, DELAY);
    let [some, others] = [mesh.hosts(0..EDGES / 2), mesh.hosts(EDGES / 2..EDGES)];
    assert_eq!(departures(&mesh), Vec::<String>::new());
    mesh.network.switch(|switch| {
        for (from, to) in some
            .iter()
            .flat_map(|from| others.iter().map(move |to| (from, to)))
        {
            switch.way(*from, *to).loss = 0.25;
        }
    });
    pass(time, || {});
    let counters = mesh.network.switch(|switch| switch.counters());
    println!(
        "{} packets passed, {} were lost",
        counters.passed, counters.lost
    );
    assert!(counters.lost > 0);
    assert_eq!(departures(&mesh), Vec::<String>::new());
    mesh.all_see_all(Duration::from_secs(1));
}

#[test]
fn nobody_is_taken_for_dead_where_one_direction_loses_a_quarter() {
    lossy(
        "nobody_is_taken_for_dead_where_one_direction_loses_a_quarter",
        seconds(20),
    );
}

#[test]
#[ignore = "minutes: five of them, to see what is rare"]
fn nobody_is_taken_for_dead_in_minutes_where_one_direction_loses_a_quarter() {
    lossy(
        "nobody_is_taken_for_dead_in_minutes_where_one_direction_loses_a_quarter",
        seconds(300),
    );
}

#[test]
fn clocks_that_differ_by_four_seconds_make_nobody_dead_or_alive() {
    const TEST: &str = "clocks_that_differ_by_four_seconds_make_nobody_dead_or_alive";
    let Some(mut mesh) = Plan::edges(EDGES).prepare(TEST) else {
        return;
    };
    let Some(library) = clock::library(mesh.directory()) else {
        return tools::skipped(TEST, "no C compiler for a wrong clock");
    };
    let ahead = |edge: usize| [2, -2, 0][edge % 3];
    for (place, edge) in mesh.edges.iter_mut().enumerate() {
        edge.set_clock(&library, ahead(place));
    }
    mesh.start();
    delayed(&mesh, DELAY);
    // They live in other times.
    for (place, edge) in mesh.edges.iter().enumerate() {
        let (head, _) = edge.get("/readyz").unwrap();
        let date = head.lines().find_map(|line| line.strip_prefix("date: "));
        let date = httpdate::parse_http_date(date.expect("a date")).unwrap();
        let since = |at: std::time::SystemTime| {
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_secs()).unwrap()
        };
        let differs = since(date) - since(std::time::SystemTime::now());
        // Whole seconds, of which one may have begun meanwhile.
        assert!((differs - i64::from(ahead(place))).abs() <= 1, "{differs}");
    }
    pass(Duration::from_secs(5), || {});
    assert_eq!(departures(&mesh), Vec::<String>::new());

    // One that is ahead comes back behind: its new process is the later one all the same.
    for victim in [0, 1] {
        let took = gone(&mut mesh, victim);
        assert!(took <= GONE_WITHIN, "{took:?}");
        mesh.edges[victim].set_clock(&library, -ahead(victim));
        mesh.edges[victim].start(&mesh.network);
        mesh.edges[victim].ready();
        let back = mesh.all_see_all(LIMIT);
        println!("started again, it was in all views {back:?} after it was ready");
        assert!(back <= BACK_WITHIN, "{back:?}");
    }
}
