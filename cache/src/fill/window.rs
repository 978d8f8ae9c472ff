//! The last bytes of a body under way, as they arrived.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use crate::metrics::ServedFrom;

/// What a piece costs beside its bytes, so that a body in tiny pieces is bounded too.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// Consecutive pieces, from `start` to `end` in the body. Pieces are shared with readers, never copied.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pieces: VecDeque<Piece>,
    end: u64,
    weight: usize,
}

/// Bytes as they arrived.
#[derive(Debug)]
struct Piece {
    start: u64,
    bytes: Bytes,
    arrived: Instant,
    from: ServedFrom,
}

impl Window {
    /// Adds the next bytes, which have just arrived. Not empty.
    pub(crate) fn push(&mut self, bytes: Bytes, from: ServedFrom, arrived: Instant) {
        self.weight += bytes.len() + PIECE_OVERHEAD_BYTES;
        let start = self.end;
        self.end += bytes.len() as u64;
        self.pieces.push_back(Piece {
            start,
            bytes,
            arrived,
            from,
        });
    }

    /// Where the first byte held lies; the end where nothing is held.
    pub(crate) fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |piece| piece.start)
    }

    /// One past the last byte that ever arrived.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held, overhead included.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// The bytes from `offset` to the end of the piece they are in, when it arrived and where from; `None` where they are not held.
    pub(crate) fn at(&self, offset: u64) -> Option<(Bytes, Instant, ServedFrom)> {
        let after = self.pieces.partition_point(|piece| piece.start <= offset);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let within = usize::try_from(offset - piece.start).ok()?;
        (within < piece.bytes.len())
            .then(|| (piece.bytes.slice(within..), piece.arrived, piece.from))
    }

    /// Drops pieces from the front for as long as `droppable` says so of the offset at which they end.
    pub(crate) fn drop_front_while(&mut self, mut droppable: impl FnMut(u64, usize) -> bool) {
        while let Some(Piece { start, bytes, .. }) = self.pieces.front() {
            if !droppable(start + bytes.len() as u64, self.weight) {
                return;
            }
            self.weight -= bytes.len() + PIECE_OVERHEAD_BYTES;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_held_byte_is_found_and_no_other() {
        let mut window = Window::default();
        for piece in [&b"ab"[..], b"c", b"defg"] {
            let bytes = Bytes::copy_from_slice(piece);
            window.push(bytes, ServedFrom::Ram, Instant::now());
        }
        let body = b"abcdefg";
        for (offset, byte) in body.iter().enumerate() {
            assert_eq!(window.at(offset as u64).unwrap().0[0], *byte);
        }
        assert_eq!(window.at(7), None);
        window.drop_front_while(|end, _| end <= 3);
        assert_eq!(
            (window.start(), window.end(), window.weight),
            (3, 7, 4 + 64)
        );
        assert_eq!(window.at(2), None);
        assert_eq!(&window.at(4).unwrap().0[..], b"efg");
    }
}
