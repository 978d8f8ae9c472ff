//! Each rule at both sides of its limit.

use std::collections::BTreeMap;

use super::*;
use crate::bundle::{Distribution, IdleOutcome, Interface};

struct Run {
    setup: Setup,
    open_loop: bool,
    environment: Environment,
    outcome: Outcome,
    watched: Watched,
}

fn times(p50_us: f64, p99_us: f64) -> Distribution {
    Distribution {
        count: 1000,
        p50_us,
        p99_us,
        ..Distribution::default()
    }
}

/// A run with nothing against it: 100,000 answers of 1 KiB in 10 s, two threads of four cores.
fn good() -> Run {
    Run {
        setup: Setup {
            target: "https://localhost:1".to_owned(),
            protocol: "h3".to_owned(),
            shape: "closed".to_owned(),
            connections: 10,
            streams: 32,
            threads: 2,
            session: "kept".to_owned(),
            workload: "/1k".to_owned(),
            seed: 1,
            duration_s: 10.0,
            warmup_s: 1.0,
        },
        open_loop: false,
        environment: Environment {
            cpu: "a processor".to_owned(),
            cores: 4,
            affinity: "0-3".to_owned(),
            memory_bytes: 1 << 33,
            kernel: "6.1".to_owned(),
            os: "a system".to_owned(),
            load: 0.5,
            mtu: Some(1500),
        },
        outcome: Outcome {
            elapsed_s: 10.0,
            requests: 100_000,
            body_bytes: 102_400_000,
            due: 100_000,
            answered: 100_000,
            errors: BTreeMap::new(),
            error_examples: BTreeMap::new(),
            unanswered: 0,
            connections_opened: 10,
            connections_resumed: 0,
            connections_early: 0,
            connections_failed: 0,
            statuses: BTreeMap::from([(200, 100_000)]),
            latency: times(3_000.0, 8_000.0),
            service: times(3_000.0, 8_000.0),
            first_byte: times(2_000.0, 7_000.0),
            connect: times(1_000.0, 2_000.0),
            series: Vec::new(),
            idle: None,
        },
        watched: Watched {
            client: ClientShare {
                cpu_s: 8.0,
                thread_cpu: vec![0.4, 0.4],
                thread_starved: vec![Some(0.01), Some(0.0)],
                stolen: Some(0.0),
                lag: times(50.0, 900.0),
                socket_drops: Some(0),
                rss_bytes: 1 << 25,
            },
            server: None,
            interface: Some(Interface {
                name: "eth0".to_owned(),
                rx_bytes: 120_000_000,
                rx_bytes_before: 12_000_000,
                tx_bytes: 1_000_000,
                rx_packets: 100_000,
                rx_dropped: 0,
            }),
            faults: Vec::new(),
            unseen: Vec::new(),
        },
    }
}

fn server(cpu_share: f64, cores: u32, busiest_thread: Option<f64>) -> ServerShare {
    ServerShare {
        pid: 7,
        command: "server".to_owned(),
        cpu_s: cpu_share * 10.0,
        cpu_share,
        cores,
        busiest_thread,
        processes: 1,
        cpu_s_per_million: None,
        cpu_s_per_gb: None,
        rss_before_bytes: 1,
        rss_max_bytes: 2,
    }
}

impl Run {
    fn judged(&self) -> Verdict {
        judge(&Case {
            setup: &self.setup,
            open_loop: self.open_loop,
            environment: &self.environment,
            outcome: &self.outcome,
            watched: &self.watched,
        })
    }
}

fn judged(change: impl FnOnce(&mut Run)) -> Verdict {
    let mut run = good();
    change(&mut run);
    run.judged()
}

#[test]
fn nothing_is_said_of_a_good_run() {
    let verdict = good().judged();
    assert_eq!(
        verdict,
        Verdict {
            valid: true,
            reasons: vec![],
            remarks: vec![]
        }
    );
}

type Change = fn(&mut Run);

