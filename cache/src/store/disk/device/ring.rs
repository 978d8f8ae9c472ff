//! A ring of io_uring: one to a device in each thread and runtime that uses it.
//!
//! What the kernel may touch (buffers, files) lies in the ring until the kernel has answered, whoever has lost interest meanwhile. The kernel has at most
//! [`IN_FLIGHT_MAX`] operations; what comes on top waits its turn here. A task on the runtime takes the answers when the ring's file says that
//! there are some; it ends with the runtime, and the ring with it.
//!
//! The kernel posts answers in the context of the thread that asked, the next time that thread is in the kernel (`COOP_TASKRUN`). The stricter
//! flags for single issuers are left out: any thread may take a ring's answers, so that the end of a device need not find the thread that made them.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, io, mem,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use io_uring::{EnterFlags, IoUring, Probe, opcode};
use parking_lot::Mutex;
use slab::Slab;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Handle, Id},
    sync::Notify,
};

use super::{
    END_WAIT, READS_WAITING_MAX,
    arena::Arena,
    file::BlockFile,
    flight::{Flight, Next},
    job::{Job, too_many_reads},
};

/// Operations of one ring that the kernel has at a time. It has twice the room for answers, so that they cannot overflow.
pub const IN_FLIGHT_MAX: usize = 256;

/// How often the kernel is given again what it had no means to take.
const TRIES_MAX: u8 = 100;

/// Refusals of rings that a thread remembers; beyond, they are tried again.
const REFUSALS_MAX: usize = 64;

/// A ring.
pub(super) struct Ring {
    state: Mutex<State>,
    /// Told when the kernel did not take what it was given, or the device has ended.
    again: Notify,
    closed: AtomicBool,
}

struct State {
    uring: IoUring,
    /// Whether the kernel knows the arena of buffers as its buffer 0.
    registered: bool,
    /// What the kernel has, or is about to.
    flights: Slab<Flight>,
    waiting: VecDeque<(Arc<BlockFile>, Job)>,
    /// Reads among them.
    reads_waiting: usize,
    /// What the kernel has not taken from the queue of submissions yet, in its order.
    unsubmitted: VecDeque<usize>,
    tries: u8,
    broken: bool,
}

thread_local! {
    /// This thread's rings by runtime and number of the device's file, `None` where none can be had.
    static RINGS: RefCell<Vec<(Key, Option<Weak<Ring>>)>> = const { RefCell::new(Vec::new()) };
}

type Key = (Id, u64);

impl Ring {
    /// The ring of this device in this thread and the runtime it runs in. When it is first asked for it is made, and added to the device's rings. None
    /// outside a runtime, or where the kernel refuses one, which is logged once and remembered.
    pub(super) fn of(file: &BlockFile, rings: &Mutex<Vec<Weak<Self>>>) -> Option<Arc<Self>> {
        let runtime = Handle::try_current().ok()?;
        let key = (runtime.id(), file.number());
        RINGS.with_borrow_mut(|known| {
            if let Some((_, ring)) = known.iter().find(|(of, _)| *of == key) {
                match ring.as_ref().map(Weak::upgrade) {
                    None => return None,
                    Some(Some(ring)) => return Some(ring),
                    Some(None) => {}
                }
            }
            // What has ended with its runtime or device is forgotten, and refusals when they become many.
            let forgiving = known.len() >= REFUSALS_MAX;
            known.retain(|(of, ring)| match ring {
                Some(ring) => *of != key && ring.strong_count() > 0,
                None => !forgiving,
            });
            let made = Self::make(&runtime).inspect_err(|error| {
                tracing::warn!(%error, "no ring of io_uring to be had: threads instead");
            });
            let made = made.ok();
            if let Some(made) = &made {
                let mut rings = rings.lock();
                rings.retain(|ring| ring.strong_count() > 0);
                rings.push(Arc::downgrade(made));
            }
            known.push((key, made.as_ref().map(Arc::downgrade)));
            made
        })
    }

