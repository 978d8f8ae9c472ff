//! What the limiter at the NIC reads: captures, and what an edge and its helper say to each other.

use std::io::{self, BufRead, Read};

use stoq_ebpf::capture::{Capture, Captured};
use stoq_ebpf::helper::reread;

use super::Target;

/// All targets, each with the name of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("capture", capture), ("helper", helper)];

/// Gives its bytes in pieces of at most so many.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.fill_buf()?;
        let read = piece.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(&self.0[..self.0.len().min(self.1)])
    }

    fn consume(&mut self, amount: usize) {
        self.0 = &self.0[amount..];
    }
}

/// A file of packets: the first byte says in how large pieces it is read. Whatever the pieces, the same packets come out, or the same
/// refusal after them; nothing is as long as it says unless it is there.
pub fn capture(input: &[u8]) {
    /// An Ethernet header, which is made up where there is none.
    const MADE_UP: usize = 14;
    let Some((piece, file)) = input.split_first() else {
        return;
    };
    let (whole, end) = packets(file);
    let cut = packets(Pieces(file, usize::from(*piece) + 1));
    assert_eq!((&whole, &end), (&cut.0, &cut.1), "pieces of {piece} + 1");
    let frames = whole.iter().map(|packet| packet.frame.len());
    let bytes: usize = frames.sum();
    assert!(bytes <= file.len() + whole.len() * MADE_UP);
}

fn packets(from: impl BufRead) -> (Vec<Captured>, Option<String>) {
    let mut packets = Vec::new();
    let mut capture = match Capture::new(from) {
        Ok(capture) => capture,
        Err(error) => return (packets, Some(error.to_string())),
    };
    loop {
        match capture.next_packet() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => return (packets, None),
            Err(error) => return (packets, Some(error.to_string())),
        }
    }
}

/// A message between an edge and its helper: read, said again and read again it is the same.
pub fn helper(input: &[u8]) {
    let Ok(said) = reread(input) else { return };
    assert_eq!(reread(&said), Ok(said.clone()));
}
