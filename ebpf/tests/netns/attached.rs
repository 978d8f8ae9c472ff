//! The program at a veth interface: what it lets through, and that it goes when it should.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use stoq_ebpf::{
    Facts, How, Limits, Mode, Policy, Port, Profile, Rate, RuleEdit, SHED_ALL, Treatment,
    abi::Reason,
    helper::{Held, Sample},
};

use crate::{
    lab::{
        Asker, CLIENT_V4, CLIENT_V6, Echo, INTERFACE, Lab, SERVER_V4, SERVER_V6, initial, ip,
        short_header, tcp_answers, wait_for,
    },
    owner::{Order, Owner},
};

/// The port that is ours.
const OURS: u16 = 443;
/// Two that are not: as SSH, and as the admin listener.
const SSH: u16 = 22;
const ADMIN: u16 = 9443;

fn v4() -> IpAddr {
    SERVER_V4.parse().unwrap()
}

fn v6() -> IpAddr {
    SERVER_V6.parse().unwrap()
}

fn policy() -> Policy {
    Policy {
        ports: vec![Port {
            port: OURS,
            udp: true,
            tcp: true,
            peers: false,
            keyed: false,
        }],
        hash_key: [11, 12],
        ..Policy::default()
    }
}

fn rule(prefix: &str, treatment: Treatment) -> RuleEdit {
    (prefix.parse().unwrap(), Some(treatment))
}

fn deny_client() -> RuleEdit {
    rule(&format!("{CLIENT_V4}/32"), Treatment::Deny)
}

pub(crate) fn a_veth_pair_gets_the_program_in_its_driver() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    assert_eq!(lab.attached(), None);
    let held = owner.enable(&policy(), &[]);
    assert_eq!(held.mode, Mode::Native);
    assert_eq!(held.driver.as_deref(), Some("veth"));
    assert_eq!(held.passed_over, []);
    let attached = lab.attached().unwrap();
    assert_eq!(
        (attached.how, attached.program),
        (How::Native, held.program)
    );
    let _echo = Echo::new(&lab.server, &[OURS], &[OURS]);
    assert!(Asker::new(&lab, v4(), OURS).is_answered(Duration::from_secs(5)));
    assert!(tcp_answers(&lab, v6(), OURS, Duration::from_secs(5)));
    let counters = owner.counters();
    assert!(counters.of(Reason::Short).packets >= 1, "{counters:?}");
    assert!(counters.of(Reason::Syn).packets >= 1, "{counters:?}");
    // Once is enough, and what is there goes on.
    let again = owner.ask::<Held>(&Order::Enable {
        wish: Mode::Native,
        policy: policy(),
        rules: Vec::new(),
        trial_ms: None,
    });
    assert!(again.unwrap_err().contains("enabled already"));
    assert_eq!(owner.ask(&Order::Mode), Ok(Mode::Native));
    assert_eq!(lab.attached(), Some(attached));
    owner.do_it(&Order::Disable);
    assert_eq!(lab.attached(), None);
    assert_eq!(owner.ask(&Order::Mode), Ok(Mode::UserSpace));
    let after = owner.counters();
    assert!(after.of(Reason::Short).packets >= counters.of(Reason::Short).packets);
}

pub(crate) fn where_native_cannot_be_generic_is_had_and_says_why() {
    let lab = Lab::new();
    ip(&format!(
        "-n {} link set {INTERFACE} mtu 9000",
        lab.server.name
    ));
    ip(&format!("-n {} link set c0 mtu 9000", lab.client.name));
    let mut owner = Owner::start(&lab.server, "443");
    let held = owner.enable(&policy(), &[deny_client()]);
    assert_eq!(held.mode, Mode::Generic);
    let why = &held.passed_over[0];
    assert_eq!(why.modes, [Mode::Native]);
    assert!(why.what.contains("MTU 9000"), "{why}");
    assert!(why.fix.as_deref().unwrap().contains("mtu 3506"), "{why}");
    assert_eq!(lab.attached().unwrap().how, How::Generic);
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    assert!(Asker::new(&lab, v4(), OURS).is_ignored());
    assert!(Asker::new(&lab, v6(), OURS).is_answered(Duration::from_secs(5)));
}

