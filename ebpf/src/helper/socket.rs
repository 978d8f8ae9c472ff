//! Whole messages over one socket of a pair, with at most one file beside them, and no wait without an end.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair, sockopt::set_socket_send_buffer_size,
    },
};

use super::wire::MESSAGE_BYTES_MAX;

/// Files that are taken from one message; those beyond it the kernel closes. One is the most that is ever sent.
const FILES_MAX: usize = 1;
/// Interruptions of one wait that are borne; more are an error.
const INTERRUPTIONS_MAX: usize = 1000;

/// One end of a pair that keeps messages apart.
#[derive(Debug)]
pub(super) struct Socket {
    file: OwnedFd,
    buffer: Vec<u8>,
}

/// What came.
#[derive(Debug)]
pub(super) enum Received<'a> {
    /// A message, with the file that came along.
    Message(&'a [u8], Option<OwnedFd>),
    /// A message that did not fit. It is gone.
    TooLong,
    /// The other end is closed.
    End,
}

impl Socket {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self {
            file,
            buffer: vec![0; MESSAGE_BYTES_MAX],
        }
    }

    /// Two ends. Neither is inherited by other processes.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for end in [&one, &other] {
            // Room for a message and the kernel's record of it, also where the machine's default is small.
            set_socket_send_buffer_size(end, 2 * MESSAGE_BYTES_MAX)?;
        }
        Ok((Self::new(one), other))
    }

    /// Sends one message, whole. `TimedOut` where the other end does not read.
    pub(super) fn send(
        &self,
        message: &[u8],
        file: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        for _ in 0..INTERRUPTIONS_MAX {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::Error::other("no room for a file"));
            }
            match sendmsg(
                &self.file,
                &[IoSlice::new(message)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // Tried first, waited for second: such a socket counts as ready only when three quarters of it are free.
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT, Some(deadline))?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// The next message. `TimedOut` where none comes before `deadline`.
    pub(super) fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Received<'_>> {
        for _ in 0..INTERRUPTIONS_MAX {
            self.wait(PollFlags::IN, deadline)?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = match recvmsg(
                &self.file,
                &mut [IoSliceMut::new(&mut self.buffer)],
                &mut control,
                RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::End),
                Err(error) => return Err(error.into()),
            };
            let mut file = None;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(files) = message {
                    // Whatever else came is closed here.
                    file = files.into_iter().next();
                }
            }
            if received.flags.contains(ReturnFlags::TRUNC) {
                return Ok(Received::TooLong);
            }
            return Ok(match self.buffer.get(..received.bytes) {
                None => Received::TooLong,
                // No message is empty, and an end reads as nothing.
                Some([]) => Received::End,
                Some(message) => Received::Message(message, file),
            });
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn wait(&self, for_what: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        for _ in 0..INTERRUPTIONS_MAX {
            let timeout = match deadline {
                None => None,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    Some(Timespec::try_from(left).map_err(io::Error::other)?)
                }
            };
            let mut waiting = [PollFd::new(&self.file, for_what)];
            match poll(&mut waiting, timeout.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                // An end or a fault is ready too: the call that follows says which.
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        time::Duration,
    };

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn pair() -> (Socket, Socket) {
        let (one, other) = Socket::pair().unwrap();
        (one, Socket::new(other))
    }

    #[test]
    fn messages_stay_apart_and_bring_their_file_along() {
        let (one, mut other) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        one.send(b"first", None, soon()).unwrap();
        one.send(b"second", Some(writer.as_fd()), soon()).unwrap();
        drop(writer);
        assert!(matches!(
            other.receive(Some(soon())).unwrap(),
            Received::Message(b"first", None)
        ));
        let Received::Message(b"second", Some(file)) = other.receive(Some(soon())).unwrap() else {
            panic!("the second message has a file");
        };
        std::fs::File::from(file).write_all(b"through it").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through it");
    }

    #[test]
    fn a_message_that_does_not_fit_is_refused_and_the_next_is_read() {
        let (one, mut other) = pair();
        one.send(&vec![b'x'; MESSAGE_BYTES_MAX + 1], None, soon())
            .unwrap();
        one.send(b"next", None, soon()).unwrap();
        assert!(matches!(
            other.receive(Some(soon())).unwrap(),
            Received::TooLong
        ));
        assert!(matches!(
            other.receive(Some(soon())).unwrap(),
            Received::Message(b"next", None)
        ));
    }

    #[test]
    fn an_end_is_seen_and_waits_are_bounded() {
        let (one, mut other) = pair();
        let error = other
            .receive(Some(Instant::now() + Duration::from_millis(20)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(one);
        assert!(matches!(
            other.receive(Some(soon())).unwrap(),
            Received::End
        ));
    }

    #[test]
    fn a_reader_that_does_not_read_does_not_hold_the_writer_for_ever() {
        let (one, _other) = pair();
        let deadline = Instant::now() + Duration::from_millis(200);
        let big = vec![b'x'; MESSAGE_BYTES_MAX];
        let error = (0..1000)
            .find_map(|_| one.send(&big, None, deadline).err())
            .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
