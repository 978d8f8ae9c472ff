//! Who has which capability, and what the helper does with what it is told.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, send, sendmsg, socketpair,
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use stoq_ebpf::{
    Mode, Policy, Port,
    abi::{ABI_VERSION, Route, Steer, Steering},
    give_up_all, has_none,
    helper::{Held, Helper, HelperError, Mandate, Why},
    selector::Selector,
};

use crate::{
    attached::is_gone,
    lab::{INTERFACE, Lab, wait_for},
    owner::{Order, Owner, capabilities},
};

/// `CAP_NET_BIND_SERVICE`, `CAP_NET_ADMIN`, `CAP_PERFMON`, `CAP_BPF`.
const OF_THE_HELPER: u64 = 1 << 10 | 1 << 12 | 1 << 38 | 1 << 39;

fn udp_port(port: u16) -> Policy {
    Policy {
        ports: vec![Port {
            port,
            udp: true,
            tcp: false,
            peers: false,
            keyed: false,
        }],
        ..Policy::default()
    }
}

pub(crate) fn the_data_plane_has_no_capability_and_its_helper_few() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    assert!(owner.ask::<bool>(&Order::HasNone).unwrap());
    assert_eq!(capabilities(owner.child.id()), [0; 5]);
    let helper: u32 = owner.ask(&Order::HelperId).unwrap();
    assert_eq!(
        capabilities(helper),
        [OF_THE_HELPER, OF_THE_HELPER, 0, OF_THE_HELPER, 0]
    );
    let error = owner.ask::<Value>(&Order::AttachItself).unwrap_err();
    assert!(
        error.contains("has not CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
        "{error}"
    );
    owner.enable(&udp_port(443), &[]);
    assert!(lab.attached().is_some());
}

pub(crate) fn the_helper_binds_what_the_data_plane_cannot() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    for address in ["0.0.0.0:443", "[::]:443"] {
        let bound: Vec<String> = owner.ask(&Order::Bind(address.parse().unwrap())).unwrap();
        assert_eq!(bound, [address, address]);
    }
    let error = owner
        .ask::<Value>(&Order::Bind("0.0.0.0:22".parse().unwrap()))
        .unwrap_err();
    assert!(error.contains("port 22 was not named"), "{error}");
}

pub(crate) fn the_helper_does_nothing_beyond_its_mandate() {
    let lab = Lab::new();
    let mut owner = Owner::start(&lab.server, "443");
    let enable = |port| Order::Enable {
        wish: Mode::Native,
        policy: udp_port(port),
        rules: Vec::new(),
        trial_ms: None,
    };
    let error = owner.ask::<Held>(&enable(22)).unwrap_err();
    assert!(error.contains("port 22 was not named"), "{error}");
    assert_eq!(lab.attached(), None);
    owner.do_it(&enable(443));
    let error = owner.ask::<Value>(&Order::Apply(udp_port(22))).unwrap_err();
    assert!(error.contains("port 22 was not named"), "{error}");
}

/// A helper with the bare end of its socket.
struct Bare {
    socket: OwnedFd,
    child: Child,
}

