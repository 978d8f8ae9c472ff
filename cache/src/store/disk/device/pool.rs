//! A device moved by threads: one blocking system call at a time on each.
//!
//! For machines that refuse io_uring. Operations wait in one queue, first come first served; threads are started as work waits for one, end with the
//! device, and are its own, so that a disk that hangs holds up nobody else's.

use std::{collections::VecDeque, io, sync::Arc, thread, time::Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    super::DiskFuture,
    Device, END_WAIT, Extent, IoBuf, READS_WAITING_MAX, answer, failed,
    file::{BlockFile, check_transfer},
    too_many_reads,
};

/// Threads of one device: its depth. A thread costs a stack of 128 KiB, touched as far as it is used.
pub const THREADS_MAX: usize = 16;

const STACK_BYTES: usize = 128 * 1024;

/// A device moved by threads.
#[derive(Debug)]
pub(super) struct ThreadPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<BlockFile>,
    jobs: Mutex<Jobs>,
    work: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    queue: VecDeque<Job>,
    /// Reads in the queue.
    reads: usize,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    closing: bool,
}

#[derive(Debug)]
enum Job {
    Read(Extent, oneshot::Sender<io::Result<IoBuf>>),
    Write(u64, Arc<IoBuf>, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
}

impl ThreadPool {
    /// Threads over this file. None runs yet.
    pub(super) fn new(file: Arc<BlockFile>) -> Self {
        let shared = Arc::new(Shared {
            file,
            jobs: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        Self { shared }
    }

    /// Puts a job in the queue, and a thread to it if all are at work.
    fn start(&self, job: Job) -> io::Result<()> {
        let mut jobs = self.shared.jobs.lock();
        if matches!(job, Job::Read(..)) {
            if jobs.reads >= READS_WAITING_MAX {
                return Err(too_many_reads());
            }
            jobs.reads += 1;
        }
        jobs.queue.push_back(job);
        if jobs.queue.len() > jobs.idle && jobs.threads < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("disk".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run());
            match started {
                Ok(_) => jobs.threads += 1,
                // Those that run get to it.
                Err(_) if jobs.threads > 0 => {}
                Err(error) => {
                    let job = jobs.queue.pop_back().expect("it was put there above");
                    jobs.reads -= usize::from(matches!(job, Job::Read(..)));
                    return Err(error);
                }
            }
        }
        drop(jobs);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Device for ThreadPool {
    fn read(&self, extent: Extent) -> DiskFuture<'static, io::Result<IoBuf>> {
        if let Err(error) = check_transfer(extent.offset, extent.len) {
            return failed(error);
        }
        let (sender, receiver) = oneshot::channel();
        match self.start(Job::Read(extent, sender)) {
            Ok(()) => answer(receiver),
            Err(error) => failed(error),
        }
    }

    fn write(&self, offset: u64, buffer: Arc<IoBuf>) -> DiskFuture<'static, io::Result<()>> {
        if let Err(error) = check_transfer(offset, buffer.len()) {
            return failed(error);
        }
        let (sender, receiver) = oneshot::channel();
        match self.start(Job::Write(offset, buffer, sender)) {
            Ok(()) => answer(receiver),
            Err(error) => failed(error),
        }
    }

    fn sync(&self) -> DiskFuture<'static, io::Result<()>> {
        let (sender, receiver) = oneshot::channel();
        match self.start(Job::Sync(sender)) {
            Ok(()) => answer(receiver),
            Err(error) => failed(error),
        }
    }

    fn allocate(&self, extent: Extent) -> io::Result<()> {
        self.shared.file.allocate(extent)
    }

    fn len(&self) -> u64 {
        self.shared.file.len()
    }
}

impl Drop for ThreadPool {
    /// Waits for what is in the queue: it was promised to whoever dropped the futures.
    fn drop(&mut self) {
        let mut jobs = self.shared.jobs.lock();
        jobs.closing = true;
        self.shared.work.notify_all();
        let until = Instant::now() + END_WAIT;
        while jobs.threads > 0 {
            if self.shared.ended.wait_until(&mut jobs, until).timed_out() {
                tracing::warn!(
                    threads = jobs.threads,
                    waiting = jobs.queue.len(),
                    "the disk does not answer: its threads are left behind"
                );
                return;
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let _end = End(self);
        while let Some(job) = self.next() {
            self.perform(job);
        }
    }

    /// The job whose turn it is; none when the device is closed and all is done.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = jobs.queue.pop_front() {
                jobs.reads -= usize::from(matches!(job, Job::Read(..)));
                return Some(job);
            }
            if jobs.closing {
                return None;
            }
            jobs.idle += 1;
            self.work.wait(&mut jobs);
            jobs.idle -= 1;
        }
    }

    /// Nobody may want the answer any more; a read is then not worth the device's time.
    fn perform(&self, job: Job) {
        match job {
            Job::Read(_, sender) if sender.is_closed() => {}
            Job::Read(extent, sender) => drop(sender.send(self.file.read(extent))),
            Job::Write(offset, buffer, sender) => {
                let written = self.file.write(offset, &buffer);
                drop(buffer);
                drop(sender.send(written));
            }
            Job::Sync(sender) => drop(sender.send(self.file.sync())),
        }
    }
}

/// Counts a thread out, however it ends.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.jobs.lock().threads -= 1;
        self.0.ended.notify_all();
    }
}
