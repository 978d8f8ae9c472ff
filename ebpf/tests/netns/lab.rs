//! Two network namespaces with a veth pair between them, and what stands at its ends. All of it is gone with the [`Lab`],
//! also when a test panics; what an earlier run that was killed left behind is removed before.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stoq_ebpf::{Attached, Facts};

/// Begins the name of each namespace of these tests, before the id of the process that made it.
const PREFIX: &str = "stoq-xdp-";
/// The interface at the server's end.
pub(crate) const INTERFACE: &str = "s0";
pub(crate) const SERVER_V4: &str = "10.77.0.1";
pub(crate) const CLIENT_V4: &str = "10.77.0.2";
pub(crate) const SERVER_V6: &str = "fd77::1";
pub(crate) const CLIENT_V6: &str = "fd77::2";

/// How long anything that should come may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The two namespaces.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) server: Namespace,
    pub(crate) client: Namespace,
}

impl Lab {
    pub(crate) fn new() -> Self {
        remove_leftovers();
        let lab = Self {
            server: Namespace::new("s"),
            client: Namespace::new("c"),
        };
        let (server, client) = (lab.server.name.as_str(), lab.client.name.as_str());
        ip(&format!(
            "link add {INTERFACE} netns {server} type veth peer name c0 netns {client}"
        ));
        for (name, link, v4, v6) in [
            (server, INTERFACE, SERVER_V4, SERVER_V6),
            (client, "c0", CLIENT_V4, CLIENT_V6),
        ] {
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {name} addr add {v4}/24 dev {link}"));
            ip(&format!("-n {name} addr add {v6}/64 dev {link} nodad"));
            ip(&format!("-n {name} link set {link} up"));
        }
        ip(&format!("-n {client} route add default via {SERVER_V4}"));
        lab
    }

    /// The program at the server's interface.
    pub(crate) fn attached(&self) -> Option<Attached> {
        self.server
            .inside(|| Facts::gather(INTERFACE).unwrap().device.unwrap().attached)
    }

    /// Waits until the server's interface has no program. How long it took.
    pub(crate) fn wait_until_bare(&self, since: Instant) -> Duration {
        wait_for("the program to be gone", || self.attached().is_none());
        since.elapsed()
    }
}

/// A network namespace with a name, gone when this is.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new(end: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}{end}", std::process::id());
        ip(&format!("netns add {name}"));
        Self { name }
    }

    /// Runs `work` on a thread inside. Sockets it opens stay inside.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )
                .unwrap();
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        self.inside(|| UdpSocket::bind(address).unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let gone = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} could not be removed", self.name);
        }
    }
}

pub(crate) fn ip(arguments: &str) {
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

fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.take(10_000) {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(maker) = maker
            && !Path::new("/proc").join(maker).exists()
        {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Looks again and again, for [`PATIENCE`] at most.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// What is sent and comes back: passes as a short header at a port whose connection IDs are not keyed.
pub(crate) fn short_header() -> Vec<u8> {
    let mut packet = vec![0; 64];
    packet[0] = 0x40;
    packet
}

/// A client's first packet: an Initial without a token, in a datagram of 1,200 bytes.
pub(crate) fn initial(id: u8) -> Vec<u8> {
    let mut packet = vec![0; 1200];
    packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
    packet[6..14].copy_from_slice(&[id; 8]);
    // A source ID of 8 bytes, no token, and the length of what follows, as two bytes.
    packet[14] = 8;
    packet[23] = 0;
    packet[24..26].copy_from_slice(&(0x4000_u16 + 1200 - 26).to_be_bytes());
    packet
}

/// Sends everything back, at UDP and TCP ports, until it is dropped.
#[derive(Debug)]
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn new(at: &Namespace, udp: &[u16], tcp: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in udp {
            let socket = at.udp(&format!("[::]:{port}"));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || echo_datagrams(&socket, &stop)));
        }
        for port in tcp {
            let listener = at.inside(|| TcpListener::bind(("::", *port)).unwrap());
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || echo_streams(&listener, &stop)));
        }
        Self { stop, threads }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

const TURN: Duration = Duration::from_millis(50);

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(TURN)).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn echo_streams(listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    let mut open: Vec<TcpStream> = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            open.push(stream);
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        });
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A client's socket, and what it asks.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Asker {
    /// From the client's address of the server's family.
    pub(crate) fn new(lab: &Lab, server: IpAddr, port: u16) -> Self {
        let any = match server {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        };
        Self {
            socket: lab.client.udp(any),
            server: SocketAddr::new(server, port),
        }
    }

    /// Whether the server answers within that time. Asks again every 20 ms.
    pub(crate) fn is_answered(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        self.socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let mut buffer = [0; 2048];
        // Answers to earlier questions say nothing of now.
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut buffer).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        loop {
            self.send(&short_header());
            if self.socket.recv(&mut buffer).is_ok() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// Whether it stays silent: what is dropped is dropped each time, so five questions tell.
    pub(crate) fn is_ignored(&self) -> bool {
        !self.is_answered(Duration::from_millis(80))
    }

    pub(crate) fn send(&self, payload: &[u8]) {
        self.socket.send_to(payload, self.server).unwrap();
    }
}

/// Whether a TCP server at that port takes a connection and sends back what it gets, within that time.
pub(crate) fn tcp_answers(lab: &Lab, server: IpAddr, port: u16, within: Duration) -> bool {
    lab.client.inside(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&(server, port).into(), within) else {
            return false;
        };
        stream.set_read_timeout(Some(within)).unwrap();
        let mut back = [0; 5];
        stream.write_all(b"hello").is_ok()
            && stream.read_exact(&mut back).is_ok()
            && back == *b"hello"
    })
}
