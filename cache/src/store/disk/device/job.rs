//! What an engine is asked to do, and the device in front of every engine.

use std::{io, sync::Arc};

use tokio::sync::oneshot;

use super::{
    super::DiskFuture,
    Device, Extent, IoBuf, READS_WAITING_MAX,
    file::{BlockFile, check_transfer},
};

/// An operation, with where its answer goes. Nobody may listen there any more.
#[derive(Debug)]
pub(super) enum Job {
    Read(Extent, oneshot::Sender<io::Result<IoBuf>>),
    Write(u64, Arc<IoBuf>, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
}

impl Job {
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Read(..))
    }

    /// Whether it is not worth the device's time: a read whose bytes nobody waits for.
    pub(super) fn is_forgotten(&self) -> bool {
        matches!(self, Self::Read(_, sender) if sender.is_closed())
    }

    pub(super) fn fail(self, error: io::Error) {
        match self {
            Self::Read(_, sender) => drop(sender.send(Err(error))),
            Self::Write(.., sender) | Self::Sync(sender) => drop(sender.send(Err(error))),
        }
    }
}

/// Takes jobs, and answers each once, also when it cannot begin it.
pub(super) trait Jobs {
    /// Begins jobs, those it can at once.
    fn start(&self, jobs: Vec<Job>);

    fn file(&self) -> &BlockFile;
}

/// An engine as a device: what is asked is checked, in order of place, and waited for.
#[derive(Debug)]
pub(super) struct ByJobs<E>(pub(super) E);

impl<E: Jobs + Send + Sync + std::fmt::Debug> Device for ByJobs<E> {
    fn read(&self, extent: Extent) -> DiskFuture<'static, io::Result<IoBuf>> {
        if let Err(error) = check_transfer(extent.offset, extent.len) {
            return failed(error);
        }
        let (sender, receiver) = oneshot::channel();
        self.0.start(vec![Job::Read(extent, sender)]);
        answer(receiver)
    }

    fn read_many(&self, extents: &[Extent]) -> Vec<DiskFuture<'static, io::Result<IoBuf>>> {
        let mut jobs = Vec::with_capacity(extents.len());
        let answers = extents.iter().map(|extent| {
            if let Err(error) = check_transfer(extent.offset, extent.len) {
                return failed(error);
            }
            let (sender, receiver) = oneshot::channel();
            jobs.push((extent.offset, Job::Read(*extent, sender)));
            answer(receiver)
        });
        let answers = answers.collect();
        jobs.sort_by_key(|(offset, _)| *offset);
        self.0.start(jobs.into_iter().map(|(_, job)| job).collect());
        answers
    }

    fn write(&self, offset: u64, buffer: Arc<IoBuf>) -> DiskFuture<'static, io::Result<()>> {
        if let Err(error) = check_transfer(offset, buffer.len()) {
            return failed(error);
        }
        let (sender, receiver) = oneshot::channel();
        self.0.start(vec![Job::Write(offset, buffer, sender)]);
        answer(receiver)
    }

    fn sync(&self) -> DiskFuture<'static, io::Result<()>> {
        let (sender, receiver) = oneshot::channel();
        self.0.start(vec![Job::Sync(sender)]);
        answer(receiver)
    }

    fn allocate(&self, extent: Extent) -> io::Result<()> {
        self.0.file().allocate(extent)
    }

    fn len(&self) -> u64 {
        self.0.file().len()
    }
}

/// The future of an operation that answers here.
fn answer<T: Send + 'static>(
    receiver: oneshot::Receiver<io::Result<T>>,
) -> DiskFuture<'static, io::Result<T>> {
    Box::pin(async move {
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the device ended before its answer")))
    })
}

/// The future of an operation that is not begun.
pub(super) fn failed<T: Send + 'static>(error: io::Error) -> DiskFuture<'static, io::Result<T>> {
    Box::pin(std::future::ready(Err(error)))
}

pub(super) fn too_many_reads() -> io::Error {
    io::Error::new(
        io::ErrorKind::WouldBlock,
        format!("{READS_WAITING_MAX} reads wait for the disk already"),
    )
}