pub(crate) fn an_interface_that_has_a_program_is_refused() {
    let lab = Lab::new();
    let mut first = Owner::start(&lab.server, "443");
    let held = first.enable(&policy(), &[]);
    let mut second = Owner::start(&lab.server, "443");
    let refusal = second
        .ask::<Held>(&Order::Enable {
            wish: Mode::Native,
            policy: policy(),
            rules: Vec::new(),
            trial_ms: None,
        })
        .unwrap_err();
    assert!(
        refusal.contains(&format!("program {} is attached already", held.program)),
        "{refusal}"
    );
    assert_eq!(lab.attached().unwrap().program, held.program);
}

pub(crate) fn other_ports_live_on_under_a_flood() {
    const SOURCES: u8 = 64;
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    let policy = Policy {
        global: Limits {
            initial: Some(Rate {
                per_second: 100,
                burst: 100,
            }),
            ..Limits::default()
        },
        ..policy()
    };
    owner.enable(&policy, &[]);
    let _echo = Echo::new(&lab.server, &[OURS], &[SSH, ADMIN]);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(2);
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            // From many addresses that are not the client's own, as a spoofer would.
            let sockets: Vec<socket2::Socket> = lab.client.inside(|| {
                (0..SOURCES)
                    .map(|last| {
                        let socket =
                            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
                                .unwrap();
                        socket.set_ip_transparent_v4(true).unwrap();
                        let source = SocketAddr::from(([198, 18, 5, last], 4000));
                        socket.bind(&source.into()).unwrap();
                        socket
                    })
                    .collect()
            });
            let to = socket2::SockAddr::from(SocketAddr::new(v4(), OURS));
            let mut sent = 0_u64;
            while Instant::now() < end {
                for (id, socket) in (0..).zip(&sockets) {
                    sent += u64::from(socket.send_to(&initial(id), &to).is_ok());
                }
            }
            sent
        });
        let mut asked = 0;
        while Instant::now() < end {
            for port in [SSH, ADMIN] {
                assert!(
                    tcp_answers(&lab, v4(), port, Duration::from_secs(2)),
                    "port {port} under flood"
                );
                asked += 1;
            }
        }
        assert!(asked >= 4, "asked {asked} times");
        flood.join().unwrap()
    });
    let counters = owner.counters();
    let passed = counters.of(Reason::Initial).packets;
    let dropped = counters.of(Reason::GlobalInitial).packets;
    println!("flood: {sent} sent, {passed} passed, {dropped} dropped");
    assert!(sent > 1000, "{sent} is no flood");
    // A hundred at once and a hundred a second, and the last second may have begun.
    let budget = 100 + 100 * (begun.elapsed().as_secs() + 1);
    assert!(passed >= 100 && passed <= budget, "{passed} of {budget}");
    // What is missing the pair itself lost: its queue holds 256 packets.
    assert!(
        passed + dropped <= sent && dropped > 1000,
        "{sent} sent, {passed} passed, {dropped} dropped"
    );
}

