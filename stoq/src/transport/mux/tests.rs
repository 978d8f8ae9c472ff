//! Two cores, and frames carried between them in any order that a carrier may choose.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::frame::{Frame, Limits};
use super::{Mux, Violation};
use crate::quic::{ConnectionError, ReadError, WriteError};

const LIMITS: Limits = Limits {
    bidi_streams: 4,
    uni_streams: 2,
    stream_window: 100_000,
    window: 150_000,
    datagrams: true,
};

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

struct Pair {
    client: std::sync::Arc<Mux>,
    server: std::sync::Arc<Mux>,
}

impl Pair {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        Self {
            client: Mux::new(true, limits, 1 << 20),
            server: Mux::new(false, limits, 1 << 20),
        }
    }

    /// Carries all frames across until neither has more. `dice` choose whose turn it is, and let frames of different
    /// streams overtake each other.
    fn carry(&self, dice: &mut StdRng) -> Result<(), Violation> {
        let mut under_way: [Vec<Frame>; 2] = Default::default();
        loop {
            let mut still = true;
            for (queue, from) in under_way.iter_mut().zip([&self.client, &self.server]) {
                while let Poll::Ready(Some(frame)) = from.core.lock().poll_transmit(&cx()) {
                    queue.push(frame);
                    still = false;
                }
            }
            for (queue, to) in under_way.iter_mut().zip([&self.server, &self.client]) {
                while !queue.is_empty() {
                    still = false;
                    let pick = dice.random_range(0..queue.len());
                    // The first about that stream.
                    let stream = queue[pick].stream();
                    let first = queue.iter().position(|frame| frame.stream() == stream);
                    let frame = queue.remove(first.unwrap());
                    to.core.lock().handle(frame, Instant::now())?;
                }
            }
            if still {
                return Ok(());
            }
        }
    }
}

fn dice() -> StdRng {
    StdRng::seed_from_u64(1)
}

fn open(mux: &Mux) -> u64 {
    mux.core.lock().open(false).unwrap().unwrap()
}

fn write(mux: &Mux, id: u64, bytes: &[u8]) -> usize {
    let mut chunks = [Bytes::copy_from_slice(bytes)];
    match mux.core.lock().poll_write(id, &mut cx(), &mut chunks) {
        Poll::Ready(written) => written.unwrap(),
        Poll::Pending => 0,
    }
}

/// Reads all there is; `Some` at the end of the stream.
fn read(mux: &Mux, id: u64, into: &mut Vec<u8>) -> Option<Result<(), ReadError>> {
    loop {
        match mux.core.lock().poll_read(id, &mut cx(), usize::MAX) {
            Poll::Pending => return None,
            Poll::Ready(Ok(Some(bytes))) => into.extend_from_slice(&bytes),
            Poll::Ready(Ok(None)) => return Some(Ok(())),
            Poll::Ready(Err(error)) => return Some(Err(error)),
        }
    }
}

/// A stream's number, what is to be sent, how much was, what has arrived, whether the end was said.
type Body = (u64, Vec<u8>, usize, Vec<u8>, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bodies_arrive_whole_whatever_order_the_carrier_keeps(
        seed: u64,
        lens in proptest::collection::vec(0usize..400_000, 1..12),
    ) {
        let mut dice = StdRng::seed_from_u64(seed);
        let pair = Pair::new();
        pair.carry(&mut dice).unwrap();
        // As many at once as are allowed; the next when one is over.
        let mut waiting: Vec<Vec<u8>> = lens
            .iter()
            .map(|len| (0..=250).cycle().take(*len).collect())
            .collect();
        let mut running: Vec<Body> = Vec::new();
        let (mut accepted, mut turns) = (Vec::new(), 0);
        while !waiting.is_empty() || !running.is_empty() {
            turns += 1;
            prop_assert!(turns < 10_000, "stuck with {} streams", running.len());
            if !waiting.is_empty() && let Some(id) = pair.client.core.lock().open(false).unwrap() {
                running.push((id, waiting.pop().unwrap(), 0, Vec::new(), false));
            }
            for (id, body, sent, _, finished) in &mut running {
                if *finished {
                    continue;
                }
                *sent += write(&pair.client, *id, &body[*sent..]);
                if *sent == body.len() {
                    *finished = true;
                    pair.client.core.lock().finish(*id).unwrap();
                }
            }
            pair.carry(&mut dice).unwrap();
            while let Some(id) = pair.server.core.lock().accept(false).unwrap() {
                accepted.push(id);
            }
            let mut over = Vec::new();
            for (id, body, _, got, _) in &mut running {
                if accepted.contains(id)
                    && let Some(end) = read(&pair.server, *id, got)
                {
                    end.unwrap();
                    prop_assert!(got == body);
                    over.push(*id);
                }
            }
            for id in over {
                pair.server.core.lock().finish(id).unwrap();
                pair.server.core.lock().drop_recv(id, 0);
                pair.server.core.lock().drop_send(id, 0);
                pair.client.core.lock().drop_send(id, 0);
                running.retain(|(running, ..)| *running != id);
            }
        }
    }
}

