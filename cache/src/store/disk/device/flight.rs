//! An operation that a ring has: what it owns until the kernel has answered, and what the answers mean.

use std::{io, sync::Arc};

use io_uring::{opcode, squeue, types};
use tokio::sync::oneshot;

use super::{BLOCK_BYTES, Extent, IoBuf, file::BlockFile, job::Job};

/// How often an operation is begun again that the kernel says it had no means for just now.
const TRIES_MAX: u8 = 100;

/// An operation under way.
pub(super) struct Flight {
    file: Arc<BlockFile>,
    work: Work,
    /// Bytes moved so far.
    done: usize,
    tries: u8,
}

enum Work {
    Read(Extent, IoBuf, oneshot::Sender<io::Result<IoBuf>>),
    Write(u64, Arc<IoBuf>, oneshot::Sender<io::Result<()>>),
    Sync(oneshot::Sender<io::Result<()>>),
}

/// What an answer of the kernel means for an operation.
pub(super) enum Next {
    /// There is more to move, or it was not begun.
    Again,
    Done(io::Result<()>),
}

impl Flight {
    pub(super) fn new(file: Arc<BlockFile>, job: Job) -> Self {
        let work = match job {
            Job::Read(extent, sender) => {
                Work::Read(extent, IoBuf::to_read_into(extent.len), sender)
            }
            Job::Write(offset, buffer, sender) => Work::Write(offset, buffer, sender),
            Job::Sync(sender) => Work::Sync(sender),
        };
        Self {
            file,
            work,
            done: 0,
            tries: 0,
        }
    }

    /// What the kernel is told of what is left to do. It names memory and a descriptor that this owns.
    pub(super) fn entry(&mut self, registered: bool) -> squeue::Entry {
        let fd = types::Fd(self.file.fd());
        // Lengths are bounded far below 4 GiB by `check_transfer`.
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match &mut self.work {
            Work::Read(extent, buffer, _) => {
                let rest = buffer.get_mut(self.done..).unwrap_or_default();
                let (start, len) = (rest.as_mut_ptr(), len(rest));
                let offset = extent.offset + self.done as u64;
                if registered && buffer.is_registered() {
                    let read = opcode::ReadFixed::new(fd, start, len, 0);
                    read.offset(offset).build()
                } else {
                    opcode::Read::new(fd, start, len).offset(offset).build()
                }
            }
            Work::Write(offset, buffer, _) => {
                let rest = buffer.get(self.done..).unwrap_or_default();
                let (start, len) = (rest.as_ptr(), len(rest));
                let offset = *offset + self.done as u64;
                if registered && buffer.is_registered() {
                    let write = opcode::WriteFixed::new(fd, start, len, 0);
                    write.offset(offset).build()
                } else {
                    opcode::Write::new(fd, start, len).offset(offset).build()
                }
            }
            Work::Sync(_) => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }

    /// Takes the kernel's answer.
    pub(super) fn answer(&mut self, result: i32) -> Next {
        let Ok(moved) = usize::try_from(result) else {
            let errno = -result;
            if matches!(errno, libc::EAGAIN | libc::EINTR) && self.tries < TRIES_MAX {
                self.tries += 1;
                return Next::Again;
            }
            return Next::Done(Err(io::Error::from_raw_os_error(errno)));
        };
        self.done += moved;
        match &self.work {
            Work::Read(_, buffer, _) if self.done >= buffer.len() => Next::Done(Ok(())),
            // Less than a block is moved only where the file ends.
            Work::Read(..) if moved == 0 || !self.done.is_multiple_of(BLOCK_BYTES) => {
                Next::Done(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Work::Write(_, buffer, _) if self.done >= buffer.len() => Next::Done(Ok(())),
            Work::Write(..) if moved == 0 => Next::Done(Err(io::ErrorKind::WriteZero.into())),
            Work::Read(..) | Work::Write(..) => Next::Again,
            Work::Sync(_) => Next::Done(Ok(())),
        }
    }

    /// Answers whoever waits.
    pub(super) fn end(self, result: io::Result<()>) {
        let Self { file, work, .. } = self;
        match work {
            Work::Read(_, buffer, sender) => drop(sender.send(result.map(|()| buffer))),
            Work::Write(offset, buffer, sender) => {
                if result.is_ok() {
                    file.reaches(offset.saturating_add(buffer.len() as u64));
                }
                drop((buffer, file));
                drop(sender.send(result));
            }
            Work::Sync(sender) => drop(sender.send(result)),
        }
    }

    /// Answers that the kernel never took it.
    pub(super) fn broken(self) {
        self.end(Err(io::Error::other("the ring broke before its turn")));
    }
}
