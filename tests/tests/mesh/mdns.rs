//! Edges that are told of nobody find each other by multicast DNS, and nobody else.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::members::pass;
use crate::network::address;
use crate::nodes::{Meets, Plan, sees};

/// In which each sees the other, once both are ready.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// Only what fails waits so long.
const LIMIT: Duration = Duration::from_secs(20);

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

/// What the first record of an announcement begins with, behind twelve bytes of header: the name, then a type and a class of two bytes each, and the seconds it holds in four.
const SERVICE: &[u8] = b"\x05_stoq\x04_udp\x05local\0";

/// For how many seconds an announcement says that its node is there; `None` of a question.
fn seconds(message: &[u8]) -> Option<u32> {
    if message.get(2)? & 0x80 == 0 {
        return None;
    }
    let record = message.get(12..)?.strip_prefix(SERVICE)?;
    Some(u32::from_be_bytes(*record.get(4..)?.first_chunk()?))
}

/// A listener on this host: who announces itself, for how long. It listens once this returns, and ends with the network.
fn ear(mesh: &crate::nodes::Mesh, host: usize) -> Receiver<(IpAddr, u32)> {
    let (heard, hear) = sync_channel(1_000);
    let (ready, is_ready) = sync_channel(1);
    mesh.network.on(host, move || {
        let socket = UdpSocket::bind((GROUP, 5353)).unwrap();
        socket.join_multicast_v4(&GROUP, &address(host)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 9_000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(seconds) = seconds(&buffer[..length])
                && heard.send((from.ip(), seconds)).is_err()
            {
                return;
            }
        }
    });
    is_ready.recv().expect("it listens");
    hear
}

#[test]
fn edges_find_those_of_their_cluster_on_the_link_and_leave_others_alone() {
    const TEST: &str = "edges_find_those_of_their_cluster_on_the_link_and_leave_others_alone";
    const OTHER_CLUSTER: &str = "reason=\"other_cluster\"";
    let plan = Plan::edges(2).meets(Meets::Mdns).more(2);
    let Some(mut mesh) = plan.prepare(TEST) else {
        return;
    };
    let mut stranger = mesh.stranger(mesh.more());
    let ear = ear(&mesh, mesh.more() + 1);
    stranger.start(&mesh.network);
    stranger.ready();
    for edge in &mut mesh.edges {
        edge.start(&mesh.network);
    }
    for edge in &mut mesh.edges {
        edge.ready();
    }
    let found = mesh.all_see_all(LIMIT);
    println!("each saw the other {found:?} after both were ready");
    assert!(found <= FOUND_WITHIN, "{found:?}");

    // The stranger heard them, and they it.
    let passed_over = |node: &crate::nodes::Node| {
        node.metric("stoq_gossip_mdns_passed_over_total", &[OTHER_CLUSTER])
    };
    let began = Instant::now();
    while ![&stranger, &mesh.edges[0], &mesh.edges[1]]
        .map(passed_over)
        .iter()
        .all(|n| *n > 0.0)
    {
        assert!(began.elapsed() < LIMIT, "not all have heard of all");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // Who is known and not in view is tried each half second.
    pass(Duration::from_secs(2), || {});
    assert_eq!(sees(&stranger.cluster()), ["stranger"]);
    let hosts = mesh.hosts(0..2);
    mesh.network.switch(|switch| {
        for host in hosts {
            assert_eq!(switch.sent_to(host, stranger.host), 0, "it was dialled");
            assert_eq!(switch.sent_to(stranger.host, host), 0, "it dialled");
        }
    });
    assert_eq!(mesh.edges[0].audited(), Vec::<String>::new());

    // One that leaves says so.
    let leaves = IpAddr::V4(address(mesh.edges[1].host));
    mesh.edges[1].signal("TERM");
    let mut seconds = Vec::new();
    while seconds.last() != Some(&0) {
        let (from, holds) = ear.recv_timeout(LIMIT).expect("a goodbye");
        if from == leaves {
            seconds.push(holds);
        }
    }
    assert!(seconds.len() > 1, "it was announced before");
    assert!(seconds.iter().rev().skip(1).all(|seconds| *seconds == 120));
}

#[test]
fn edges_find_each_other_over_ipv6_alone() {
    const TEST: &str = "edges_find_each_other_over_ipv6_alone";
    if let Some(mesh) = Plan::edges(2).meets(Meets::MdnsV6).start(TEST) {
        let addresses = mesh.edges[0].cluster().nodes.into_iter();
        let mut addresses = addresses.flat_map(|node| node.addresses);
        assert!(addresses.all(|addr| addr.starts_with("[fd78::")));
    }
}
