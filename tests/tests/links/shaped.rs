//! Adapting connections fill shaped links, and know what they are.
//!
//! A rate counts whole Ethernet frames, as `tbf` does; so do the figures here. A cell whose relay was the
//! bottleneck, or one of whose ends was never idle, says so; where it then falls short, its rate is not judged.

use std::time::Duration;

use stoq::path::{Bandwidth, Controller, Distance, PathClass, WindowBounds};
use stoq::quic::TransportConfig;

use crate::lab::Lab;
use crate::transfer::{Look, Seen, Transfer, wire_rate};

/// A class may move until then, and no more.
const SETTLED: Duration = Duration::from_secs(5);

/// A link, and who sends over it.
#[derive(Debug, Clone, Copy)]
struct Cell {
    mbit: u32,
    /// There and back; the machine's own delay comes on top.
    rtt: Duration,
    /// Per cent, in each direction.
    loss: f64,
    /// Of the link and the hosts. Beyond 1,500 the endpoints are told to look for large packets.
    mtu: u16,
    /// `None`: as the endpoint has it.
    controller: Option<Controller>,
}

#[derive(Debug)]
struct Outcome {
    /// Share of the link's rate that was received.
    share: f64,
    /// As the sender has it at the end, and the receiver.
    classes: [PathClass; 2],
    /// Changes of each after [`SETTLED`].
    flaps: [u64; 2],
    faults: Vec<String>,
}

/// What links carry as a rule.
const ETHERNET: u16 = 1_500;
const JUMBO: u16 = 9_000;
/// Of IPv4 and UDP.
const HEADERS: u16 = 28;

/// What is to be received of a link's rate.
const SHARE_MIN: f64 = 0.95;

/// How often a cell is run before a machine that is late leaves it without a verdict.
const TRIES: usize = 3;

impl Cell {
    const fn new(mbit: u32, rtt_ms: u64) -> Self {
        Self {
            mbit,
            rtt: Duration::from_millis(rtt_ms),
            loss: 0.0,
            mtu: ETHERNET,
            controller: None,
        }
    }

    fn link(&self) -> String {
        let mut link = format!("mtu = {}, rate = \"{}Mbit\"", self.mtu, self.mbit);
        if !self.rtt.is_zero() {
            link += &format!(", delay = \"{}us\"", self.rtt.as_micros() / 2);
        }
        if self.loss > 0.0 {
            link += &format!(", loss = \"{}%\"", self.loss);
        }
        link
    }

    /// Transfers for `length`, and counts from a third of it on. `None`, said aloud, without root.
    fn run(&self, test: &str, length: Duration) -> Option<Outcome> {
        let lab = Lab::up(test, &self.link(), &format!("mtu = {}", self.mtu))?;
        let mut transport = TransportConfig {
            adapt: Some(WindowBounds::default()),
            controller: self.controller,
            ..TransportConfig::default()
        };
        if self.mtu > ETHERNET {
            transport.mtu_max = self.mtu - HEADERS;
        }
        let transfer = Transfer::begin(&lab, transport.clone(), transport);
        let began = transfer.began;
        transfer.go_on(length);
        let Seen {
            sender,
            receiver,
            mut faults,
        } = transfer.end();
        faults.extend(lab.end());
        let rate = wire_rate(&receiver, began + length / 3, began + length);
        let outcome = Outcome {
            share: rate / (f64::from(self.mbit) * 1e6),
            classes: [class(&sender), class(&receiver)],
            flaps: [&sender, &receiver].map(|looks| {
                let settled = looks.iter().rfind(|look| look.at <= began + SETTLED);
                changes(looks.last()) - changes(settled)
            }),
            faults,
        };
        let path = sender.last().unwrap().path;
        let streams = receiver
            .last()
            .and_then(|look| Some(look.snapshot?.plan?.streams(1 << 20)));
        println!(
            "{self:?}: {:.1} % of the rate, {:.1} Mbit/s; {} by the sender, {} by the receiver, {:?} changes after 5 s; \
             {:?} of {:?}, cwnd {} KiB, {} of {} packets lost, streams {streams:?}{}",
            outcome.share * 100.0,
            rate / 1e6,
            outcome.classes[0],
            outcome.classes[1],
            outcome.flaps,
            path.controller,
            path.rtt,
            path.cwnd >> 10,
            path.lost_packets,
            path.sent_packets,
            if outcome.faults.is_empty() {
                String::new()
            } else {
                format!("; INVALID: {}", outcome.faults.join("; "))
            }
        );
        let seconds = (0..length.as_secs()).map(|second| {
            let from = began + Duration::from_secs(second);
            let rate = wire_rate(&receiver, from, from + Duration::from_secs(1));
            format!("{:.0}", rate / 1e6)
        });
        println!(
            "  Mbit/s by second: {}",
            seconds.collect::<Vec<_>>().join(" ")
        );
        Some(outcome)
    }

    /// What the link is, to be found out by both ends.
    fn expected(&self) -> PathClass {
        PathClass {
            distance: Distance::of(self.rtt),
            bandwidth: Some(Bandwidth::of(u64::from(self.mbit) * 125_000)),
        }
    }