pub(crate) fn deny_and_allow_work_for_both_families() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    let _echo = Echo::new(&lab.server, &[OURS], &[OURS, SSH]);
    owner.enable(&policy(), &[]);
    let cases = [
        (v4(), format!("{CLIENT_V4}/24"), format!("{CLIENT_V4}/32")),
        (v6(), format!("{CLIENT_V6}/64"), format!("{CLIENT_V6}/128")),
    ];
    let patience = Duration::from_secs(5);
    for (server, network, address) in &cases {
        let asker = Asker::new(&lab, *server, OURS);
        assert!(asker.is_answered(patience), "{server}: no rules");
        owner.do_it(&Order::EditRules(vec![rule(network, Treatment::Deny)]));
        assert!(asker.is_ignored(), "{server}: denied");
        assert!(
            !tcp_answers(&lab, *server, OURS, Duration::from_millis(300)),
            "{server}: denied over TCP too"
        );
        assert!(
            tcp_answers(&lab, *server, SSH, patience),
            "{server}: denied at our ports only"
        );
        // The longer prefix wins, whatever else would stop it.
        owner.do_it(&Order::EditRules(vec![rule(address, Treatment::Allow)]));
        assert!(asker.is_answered(patience), "{server}: allowed within");
        owner.do_it(&Order::EditRules(vec![
            (network.parse().unwrap(), None),
            (address.parse().unwrap(), None),
        ]));
        assert!(asker.is_answered(patience), "{server}: rules are gone");
    }
    let counters = owner.counters();
    assert!(counters.of(Reason::Denied).packets >= 4, "{counters:?}");
    assert!(counters.of(Reason::Allowed).packets >= 2, "{counters:?}");
    // The first packet that a reason drops makes an event, on each processor.
    let events: Vec<Sample> = owner.ask(&Order::Events).unwrap();
    let denied = events
        .iter()
        .find(|event| event.reason == Reason::Denied.word())
        .unwrap();
    assert_eq!(denied.source.ip(), CLIENT_V4.parse::<IpAddr>().unwrap());
    assert_eq!((denied.port, denied.spared), (OURS, false));
}

pub(crate) fn a_validated_source_gets_in_while_newcomers_are_shed() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    let server = lab.server.udp(&format!("0.0.0.0:{OURS}"));
    server
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    owner.enable(&policy(), &[]);
    owner.do_it(&Order::Shed(SHED_ALL));
    let asker = Asker::new(&lab, v4(), OURS);
    let mut buffer = [0; 2048];
    asker.send(&initial(1));
    assert!(server.recv(&mut buffer).is_err(), "a newcomer is shed");
    owner.do_it(&Order::Validate(vec![CLIENT_V4.parse().unwrap()], 60_000));
    server.set_read_timeout(Some(crate::lab::PATIENCE)).unwrap();
    asker.send(&initial(2));
    assert_eq!(server.recv(&mut buffer).unwrap(), 1200);
    let counters = owner.counters();
    assert_eq!(counters.of(Reason::Shed).packets, 1);
    assert_eq!(counters.of(Reason::Validated).packets, 1);
}

pub(crate) fn a_reload_takes_effect_without_attaching_anew() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443,4433");
    let _echo = Echo::new(&lab.server, &[OURS, 4433], &[]);
    let held = owner.enable(&policy(), &[deny_client()]);
    let (old, new) = (Asker::new(&lab, v4(), OURS), Asker::new(&lab, v4(), 4433));
    assert!(old.is_ignored());
    assert!(new.is_answered(Duration::from_secs(5)));
    let mut moved = policy();
    moved.ports[0].port = 4433;
    owner.do_it(&Order::Apply(moved.clone()));
    assert!(old.is_answered(Duration::from_secs(5)), "no longer ours");
    assert!(new.is_ignored(), "ours now");
    moved.dry_run = true;
    owner.do_it(&Order::Apply(moved));
    assert!(new.is_answered(Duration::from_secs(5)), "a dry run");
    let denied = owner.counters().of(Reason::Denied);
    assert!(denied.spared_packets >= 1 && denied.spared_packets < denied.packets);
    assert_eq!(lab.attached().unwrap().program, held.program);
}

pub(crate) fn a_killed_owner_takes_its_program_along() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.enable(&policy(), &[deny_client()]);
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    let asker = Asker::new(&lab, v4(), OURS);
    assert!(asker.is_ignored());
    let helper: u32 = owner.ask(&Order::HelperId).unwrap();
    let killed = Instant::now();
    owner.signal(Signal::KILL);
    let took = lab.wait_until_bare(killed);
    println!("gone {took:?} after kill -9");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(asker.is_answered(Duration::from_secs(5)));
    wait_for("the helper to have ended", || is_gone(helper));
}

