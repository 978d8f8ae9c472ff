//! Hosts for the length of a test: network namespaces without names, each with a TUN device whose packets a thread of the test carries by the rules of a [`Switch`].
//!
//! A namespace lasts as long as something holds it open: the value, its threads and the processes on it. So nothing of it outlives a test, however that ends.
//!
//! The kernel cuts what is sent in batches into packets before a TUN device hands them out. The thread watches itself: what it carried late, or not at all, [`Network::faults`] says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration::{body, tools::skipped};
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::Timespec;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::switch::Switch;

/// One network at a time: what is measured on them is measured on the same cores.
static ALONE: Mutex<()> = Mutex::new(());

/// The name of each host's device.
const DEVICE: &str = "eth0";

/// Its MTU.
const MTU: usize = 1500;

/// Packets that wait for the thread before the kernel drops more.
const QUEUE: usize = 10_000;

/// Packets read from one device before those that are due leave.
const BATCH: usize = 64;

/// A packet that leaves so much after its time left late.
const LATE: Duration = Duration::from_millis(2);

/// Hosts that reach each other by the rules of a switch.
#[derive(Debug)]
pub(crate) struct Network {
    namespaces: Vec<Arc<File>>,
    shared: Arc<Mutex<Carried>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    _alone: MutexGuard<'static, ()>,
}

/// What the thread works with, and what became of it.
#[derive(Debug)]
struct Carried {
    switch: Switch,
    /// Packets that left, and those of them that left late.
    left: u64,
    late: u64,
    latest: Duration,
    refused: u64,
}

/// Where a host is, seen from the others.
pub(crate) fn address(host: usize) -> Ipv4Addr {
    let host = u8::try_from(host + 1).expect("at most 254 hosts");
    Ipv4Addr::new(10, 78, 0, host)
}

/// A socket address on a host.
pub(crate) fn at(host: usize, port: u16) -> SocketAddr {
    SocketAddr::from((address(host), port))
}

/// Where it is over IPv6.
pub(crate) fn address_v6(host: usize) -> Ipv6Addr {
    let host = u16::try_from(host + 1).expect("at most 254 hosts");
    Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, host)
}

/// Whom a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Host(usize),
    /// All others: what is sent to the groups of multicast DNS.
    All,
}

fn destination(packet: &[u8]) -> Option<For> {
    match packet.first()? >> 4 {
        4 => match packet.get(16..20)? {
            [10, 78, 0, host] => usize::from(*host).checked_sub(1).map(For::Host),
            [224, 0, 0, 251] => Some(For::All),
            _ => None,
        },
        6 => match packet.get(24..40)? {
            [0xfd, 0x78, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host] => {
                usize::from(*host).checked_sub(1).map(For::Host)
            }
            [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb] => Some(For::All),
            _ => None,
        },
        _ => None,
    }
}