impl Bare {
    fn start() -> Self {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let child = Command::new("/proc/self/exe")
            .arg("helper")
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            socket: ours,
            child,
        }
    }

    fn say(&self, message: &[u8]) {
        send(&self.socket, message, SendFlags::NOSIGNAL).unwrap();
    }

    fn hear(&self) -> Value {
        rustix::net::sockopt::set_socket_timeout(
            &self.socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(crate::lab::PATIENCE),
        )
        .unwrap();
        let mut buffer = vec![0; 1 << 18];
        let (_, length) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty()).unwrap();
        serde_json::from_slice(&buffer[..length]).unwrap()
    }

    fn why(&self, message: &[u8]) -> Value {
        self.say(message);
        self.hear()["body"]["refused"]["why"].clone()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mandate() -> Vec<u8> {
    json!({"v": 1, "id": 1, "body": {"mandate": {"interfaces": ["s0"], "ports": [443]}}})
        .to_string()
        .into_bytes()
}

pub(crate) fn garbage_does_not_end_the_helper_and_its_edges_end_does() {
    let bare = Bare::start();
    bare.say(&mandate());
    assert_eq!(bare.hear(), json!({"v": 1, "id": 1, "body": {"done": {}}}));
    for garbage in [
        b"not even JSON".to_vec(),
        vec![0xff; 100_000],
        vec![b'['; 131_072],
        vec![b' '; 140_000],
        br#"{"v":1,"id":3,"body":{"beat":{"shed":0,"and":"more"}}}"#.to_vec(),
        br#"{"v":9,"id":3,"body":{"beat":{"shed":0}}}"#.to_vec(),
    ] {
        assert_eq!(bare.why(&garbage), "malformed");
    }
    assert_eq!(bare.why(&mandate()), "order", "there is no second mandate");
    // A file that comes along uninvited is closed.
    let (mut reader, writer) = io::pipe().unwrap();
    {
        let files = [writer.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let status = br#"{"v":1,"id":8,"body":{"status":{}}}"#;
        sendmsg(
            &bare.socket,
            &[IoSlice::new(status)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }
    assert_eq!(bare.hear()["id"], 8);
    drop(writer);
    let mut rest = Vec::new();
    io::Read::read_to_end(&mut reader, &mut rest).unwrap();
    let closed = Instant::now();
    let mut bare = bare;
    let (spare, _) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    bare.socket = spare;
    wait_for("the helper to end with its edge", || {
        bare.child.try_wait().unwrap().is_some()
    });
    let took = closed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(bare.child.wait().unwrap().success());
}

pub(crate) fn a_helper_without_a_mandate_ends() {
    let mut bare = Bare::start();
    bare.say(br#"{"v":1,"id":1,"body":{"status":{}}}"#);
    wait_for("the helper to end", || {
        bare.child.try_wait().unwrap().is_some()
    });
    assert!(!bare.child.wait().unwrap().success());
}

pub(crate) fn a_helper_without_privileges_refuses_with_the_fix() {
    let status = Command::new("/proc/self/exe")
        .arg("powerless")
        .status()
        .unwrap();
    assert!(status.success());
}

/// The role: a process that has no capability any more starts a helper, which then has none either.
pub(crate) fn powerless() {
    give_up_all().unwrap();
    assert!(has_none().unwrap());
    let mandate = Mandate {
        interfaces: ["lo".to_owned(), INTERFACE.to_owned()].into(),
        ports: [443].into(),
        pins: None,
    };
    let mut helper = Helper::spawn_self("helper", &mandate).unwrap();
    let id = helper.id();
    assert_eq!(capabilities(id)[..2], [0, 0]);
    let report = helper.probe("lo", Mode::Native).unwrap();
    assert_eq!(report.would, Mode::UserSpace);
    let error = helper
        .enable("lo", Mode::Native, &udp_port(443), &[], &[], None)
        .unwrap_err();
    let HelperError::Refused(refusal) = &error else {
        panic!("{error}");
    };
    assert_eq!(refusal.why, Why::Machine);
    assert!(refusal.text.contains("CAP_BPF"), "{refusal}");
    assert!(refusal.text.contains("setcap"), "{refusal}");
    // The session goes on.
    assert_eq!(helper.status().unwrap().held, None);
    drop(helper);
    assert!(is_gone(id));
}

pub(crate) fn a_selector_that_was_loaded_before_goes_on_without_privileges() {
    let status = Command::new("/proc/self/exe")
        .arg("steerer")
        .status()
        .unwrap();
    assert!(status.success());
}

/// The role: a process that loads the selector, gives up every capability, and then uses it.
pub(crate) fn steerer() {
    let mut selector = Selector::load().unwrap();
    give_up_all().unwrap();
    let group = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket
    };
    let first = group();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    first.bind(&any.into()).unwrap();
    let address = first.local_addr().unwrap();
    let second = group();
    second.bind(&address).unwrap();
    selector.attach(&first).unwrap();
    selector.set_socket(0, &first).unwrap();
    selector.set_socket(1, &second).unwrap();
    selector
        .steer(Steering {
            abi: ABI_VERSION,
            current: 0,
            route: [
                Route {
                    base: 0,
                    workers: 2,
                },
                Route::default(),
                Route::default(),
                Route::default(),
            ],
            cid_key: [[0; 2]; 4],
        })
        .unwrap();
    let sender = UdpSocket::bind(any).unwrap();
    sender
        .send_to(&crate::lab::initial(1), address.as_socket().unwrap())
        .unwrap();
    wait_for("the selector to have chosen", || {
        selector.steered(Steer::ByHash).unwrap() == 1
    });
}
