//! Two hosts and a cable: network namespaces with a veth pair, gone with the value. Addresses without number on the client's.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use integration::tools::skipped;
use parking_lot::{Mutex, MutexGuard};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// One lab at a time: they measure on the same cores.
static ALONE: Mutex<()> = Mutex::new(());

/// The server's interface, and its peer on the client's host.
pub(crate) const SERVER_LINK: &str = "s0";
pub(crate) const CLIENT_LINK: &str = "c0";
/// The server, as the frames of the generator have it.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The client's host on the cable. All of 10.78.0.0/15 is there too, so that each client can have an address of its own.
const CLIENT: &str = "10.77.0.2";
/// As the frames of the generator have them.
const SERVER_MAC: &str = "02:00:00:00:00:01";
const CLIENT_MAC: &str = "02:00:00:00:00:02";

/// The address of a client: `10.78.group.number`, for so many groups as there are numbers.
pub(crate) fn client(group: u16, number: u8) -> IpAddr {
    let [high, low] = group.to_be_bytes();
    Ipv4Addr::new(10, 78 | (high & 1), low, number).into()
}

#[derive(Debug)]
pub(crate) struct Lab {
    server: String,
    client: String,
    _alone: MutexGuard<'static, ()>,
}

impl Lab {
    /// None, said aloud, without root.
    pub(crate) fn up(test: &str) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            skipped(test, "network namespaces need root");
            return None;
        }
        let alone = ALONE.lock();
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("stoq-flood-{}-{number}{end}", std::process::id());
        let lab = Self {
            server: name("s"),
            client: name("c"),
            _alone: alone,
        };
        let (server, client) = (&lab.server, &lab.client);
        ip(&format!("netns add {server}"));
        ip(&format!("netns add {client}"));
        ip(&format!(
            "link add {SERVER_LINK} address {SERVER_MAC} netns {server} type veth peer name {CLIENT_LINK} address {CLIENT_MAC} netns {client}"
        ));
        for host in [server, client] {
            ip(&format!("-n {host} link set lo up"));
            for name in ["all", "default"] {
                let sysctl =
                    format!("netns exec {host} sysctl -qw net.ipv4.conf.{name}.rp_filter=0");
                ip(&sysctl);
            }
        }
        ip(&format!("-n {server} link set {SERVER_LINK} up"));
        ip(&format!("-n {client} link set {CLIENT_LINK} up"));
        ip(&format!(
            "-n {server} addr add {SERVER}/32 dev {SERVER_LINK}"
        ));
        ip(&format!(
            "-n {client} addr add {CLIENT}/32 dev {CLIENT_LINK}"
        ));
        // Answers to whoever was made up come back too, and end there.
        ip(&format!("-n {server} route add {CLIENT} dev {SERVER_LINK}"));
        ip(&format!(
            "-n {server} route add default via {CLIENT} dev {SERVER_LINK}"
        ));
        ip(&format!("-n {client} route add {SERVER} dev {CLIENT_LINK}"));
        ip(&format!("-n {client} route add local 10.78.0.0/15 dev lo"));
        // veth has NAPI, without which it takes no frames of the generator's, only where it coalesces or has a program.
        for (host, link) in [(server, SERVER_LINK), (client, CLIENT_LINK)] {
            ip(&format!("netns exec {host} ethtool -K {link} gro on"));
        }
        Some(lab)
    }

    /// A command that runs on the server.
    pub(crate) fn on_server(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.server]).arg(program);
        command
    }

    /// Runs `what` on a thread that is on the client's host.
    pub(crate) fn on_client<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let namespace = File::open(Path::new("/run/netns").join(&self.client)).unwrap();
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in [&self.server, &self.client] {
            let gone = Command::new("ip").args(["netns", "del", host]).status();
            if !gone.is_ok_and(|status| status.success()) {
                eprintln!("namespace {host} could not be removed");
            }
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