impl Network {
    /// So many hosts with nothing between them yet. `None`, said aloud, without root.
    pub(crate) fn up(test: &str, hosts: usize) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped(test, "network namespaces need root");
            return None;
        }
        let alone = ALONE.lock();
        let namespaces: Vec<_> = (0..hosts).map(|_| Arc::new(namespace())).collect();
        let devices: Vec<_> = namespaces
            .iter()
            .enumerate()
            .map(|(host, namespace)| device(namespace, host))
            .collect();
        let shared = Arc::new(Mutex::new(Carried {
            switch: Switch::new(hosts, body::seed()),
            left: 0,
            late: 0,
            latest: Duration::ZERO,
            refused: 0,
        }));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn({
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                move || carry(&devices, &stop, &shared)
            });
        Some(Self {
            namespaces,
            shared,
            stop,
            thread: Some(thread.unwrap()),
            _alone: alone,
        })
    }

    /// Runs `what` on a thread that is on `host`. Processes it starts are there too.
    pub(crate) fn on<T: Send + 'static>(
        &self,
        host: usize,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = Arc::clone(&self.namespaces[host]);
        std::thread::spawn(move || {
            enter(&namespace);
            what()
        })
    }

    /// Runs a future on a thread that is on `host`, to its end.
    pub(crate) fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        host: usize,
        what: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<T> {
        self.on(host, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(what())
        })
    }

    /// Looks at what lies between the hosts, or changes it.
    pub(crate) fn switch<T>(&self, what: impl FnOnce(&mut Switch) -> T) -> T {
        what(&mut self.shared.lock().switch)
    }

    /// Why figures measured over this network would be its own and not those of what is measured; none where they can be believed.
    pub(crate) fn faults(&self) -> Vec<String> {
        let carried = self.shared.lock();
        let mut faults = Vec::new();
        if carried.late * 100 > carried.left {
            faults.push(format!(
                "{} of {} packets left more than {LATE:?} after their time, one {:?}",
                carried.late, carried.left, carried.latest
            ));
        }
        let own = carried.switch.counters().overflowed + carried.refused;
        if own > 0 {
            faults.push(format!("the switch had no room for {own} packets"));
        }
        faults
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let stopping = rustix::io::write(self.stop.as_fd(), &1u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| stopping) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// A new namespace.
fn namespace() -> File {
    let mut holder = Command::new("unshare")
        .args(["--net", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux's unshare");
    let (mut to, from) = (holder.stdin.take(), holder.stdout.take());
    // What echoes is in it.
    to.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut echo = String::new();
    BufReader::new(from.unwrap()).read_line(&mut echo).unwrap();
    assert_eq!(echo, "\n", "no namespace");
    let namespace = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
    drop(to);
    holder.wait().unwrap();
    namespace
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// Makes a host's device and opens it.
fn device(namespace: &Arc<File>, host: usize) -> SyncDevice {
    let namespace = Arc::clone(namespace);
    let made = std::thread::spawn(move || {
        enter(&namespace);
        let commands = format!(
            "link set dev lo up\n\
             tuntap add dev {DEVICE} mode tun\n\
             addr add {}/24 dev {DEVICE}\n\
             addr add {}/64 dev {DEVICE} nodad\n\
             link set dev {DEVICE} mtu {MTU} txqueuelen {QUEUE} up\n",
            address(host),
            address_v6(host)
        );
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("iproute2's ip");
        let mut stdin = ip.stdin.take().unwrap();
        stdin.write_all(commands.as_bytes()).unwrap();
        drop(stdin);
        assert!(ip.wait().unwrap().success(), "{commands}");
        let device = DeviceBuilder::new()
            .name(DEVICE)
            .inherit_enable_state()
            .build_sync()
            .unwrap();
        device.set_nonblocking(true).unwrap();
        device
    });
    made.join().unwrap()
}

/// Carries packets until told to stop.
fn carry(devices: &[SyncDevice], stop: &OwnedFd, shared: &Mutex<Carried>) {
    // Ahead of what is measured: late packets would be the network's fault. For Linux 0 is the calling thread, not its process.
    let _ = rustix::process::setpriority_process(None, -20);
    let zero = Instant::now();
    let mut buffer = vec![0; MTU];
    loop {
        let mut carried = shared.lock();
        let mut more = false;
        for (from, device) in devices.iter().enumerate() {
            more |= read(from, device, zero, &mut buffer, &mut carried.switch);
        }
        loop {
            let now = zero.elapsed();
            let Some((due, to, packet)) = carried.switch.release(now) else {
                break;
            };
            carried.left += 1;
            carried.late += u64::from(now - due > LATE);
            carried.latest = carried.latest.max(now - due);
            let sent = devices.get(to).map(|device| device.send(&packet));
            carried.refused += u64::from(!matches!(sent, Some(Ok(_))));
        }
        let due = carried.switch.due();
        drop(carried);
        if more {
            continue;
        }
        let wait = due.map(|due| Timespec::try_from(due.saturating_sub(zero.elapsed())).unwrap());
        let devices = devices
            .iter()
            .map(|device| PollFd::new(device, PollFlags::IN));
        let stopping = PollFd::new(stop, PollFlags::IN);
        let mut waits: Vec<_> = devices.chain([stopping]).collect();
        match poll(&mut waits, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the switch cannot wait: {error}"),
        }
        if waits.last().is_some_and(|stop| !stop.revents().is_empty()) {
            return;
        }
    }
}

/// Reads what a host sends, [`BATCH`] packets at most; whether there may be more.
fn read(
    from: usize,
    device: &SyncDevice,
    zero: Instant,
    buffer: &mut [u8],
    switch: &mut Switch,
) -> bool {
    for _ in 0..BATCH {
        // An error says that nothing is there, or that nothing ever will be.
        let Ok(length) = device.recv(buffer) else {
            return false;
        };
        let packet = &buffer[..length];
        match destination(packet) {
            Some(For::Host(to)) if to < switch.hosts() => {
                switch.take(zero.elapsed(), from, to, packet.to_vec());
            }
            Some(For::All) => switch.spread(zero.elapsed(), from, packet),
            // What is for nobody here, as the questions of IPv6 for its routers.
            Some(For::Host(_)) | None => {}
        }
    }
    true
}
