//! Whole runs against servers that misbehave: what they report must be what happened.

#![expect(
    clippy::unwrap_used,
    reason = "a test's server that cannot start has failed the test"
)]

mod plain_server;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use plain_server::{Reply, serve};
use rustix::process::{Signal, kill_process};
use stoq_loadtest::Target;
use stoq_loadtest::bundle::{Bundle, Outcome};
use stoq_loadtest::plan::{Handshake, Idle, Plan, Protocol, Session, Shape, Stop};
use stoq_loadtest::run::{Options, RunError, run};
use stoq_loadtest::workload::Workload;

const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A second in a closed loop of four connections.
fn plan(address: SocketAddr) -> Plan {
    Plan {
        target: Target::new(&format!("http://{address}")).unwrap(),
        protocol: Protocol::Http1,
        shape: Shape::Closed,
        connections: 4,
        streams: 1,
        threads: 1,
        sources: Vec::new(),
        stop: Stop {
            duration: SECOND,
            requests: None,
        },
        warmup: Duration::ZERO,
        timeout: SECOND,
        workload: Arc::new(Workload::one("/object")),
        fields: Vec::new(),
        session: Session::Kept,
        read_rate: None,
        zeros: false,
        idle: None,
        seed: 1,
    }
}

fn made(plan: Plan) -> Bundle {
    let bundle = run(plan, &Options::default()).unwrap();
    let outcome = &bundle.outcome;
    assert_eq!(
        outcome.due,
        outcome.answered + failed(outcome) + outcome.unanswered,
        "all that was due is accounted for: {outcome:?}"
    );
    bundle
}

fn failed(outcome: &Outcome) -> u64 {
    outcome.errors.values().sum()
}

#[test]
fn a_server_that_stalls_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let script = |number, _: &str| match number {
        100 => Reply::Stall(SECOND, 1000),
        _ => Reply::Right(1000),
    };
    let server = serve(script);
    let open = made(Plan {
        shape: Shape::Constant { rate: 200.0 },
        stop: Stop {
            duration: ms(3000),
            requests: None,
        },
        timeout: ms(5000),
        ..plan(server.address)
    });
    let latency = &open.outcome.latency;
    assert!(latency.p99_us >= 900_000.0, "open: {} µs", latency.p99_us);
    assert_eq!(open.outcome.due, 600);
    assert_eq!(open.outcome.answered, 600);

    let server = serve(script);
    let closed = made(Plan {
        timeout: ms(5000),
        stop: Stop {
            duration: ms(3000),
            requests: None,
        },
        ..plan(server.address)
    });
    let latency = &closed.outcome.latency;
    assert!(latency.p99_us < 500_000.0, "closed: {} µs", latency.p99_us);
    assert!(latency.max_us >= 900_000.0, "closed: {} µs", latency.max_us);
}

#[test]
fn a_server_of_zeros_is_refused_before_the_run_unless_the_plan_allows_it() {
    let server = serve(|_, _| Reply::Zeros(5000));
    let refused = run(plan(server.address), &Options::default());
    assert!(
        matches!(&refused, Err(RunError::Zeros { length: 5000, .. })),
        "{refused:?}"
    );
    let allowed = made(Plan {
        zeros: true,
        ..plan(server.address)
    });
    assert_eq!(failed(&allowed.outcome), 0);
}

#[test]
fn zeros_in_the_middle_of_a_run_are_wrong_bodies() {
    let server = serve(|number, _| match number % 10 {
        9 => Reply::Zeros(5000),
        _ => Reply::Right(5000),
    });
    let outcome = made(plan(server.address)).outcome;
    assert_eq!(outcome.errors.keys().collect::<Vec<_>>(), ["wrong body"]);
    assert!(outcome.errors["wrong body"] * 8 <= outcome.answered);
    assert!(outcome.errors["wrong body"] * 12 >= outcome.answered);
}

#[test]
fn truncated_and_reset_answers_are_failures_and_the_run_goes_on() {
    for (reply, kinds) in [
        (Reply::Cut(5000), ["wrong length", "connection closed"]),
        (Reply::Reset(5000), ["wrong length", "connection closed"]),
        (Reply::Status(503), ["status 503", "status 503"]),
    ] {
        let broken = reply.clone();
        let server = serve(move |number, _| match number % 5 {
            4 => broken.clone(),
            _ => Reply::Right(5000),
        });
        let outcome = made(plan(server.address)).outcome;
        assert!(failed(&outcome) > 0, "{reply:?}: {outcome:?}");
        assert!(
            outcome.errors.keys().all(|kind| kinds.contains(&&**kind)),
            "{reply:?}: {:?}",
            outcome.errors
        );
        assert!(outcome.answered > failed(&outcome), "{reply:?}");
        assert!(outcome.error_examples.len() == outcome.errors.len());
    }
}

