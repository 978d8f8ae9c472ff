//! Two things that whoever watches a process's load may tell its endpoints: which datagrams are not worth reading, and when
//! newcomers have to prove their address.
//!
//! Who decides, and by what, is not known here.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Looks at each datagram before anything else is done with it. Given to an endpoint with
/// [`EndpointConfig::screen`](super::EndpointConfig::screen).
pub trait Screen: fmt::Debug + Send + Sync + 'static {
    /// Whether datagrams are to be shown at all. Asked once a batch: where the answer is no, that is all it costs.
    fn is_watching(&self) -> bool;

    /// Whether this datagram is read. `false`: it is forgotten, and counted in
    /// [`Counters::datagrams_screened`](super::Counters). On the worker's thread, for each datagram: it must not block.
    fn admits(&self, from: SocketAddr, datagram: &[u8]) -> bool;
}

/// While it is raised, newcomers of every endpoint that has it prove their address first (Retry), however few handshakes are
/// under way: those who cannot be reached at the address they claim cost no handshake. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Alarm(Arc<AtomicBool>);

impl Alarm {
    /// Raises it, or ends it.
    pub fn set(&self, raised: bool) {
        self.0.store(raised, Ordering::Relaxed);
    }

    /// Whether it is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Leaves in `buffer` only the datagrams that are admitted of those in its first `len` bytes, each `stride` long but the last.
/// How many bytes are left, and how many datagrams went.
pub(super) fn sift(
    buffer: &mut [u8],
    len: usize,
    stride: usize,
    mut admits: impl FnMut(&[u8]) -> bool,
) -> (usize, u64) {
    let len = len.min(buffer.len());
    let stride = stride.max(1);
    let (mut from, mut kept, mut gone) = (0, 0, 0);
    while from < len {
        let end = from.saturating_add(stride).min(len);
        if buffer.get(from..end).is_some_and(&mut admits) {
            if kept != from {
                buffer.copy_within(from..end, kept);
            }
            kept += end - from;
        } else {
            gone += 1;
        }
        from = end;
    }
    (kept, gone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_left_is_what_was_admitted_in_its_order(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), stride in 0_usize..50, seed: u64,
        ) {
            let admitted = |datagram: &[u8]| {
                let first = u64::from(datagram.first().copied().unwrap_or_default());
                (seed >> (first % 64)) & 1 == 1
            };
            let datagrams = bytes.chunks(stride.max(1));
            let expected: Vec<u8> = datagrams.clone().filter(|d| admitted(d)).flatten().copied().collect();
            let refused = datagrams.filter(|d| !admitted(d)).count() as u64;
            let mut buffer = bytes.clone();
            buffer.extend([9; 7]);
            let (kept, gone) = sift(&mut buffer, bytes.len(), stride, admitted);
            prop_assert_eq!(&buffer[..kept], &expected[..]);
            prop_assert_eq!(gone, refused);
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_held_to_it() {
        assert_eq!(sift(&mut [1, 2, 3], 100, 2, |_| true), (3, 0));
    }
}
