//! What the transport reads of any peer, and before it knows who that is.

use bytes::{Bytes, BytesMut};
use stoq::datagram::{DATAGRAM_HEADER_BYTES, Datagram, ReplayWindow, WINDOW};
use stoq::transport::reframe;
use stoq::wire::{
    DATA_BYTES_MAX, Decoder, Frame, HEADER_BYTES, VERSION, VERSION_MIN, WireError, encode,
};

use super::Target;

/// All targets, each with the name of its corpus.
pub const TARGETS: [(&str, Target); 4] = [
    ("frames", frames),
    ("hello", hello),
    ("datagrams", datagrams),
    ("mux", mux),
];

/// A stream: the first byte says the version and how the rest is cut into chunks.
///
/// Whatever the cuts, the same frames come out, or the same refusal; what comes out goes in again.
pub fn frames(input: &[u8]) {
    let Some((how, stream)) = input.split_first() else {
        return;
    };
    let version = if how & 1 == 0 { VERSION_MIN } else { VERSION };
    let stream = Bytes::copy_from_slice(stream);
    let whole = decode(version, [stream.clone()]);
    let cut = usize::from(how >> 1) + 1;
    let pieces = stream.chunks(cut).map(Bytes::copy_from_slice);
    assert_eq!(whole, decode(version, pieces), "cut every {cut} bytes");
    for frame in &whole.0 {
        // Data of several frames, joined here.
        if matches!(frame, Frame::Data(bytes) if bytes.len() > DATA_BYTES_MAX) {
            continue;
        }
        let Ok(again) = encode(version, frame) else {
            panic!("{frame:?} was decoded and cannot be encoded")
        };
        let (frames, end) = decode(version, again);
        assert_eq!(frames.as_slice(), std::slice::from_ref(frame), "{end:?}");
    }
}

/// The frames of a stream with neighbouring data joined, as its cuts mean nothing, and how it ended.
fn decode(
    version: u8,
    chunks: impl IntoIterator<Item = Bytes>,
) -> (Vec<Frame>, Result<(), WireError>) {
    let (mut decoder, mut frames) = (Decoder::new(version), Vec::<Frame>::new());
    for mut chunk in chunks {
        loop {
            match decoder.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Frame::Data(more))) => match frames.last_mut() {
                    Some(Frame::Data(before)) => {
                        let mut joined = BytesMut::from(before.as_ref());
                        joined.extend_from_slice(&more);
                        *before = joined.freeze();
                    }
                    _ => frames.push(Frame::Data(more)),
                },
                Ok(Some(frame)) => frames.push(frame),
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(chunk.is_empty(), "`None` means that all input was taken");
    }
    let end = decoder.finish();
    (frames, end)
}

/// The payload of a hello: read, said again and read again it is the same.
pub fn hello(payload: &[u8]) {
    let Ok(len) = u32::try_from(payload.len()) else {
        return;
    };
    let mut stream = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    stream.extend_from_slice(&[1, 1, 0, 0]);
    stream.extend_from_slice(&len.to_be_bytes());
    stream.extend_from_slice(payload);
    let (frames, _) = decode(VERSION, [stream.freeze()]);
    let Some(first) = frames.first() else { return };
    let Frame::Hello(read) = first else {
        panic!("{first:?} from the header of a hello")
    };
    assert!(read.version_min <= read.version_max);
    assert!((1..=64).contains(&read.name.len()) && read.roles.len() <= 128);
    let Ok(again) = encode(VERSION, first) else {
        panic!("{read:?} was read and cannot be said")
    };
    let (frames, end) = decode(VERSION, again);
    assert_eq!(frames.as_slice(), std::slice::from_ref(first), "{end:?}");
}

/// Datagrams, each after its length in one byte, in the order of arrival. What is decoded is encoded to the same bytes but for
/// the flags; no number is admitted twice.
pub fn datagrams(mut input: &[u8]) {
    let mut window = ReplayWindow::default();
    let mut admitted = Vec::new();
    while let Some((len, rest)) = input.split_first() {
        let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        input = rest;
        let Ok(datagram) = Datagram::decode(VERSION, Bytes::copy_from_slice(bytes)) else {
            assert!(bytes.len() < DATAGRAM_HEADER_BYTES || bytes[0] != VERSION);
            continue;
        };
        let again = datagram.encode(VERSION);
        assert!(again[0] == bytes[0] && again[1] == 0 && again[2..] == bytes[2..]);
        let sequence = datagram.sequence;
        let highest = admitted.iter().copied().max().unwrap_or(0);
        let new = sequence != 0
            && !admitted.contains(&sequence)
            && (sequence > highest || highest - sequence < WINDOW);
        assert_eq!(window.admit(sequence).is_ok(), new, "{sequence}");
        if new {
            admitted.push(sequence);
        }
    }
}

/// Bytes of a frame's header in the multiplexer.
const MUX_HEADER_BYTES: usize = 16;

/// A link over TCP: the first byte says in how large pieces the rest arrives.
///
/// Whatever the pieces, the same frames come out, or the same refusal; what comes out and is said again comes out once more. What is
/// left is the beginning of a frame, never as long as the longest is.
pub fn mux(input: &[u8]) {
    const FRAME_BYTES_MAX: usize = MUX_HEADER_BYTES + 64 * 1024;
    let Some((how, stream)) = input.split_first() else {
        return;
    };
    let (whole, refusal) = unmux([stream], FRAME_BYTES_MAX);
    let piece = usize::from(*how) + 1;
    let cut = unmux(stream.chunks(piece), FRAME_BYTES_MAX);
    assert_eq!((&whole, &refusal), (&cut.0, &cut.1), "pieces of {piece}");
    for frame in &whole {
        let (again, refusal) = unmux([frame.as_ref()], 0);
        assert_eq!(
            (again.as_slice(), refusal),
            (std::slice::from_ref(frame), None)
        );
    }
}

/// The frames of what arrives, each as it is said again, and why there are no more. At most `left_max` bytes wait for the rest of theirs.
fn unmux<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    left_max: usize,
) -> (Vec<Bytes>, Option<String>) {
    let (mut arrived, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        arrived.extend_from_slice(piece);
        loop {
            let before = arrived.len();
            match reframe(&mut arrived) {
                Ok(None) => {
                    assert_eq!(arrived.len(), before, "nothing is taken of half a frame");
                    break;
                }
                Ok(Some(frame)) => {
                    assert_eq!(before - arrived.len(), frame.len(), "as long as it came");
                    frames.push(frame);
                }
                Err(refusal) => return (frames, Some(refusal)),
            }
        }
    }
    assert!(arrived.len() <= left_max, "{} bytes wait", arrived.len());
    (frames, None)
}