#[test]
fn each_of_these_makes_a_run_invalid() {
    let cases: [(&str, Change); 22] = [
        ("load thread 2 of 2 used 90.0 % of a core", |run| {
            run.watched.client.thread_cpu[1] = 0.90;
        }),
        ("use --threads 3", |run| {
            run.watched.client.thread_cpu[1] = 0.99
        }),
        (
            "give the client more cores and threads, or the server fewer",
            |run| {
                run.watched.client.thread_cpu[1] = 0.99;
                run.environment.affinity = "0-1".to_owned();
            },
        ),
        ("offer less", |run| {
            run.watched.client.thread_cpu[0] = 0.99;
            run.environment.affinity = "0-1".to_owned();
            run.open_loop = true;
        }),
        // Whatever the server does: a client at its limit measures itself.
        ("the client was the bottleneck", |run| {
            run.watched.client.thread_cpu[0] = 0.95;
            run.watched.server = Some(server(1.0, 1, None));
        }),
        (
            "used 87.0 % of a core and waited for one for 4.0 %",
            |run| {
                run.watched.client.thread_cpu[0] = 0.87;
                run.watched.client.thread_starved[0] = Some(0.04);
            },
        ),
        (
            "load thread 1 of 2 was ready to run and had no core for 5.0 %",
            |run| {
                run.watched.client.thread_starved[0] = Some(0.05);
            },
        ),
        ("the client was the bottleneck", |run| {
            run.watched.client.thread_cpu[0] = 0.95;
            run.watched.client.thread_starved[0] = None;
        }),
        ("no load thread was watched", |run| {
            run.watched.client.thread_cpu.clear();
        }),
        ("event loops were late by 5.1 ms", |run| {
            run.watched.client.lag = times(100.0, 5_100.0);
        }),
        ("(limit 10.0 ms)", |run| {
            run.watched.client.lag = times(100.0, 10_100.0);
            run.outcome.latency = times(200_000.0, 300_000.0);
        }),
        ("no timer was noticed", |run| {
            run.watched.client.lag = Distribution::default();
        }),
        ("0.011 % (limit 0.01 %)", |run| {
            run.watched.client.socket_drops = Some(11)
        }),
        ("of how many is not known", |run| {
            run.watched.client.socket_drops = Some(1);
            run.watched.interface = None;
        }),
        ("the hypervisor gave 5.0 %", |run| {
            run.watched.client.stolen = Some(0.05)
        }),
        ("one of them counts wrongly", |run| {
            run.outcome.body_bytes = 125_000_000
        }),
        // More than ever came, however short the run.
        ("one of them counts wrongly", |run| {
            run.outcome.body_bytes = 3_001;
            if let Some(interface) = &mut run.watched.interface {
                interface.rx_bytes = 2_000;
                interface.rx_bytes_before = 1_000;
            }
        }),
        ("no request was answered rightly; 5 failed", |run| {
            run.outcome.requests = 0;
            run.outcome.answered = 0;
            run.outcome.body_bytes = 0;
            run.outcome.errors = BTreeMap::from([("timed out".to_owned(), 5)]);
        }),
        ("no request was answered rightly", |run| {
            run.outcome.requests = 0;
            run.outcome.answered = 0;
            run.outcome.idle = Some(idle(0));
        }),
        ("process 7 ended", |run| {
            run.watched.faults = vec!["process 7 ended".to_owned()];
        }),
        ("too late", |run| {
            run.watched.faults = vec!["too late".to_owned()]
        }),
        ("used 200.0 % of a core", |run| {
            run.watched.client.thread_cpu[0] = 2.0
        }),
    ];
    for (words, change) in cases {
        let verdict = judged(change);
        assert!(!verdict.valid, "{words}");
        assert!(
            verdict.reasons.iter().any(|reason| reason.contains(words)),
            "{words:?} is not in {verdict:#?}"
        );
    }
}