#[test]
fn an_unread_stream_holds_its_writer_and_no_other() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    let (unread, other) = (open(&pair.client), open(&pair.client));
    let block = vec![7; 50_000];
    let mut taken = 0;
    for _ in 0..100 {
        taken += write(&pair.client, unread, &block);
        pair.carry(&mut dice()).unwrap();
    }
    // A window at the reader, a queue at the writer.
    assert_eq!(taken, 100_000 + 256 * 1024);
    let mut got = Vec::new();
    for _ in 0..20 {
        assert_eq!(write(&pair.client, other, &block), block.len());
        pair.carry(&mut dice()).unwrap();
        assert_eq!(read(&pair.server, other, &mut got), None);
        pair.carry(&mut dice()).unwrap();
        assert_eq!(read(&pair.server, other, &mut got), None);
    }
    assert_eq!(got.len(), 1_000_000);
}

#[test]
fn an_end_without_bytes_needs_no_window() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    let (ended, full, fuller) = (open(&pair.client), open(&pair.client), open(&pair.client));
    // Two unread streams take all of the link's window.
    for id in [full, fuller] {
        assert_eq!(write(&pair.client, id, &[1; 200_000]), 200_000);
    }
    pair.carry(&mut dice()).unwrap();
    pair.client.core.lock().finish(ended).unwrap();
    pair.carry(&mut dice()).unwrap();
    assert_eq!(read(&pair.server, ended, &mut Vec::new()), Some(Ok(())));
}

#[test]
fn stop_and_reset_carry_their_codes_and_end_one_half_only() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    let id = open(&pair.client);
    write(&pair.client, id, b"question");
    pair.carry(&mut dice()).unwrap();
    assert_eq!(pair.server.core.lock().accept(false), Ok(Some(id)));
    // The server wants no more of the question, and answers all the same.
    pair.server.core.lock().stop(id, 41);
    pair.carry(&mut dice()).unwrap();
    let mut more = [Bytes::from_static(b"more")];
    let stopped = pair.client.core.lock().poll_write(id, &mut cx(), &mut more);
    assert_eq!(stopped, Poll::Ready(Err(WriteError::Stopped(41))));
    assert_eq!(
        pair.client.core.lock().poll_stopped(id, &cx()),
        Poll::Ready(Ok(Some(41)))
    );
    assert_eq!(write(&pair.server, id, b"answer"), 6);
    pair.carry(&mut dice()).unwrap();
    let mut got = Vec::new();
    assert_eq!(read(&pair.client, id, &mut got), None);
    assert_eq!(got, b"answer");
    pair.server.core.lock().reset(id, 42);
    pair.carry(&mut dice()).unwrap();
    assert_eq!(
        read(&pair.client, id, &mut got),
        Some(Err(ReadError::Reset(42)))
    );
}

#[test]
fn streams_given_up_give_their_room_back() {
    let pair = Pair::new();
    for round in 0..200 {
        pair.carry(&mut dice()).unwrap();
        let id = pair.client.core.lock().open(false).unwrap();
        let id = id.unwrap_or_else(|| panic!("no stream in round {round}"));
        write(&pair.client, id, &vec![1; 60_000]);
        // One time in two while bytes are under way that nobody will read.
        if round % 2 == 0 {
            pair.carry(&mut dice()).unwrap();
        }
        pair.client.core.lock().drop_send(id, 1);
        pair.client.core.lock().drop_recv(id, 1);
        pair.carry(&mut dice()).unwrap();
        let mut server = pair.server.core.lock();
        assert_eq!(server.accept(false), Ok(Some(id)));
        server.drop_send(id, 3);
        server.drop_recv(id, 3);
    }
}

