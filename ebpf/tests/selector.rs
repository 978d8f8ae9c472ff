//! The socket selector, on groups of real sockets on the loopback.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod kit;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use kit::{
    frame::{HANDSHAKE, INITIAL, VERSION_1, ZERO_RTT, keyed_id, long, short},
    is_required,
    scene::KEYS,
};
use socket2::{Domain, Protocol, Socket, Type};
use stoq_ebpf::{
    abi::{self, ABI_VERSION, Route, Steer, Steering},
    selector::{Selector, SelectorError},
};

/// How long a datagram may take over the loopback.
const PATIENCE: Duration = Duration::from_secs(10);

fn join(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

fn group(address: SocketAddr, count: usize) -> Vec<UdpSocket> {
    let first = join(address);
    let address = first.local_addr().unwrap();
    let mut sockets = vec![first];
    sockets.extend((1..count).map(|_| join(address)));
    sockets
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn client() -> UdpSocket {
    UdpSocket::bind(loopback()).unwrap()
}

/// Sends, and says which of `sockets` received it.
fn ask(client: &UdpSocket, sockets: &[UdpSocket], datagram: &[u8]) -> usize {
    client
        .send_to(datagram, sockets[0].local_addr().unwrap())
        .unwrap();
    let begun = Instant::now();
    let mut buffer = [0; 2048];
    loop {
        for (index, socket) in sockets.iter().enumerate() {
            match socket.recv_from(&mut buffer) {
                Ok((bytes, from)) => {
                    assert_eq!(from, client.local_addr().unwrap());
                    assert_eq!(&buffer[..bytes], datagram);
                    return index;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        assert!(begun.elapsed() < PATIENCE, "the datagram came to nobody");
        std::thread::yield_now();
    }
}

fn load(test: &str) -> Option<Selector> {
    match Selector::load() {
        Ok(selector) => Some(selector),
        Err(error) if stoq_ebpf::is_for_want_of_privilege(&error) => {
            assert!(
                !is_required(),
                "{test}: {error}, and STOQ_REQUIRE_PRIVILEGED=1"
            );
            eprintln!("SKIPPED: {test}: it needs the right to load programs: {error}");
            None
        }
        Err(error) => panic!("{test}: {error}"),
    }
}

fn steering(current: u32, routes: &[(usize, u32, u32)]) -> Steering {
    let mut steering = Steering {
        abi: ABI_VERSION,
        current,
        route: [Route::default(); 4],
        cid_key: [[0; 2]; 4],
    };
    for (key, bytes) in steering.cid_key.iter_mut().zip(KEYS) {
        *key = abi::cid_key(bytes);
    }
    for (generation, base, workers) in routes {
        steering.route[*generation] = Route {
            base: *base,
            workers: *workers,
        };
    }
    steering
}

fn id(generation: u8, worker: u8, nonce: u8) -> Vec<u8> {
    keyed_id(
        KEYS[usize::from(generation)],
        generation,
        worker,
        [nonce; 7],
    )
}

fn initial(id: &[u8]) -> Vec<u8> {
    long(VERSION_1, INITIAL, id, &[7; 8], Some(b""), 1200)
}

#[test]
fn packets_that_carry_our_id_reach_the_worker_it_names_from_any_port() {
    let Some(mut selector) =
        load("packets_that_carry_our_id_reach_the_worker_it_names_from_any_port")
    else {
        return;
    };
    let sockets = group(loopback(), 4);
    selector.attach(&sockets[0]).unwrap();
    // In another order than they were bound in.
    for (slot, index) in [(8, 2), (9, 0), (10, 3), (11, 1)] {
        selector.set_socket(slot, &sockets[index]).unwrap();
    }
    selector.steer(steering(1, &[(1, 8, 4)])).unwrap();
    let by_worker = [2, 0, 3, 1];
    let mut asked = 0;
    for nonce in 0..50 {
        let client = client();
        for (worker, socket) in (0..).zip(by_worker) {
            let id = id(1, worker, nonce);
            for datagram in [
                short(&id, 40),
                long(VERSION_1, HANDSHAKE, &id, &[7; 8], None, 100),
                long(VERSION_1, ZERO_RTT, &id, &[], None, 100),
                initial(&id),
            ] {
                assert_eq!(ask(&client, &sockets, &datagram), socket, "worker {worker}");
                asked += 1;
            }
        }
    }
    assert_eq!(selector.steered(Steer::ById).unwrap(), asked);
    assert_eq!(selector.steered(Steer::ByHash).unwrap(), 0);
}

#[test]
fn a_newcomers_first_flight_reaches_one_worker_and_newcomers_spread() {
    let Some(mut selector) =
        load("a_newcomers_first_flight_reaches_one_worker_and_newcomers_spread")
    else {
        return;
    };
    let sockets = group(loopback(), 4);
    selector.attach(&sockets[0]).unwrap();
    for (slot, socket) in (0..).zip(&sockets) {
        selector.set_socket(slot, socket).unwrap();
    }
    selector.steer(steering(0, &[(0, 0, 4)])).unwrap();
    let mut reached = [0; 4];
    for nonce in 0..64u8 {
        let client = client();
        // Invented IDs, also ones of our length that say another worker each: no tag, no word.
        let first = ask(&client, &sockets, &initial(&[nonce; 8]));
        for other in [
            initial(&[nonce; 12]),
            initial(&[nonce ^ 1; 12]),
            long(VERSION_1, ZERO_RTT, &[nonce; 8], &[7; 8], None, 300),
            initial(&[nonce; 20]),
        ] {
            assert_eq!(ask(&client, &sockets, &other), first);
        }
        // Too short to name anyone, and still nothing is lost.
        for short in [&b""[..], b"x", &[0x40; 17]] {
            assert_eq!(ask(&client, &sockets, short), first);
        }
        reached[first] += 1;
    }
    assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
    assert_eq!(selector.steered(Steer::ById).unwrap(), 0);
    assert_eq!(selector.steered(Steer::ByHash).unwrap(), 64 * 8);
}

#[test]
fn while_a_new_process_takes_over_each_generation_keeps_its_sockets() {
    let Some(mut selector) =
        load("while_a_new_process_takes_over_each_generation_keeps_its_sockets")
    else {
        return;
    };
    let mut sockets = group(loopback(), 2);
    selector.attach(&sockets[0]).unwrap();
    for (slot, socket) in (0..).zip(&sockets) {
        selector.set_socket(slot, socket).unwrap();
    }
    selector.steer(steering(1, &[(1, 0, 2)])).unwrap();
    let client = client();
    assert!(ask(&client, &sockets, &initial(&[1; 8])) < 2);

    // The new process joins with three workers, and becomes the one that newcomers go to.
    let address = sockets[0].local_addr().unwrap();
    sockets.extend((0..3).map(|_| join(address)));
    for (slot, socket) in (64..).zip(&sockets[2..]) {
        selector.set_socket(slot, socket).unwrap();
    }
    selector
        .steer(steering(2, &[(1, 0, 2), (2, 64, 3)]))
        .unwrap();
    for nonce in 0..20 {
        let client = self::client();
        assert!(
            ask(&client, &sockets, &initial(&[nonce; 8])) >= 2,
            "newcomers go to the new process"
        );
        for worker in 0..2u8 {
            assert_eq!(
                ask(&client, &sockets, &short(&id(1, worker, nonce), 40)),
                usize::from(worker)
            );
            assert_eq!(
                ask(&client, &sockets, &initial(&id(1, worker, nonce))),
                usize::from(worker)
            );
        }
        for worker in 0..3u8 {
            assert_eq!(
                ask(&client, &sockets, &short(&id(2, worker, nonce), 40)),
                usize::from(worker) + 2
            );
        }
    }
    assert_eq!(selector.steered(Steer::Orphan).unwrap(), 0);

    // The old process ends. What still names it goes where newcomers go, and its reset comes from there.
    drop(sockets.drain(..2));
    let orphan = short(&id(1, 1, 9), 40);
    assert!(ask(&client, &sockets, &orphan) < 3);
    assert_eq!(selector.steered(Steer::Orphan).unwrap(), 1);
    selector.steer(steering(2, &[(2, 64, 3)])).unwrap();
    assert!(ask(&client, &sockets, &orphan) < 3);
    assert_eq!(selector.steered(Steer::Kernel).unwrap(), 0);
}

#[test]
fn without_settings_the_kernel_chooses_and_nothing_is_lost() {
    let Some(mut selector) = load("without_settings_the_kernel_chooses_and_nothing_is_lost") else {
        return;
    };
    let sockets = group(loopback(), 3);
    selector.attach(&sockets[0]).unwrap();
    let mut asked = 0;
    let mut ask_all = || {
        for nonce in 0..10 {
            ask(&client(), &sockets, &initial(&id(1, 0, nonce)));
            ask(&client(), &sockets, &short(&id(1, 2, nonce), 40));
            asked += 2;
        }
        asked
    };
    let before = ask_all();
    assert_eq!(selector.steered(Steer::Kernel).unwrap(), before);
    // Settings, but no sockets in the table.
    selector.steer(steering(1, &[(1, 0, 3)])).unwrap();
    let before = ask_all();
    assert_eq!(selector.steered(Steer::Kernel).unwrap(), before);
    // Of another version.
    selector
        .steer(Steering {
            abi: ABI_VERSION + 1,
            ..steering(1, &[(1, 0, 3)])
        })
        .unwrap();
    let before = ask_all();
    assert_eq!(selector.steered(Steer::Kernel).unwrap(), before);
}

#[test]
fn a_socket_of_no_group_and_a_slot_of_no_table_are_refused() {
    let Some(mut selector) = load("a_socket_of_no_group_and_a_slot_of_no_table_are_refused") else {
        return;
    };
    let error = selector.set_socket(0, &client()).unwrap_err();
    assert!(matches!(error, SelectorError::Map(_)), "{error}");
    let sockets = group(loopback(), 1);
    let error = selector
        .set_socket(abi::SOCKETS_MAX, &sockets[0])
        .unwrap_err();
    assert!(matches!(error, SelectorError::Slot(256)), "{error}");
}

#[test]
fn a_group_is_steered_by_one_call_as_its_processs_ids_say() {
    if load("a_group_is_steered_by_one_call_as_its_processs_ids_say").is_none() {
        return;
    }
    let sockets = group(loopback(), 4);
    let selector = Selector::of_group(&sockets, &[(1, KEYS[1]), (0, KEYS[0])]).unwrap();
    for worker in 0..4 {
        for generation in [0, 1] {
            let ours = id(generation, worker, worker);
            for datagram in [short(&ours, 60), initial(&ours)] {
                assert_eq!(
                    ask(&client(), &sockets, &datagram),
                    usize::from(worker),
                    "generation {generation}"
                );
            }
        }
    }
    assert_eq!(selector.steered(Steer::ById).unwrap(), 16);
    // What a newcomer made up names nobody, whatever its first byte says.
    let newcomer = client();
    let first = ask(&newcomer, &sockets, &initial(&[3; 12]));
    for made_up in 0..8 {
        assert_eq!(ask(&newcomer, &sockets, &initial(&[made_up; 12])), first);
    }
    assert_eq!(selector.steered(Steer::ByHash).unwrap(), 9);
    let none: [UdpSocket; 0] = [];
    assert!(matches!(
        Selector::of_group(&none, &[]),
        Err(SelectorError::Workers(0))
    ));
}