#[test]
fn each_of_these_is_remarked_and_no_more() {
    let cases: [(&str, Change); 21] = [
        ("at the client's full sockets is not known", |run| {
            run.watched.client.socket_drops = None;
        }),
        ("keeps no schedstat", |run| {
            run.watched.client.thread_starved[0] = None;
        }),
        ("11 datagrams", |run| {
            run.watched.client.socket_drops = Some(11);
            run.watched.interface.as_mut().unwrap().rx_packets = 110_000;
        }),
        ("a part of it is the client's", |run| {
            run.watched.client.lag = times(100.0, 4_000.0);
        }),
        ("gave 1.0 %", |run| run.watched.client.stolen = Some(0.01)),
        ("99 answers are too few", |run| {
            run.outcome.answered = 99;
            run.outcome.due = 99;
        }),
        ("0.90 s were counted", |run| run.outcome.elapsed_s = 0.9),
        ("500 of 100000 requests failed (0.5 %)", |run| {
            run.outcome.errors = BTreeMap::from([("status 503".to_owned(), 500)]);
        }),
        ("the load average was 4.1 on 4 cores", |run| {
            run.environment.load = 4.1
        }),
        ("is not known (no route)", |run| {
            run.watched.interface = None;
            run.watched.unseen = vec!["it is not known (no route)".to_owned()];
        }),
        ("other traffic had the link", |run| {
            run.outcome.requests = 100;
            run.outcome.body_bytes = 50_000_000;
        }),
        (
            "2000 of 100000 requests (2.0 %) were not begun or not answered",
            |run| {
                run.open_loop = true;
                run.outcome.unanswered = 2_000;
            },
        ),
        (
            "requests waited for a free one of 10 connections x 32 streams",
            |run| {
                run.open_loop = true;
                run.outcome.latency = times(3_000.0, 900_000.0);
            },
        ),
        (
            "used 95.0 % of the one core it may use: the rate is its limit",
            |run| {
                run.watched.server = Some(server(0.95, 1, None));
            },
        ),
        (
            "used 95.0 % of the 2 cores it may use: the rate is its limit",
            |run| {
                run.watched.server = Some(server(1.9, 2, None));
            },
        ),
        ("its busiest thread 99.0 % of one", |run| {
            run.watched.server = Some(server(1.1, 2, Some(0.99)));
        }),
        ("the rate is not its limit; 320 requests at a time", |run| {
            run.watched.server = Some(server(1.1, 2, Some(0.55)));
        }),
        ("the rate is not its limit", |run| {
            run.watched.server = Some(server(0.9, 1, None));
        }),
        ("no limit here", |run| {
            run.watched.unseen = vec!["no limit here".to_owned()]
        }),
        (
            "at the 99th percentile, of which the server's answer took",
            |run| {
                run.open_loop = true;
                run.outcome.latency = times(9_000.0, 20_000.0);
            },
        ),
        ("2.0 %", |run| run.watched.client.stolen = Some(0.02)),
    ];
    for (words, change) in cases {
        let verdict = judged(change);
        assert!(verdict.valid, "{words}: {verdict:#?}");
        assert!(
            verdict.remarks.iter().any(|remark| remark.contains(words)),
            "{words:?} is not in {verdict:#?}"
        );
    }
}

#[test]
fn nothing_is_said_of_these() {
    let cases: [Change; 10] = [
        |run| run.watched.client.thread_cpu[0] = 0.88,
        |run| run.watched.client.thread_starved[0] = Some(0.049),
        |run| run.watched.client.lag = times(100.0, 1_900.0),
        |run| run.watched.client.stolen = None,
        // The counted bodies and what lay in buffers: 2 % and 1 MiB and 10 x 64 KiB.
        |run| run.outcome.body_bytes = 124_000_000,
        // Heads and acknowledgements outweigh small bodies.
        |run| run.outcome.body_bytes = 1_000_000,
        // On the loopback both directions are received.
        |run| {
            run.watched.interface.as_mut().unwrap().name = "lo".to_owned();
            run.outcome.requests = 100;
            run.outcome.body_bytes = 50_000_000;
        },
        // An open loop asks what it was told to ask.
        |run| {
            run.open_loop = true;
            run.watched.server = Some(server(0.3, 1, None));
        },
        |run| {
            run.open_loop = true;
            run.outcome.unanswered = 1_000;
        },
        // A run about idle connections only.
        |run| {
            run.outcome.requests = 0;
            run.outcome.answered = 0;
            run.outcome.body_bytes = 0;
            run.outcome.idle = Some(idle(20_000));
        },
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let verdict = judged(change);
        assert!(verdict.valid, "case {number}: {verdict:#?}");
        assert_eq!(verdict.remarks, Vec::<String>::new(), "case {number}");
    }
}

fn idle(answered: u64) -> IdleOutcome {
    IdleOutcome {
        wanted: 20_000,
        opened: 20_000,
        ramp_s: 10.0,
        held_s: 10.0,
        answered,
        errors: BTreeMap::new(),
        error_examples: BTreeMap::new(),
        client_bytes_each: None,
        server_bytes_each: None,
        connect: Distribution::default(),
        answer: Distribution::default(),
    }
}
