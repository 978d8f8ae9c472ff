//! A device moved by threads: one blocking system call at a time on each.
//!
//! For machines that refuse io_uring. Operations wait in one queue, first come first served; threads are started as work waits for one, end with the
//! device, and are its own, so that a disk that hangs holds up nobody else's.

use std::{collections::VecDeque, sync::Arc, thread, time::Instant};

use parking_lot::{Condvar, Mutex};

use super::{
    END_WAIT, READS_WAITING_MAX,
    file::BlockFile,
    job::{Job, Jobs, too_many_reads},
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
    queue: Mutex<Queue>,
    work: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Reads in the queue.
    reads: usize,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    closing: bool,
}

impl ThreadPool {
    /// Threads over this file. None runs yet.
    pub(super) fn new(file: Arc<BlockFile>) -> Self {
        let shared = Arc::new(Shared {
            file,
            queue: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        Self { shared }
    }

    /// Puts a job in the queue, and a thread to it if all are at work.
    fn start_one(&self, job: Job) {
        let mut queue = self.shared.queue.lock();
        if job.is_read() {
            if queue.reads >= READS_WAITING_MAX {
                drop(queue);
                return job.fail(too_many_reads());
            }
            queue.reads += 1;
        }
        queue.jobs.push_back(job);
        if queue.jobs.len() > queue.idle && queue.threads < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("disk".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run());
            match started {
                Ok(_) => queue.threads += 1,
                // Those that run get to it.
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    if let Some(job) = queue.jobs.pop_back() {
                        queue.reads -= usize::from(job.is_read());
                        drop(queue);
                        job.fail(error);
                    }
                    return;
                }
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }
}

impl Jobs for ThreadPool {
    fn start(&self, jobs: Vec<Job>) {
        jobs.into_iter().for_each(|job| self.start_one(job));
    }

    fn file(&self) -> &BlockFile {
        &self.shared.file
    }
}

impl Drop for ThreadPool {
    /// Waits for what is in the queue: it was promised to whoever dropped the futures.
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closing = true;
        self.shared.work.notify_all();
        let until = Instant::now() + END_WAIT;
        while queue.threads > 0 {
            if self.shared.ended.wait_until(&mut queue, until).timed_out() {
                tracing::warn!(
                    threads = queue.threads,
                    waiting = queue.jobs.len(),
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
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.reads -= usize::from(job.is_read());
                return Some(job);
            }
            if queue.closing {
                return None;
            }
            queue.idle += 1;
            self.work.wait(&mut queue);
            queue.idle -= 1;
        }
    }

    /// Nobody may want the answer any more; a read is then not worth the device's time.
    fn perform(&self, job: Job) {
        match job {
            job if job.is_forgotten() => {}
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
        self.0.queue.lock().threads -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::oneshot;

    use super::*;
    use crate::store::disk::device::Extent;

    #[tokio::test]
    async fn reads_beyond_what_may_wait_are_refused_and_writes_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = BlockFile::open(&directory.path().join("log"), false).unwrap();
        let pool = ThreadPool::new(Arc::new(file));
        pool.shared.queue.lock().reads = READS_WAITING_MAX;
        let (sender, receiver) = oneshot::channel();
        let extent = Extent {
            offset: 0,
            len: 4096,
        };
        pool.start(vec![Job::Read(extent, sender)]);
        let refused = receiver.await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let (sender, receiver) = oneshot::channel();
        pool.start(vec![Job::Sync(sender)]);
        receiver.await.unwrap().unwrap();
    }
}
