//! The relay of one link: a thread between two TAP devices, the host's own `eth0` and a port of the bridge. It reads
//! whole Ethernet frames, so any protocol passes, and holds each direction's in a [`Line`].
//!
//! The kernel segments and checksums frames before a TAP device hands them out, so what is delayed or lost are packets of
//! the link's MTU, never the large buffers of segmentation offload.
//!
//! The thread sleeps on a `timerfd`, which has no slack as other sleeps have, and watches itself: its CPU second by
//! second, how long after its time a frame left (lag), what found no room, and what the kernel dropped because the
//! relay did not read fast enough. [`RelayReport::faults`] says when the relay, and not the link, made the figures.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use serde::Serialize;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::line::{Counters, HELD_BYTES_MAX, Impairment, Line};
use super::names::NAMESPACES;
use super::steps::INTERFACE;

/// A relay whose thread used more than this share of a core within some second was perhaps the bottleneck.
pub const CPU_SHARE_MAX: f64 = 0.8;

/// Of a hundred frames, one at most may leave so much after its time, µs.
pub const LAG_P99_MAX_US: f64 = 1_000.0;

/// Frames read from one device before frames that are due leave: at 2 µs each, 0.1 ms.
const BATCH: usize = 64;

/// Ethernet header, and one VLAN tag.
const HEADER_BYTES: usize = 18;

/// Which link, and what is done to it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Name of the host.
    pub(super) host: String,
    /// The host's namespace.
    pub(super) namespace: String,
    /// The bridge's.
    pub(super) bridge: String,
    /// MTU, bytes.
    pub(super) mtu: u32,
    /// In each direction.
    pub(super) set: Impairment,
    /// Of the scenario, made different for each link by its place.
    pub(super) seed: u64,
}

/// A relay at work. Dropped, it stops.
#[derive(Debug)]
pub(super) struct Relay {
    shared: Arc<Mutex<Watched>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the relay thread finds out, since counting began.
#[derive(Debug)]
struct Watched {
    up: Counters,
    down: Counters,
    lag_ns: Histogram<u64>,
    cpu_share_max: f64,
    cpu: Duration,
    since: Duration,
    until: Duration,
    /// The next pass counts from zero.
    anew: bool,
    failed: Option<String>,
}

/// What a relay did, for people and bundles.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RelayReport {
    /// Seconds counted.
    pub elapsed_s: f64,
    /// CPU of its thread as a share of a core, over all.
    pub cpu_share: f64,
    /// Of the busiest second.
    pub cpu_share_max: f64,
    /// How long after their time frames left: median, µs. `None`: none left.
    pub lag_p50_us: Option<f64>,
    /// 99th percentile, µs.
    pub lag_p99_us: Option<f64>,
    /// The longest, µs.
    pub lag_max_us: Option<f64>,
    /// From the host to the bridge.
    pub up: Counters,
    /// From the bridge to the host.
    pub down: Counters,
    /// Frames that the kernel dropped because the relay had not read those before. `None`: the kernel's count could not be
    /// read.
    pub kernel_drops: Option<u64>,
    /// Why the relay ended early.
    pub failed: Option<String>,
}

impl RelayReport {
    /// Why figures measured over the relay of `host` cannot be believed; none if they can.
    #[must_use]
    pub fn faults(&self, host: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(failed) = &self.failed {
            faults.push(format!("the relay of {host} ended early: {failed}"));
        }
        if self.cpu_share_max >= CPU_SHARE_MAX {
            faults.push(format!(
                "the relay of {host} was the bottleneck: its thread used {:.0} % of a core in its busiest second (limit {:.0} %)",
                self.cpu_share_max * 100.0,
                CPU_SHARE_MAX * 100.0
            ));
        }
        if let Some(lag) = self.lag_p99_us.filter(|lag| *lag > LAG_P99_MAX_US) {
            faults.push(format!(
                "the relay of {host} was late: of a hundred frames one left {:.2} ms or more after its time (limit {:.0} ms)",
                lag / 1e3,
                LAG_P99_MAX_US / 1e3
            ));
        }
        let own = self.up.overflowed + self.down.overflowed;
        if own > 0 {
            faults.push(format!(
                "the relay of {host} had no room for {own} frames (it holds {} MiB a direction)",
                HELD_BYTES_MAX >> 20
            ));
        }
        let refused = self.up.refused + self.down.refused;
        if refused > 0 {
            faults.push(format!(
                "the devices of the relay of {host} refused {refused} frames"
            ));
        }
        match self.kernel_drops {
            Some(0) => {}
            Some(drops) => faults.push(format!(
                "the relay of {host} read too slowly: the kernel dropped {drops} frames before it"
            )),
            None => faults.push(format!(
                "how many frames the kernel dropped before the relay of {host} could not be read"
            )),
        }
        faults
    }
}

