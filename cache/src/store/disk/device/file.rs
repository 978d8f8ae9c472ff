//! The file under a device: blocks by plain system calls, and how far it reaches.
//!
//! Both engines stand on it: what is asked of them is checked here once, before a kernel sees it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{BLOCK_BYTES, EXTENT_BYTES_MAX, Extent, IoBuf};

/// Numbers files.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file of blocks.
#[derive(Debug)]
pub(super) struct BlockFile {
    file: File,
    number: u64,
    len: AtomicU64,
}

impl BlockFile {
    /// Opens the file to read and write, made with mode 0600 where it is absent. `direct` passes the page cache by.
    pub(super) fn open(path: &Path, direct: bool) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | if direct { libc::O_DIRECT } else { 0 })
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(Self {
            file,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            len: AtomicU64::new(metadata.len()),
        })
    }

    /// A number that no other file of this process has or had.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Bytes the file has room for.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Notes that the file reaches to here now.
    pub(super) fn reaches(&self, end: u64) {
        self.len.fetch_max(end, Ordering::AcqRel);
    }

    /// Makes room; see [`super::Device::allocate`].
    pub(super) fn allocate(&self, extent: Extent) -> io::Result<()> {
        let end = check(extent.offset, extent.len as u64)?;
        // Asked for more than there is, a filesystem takes all it has before it says no and gives it back: meanwhile it is full for everybody.
        let room = rustix::fs::fstatvfs(&self.file)?;
        let new = end.saturating_sub(extent.offset.max(self.file.metadata()?.len()));
        // Some do not tell.
        let is_known = room.f_blocks > 0;
        if is_known && new > room.f_bavail.saturating_mul(room.f_frsize) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let allocated = loop {
            let flags = FallocateFlags::empty();
            match rustix::fs::fallocate(&self.file, flags, extent.offset, extent.len as u64) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        match allocated {
            // A filesystem that promises no room: the file gets its length, and a write may find the filesystem full.
            Err(Errno::OPNOTSUPP) if self.file.metadata()?.len() < end => self.file.set_len(end)?,
            Err(Errno::OPNOTSUPP) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        self.reaches(end);
        Ok(())
    }

    /// Reads blocks, waiting for them.
    pub(super) fn read(&self, extent: Extent) -> io::Result<IoBuf> {
        let mut buffer = IoBuf::to_read_into(extent.len);
        self.file.read_exact_at(&mut buffer, extent.offset)?;
        Ok(buffer)
    }

    /// Writes blocks, waiting for them.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.reaches(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Waits until what was written is there for good.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Sets the length; for the probe alone.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }
}

/// Whether these are whole blocks that a file can have; their end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`].
pub(super) fn check(offset: u64, len: u64) -> io::Result<u64> {
    let end = offset
        .checked_add(len)
        .filter(|end| i64::try_from(*end).is_ok());
    let block = BLOCK_BYTES as u64;
    match end {
        Some(end) if len > 0 && offset.is_multiple_of(block) && len.is_multiple_of(block) => {
            Ok(end)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len} bytes at {offset} are not blocks of {block} bytes"),
        )),
    }
}

/// Whether these blocks may be read or written in one operation; their end.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`].
pub(super) fn check_transfer(offset: u64, len: usize) -> io::Result<u64> {
    if len > EXTENT_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{len} bytes in one operation are more than {EXTENT_BYTES_MAX}"),
        ));
    }
    check(offset, len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_within_reach_of_a_file_pass() {
        assert_eq!(check_transfer(4096, 8192).unwrap(), 12_288);
        for (offset, len) in [
            (0, 0),
            (1, 4096),
            (0, 4095),
            (u64::MAX - 4095, 4096),
            (i64::MAX as u64 - 4095, 4096),
            (0, EXTENT_BYTES_MAX + 4096),
        ] {
            let error = check_transfer(offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{offset} {len}");
        }
    }
}
