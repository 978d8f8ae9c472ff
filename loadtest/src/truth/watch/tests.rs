//! Real threads, processes and interfaces, watched.

use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;

use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::*;

/// Threads that do what they are told until they are dropped.
struct Workers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ids: Vec<Pid>,
}

impl Workers {
    /// So many that spin, all on one core if it is named.
    fn spinning(count: usize, core: Option<usize>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (tell, told) = sync_channel(count);
        let threads = (0..count)
            .map(|_| {
                let (over, tell) = (Arc::clone(&over), tell.clone());
                std::thread::spawn(move || {
                    if let Some(core) = core {
                        let mut only = CpuSet::new();
                        only.set(core);
                        sched_setaffinity(None, &only).unwrap();
                    }
                    tell.send(gettid()).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        let ids = (0..count).map(|_| told.recv().unwrap()).collect();
        Self { over, threads, ids }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(script: &str) -> Killed {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::piped());
    Killed(command.spawn().unwrap())
}

/// The first core that this process may use.
fn core() -> usize {
    let may = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).find(|core| may.is_set(*core)).unwrap()
}

fn passes(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(begun.elapsed()));
    }
}

#[test]
fn a_thread_that_shares_its_core_with_two_busy_ones_is_seen_to_starve() {
    let workers = Workers::spinning(3, Some(core()));
    let mut watch = Watch::start(&workers.ids[..1], None, None).unwrap();
    watch.counted_from_now().unwrap();
    passes(Duration::from_millis(1500));
    let watched = watch.finish().unwrap();
    let (cpu, starved) = (
        watched.client.thread_cpu[0],
        watched.client.thread_starved[0],
    );
    let starved = starved.expect("this kernel keeps schedstat");
    // A third each, on a machine of their own; other work takes from both.
    assert!(cpu < 0.6, "{cpu}");
    assert!(starved > 0.3, "{starved}");
    assert!((0.8..1.2).contains(&(cpu + starved)), "{cpu} {starved}");
    assert_eq!(watched.interface, None);
    assert_eq!(watched.unseen.len(), 1, "{:?}", watched.unseen);
}

#[test]
fn an_idle_thread_neither_works_nor_starves() {
    let (tell, told) = sync_channel(1);
    let (end, ended) = sync_channel::<()>(0);
    let thread = std::thread::spawn(move || {
        tell.send(gettid()).unwrap();
        let _ = ended.recv();
    });
    let id = told.recv().unwrap();
    let watch = Watch::start(&[id], None, None).unwrap();
    passes(Duration::from_millis(300));
    let watched = watch.finish().unwrap();
    assert!(watched.client.thread_cpu[0] < 0.05);
    assert!(watched.client.rss_bytes > 1 << 20);
    drop(end);
    thread.join().unwrap();
}

#[test]
fn a_server_is_accounted_for_and_its_memory_peak_seen() {
    // Busy, and 8 MB larger for a moment.
    let child = shell("x=$(head -c 8000000 /dev/zero | tr '\\0' x); unset x; while :; do :; done");
    let mut watch = Watch::start(&[gettid()], Some(child.0.id()), None).unwrap();
    watch.counted_from_now().unwrap();
    passes(Duration::from_millis(1500));
    let mut watched = watch.finish().unwrap();
    watched.account(1000, 2_000_000_000);
    let server = watched.server.unwrap();
    assert_eq!((server.command.as_str(), server.pid), ("sh", child.0.id()));
    assert!(
        server.cpu_share > 0.05 && server.cpu_share <= 2.1,
        "{server:?}"
    );
    assert!(server.cores >= 1 && server.processes >= 1);
    let cpu_s = server.cpu_s;
    assert!((server.cpu_s_per_million.unwrap() / (cpu_s * 1000.0) - 1.0).abs() < 1e-9);
    assert!((server.cpu_s_per_gb.unwrap() / (cpu_s / 2.0) - 1.0).abs() < 1e-9);
    assert!(server.rss_max_bytes >= server.rss_before_bytes);
}

#[test]
fn a_server_that_dies_is_a_fault() {
    let mut child = shell("read x");
    let mut watch = Watch::start(&[gettid()], Some(child.0.id()), None).unwrap();
    watch.counted_from_now().unwrap();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let watched = watch.finish().unwrap();
    assert_eq!(watched.server, None);
    assert_eq!(watched.faults.len(), 1);
    assert!(watched.faults[0].contains("ended"), "{:?}", watched.faults);
}

#[test]
fn a_server_that_is_not_there_is_an_error_at_once() {
    let mut child = shell("exit");
    child.0.wait().unwrap();
    let error = Watch::start(&[gettid()], Some(child.0.id()), None).unwrap_err();
    assert!(matches!(error, WatchError::Server(ProcessError::Unseen(_))));
}

#[test]
fn traffic_before_and_within_the_counted_time_is_told_apart() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = receiver.local_addr().unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |count: u32| {
        let mut datagram = [0; 1000];
        for _ in 0..count {
            sender.send_to(&[1; 1000], peer).unwrap();
            receiver.recv(&mut datagram).unwrap();
        }
    };
    let mut watch = Watch::start(&[gettid()], None, Some(peer)).unwrap();
    send(50);
    watch.counted_from_now().unwrap();
    send(20);
    let interface = watch.finish().unwrap().interface.unwrap();
    assert_eq!(interface.name, "lo");
    assert!(interface.rx_bytes_before >= 50_000);
    assert!(interface.rx_bytes >= 20_000 && interface.rx_packets >= 20);
}

#[test]
fn watching_costs_less_than_two_per_cent_of_a_core() {
    use crate::record::Counted;
    use crate::truth::Lag;

    let child = shell("read x");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let time = Duration::from_secs(2);
    let cpu = |thread| threads::had(thread).unwrap().cpu;
    // The load thread's part, and that of the sampling thread, which reads what this one reads here.
    let (lag, sample) = tokio::task::LocalSet::new().block_on(&runtime, async {
        let from = Instant::now();
        let until = from + time;
        let before = cpu(gettid());
        let lag = Lag::watch(Counted { from, until }).unwrap();
        tokio::time::sleep(time).await;
        assert!(lag.finish().count() >= 190);
        let watched = cpu(gettid());
        let mut tree = Tree::of(child.0.id()).unwrap();
        for number in 0..8 {
            tree.alive().unwrap();
            assert!(tree.resident() > 0);
            if number % 8 == 0 {
                tree.look_around().unwrap();
            }
        }
        (watched - before, cpu(gettid()) - watched)
    });
    println!("in {time:?}: lag {lag:?}, sampling {sample:?} of CPU");
    assert!(share(lag, time) < 0.02, "{lag:?}");
    assert!(share(sample, time) < 0.02, "{sample:?}");
}