impl Relay {
    /// Attaches to the two devices, which exist already, and begins.
    ///
    /// # Errors
    /// A namespace cannot be entered, or a device not be opened.
    pub(super) fn start(place: Place) -> io::Result<Self> {
        let now = clock(ClockId::Monotonic);
        let shared = Arc::new(Mutex::new(Watched::new(now)?));
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (ready, started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("relay-{}", place.host))
            .spawn({
                let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                move || match Wires::attach(&place) {
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                    Ok(wires) => {
                        let _ = ready.send(Ok(()));
                        if let Err(error) = wires.carry(&place, &stop, &shared) {
                            shared.lock().failed = Some(error.to_string());
                        }
                    }
                }
            })?;
        started
            .recv()
            .map_err(|_| io::Error::other("the thread ended"))??;
        Ok(Self {
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// What is counted is counted from about now: from the thread's next pass, at most a millisecond hence while frames
    /// flow.
    pub(super) fn count_anew(&self) {
        self.shared.lock().anew = true;
        // Any number wakes the thread; it reads none of them.
        let _ = rustix::io::write(self.stop.as_fd(), &WAKE.to_ne_bytes());
    }

    /// What was counted. `kernel_drops` is the caller's to know.
    pub(super) fn report(&self, kernel_drops: Option<u64>) -> RelayReport {
        let watched = self.shared.lock();
        let elapsed = watched.until.saturating_sub(watched.since).as_secs_f64();
        let lag = |quantile: f64| {
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds shown as µs")]
            let us = watched.lag_ns.value_at_quantile(quantile) as f64 / 1e3;
            (!watched.lag_ns.is_empty()).then_some(us)
        };
        RelayReport {
            elapsed_s: elapsed,
            cpu_share: if elapsed > 0.0 {
                watched.cpu.as_secs_f64() / elapsed
            } else {
                0.0
            },
            cpu_share_max: watched.cpu_share_max,
            lag_p50_us: lag(0.5),
            lag_p99_us: lag(0.99),
            lag_max_us: lag(1.0),
            up: watched.up,
            down: watched.down,
            kernel_drops,
            failed: watched.failed.clone(),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let stopping = rustix::io::write(self.stop.as_fd(), &STOP.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take()
            && stopping
        {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Added to the eventfd to wake the thread.
const WAKE: u64 = 1;

/// Added to the eventfd to end the thread; more than there are wakes in a lab's life.
const STOP: u64 = 1 << 40;

impl Watched {
    fn new(now: Duration) -> io::Result<Self> {
        Ok(Self {
            up: Counters::default(),
            down: Counters::default(),
            // Three digits from 1 ns up to 100 s: 300 KiB.
            lag_ns: Histogram::new_with_bounds(1, 100_000_000_000, 3).map_err(io::Error::other)?,
            cpu_share_max: 0.0,
            cpu: Duration::ZERO,
            since: now,
            until: now,
            anew: false,
            failed: None,
        })
    }
}

/// The two devices, and the timer.
struct Wires {
    host: SyncDevice,
    port: SyncDevice,
    timer: OwnedFd,
}

impl Wires {
    /// Opens both devices from within their namespaces; the calling thread stays in the bridge's.
    fn attach(place: &Place) -> io::Result<Self> {
        // Ahead of the load's own threads: late frames would be the link's fault. Refused without CAP_SYS_NICE, and then
        // the lag shows whether it mattered. For Linux 0 is the calling thread, not its process.
        let _ = rustix::process::setpriority_process(None, -20);
        let wires = Self {
            host: tap(&place.namespace, INTERFACE)?,
            port: tap(&place.bridge, &place.host)?,
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
        };
        Ok(wires)
    }

    /// Carries frames until told to stop.
    fn carry(&self, place: &Place, stop: &OwnedFd, shared: &Mutex<Watched>) -> io::Result<()> {
        let mut up = Line::new(place.set.clone(), place.seed, HELD_BYTES_MAX);
        let mut down = Line::new(place.set.clone(), !place.seed, HELD_BYTES_MAX);
        let mut frame = vec![0; place.mtu as usize + HEADER_BYTES];
        let mut second = Second::begin();
        let mut counted_cpu = second.cpu;
        loop {
            let more =
                read(&self.host, &mut up, &mut frame)? | read(&self.port, &mut down, &mut frame)?;
            let mut watched = shared.lock();
            if std::mem::take(&mut watched.anew) {
                up.count_anew();
                down.count_anew();
                second = Second::begin();
                counted_cpu = second.cpu;
                *watched = Watched::new(second.began)?;
            }
            write(&self.port, &mut up, &mut watched.lag_ns);
            write(&self.host, &mut down, &mut watched.lag_ns);
            (watched.up, watched.down) = (up.counters(), down.counters());
            let now = clock(ClockId::Monotonic);
            if let Some(share) = second.over(now) {
                watched.cpu_share_max = watched.cpu_share_max.max(share);
            }
            watched.cpu = clock(ClockId::ThreadCPUTime).saturating_sub(counted_cpu);
            watched.until = now;
            drop(watched);
            if more {
                continue;
            }
            // The second's end wakes an idle relay too, so that a busy second is not watered down by idle ones.
            let wake = [up.due(), down.due()]
                .into_iter()
                .flatten()
                .fold(second.end(), Duration::min);
            self.sleep_until(wake, stop)?;
            let mut told = [0; 8];
            if rustix::io::read(stop.as_fd(), &mut told).is_ok() && u64::from_ne_bytes(told) >= STOP
            {
                return Ok(());
            }
        }
    }

    /// Until then, or until there is something to read.
    fn sleep_until(&self, wake: Duration, stop: &OwnedFd) -> io::Result<()> {
        let at = Timespec::try_from(wake).map_err(io::Error::other)?;
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: at,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        let mut waits = [
            PollFd::new(&self.host, PollFlags::IN),
            PollFd::new(&self.port, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The CPU of the calling thread, second by second.
struct Second {
    began: Duration,
    cpu: Duration,
}

impl Second {
    fn begin() -> Self {
        Self {
            began: clock(ClockId::Monotonic),
            cpu: clock(ClockId::ThreadCPUTime),
        }
    }

    fn end(&self) -> Duration {
        self.began + Duration::from_secs(1)
    }

    /// The share of a core used in this second, once it is over; then the next begins.
    fn over(&mut self, now: Duration) -> Option<f64> {
        if now < self.end() {
            return None;
        }
        let next = Self::begin();
        let cpu = next.cpu.saturating_sub(self.cpu).as_secs_f64();
        let elapsed = next.began.saturating_sub(self.began).as_secs_f64();
        *self = next;
        Some(cpu / elapsed)
    }
}

/// Reads what is there, [`BATCH`] frames at most; whether there may be more.
fn read(device: &SyncDevice, line: &mut Line, frame: &mut [u8]) -> io::Result<bool> {
    for _ in 0..BATCH {
        match device.recv(frame) {
            Ok(length) => {
                let bytes = frame.get(..length).unwrap_or_default();
                line.take(clock(ClockId::Monotonic), bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Writes all frames that are due.
fn write(device: &SyncDevice, line: &mut Line, lag_ns: &mut Histogram<u64>) {
    loop {
        let now = clock(ClockId::Monotonic);
        let Some((due, frame)) = line.release(now) else {
            return;
        };
        let lag = now.saturating_sub(due).as_nanos();
        lag_ns.saturating_record(u64::try_from(lag).unwrap_or(u64::MAX));
        let sent = device.send(&frame).is_ok();
        line.reuse(frame, sent);
    }
}

/// Enters a namespace with the calling thread and opens a TAP device there that `ip` has made.
fn tap(namespace: &str, device: &str) -> io::Result<SyncDevice> {
    let within = |what: &'static str| {
        move |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{what} {namespace}/{device}: {error}"),
            )
        }
    };
    let file = File::open(Path::new(NAMESPACES).join(namespace)).map_err(within("entering"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| within("entering")(error.into()))?;
    let tap = DeviceBuilder::new()
        .name(device)
        .layer(Layer::L2)
        .inherit_enable_state()
        .build_sync()
        .map_err(within("opening"))?;
    tap.set_nonblocking(true).map_err(within("opening"))?;
    Ok(tap)
}

/// A clock's time since its own zero.
fn clock(id: ClockId) -> Duration {
    // Neither clock goes below its zero.
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> RelayReport {
        RelayReport {
            elapsed_s: 10.0,
            cpu_share: 0.1,
            cpu_share_max: 0.2,
            lag_p50_us: Some(20.0),
            lag_p99_us: Some(200.0),
            lag_max_us: Some(5_000.0),
            up: Counters::default(),
            down: Counters::default(),
            kernel_drops: Some(0),
            failed: None,
        }
    }

    #[test]
    fn a_relay_that_kept_up_has_no_faults() {
        assert_eq!(clean().faults("a"), Vec::<String>::new());
        let mut idle = clean();
        idle.lag_p99_us = None;
        assert!(idle.faults("a").is_empty());
    }

    #[test]
    fn each_way_of_being_the_bottleneck_is_a_fault() {
        type Spoil = fn(&mut RelayReport);
        let cases: [(Spoil, &str); 7] = [
            (|report| report.cpu_share_max = 0.8, "80 % of a core"),
            (|report| report.lag_p99_us = Some(1_200.0), "1.20 ms"),
            (|report| report.up.overflowed = 3, "no room for 3 frames"),
            (|report| report.down.refused = 2, "refused 2 frames"),
            (|report| report.kernel_drops = Some(9), "dropped 9 frames"),
            (|report| report.kernel_drops = None, "could not be read"),
            (
                |report| report.failed = Some("EIO".into()),
                "ended early: EIO",
            ),
        ];
        for (spoil, said) in cases {
            let mut report = clean();
            spoil(&mut report);
            let faults = report.faults("a");
            assert_eq!(faults.len(), 1);
            assert!(faults[0].contains(said), "{faults:?}");
        }
    }
}