pub(crate) fn where_the_helper_dies_the_socket_judges_on() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.enable(&policy(), &[deny_client()]);
    let asker = Asker::new(&lab, v4(), OURS);
    let denied = Order::Judge(CLIENT_V4.parse().unwrap(), OURS, short_header());
    let other = Order::Judge([192, 0, 2, 1].into(), OURS, short_header());
    assert_eq!(owner.ask(&Order::Mode), Ok(Mode::Native));
    assert_eq!(owner.ask(&Order::Why), Ok(None::<String>));
    assert_eq!(owner.ask(&denied), Ok(true), "it was judged before");
    asker.send(&short_header());
    wait_for("the denied packet to be counted", || {
        owner.counters().of(Reason::Denied).packets == 1
    });
    let helper: u32 = owner.ask(&Order::HelperId).unwrap();
    let killed = Instant::now();
    let process = rustix::process::Pid::from_raw(helper.try_into().unwrap()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    let took = lab.wait_until_bare(killed);
    assert!(took < Duration::from_secs(1), "{took:?}");
    wait_for("the owner to notice", || {
        owner.ask(&Order::Mode) == Ok(Mode::UserSpace)
    });
    let why: Option<String> = owner.ask(&Order::Why).unwrap();
    assert!(why.unwrap().contains("the helper is gone"));
    assert_eq!(owner.ask(&denied), Ok(false), "by the same rules");
    assert_eq!(owner.ask(&other), Ok(true));
    assert_eq!(
        owner.counters().of(Reason::Denied).packets,
        2,
        "one in the kernel, one at the socket"
    );
}

pub(crate) fn a_stopped_owner_lets_everything_pass() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.enable(&policy(), &[deny_client()]);
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    let asker = Asker::new(&lab, v4(), OURS);
    assert!(asker.is_ignored());
    let stopped = Instant::now();
    owner.signal(Signal::STOP);
    assert!(asker.is_answered(Duration::from_secs(5)));
    let took = stopped.elapsed();
    println!("passes {took:?} after SIGSTOP");
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(lab.attached().is_some(), "it is there, and stands aside");
    owner.signal(Signal::CONT);
    wait_for("the denied client to be ignored again", || {
        asker.is_ignored()
    });
    assert!(owner.counters().of(Reason::Stale).packets >= 1);
}

pub(crate) fn what_nobody_confirms_is_taken_back() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    let asker = Asker::new(&lab, v4(), OURS);
    let enabled = Instant::now();
    owner.do_it(&Order::Enable {
        wish: Mode::Native,
        policy: policy(),
        rules: vec![deny_client()],
        trial_ms: Some(1500),
    });
    assert!(asker.is_ignored());
    let left = owner.status().trial_left_ms.unwrap();
    assert!(left <= 1500, "{left}");
    let took = lab.wait_until_bare(enabled);
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    assert!(
        took < Duration::from_millis(1500) + Duration::from_secs(3),
        "{took:?}"
    );
    assert!(asker.is_answered(Duration::from_secs(5)));
    let error = owner.ask::<Held>(&Order::Confirm).unwrap_err();
    assert!(error.contains("nobody confirmed it"), "{error}");
    let status = owner.status();
    assert_eq!(status.held, None);
    assert!(status.rolled_back);
    wait_for("the owner to notice", || {
        owner.ask(&Order::Mode) == Ok(Mode::UserSpace)
    });
    owner.enable(&policy(), &[]);
    assert_eq!(owner.ask(&Order::Mode), Ok(Mode::Native));
}