    /// A ring, and the task that takes its answers.
    fn make(runtime: &Handle) -> io::Result<Arc<Self>> {
        let uring = set_up(IN_FLIGHT_MAX)?;
        let registered = register(&uring);
        let fd = uring.as_fd().try_clone_to_owned()?;
        let ready = watch(fd)?;
        let ring = Arc::new(Self {
            state: Mutex::new(State {
                uring,
                registered,
                flights: Slab::with_capacity(IN_FLIGHT_MAX),
                waiting: VecDeque::new(),
                reads_waiting: 0,
                unsubmitted: VecDeque::new(),
                tries: 0,
                broken: false,
            }),
            again: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let driver = Driver {
            ready,
            ring: Arc::clone(&ring),
        };
        drop(runtime.spawn(driver.run()));
        Ok(ring)
    }

    /// Begins jobs with one call to the kernel. `Err` gives them back: the ring is broken.
    pub(super) fn start(&self, file: &Arc<BlockFile>, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let mut refused = Vec::new();
        let mut state = self.state.lock();
        if state.broken {
            return Err(jobs);
        }
        for job in jobs {
            if state.flights.len() < IN_FLIGHT_MAX && state.waiting.is_empty() {
                state.launch(Arc::clone(file), job);
            } else if job.is_read() && state.reads_waiting >= READS_WAITING_MAX {
                refused.push(job);
            } else {
                state.reads_waiting += usize::from(job.is_read());
                state.waiting.push_back((Arc::clone(file), job));
            }
        }
        let failed = state.submit();
        let again = !state.unsubmitted.is_empty();
        drop(state);
        if again {
            self.again.notify_one();
        }
        refused
            .into_iter()
            .for_each(|job| job.fail(too_many_reads()));
        failed.into_iter().for_each(Flight::broken);
        Ok(())
    }

    /// Takes the kernel's answers, and gives it what waits.
    pub(super) fn reap(&self) {
        let mut ended = Vec::new();
        let mut state = self.state.lock();
        let failed = state.reap(&mut ended);
        let again = !state.unsubmitted.is_empty();
        drop(state);
        if again {
            self.again.notify_one();
        }
        for (flight, result) in ended {
            flight.end(result);
        }
        failed.into_iter().for_each(Flight::broken);
    }

    /// Ends the ring's task: the device has ended.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.again.notify_one();
    }
}

impl State {
    /// Puts a job into the queue of submissions; there is room.
    fn launch(&mut self, file: Arc<BlockFile>, job: Job) {
        let key = self.flights.insert(Flight::new(file, job));
        self.push(key);
    }

    #[expect(
        unsafe_code,
        reason = "the kernel is told where to read and write in this process's memory"
    )]
    fn push(&mut self, key: usize) {
        let Some(flight) = self.flights.get_mut(key) else {
            return;
        };
        let entry = flight.entry(self.registered).user_data(key as u64);
        // SAFETY: the entry names memory of a buffer and the descriptor of a file that the flight owns. The flight stays in the slab until
        // the kernel has answered, and if it never does, both are leaked. A buffer that is read into has no other owner; one that is written from
        // is not changed while it is shared.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // There are as many entries as flights at most.
        debug_assert!(pushed.is_ok(), "the queue of submissions is full");
        self.unsubmitted.push_back(key);
    }

    /// Gives the kernel what is in the queue of submissions. What comes back is lost, and the ring with it.
    fn submit(&mut self) -> Vec<Flight> {
        while !self.unsubmitted.is_empty() {
            match self.uring.submit() {
                Ok(taken) => {
                    self.tries = 0;
                    self.unsubmitted.drain(..taken.min(self.unsubmitted.len()));
                    if taken == 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // No memory just now, or answers must be taken first: the driver comes back to it.
                Err(error)
                    if self.tries < TRIES_MAX
                        && matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) =>
                {
                    self.tries += 1;
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "a ring of io_uring broke: threads from now on");
                    return self.fail();
                }
            }
        }
        Vec::new()
    }

    /// Ends the ring: what the kernel has not taken comes back, what it has taken it answers still, what waits is dropped, which answers it.
    fn fail(&mut self) -> Vec<Flight> {
        self.broken = true;
        self.waiting.clear();
        self.reads_waiting = 0;
        let unsubmitted = mem::take(&mut self.unsubmitted);
        unsubmitted
            .into_iter()
            .filter_map(|key| self.flights.try_remove(key))
            .collect()
    }

    /// Lets the kernel post the answers it has ready, if it says that this needs a call.
    #[expect(
        unsafe_code,
        reason = "the crate has no other call that submits nothing"
    )]
    fn run_tasks(&mut self) {
        if self.uring.submission().taskrun() {
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: nothing is submitted or waited for, and there is no argument.
            let entered = unsafe { self.uring.submitter().enter::<()>(0, 0, flags, None) };
            // Interrupted at worst: the ring's file stays ready then.
            drop(entered);
        }
    }

    fn reap(&mut self, ended: &mut Vec<(Flight, io::Result<()>)>) -> Vec<Flight> {
        self.run_tasks();
        let answers: Vec<(u64, i32)> = {
            let queue = self.uring.completion();
            queue
                .map(|entry| (entry.user_data(), entry.result()))
                .collect()
        };
        for (key, result) in answers {
            let Ok(key) = usize::try_from(key) else {
                continue;
            };
            let next = self
                .flights
                .get_mut(key)
                .map(|flight| flight.answer(result));
            match next {
                Some(Next::Again) if !self.broken => self.push(key),
                Some(Next::Again) => {
                    let lost = io::Error::other("the ring broke half way");
                    let flight = self.flights.try_remove(key);
                    ended.extend(flight.map(|flight| (flight, Err(lost))));
                }
                Some(Next::Done(result)) => {
                    let flight = self.flights.try_remove(key);
                    ended.extend(flight.map(|flight| (flight, result)));
                }
                None => {}
            }
        }
        while self.flights.len() < IN_FLIGHT_MAX
            && let Some((file, job)) = self.waiting.pop_front()
        {
            self.reads_waiting -= usize::from(job.is_read());
            if !job.is_forgotten() {
                self.launch(file, job);
            }
        }
        self.submit()
    }
}

