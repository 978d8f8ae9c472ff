//! The flood: frames that the kernel sends again and again by the client's interface, each from another source, at a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use rustix::time::{ClockId, clock_gettime};

use crate::edge::PORT;
use crate::frame::{Packet, initial, short};
use crate::generator::{BATCH, Generator, Vary};
use crate::lab::{CLIENT_LINK, Lab};

/// How often a part of them is sent.
const TICK: Duration = Duration::from_millis(5);
/// What could not be sent for longer than this, while others had the processor, is not made up for.
const ARREARS_MAX: Duration = Duration::from_millis(100);
/// Nobody's.
pub(crate) const NOBODYS_PORT: u16 = 4444;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frames {
    /// Initials without a token, from anywhere, each to another ID.
    Initials,
    /// The same to a port on which nobody listens.
    Elsewhere,
    /// Short headers whose connection ID nobody issued.
    WrongTags,
}

impl Frames {
    fn frame(self) -> (Vec<u8>, Vary) {
        let source = "198.18.0.1";
        let (packet, id) = match self {
            Self::Initials => (Packet::udp(source, PORT, &initial(&[1; 8], 1200)), true),
            Self::Elsewhere => {
                let payload = initial(&[1; 8], 1200);
                (Packet::udp(source, NOBODYS_PORT, &payload), true)
            }
            Self::WrongTags => (Packet::udp(source, PORT, &short(&[1; 12], 1200)), false),
        };
        let mut bytes = packet.bytes();
        // The generator sums the header anew; a checksum of UDP may be absent.
        bytes[40..42].fill(0);
        let vary = Vary {
            address: true,
            anywhere: true,
            port: true,
            id,
        };
        (bytes, vary)
    }
}

/// What a flood came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    pub(crate) took: Duration,
    /// Of the sending thread, in the kernel nearly all; what the receiving interface spends in its context included.
    pub(crate) cpu: Duration,
}

/// Goes on until it is stopped.
#[derive(Debug)]
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Sent>>,
}

impl Flood {
    /// Begins one of so many frames a second.
    pub(crate) fn begin(lab: &Lab, frames: Frames, per_second: u32) -> Self {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = lab.on_client(move || send(frames, per_second, &stopping, &counting));
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Frames so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn end(mut self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // One whose test failed.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}

fn send(frames: Frames, per_second: u32, stop: &AtomicBool, sent: &AtomicU64) -> Sent {
    let (frame, vary) = frames.frame();
    let generator = Generator::load(vary);
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    let index = name_to_index(&any, CLIENT_LINK).unwrap();
    let frames_in = |time: Duration| {
        u64::try_from(time.as_micros()).unwrap() * u64::from(per_second) / 1_000_000
    };
    let arrears_max = frames_in(ARREARS_MAX);
    let (begun, cpu) = (Instant::now(), thread_cpu());
    let mut forgone = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = frames_in(begun.elapsed()) - forgone - sent.load(Ordering::Relaxed);
        forgone += due.saturating_sub(arrears_max);
        let now = u32::try_from(due.min(arrears_max)).unwrap();
        if now >= BATCH {
            generator.send(index, &frame, now);
            sent.fetch_add(now.into(), Ordering::Relaxed);
        }
        std::thread::park_timeout(TICK);
    }
    Sent {
        frames: sent.load(Ordering::Relaxed),
        took: begun.elapsed(),
        cpu: thread_cpu() - cpu,
    }
}