#[test]
fn streams_that_nobody_took_give_no_room_back_however_they_end() {
    let both = |stream| {
        let (code, size) = (0, 0);
        let reset = Frame::Reset { stream, code, size };
        vec![reset, Frame::Stop { stream, code }]
    };
    let fin = |stream| {
        let (bytes, fin) = (Bytes::new(), true);
        vec![Frame::Data { stream, bytes, fin }]
    };
    type Ended<'a> = &'a dyn Fn(u64) -> Vec<Frame>;
    let cases: [(bool, u64, Ended<'_>); 2] = [
        (false, LIMITS.bidi_streams.into(), &both),
        (true, LIMITS.uni_streams.into(), &fin),
    ];
    for (uni, limit, frames) in cases {
        let server = Mux::new(false, LIMITS, 1 << 20);
        let end = |index: u64| {
            let id = index << 2 | u64::from(uni) << 1;
            for frame in frames(id) {
                server.core.lock().handle(frame, Instant::now())?;
                while server.core.lock().poll_transmit(&cx()).is_ready() {}
            }
            Ok(())
        };
        for index in 0..limit {
            end(index).unwrap();
        }
        let beyond = limit << 2 | u64::from(uni) << 1;
        assert_eq!(end(limit), Err(Violation::StreamLimit(beyond)));
        // Taken and dropped, each makes room for one.
        for _ in 0..limit {
            let id = server.core.lock().accept(uni).unwrap().unwrap();
            server.core.lock().drop_send(id, 0);
            server.core.lock().drop_recv(id, 0);
        }
        while server.core.lock().poll_transmit(&cx()).is_ready() {}
        for index in limit..2 * limit {
            end(index).unwrap();
        }
    }
}

#[test]
fn who_goes_beyond_what_was_allowed_is_found_out() {
    let data = |stream, len| Frame::Data {
        stream,
        bytes: Bytes::from(vec![0; len]),
        fin: false,
    };
    let reset = |stream, size| Frame::Reset {
        stream,
        code: 0,
        size,
    };
    for (frames, want) in [
        (vec![data(0, 100_001)], Violation::FlowControl(0)),
        (
            vec![data(0, 100_000), data(4, 50_001)],
            Violation::FlowControl(4),
        ),
        (vec![reset(0, 100_001)], Violation::FlowControl(0)),
        (vec![data(16, 1)], Violation::StreamLimit(16)),
        (vec![data(10, 1)], Violation::StreamLimit(10)),
        (vec![data(1, 1)], Violation::StreamState(1)),
        (
            vec![Frame::Stop { stream: 2, code: 0 }],
            Violation::StreamState(2),
        ),
        (vec![reset(0, 10), data(0, 1)], Violation::StreamState(0)),
        (vec![data(0, 10), reset(0, 9)], Violation::FinalSize(0)),
    ] {
        let server = Mux::new(false, LIMITS, 1 << 20);
        let last = frames.len() - 1;
        for (at, frame) in frames.into_iter().enumerate() {
            let handled = server.core.lock().handle(frame, Instant::now());
            if at == last {
                assert_eq!(handled, Err(want.clone()));
            } else {
                handled.unwrap();
            }
        }
    }
}

#[test]
fn close_comes_with_its_code_and_ends_everything() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    let id = open(&pair.client);
    write(&pair.client, id, b"x");
    pair.carry(&mut dice()).unwrap();
    pair.server.core.lock().close(0x24, b"expired");
    pair.carry(&mut dice()).unwrap();
    let closed = ConnectionError::Closed {
        code: 0x24,
        reason: Bytes::from_static(b"expired"),
    };
    assert_eq!(pair.client.core.lock().ended(), Some(&closed));
    assert_eq!(pair.client.core.lock().open(false), Err(closed.clone()));
    assert_eq!(
        pair.server.core.lock().ended(),
        Some(&ConnectionError::LocallyClosed)
    );
    let transmit = pair.client.core.lock().poll_transmit(&cx());
    assert_eq!(transmit, Poll::Ready(None));
}

#[test]
fn more_urgent_streams_go_first() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    let (bulk, urgent) = (open(&pair.client), open(&pair.client));
    pair.client.core.lock().set_priority(urgent, 1);
    write(&pair.client, bulk, &[0; 90_000]);
    write(&pair.client, urgent, &[1; 30_000]);
    let Poll::Ready(Some(Frame::Data { stream, .. })) =
        pair.client.core.lock().poll_transmit(&cx())
    else {
        panic!("nothing to send")
    };
    assert_eq!(stream, urgent);
}

#[test]
fn datagrams_that_nobody_takes_make_room_for_newer_ones() {
    let pair = Pair::new();
    pair.carry(&mut dice()).unwrap();
    for number in 0..1000u32 {
        let data = Bytes::from([&number.to_be_bytes()[..], &[0; 1000]].concat());
        pair.client.core.lock().send_datagram(data).unwrap();
        pair.carry(&mut dice()).unwrap();
    }
    let first = pair.server.core.lock().read_datagram().unwrap().unwrap();
    let first = u32::from_be_bytes(first[..4].try_into().unwrap());
    assert_eq!(first, 1000 - 256 * 1024 / 1004);
}