impl Drop for Ring {
    /// Waits for what is under way. What the kernel does not give back is leaked: it may still write there.
    fn drop(&mut self) {
        let until = Instant::now() + END_WAIT;
        loop {
            self.reap();
            let state = self.state.get_mut();
            if state.flights.is_empty() {
                return;
            }
            if Instant::now() > until {
                tracing::warn!(
                    operations = state.flights.len(),
                    "the disk does not answer: memory it may write to is left behind"
                );
                mem::forget(mem::take(&mut state.flights));
                return;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// The task of a ring. It leaves the runtime's list of files before the ring goes.
struct Driver {
    ready: AsyncFd<OwnedFd>,
    ring: Arc<Ring>,
}

impl Driver {
    async fn run(self) {
        loop {
            // Both may be cancelled: neither takes anything away.
            tokio::select! {
                ready = self.ready.readable() => match ready {
                    // Cleared before the answers are taken, so that one that comes meanwhile is seen.
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                () = self.ring.again.notified() => tokio::task::yield_now().await,
            }
            self.ring.reap();
            if self.ring.closed.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// Wakes when a ring's descriptor becomes readable.
#[expect(unsafe_code, reason = "asked for by the runtime")]
fn watch(ring: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, gives the same number each time, and is not closed before the `AsyncFd` gives it up.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// Makes the memory of buffers known to a ring; whether that is so. It is locked by that, which a limit may forbid.
#[expect(
    unsafe_code,
    reason = "the kernel keeps hold of memory of this process"
)]
fn register(uring: &IoUring) -> bool {
    let Some(arena) = Arena::get() else {
        return false;
    };
    // SAFETY: the arena is never freed.
    let registered = unsafe { uring.submitter().register_buffers(&[arena.whole()]) };
    if let Err(error) = &registered {
        tracing::debug!(%error, "buffers are not registered with io_uring (ulimit -l)");
    }
    registered.is_ok()
}

/// A ring with room for this many operations, with the flags that the kernel knows.
fn set_up(entries: usize) -> io::Result<IoUring> {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    let cooperative = IoUring::builder()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    match cooperative {
        // Linux before 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries),
        other => other,
    }
}

/// Tries whether rings work here: an operation that does nothing, and all that are used known.
///
/// # Errors
/// Says what stands against them.
pub(super) fn probe() -> Result<(), String> {
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        Some(libc::EPERM) => {
            "io_uring is forbidden here (seccomp, or the sysctl kernel.io_uring_disabled)"
                .to_owned()
        }
        Some(libc::ENOMEM) => {
            "there is no memory to lock for io_uring (ulimit -l, or the unit's LimitMEMLOCK)"
                .to_owned()
        }
        _ => format!("io_uring cannot be set up: {error}"),
    };
    let mut uring = set_up(IN_FLIGHT_MAX).map_err(refused)?;
    let mut known = Probe::new();
    uring
        .submitter()
        .register_probe(&mut known)
        .map_err(refused)?;
    for code in [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE] {
        if !known.is_supported(code) {
            return Err("this kernel's io_uring is too old (Linux 5.6 is needed)".to_owned());
        }
    }
    nop(&mut uring).map_err(refused)
}

#[expect(unsafe_code, reason = "every entry of a ring is a claim to the kernel")]
fn nop(uring: &mut IoUring) -> io::Result<()> {
    let entry = opcode::Nop::new().build();
    // SAFETY: it names no memory.
    let pushed = unsafe { uring.submission().push(&entry) };
    pushed.map_err(io::Error::other)?;
    uring.submit_and_wait(1)?;
    match uring.completion().next() {
        Some(entry) if entry.result() == 0 => Ok(()),
        Some(entry) => Err(io::Error::from_raw_os_error(-entry.result())),
        None => Err(io::Error::other("no answer")),
    }
}

#[cfg(test)]
mod tests;