#[test]
fn a_connection_that_the_server_closes_between_requests_is_opened_again_and_no_failure() {
    let server = serve(|number, _| match number % 50 {
        49 => Reply::Last(100),
        _ => Reply::Right(100),
    });
    let outcome = made(plan(server.address)).outcome;
    assert_eq!(failed(&outcome), 0, "{:?}", outcome.error_examples);
    assert!(outcome.connections_opened > 4);
}

#[test]
fn a_dead_server_ends_the_run_with_its_reason() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let error = run(plan(address), &Options::default()).unwrap_err();
    assert!(
        matches!(error, RunError::Connect { number: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_run_of_a_number_of_requests_makes_exactly_so_many() {
    for (threads, warmup, shape) in [
        (1, 0, Shape::Closed),
        (2, 100, Shape::Closed),
        (2, 100, Shape::Constant { rate: 3000.0 }),
    ] {
        let server = serve(|_, _| Reply::Right(64));
        let bundle = made(Plan {
            threads,
            shape,
            warmup: ms(warmup),
            stop: Stop {
                duration: ms(20_000),
                requests: Some(1234),
            },
            ..plan(server.address)
        });
        let outcome = bundle.outcome;
        assert_eq!((outcome.due, outcome.answered), (1234, 1234));
        assert_eq!(outcome.requests, 1234);
        assert_eq!(outcome.statuses[&200], 1234);
        assert!(outcome.elapsed_s < 10.0, "{}", outcome.elapsed_s);
        if warmup == 0 {
            // One more taught the run what the object is.
            assert_eq!(server.requests.load(Ordering::Relaxed), 1235);
        }
    }
}

#[test]
fn what_no_lane_was_free_for_is_unanswered_and_counts_with_the_time_it_waited() {
    // Two lanes of 100 ms: 20 requests a second, of 100 due.
    let server = serve(|number, _| match number {
        0 => Reply::Right(10),
        _ => Reply::Stall(ms(100), 10),
    });
    let outcome = made(Plan {
        connections: 2,
        shape: Shape::Poisson { rate: 100.0 },
        stop: Stop {
            duration: ms(2000),
            requests: None,
        },
        ..plan(server.address)
    })
    .outcome;
    assert!(outcome.unanswered > 80, "{outcome:?}");
    assert_eq!(outcome.latency.count, outcome.answered + outcome.unanswered);
    assert!(outcome.latency.max_us > 1_000_000.0);
    assert!(outcome.service.p99_us < 900_000.0);
}

#[test]
fn bytes_and_seconds_add_up() {
    let server = serve(|_, _| Reply::Right(20_000));
    let outcome = made(Plan {
        warmup: ms(300),
        stop: Stop {
            duration: ms(1500),
            requests: None,
        },
        ..plan(server.address)
    })
    .outcome;
    assert!((outcome.elapsed_s - 1.5).abs() < 1e-6);
    assert_eq!(outcome.series.len(), 2);
    let requests: u64 = outcome.series.iter().map(|tick| tick.requests).sum();
    let bytes: u64 = outcome.series.iter().map(|tick| tick.body_bytes).sum();
    assert_eq!((requests, bytes), (outcome.requests, outcome.body_bytes));
    // Bytes of answers under way at either end, of four connections.
    assert!(bytes.abs_diff(requests * 20_000) <= 8 * 20_000);
    assert_eq!(outcome.connections_opened, 4);
}

#[test]
fn the_same_seed_asks_for_the_same() {
    let asked = || {
        let server = serve(|_, path| Reply::Right(path.len() * 10));
        made(Plan {
            connections: 1,
            stop: Stop {
                duration: ms(20_000),
                requests: Some(200),
            },
            seed: 42,
            ..plan(server.address)
        });
        server.paths.lock().clone()
    };
    assert_eq!(asked(), asked());
}

#[test]
fn each_request_on_its_own_connection_is_timed_with_it() {
    let server = serve(|_, _| Reply::Right(100));
    let outcome = made(Plan {
        session: Session::PerRequest(Handshake::Full),
        stop: Stop {
            duration: ms(20_000),
            requests: Some(100),
        },
        ..plan(server.address)
    })
    .outcome;
    assert_eq!((outcome.answered, outcome.connections_opened), (100, 100));
    assert_eq!(outcome.connect.count, 100);
    assert_eq!(server.connections.load(Ordering::Relaxed), 101);
}

#[test]
fn connections_that_are_too_old_are_replaced_without_a_failure() {
    let server = serve(|_, _| Reply::Right(100));
    let outcome = made(Plan {
        session: Session::Churn(ms(200)),
        ..plan(server.address)
    })
    .outcome;
    assert_eq!(failed(&outcome), 0, "{:?}", outcome.error_examples);
    let opened = outcome.connections_opened;
    assert!((16..=28).contains(&opened), "{opened}");
}

#[test]
fn idle_connections_are_held_and_each_answers_at_the_end() {
    let server = serve(|_, _| Reply::Right(100));
    let outcome = made(Plan {
        idle: Some(Idle {
            connections: 300,
            rate: 2000,
            hold: ms(1500),
            keep_alive: None,
        }),
        threads: 2,
        ..plan(server.address)
    })
    .outcome;
    let idle = outcome.idle.unwrap();
    assert_eq!((idle.opened, idle.answered), (300, 300), "{idle:?}");
    assert!(idle.held_s >= 1.4, "{}", idle.held_s);
    assert!(idle.ramp_s >= 0.1, "{}", idle.ramp_s);
}

#[test]
fn a_slow_reader_reads_no_faster_than_it_may() {
    let server = serve(|_, _| Reply::Right(100_000));
    let outcome = made(Plan {
        connections: 1,
        read_rate: Some(200_000),
        stop: Stop {
            duration: ms(1800),
            requests: None,
        },
        ..plan(server.address)
    })
    .outcome;
    assert!(outcome.body_bytes <= 500_000, "{}", outcome.body_bytes);
    assert!(outcome.service.p50_us >= 400_000.0);
    assert!(outcome.answered >= 3);
}

#[test]
fn an_interrupt_ends_a_run_early_and_it_says_so() {
    let (tell, under_way) = std::sync::mpsc::sync_channel(1);
    let server = serve(move |number, _| {
        if number == 500 {
            tell.try_send(()).unwrap();
        }
        Reply::Right(100)
    });
    let options = Options::default();
    let interrupt = options.interrupt.clone();
    let plan = Plan {
        stop: Stop {
            duration: ms(60_000),
            requests: None,
        },
        ..plan(server.address)
    };
    let started = Instant::now();
    let running = std::thread::spawn(move || run(plan, &options).unwrap());
    under_way.recv_timeout(ms(20_000)).unwrap();
    interrupt.cancel();
    let bundle = running.join().unwrap();
    assert!(started.elapsed() < ms(30_000));
    assert!(bundle.outcome.answered >= 400);
    assert!(bundle.outcome.elapsed_s < 30.0);
    assert!(
        bundle
            .verdict
            .remarks
            .iter()
            .any(|remark| remark.starts_with("interrupted")),
        "{:?}",
        bundle.verdict
    );
}

/// No test: the server process of the one below, which stops itself with its 500th request.
#[test]
fn server_process() {
    if std::env::var_os("STOQ_TEST_SERVER").is_none() {
        return;
    }
    let server = serve(|number, _| {
        if number == 500 {
            kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        }
        Reply::Right(1000)
    });
    println!("listening on {}", server.address);
    // Until whoever started it closes its standard input.
    drop(std::io::read_to_string(std::io::stdin()));
}

struct Process(Child, SocketAddr);

impl Process {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--nocapture"])
            .env("STOQ_TEST_SERVER", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| {
                Some(
                    line.unwrap()
                        .split_once("listening on ")?
                        .1
                        .parse()
                        .unwrap(),
                )
            })
            .unwrap();
        Self(child, address)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_stopped_server_means_time_outs_and_a_run_that_ends_on_time() {
    for shape in [Shape::Closed, Shape::Constant { rate: 500.0 }] {
        let server = Process::start();
        let plan = Plan {
            shape,
            stop: Stop {
                duration: ms(3000),
                requests: None,
            },
            timeout: SECOND,
            ..plan(server.1)
        };
        let started = Instant::now();
        let bundle = made(plan);
        let elapsed = started.elapsed();
        let outcome = bundle.outcome;
        assert!(
            elapsed < ms(3000) + SECOND + SECOND,
            "{shape:?}: {elapsed:?}"
        );
        assert!(outcome.answered >= 450, "{shape:?}");
        assert!(
            outcome
                .errors
                .get("timed out")
                .is_some_and(|count| *count >= 4),
            "{shape:?}: {:?}",
            outcome.errors
        );
        assert!(outcome.latency.max_us >= 990_000.0, "{shape:?}");
        if shape != Shape::Closed {
            assert_eq!(outcome.due, 1500);
            assert!(outcome.unanswered > 500, "{outcome:?}");
        }
    }
}
