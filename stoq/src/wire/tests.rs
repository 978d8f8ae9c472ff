//! The codec against itself and against hostile bytes. The golden vectors are read by `tests/vectors.rs`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::frame::FrameType;
use super::*;
use crate::identity::{ROLES_MAX, Role};

fn control() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(vec![7; REQUEST_CONTROL_BYTES_MAX]),
    ]
    .prop_map(Bytes::from)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Edge),
        Just(Role::Shield),
        Just(Role::Admin),
        "[a-z0-9.*:-]{1,200}".prop_map(Role::Fetch),
    ]
}

prop_compose! {
    fn hello()(
        versions in (any::<u8>(), any::<u8>()),
        capabilities in any::<u64>(),
        name in "[a-z0-9.-]{1,64}",
        roles in prop::collection::vec(role(), 0..=ROLES_MAX),
    ) -> Hello {
        let (version_min, version_max) = (versions.0.min(versions.1), versions.0.max(versions.1));
        Hello { version_min, version_max, capabilities, name, roles }
    }
}

prop_compose! {
    fn opening()(
        kind in any::<u16>(),
        time_left in prop::option::of((1..=u32::MAX).prop_map(|ms| Duration::from_millis(ms.into()))),
        urgency in (0..8u8).prop_map(|level| Urgency::new(level).unwrap()),
        replay_safe in any::<bool>(),
        control in control(),
    ) -> Opening {
        Opening { kind, time_left, marks: Marks { urgency, replay_safe }, control }
    }
}

/// A frame that may stand before the last.
fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        1 => hello().prop_map(Frame::Hello),
        1 => any::<u32>().prop_map(|ms| Frame::GoAway { grace: Duration::from_millis(ms.into()) }),
        2 => opening().prop_map(Frame::Request),
        1 => opening().prop_map(Frame::Tell),
        2 => control().prop_map(Frame::Head),
        2 => (any::<u16>(), control()).prop_map(|(kind, payload)| Frame::Message { kind, payload }),
        6 => prop::collection::vec(any::<u8>(), 1..3000).prop_map(|bytes| Frame::Data(bytes.into())),
    ]
}

fn last() -> impl Strategy<Value = Frame> {
    let error = (any::<u32>(), ".{0,200}").prop_map(|(code, text)| Frame::Error { code, text });
    prop_oneof![Just(Frame::End), error]
}

fn bytes_of(version: u8, frames: &[Frame]) -> Bytes {
    let mut out = BytesMut::new();
    for frame in frames {
        for chunk in encode(version, frame).unwrap() {
            out.put_slice(&chunk);
        }
    }
    out.freeze()
}

/// Everything in `chunks`, with neighbouring data joined, since its cuts mean nothing.
fn decode(
    version: u8,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Result<(Vec<Frame>, Decoder), WireError> {
    let (mut decoder, mut frames) = (Decoder::new(version), Vec::new());
    for mut chunk in chunks {
        while let Some(frame) = decoder.next(&mut chunk)? {
            frames.push(frame);
        }
        assert!(chunk.is_empty(), "`None` means that all input was taken");
    }
    Ok((joined(frames), decoder))
}

fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        match (out.last_mut(), frame) {
            (Some(Frame::Data(before)), Frame::Data(more)) => {
                *before = [before.as_ref(), more.as_ref()].concat().into();
            }
            (_, frame) => out.push(frame),
        }
    }
    out
}