pub(crate) fn what_is_confirmed_stays() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.do_it(&Order::Enable {
        wish: Mode::Native,
        policy: policy(),
        rules: vec![deny_client()],
        trial_ms: Some(1000),
    });
    let enabled = Instant::now();
    let held: Held = owner.ask(&Order::Confirm).unwrap();
    assert_eq!(owner.status().trial_left_ms, None);
    while enabled.elapsed() < Duration::from_millis(1300) {
        assert_eq!(lab.attached().unwrap().program, held.program);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(owner.status().held, Some(held));
}

/// A BPF file system for a test, with the directory below it.
struct Pins {
    mounted: tempfile::TempDir,
}

impl Pins {
    fn new() -> Self {
        let mounted = tempfile::tempdir().unwrap();
        let status = Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(mounted.path())
            .status()
            .unwrap();
        assert!(status.success());
        Self { mounted }
    }

    fn path(&self) -> PathBuf {
        self.mounted.path().join("stoq")
    }

    fn has_one(&self) -> bool {
        self.path().join(INTERFACE).exists()
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.path()).unwrap().next().is_none()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.mounted.path())
            .status();
    }
}

pub(crate) fn a_hand_over_leaves_no_packet_unjudged() {
    let pins = Pins::new();
    let lab = Lab::new();
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    let mut old = Owner::start_with_pins(&lab.server, "443", &pins.path());
    let first = old.enable(&policy(), &[deny_client()]);
    let asker = Asker::new(&lab, v4(), OURS);
    assert!(asker.is_ignored());
    old.do_it(&Order::HandOver(60_000));
    assert!(pins.has_one());
    let mut new = Owner::start_with_pins(&lab.server, "443", &pins.path());
    // All the while a denied client asks: one answer would be a packet that nobody judged.
    let second = std::thread::scope(|scope| {
        let watch = scope.spawn(|| asker.is_answered(Duration::from_secs(3)));
        let second = new.enable(&policy(), &[deny_client()]);
        wait_for("the old one to see it", || old.status().handed_over);
        drop(old);
        assert!(!watch.join().unwrap(), "a packet was not judged");
        second
    });
    assert_ne!(first.program, second.program);
    assert_eq!(second.mode, Mode::Native);
    assert_eq!(lab.attached().unwrap().program, second.program);
    assert!(pins.is_empty());
    assert!(new.counters().of(Reason::Denied).packets > 10);
    let killed = Instant::now();
    drop(new);
    assert!(lab.wait_until_bare(killed) < Duration::from_secs(1));
}

/// Under a shed of all newcomers only those pass who completed a handshake, also when they did so with the process before.
pub(crate) fn who_is_known_stays_known_through_a_hand_over() {
    let pins = Pins::new();
    let lab = Lab::new();
    let mut old = Owner::start_with_pins(&lab.server, "443", &pins.path());
    old.enable(&policy(), &[]);
    let known = vec![CLIENT_V4.parse().unwrap()];
    old.do_it(&Order::Validate(known, 600_000));
    old.do_it(&Order::HandOver(60_000));
    let mut new = Owner::start_with_pins(&lab.server, "443", &pins.path());
    new.enable(&policy(), &[]);
    wait_for("the old one to see it", || old.status().handed_over);
    drop(old);
    new.do_it(&Order::Shed(SHED_ALL));
    let asker = Asker::new(&lab, v4(), OURS);
    asker.send(&initial(1));
    let of = |owner: &mut Owner, reason| owner.counters().of(reason).packets;
    wait_for("the known client's packet", || {
        of(&mut new, Reason::Validated) == 1
    });
    // And one whom nobody knows does not.
    let stranger = Asker::new(&lab, v6(), OURS);
    stranger.send(&initial(2));
    wait_for("the stranger's packet", || of(&mut new, Reason::Shed) == 1);
}