    /// [`run`](Self::run), again where the machine was late, as often as [`TRIES`] says.
    fn run_in_time(&self, test: &str, length: Duration) -> Option<Outcome> {
        let mut outcome = self.run(test, length)?;
        for _ in 1..TRIES {
            if outcome.faults.is_empty() || outcome.share >= SHARE_MIN {
                break;
            }
            outcome = self.run(test, length)?;
        }
        Some(outcome)
    }

    fn judge(&self, outcome: &Outcome) -> Vec<String> {
        let mut wrong = Vec::new();
        let share = format!("{self:?}: {:.1} %", outcome.share * 100.0);
        // A machine that is late takes from the rate and never adds to it; at 100 Mbit/s it takes not so much that it would be another class.
        match (&outcome.faults[..], self.mbit) {
            _ if outcome.share >= SHARE_MIN => {}
            ([], _) => wrong.push(share),
            (_, ..=100) => println!("NO VERDICT on the rate: {share}"),
            (faults, _) => {
                return vec![format!("{share}, no verdict: {}", faults.join("; "))];
            }
        }
        if outcome.classes != [self.expected(); 2] {
            wrong.push(format!("{self:?}: classes {:?}", outcome.classes));
        }
        if outcome.flaps != [0, 0] {
            wrong.push(format!("{self:?}: changes {:?}", outcome.flaps));
        }
        wrong
    }
}

fn class(looks: &[Look]) -> PathClass {
    let last = looks.last().and_then(|look| look.snapshot);
    last.expect("a path that was measured").class
}

fn changes(look: Option<&Look>) -> u64 {
    look.and_then(|look| look.snapshot)
        .map_or(0, |snapshot| snapshot.changes)
}

#[test]
fn a_shaped_link_is_filled_and_its_class_settles() {
    const TEST: &str = "a_shaped_link_is_filled_and_its_class_settles";
    for cell in [Cell::new(100, 0), Cell::new(100, 40)] {
        let mut wrong = Vec::new();
        // What other tests left running may take seconds of a short look; a longer one decides.
        for seconds in [12, 45] {
            let length = Duration::from_secs(seconds);
            let Some(outcome) = cell.run_in_time(TEST, length) else {
                return;
            };
            wrong = cell.judge(&outcome);
            if wrong.is_empty() {
                break;
            }
            println!("in {seconds} s: {wrong:?}");
        }
        assert_eq!(wrong, Vec::<String>::new());
    }
}

/// Of a long cell: `STOQ_LINKS_SECONDS`, default 30.
fn length() -> Duration {
    let seconds = std::env::var("STOQ_LINKS_SECONDS").map_or(30, |text| {
        text.parse()
            .expect("STOQ_LINKS_SECONDS is a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// All rates at all distances. The relay that delays carries some 100,000 frames a second on the two cores that also send and receive: at 2.5 Gbit/s
/// large ones.
fn links() -> impl Iterator<Item = Cell> {
    let at = |mbit| {
        [0, 40, 150].map(|rtt_ms| Cell {
            mtu: match (mbit, rtt_ms) {
                (2_500, 1..) => JUMBO,
                _ => ETHERNET,
            },
            ..Cell::new(mbit, rtt_ms)
        })
    };
    [100, 1_000, 2_500].into_iter().flat_map(at)
}

#[test]
#[ignore = "five minutes on a quiet machine, in an optimised build"]
fn every_shaped_link_is_filled_and_its_class_settles() {
    const TEST: &str = "every_shaped_link_is_filled_and_its_class_settles";
    let mut wrong = Vec::new();
    for cell in links() {
        let Some(outcome) = cell.run_in_time(TEST, length()) else {
            return;
        };
        wrong.extend(cell.judge(&outcome));
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What is carried is printed, not judged: it is the controller's doing.
#[test]
#[ignore = "nine minutes on a quiet machine, in an optimised build"]
fn every_lossy_link_carries_something_and_is_known_as_near_or_far() {
    const TEST: &str = "every_lossy_link_carries_something_and_is_known_as_near_or_far";
    for cell in links() {
        for loss in [0.1, 1.0] {
            let cell = Cell { loss, ..cell };
            let Some(outcome) = cell.run(TEST, length()) else {
                return;
            };
            assert!(outcome.share > 0.0);
            let distances = outcome.classes.map(|class| class.distance);
            assert_eq!(distances, [cell.expected().distance; 2]);
        }
    }
}

#[test]
#[ignore = "a minute on a quiet machine, in an optimised build"]
fn on_a_far_and_lossy_link_bbr_carries_more_than_cubic() {
    const TEST: &str = "on_a_far_and_lossy_link_bbr_carries_more_than_cubic";
    let share = |controller| {
        let cell = Cell {
            loss: 1.0,
            controller: Some(controller),
            ..Cell::new(100, 40)
        };
        Some(cell.run(TEST, length())?.share)
    };
    let Some(cubic) = share(Controller::Cubic) else {
        return;
    };
    let bbr = share(Controller::Bbr).expect("root a minute ago, root now");
    println!(
        "1 % loss, 40 ms: bbr carries {:.1} times as much",
        bbr / cubic
    );
    assert!(bbr > cubic);
}