fn split(mut bytes: Bytes, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.sort_unstable();
    let mut chunks = Vec::new();
    let mut taken = 0;
    for cut in at {
        chunks.push(bytes.split_to(cut - taken));
        taken = cut;
    }
    chunks.push(bytes);
    chunks
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_back_what_was_encoded(
        version in 2..=u8::MAX,
        mut frames in prop::collection::vec(frame(), 0..6),
        end in last(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        frames.push(end);
        let bytes = bytes_of(version, &frames);
        let (got, decoder) = decode(version, split(bytes, &cuts)).unwrap();
        prop_assert_eq!(got, joined(frames));
        prop_assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn one_byte_at_a_time_is_a_split_too(frames in prop::collection::vec(frame(), 1..3)) {
        let bytes = bytes_of(2, &frames);
        prop_assume!(bytes.len() < 10_000);
        let (got, decoder) = decode(2, bytes.chunks(1).map(Bytes::copy_from_slice)).unwrap();
        prop_assert_eq!(got, joined(frames));
        prop_assert_eq!(decoder.finish(), Err(WireError::Truncated));
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_pile_up(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let _ = decode(1, split(bytes.clone().into(), &cuts));
        let _ = decode(2, split(bytes.into(), &cuts));
    }

    #[test]
    fn damaged_frames_do_not_panic(
        frames in prop::collection::vec(frame(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes_of(2, &frames).to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(2, [Bytes::from(bytes)]);
    }
}

#[test]
fn data_is_a_slice_of_the_chunk_it_came_in() {
    let bytes = bytes_of(1, &[Frame::Data(Bytes::from(vec![5; 1000])), Frame::End]);
    let range = bytes.as_ptr_range();
    let (mut decoder, mut chunk) = (Decoder::new(1), bytes.clone());
    let Some(Frame::Data(data)) = decoder.next(&mut chunk).unwrap() else {
        panic!("data expected")
    };
    assert!(range.contains(&data.as_ptr()));
}

#[test]
fn encoding_shares_the_payload() {
    let payload = Bytes::from(vec![1; 1000]);
    let [_, sent] = encode(1, &Frame::Data(payload.clone())).unwrap();
    assert_eq!(sent.as_ptr(), payload.as_ptr());
}

#[test]
fn announced_length_alone_costs_nothing() {
    let mut decoder = Decoder::new(1);
    let mut header = Bytes::from_static(&[1, FrameType::Head as u8, 0, 0, 0, 1, 0, 0]);
    assert_eq!(decoder.next(&mut header), Ok(None));
    assert!(
        decoder.held_bytes() <= HEADER_BYTES * 8,
        "{}",
        decoder.held_bytes()
    );
}

#[test]
fn what_the_protocol_does_not_allow_is_refused_at_the_header() {
    for (header, want) in [
        (
            [2, 4, 0, 0, 0, 0, 0, 0],
            WireError::Version {
                found: 2,
                agreed: 1,
            },
        ),
        ([1, 9, 0, 0, 0, 0, 0, 0], WireError::Type(9)),
        ([1, 0, 0, 0, 0, 0, 0, 0], WireError::Type(0)),
        (
            [1, 4, 0, 0, 0, 1, 0, 1],
            WireError::Length {
                of: 4,
                len: 65_537,
                min: 0,
                max: 65_536,
            },
        ),
        (
            [1, 6, 0, 0, 0, 0, 0, 0],
            WireError::Length {
                of: 6,
                len: 0,
                min: 1,
                max: 1_048_576,
            },
        ),
        (
            [1, 6, 0, 0, 0xff, 0xff, 0xff, 0xff],
            WireError::Length {
                of: 6,
                len: 0xffff_ffff,
                min: 1,
                max: 1_048_576,
            },
        ),
        (
            [1, 7, 0, 0, 0, 0, 0, 1],
            WireError::Length {
                of: 7,
                len: 1,
                min: 0,
                max: 0,
            },
        ),
        (
            [1, 3, 0, 1, 0, 0, 0, 7],
            WireError::Length {
                of: 3,
                len: 7,
                min: 8,
                max: 65_536,
            },
        ),
        ([1, 6, 0, 3, 0, 0, 0, 1], WireError::Kind { of: 6, kind: 3 }),
    ] {
        let got = Decoder::new(1).next(&mut Bytes::copy_from_slice(&header));
        assert_eq!(got, Err(want));
    }
}

#[test]
fn nothing_follows_the_end() {
    let mut bytes = bytes_of(1, &[Frame::End, Frame::Head(Bytes::new())]);
    let mut decoder = Decoder::new(1);
    assert_eq!(decoder.next(&mut bytes), Ok(Some(Frame::End)));
    assert_eq!(decoder.next(&mut bytes), Err(WireError::AfterEnd));
}

#[test]
fn hello_is_read_under_any_agreed_version() {
    let bytes = bytes_of(
        1,
        &[Frame::Hello(Hello::new(
            "edge-1",
            &[Role::Edge],
            Versions::default(),
        ))],
    );
    let (frames, _) = decode(9, [bytes]).unwrap();
    assert_eq!(
        frames,
        [Frame::Hello(Hello::new(
            "edge-1",
            &[Role::Edge],
            Versions::default()
        ))]
    );
}

#[test]
fn later_hellos_may_say_more() {
    let mut payload = Hello::new("edge-1", &[Role::Edge], Versions::default())
        .encode()
        .to_vec();
    payload.extend_from_slice(b"from the future");
    assert_eq!(
        Hello::decode(payload.into()),
        Ok(Hello::new("edge-1", &[Role::Edge], Versions::default()))
    );
}

#[test]
fn what_is_too_long_is_not_sent_and_a_deadline_never_becomes_none() {
    let long = Bytes::from(vec![0; REQUEST_CONTROL_BYTES_MAX + 1]);
    let request = |control, time_left| {
        Frame::Request(Opening {
            kind: 1,
            time_left,
            marks: Marks::default(),
            control,
        })
    };
    assert!(encode(1, &request(long, None)).is_err());
    assert!(encode(1, &Frame::Data(Bytes::new())).is_err());
    let [head, _] = encode(1, &request(Bytes::new(), Some(Duration::from_nanos(1)))).unwrap();
    assert_eq!(head[HEADER_BYTES..], [0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn version_1_carries_no_marks_and_no_message() {
    let opening = |marks| Opening {
        kind: 1,
        time_left: None,
        marks,
        control: Bytes::from_static(b"x"),
    };
    let marks = Marks {
        urgency: Urgency::FIRST,
        replay_safe: true,
    };
    let sent = Frame::Request(opening(marks));
    let bytes = bytes_of(1, std::slice::from_ref(&sent));
    assert_eq!(bytes[HEADER_BYTES + 4..HEADER_BYTES + 8], [0; 4]);
    let (got, _) = decode(1, [bytes]).unwrap();
    assert_eq!(got, [Frame::Request(opening(Marks::default()))]);
    assert_eq!(
        encode(1, &Frame::Tell(opening(marks))),
        Err(EncodeError::Version {
            what: "TELL",
            version: 1,
            since: 2
        })
    );
}

#[test]
fn error_text_is_cut_between_characters() {
    let text = "ä".repeat(ERROR_TEXT_BYTES_MAX);
    let (frames, _) = decode(1, [bytes_of(1, &[Frame::Error { code: 3, text }])]).unwrap();
    assert_eq!(
        frames,
        [Frame::Error {
            code: 3,
            text: "ä".repeat(ERROR_TEXT_BYTES_MAX / 2)
        }]
    );
}