pub(crate) fn who_is_known_at_the_socket_is_known_to_the_program() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.do_it(&Order::Validate(vec![CLIENT_V4.parse().unwrap()], 600_000));
    let (known, stranger) = (Asker::new(&lab, v4(), OURS), Asker::new(&lab, v6(), OURS));
    // Each program begins with an empty table.
    for nth in 1..=2 {
        owner.enable(&policy(), &[]);
        owner.do_it(&Order::Shed(SHED_ALL));
        known.send(&initial(nth));
        stranger.send(&initial(nth));
        wait_for("both packets", || {
            let counters = owner.counters();
            let of = |reason| counters.of(reason).packets;
            of(Reason::Validated) + of(Reason::Shed) == 2 * u64::from(nth)
        });
        let counters = owner.counters();
        assert_eq!(counters.of(Reason::Validated).packets, u64::from(nth));
        owner.do_it(&Order::Disable);
    }
}

pub(crate) fn a_hand_over_that_nobody_comes_for_is_taken_back() {
    let pins = Pins::new();
    let lab = Lab::new();
    let mut owner = Owner::start_with_pins(&lab.server, "443", &pins.path());
    let held = owner.enable(&policy(), &[]);
    owner.do_it(&Order::HandOver(300));
    assert!(pins.has_one());
    wait_for("the names to be taken away", || pins.is_empty());
    assert_eq!(lab.attached().unwrap().program, held.program);
    // Nor does a name outlive an owner that is killed while it is there.
    owner.do_it(&Order::HandOver(60_000));
    assert!(pins.has_one());
    let killed = Instant::now();
    drop(owner);
    assert!(lab.wait_until_bare(killed) < Duration::from_secs(1));
    assert!(!pins.has_one());
}

pub(crate) fn what_a_crash_left_over_is_taken_over_by_the_next_start() {
    let pins = Pins::new();
    let lab = Lab::new();
    let _echo = Echo::new(&lab.server, &[OURS], &[]);
    let mut old = Owner::start_with_pins(&lab.server, "443", &pins.path());
    old.enable(&policy(), &[deny_client()]);
    old.do_it(&Order::HandOver(60_000));
    let asker = Asker::new(&lab, v4(), OURS);
    assert!(asker.is_ignored());
    let helper: u32 = old.ask(&Order::HelperId).unwrap();
    let process = rustix::process::Pid::from_raw(helper.try_into().unwrap()).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    drop(old);
    wait_for("the helper to have ended", || is_gone(helper));
    assert!(lab.attached().is_some(), "its name still holds it");
    // Nobody beats for it, so it stands aside.
    assert!(asker.is_answered(Duration::from_secs(5)));
    let mut new = Owner::start_with_pins(&lab.server, "443", &pins.path());
    let held = new.enable(&policy(), &[deny_client()]);
    assert_eq!(lab.attached().unwrap().program, held.program);
    assert!(pins.is_empty() && asker.is_ignored());
    let killed = Instant::now();
    drop(new);
    assert!(lab.wait_until_bare(killed) < Duration::from_secs(1));
}

pub(crate) fn an_interface_that_goes_is_noticed() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    owner.enable(&policy(), &[]);
    ip(&format!("-n {} link del {INTERFACE}", lab.server.name));
    wait_for("the helper to notice", || owner.status().lost);
    assert_eq!(owner.status().held, None);
    assert!(
        lab.server
            .inside(|| Facts::gather(INTERFACE).unwrap().device.is_none())
    );
}

/// Whether no process of that number runs. One that nobody has waited for does not either.
pub(crate) fn is_gone(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Err(_) => true,
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z')),
    }
}

/// Budgets that no test's client reaches, of all classes.
pub(crate) fn ample() -> Profile {
    let rate = Some(Rate {
        per_second: 1_000_000,
        burst: 100_000,
    });
    let limits = Limits {
        initial: rate,
        token: rate,
        long: rate,
        short: rate,
        syn: rate,
    };
    Profile {
        source: limits,
        prefix: limits,
        retransmissions: rate,
    }
}
