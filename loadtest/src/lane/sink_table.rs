//! Every answer that is right or wrong, one line each.

use std::sync::Arc;

use bytes::Bytes;

use super::{Failure, Sink};
use crate::workload::{Ask, Known, Object, Verb};

const BODY: &[u8] = b"0123456789";

/// An answer: status, declared length, `Content-Range`, pieces.
struct Answer {
    status: u16,
    declared: Option<u64>,
    range: Option<&'static str>,
    pieces: Vec<&'static [u8]>,
}

fn answer(status: u16, body: &'static [u8]) -> Answer {
    Answer {
        status,
        declared: None,
        range: None,
        pieces: vec![body],
    }
}

impl Answer {
    fn declared(mut self, length: u64) -> Self {
        self.declared = Some(length);
        self
    }

    fn range(mut self, value: &'static str) -> Self {
        self.range = Some(value);
        self
    }

    fn in_pieces(mut self, pieces: &[&'static [u8]]) -> Self {
        self.pieces = pieces.to_vec();
        self
    }
}

fn body() -> Known {
    Known::Body(Bytes::from_static(BODY))
}

fn hash() -> Known {
    Known::Hash {
        length: BODY.len() as u64,
        hash: blake3::hash(BODY),
    }
}

/// What becomes of it: `right`, or the failure's first word.
fn judged(verb: Verb, known: Known, answer: &Answer) -> Result<(), Failure> {
    let ask = Ask {
        verb,
        object: Arc::new(Object {
            path: "/".into(),
            authority: None,
            known,
        }),
    };
    let mut sink = Sink::new(&ask);
    if let Some(value) = answer.range {
        sink.content_range(value.as_bytes());
    }
    sink.head(answer.status, answer.declared)?;
    for piece in &answer.pieces {
        sink.body(piece)?;
    }
    sink.end()
}

fn kind(failure: &Failure) -> &'static str {
    match failure {
        Failure::Truncated { .. } => "truncated",
        Failure::Wrong(_) => "wrong",
        Failure::Status(_) => "status",
        Failure::Protocol(_) => "protocol",
        other => panic!("a sink does not say {other:?}"),
    }
}

#[test]
fn each_answer_is_judged_by_status_length_range_and_bytes() {
    let get = || Verb::Get;
    let range = |first, last| Verb::Range { first, last };
    let table: Vec<(&str, Verb, Known, Answer, &str)> = vec![
        // What is right.
        ("whole", get(), body(), answer(200, BODY), "right"),
        ("whole, hashed", get(), hash(), answer(200, BODY), "right"),
        (
            "whole, length",
            get(),
            Known::Length(10),
            answer(200, BODY),
            "right",
        ),
        (
            "declared",
            get(),
            body(),
            answer(200, BODY).declared(10),
            "right",
        ),
        (
            "pieces",
            get(),
            body(),
            answer(200, b"").in_pieces(&[b"01", b"", b"23456789"]),
            "right",
        ),
        (
            "unknown",
            get(),
            Known::Nothing,
            answer(200, b"anything"),
            "right",
        ),
        (
            "empty",
            get(),
            Known::Body(Bytes::new()),
            answer(200, b"").declared(0),
            "right",
        ),
        (
            "HEAD",
            Verb::Head,
            body(),
            answer(200, b"").declared(10),
            "right",
        ),
        (
            "HEAD without length",
            Verb::Head,
            body(),
            answer(200, b""),
            "right",
        ),
        (
            "range",
            range(2, 4),
            body(),
            answer(206, b"234").range("bytes 2-4/10"),
            "right",
        ),
        (
            "range of unsaid length",
            range(2, 4),
            body(),
            answer(206, b"234").range("bytes 2-4/*"),
            "right",
        ),
        (
            "range beyond the end",
            range(8, 40),
            body(),
            answer(206, b"89").range("bytes 8-9/10"),
            "right",
        ),
        (
            "range of the unknown",
            range(2, 4),
            Known::Nothing,
            answer(206, b"xyz").range("bytes 2-4/10"),
            "right",
        ),
        (
            "range that ends early, of the unknown",
            range(8, 40),
            Known::Nothing,
            answer(206, b"xy").range("bytes 8-9/10"),
            "right",
        ),
        (
            "range answered with the whole",
            range(2, 4),
            body(),
            answer(200, BODY),
            "right",
        ),
        (
            "range answered with the whole, hashed",
            range(2, 4),
            hash(),
            answer(200, BODY),
            "right",
        ),
        (
            "PUT",
            Verb::Put(Bytes::new()),
            Known::Nothing,
            answer(201, b"made"),
            "right",
        ),
        (
            "PURGE",
            Verb::Purge,
            body(),
            answer(200, b"purged"),
            "right",
        ),
        // Statuses.
        ("404", get(), body(), answer(404, b"no"), "status"),
        ("304 unasked", get(), body(), answer(304, b""), "status"),
        ("204", get(), body(), answer(204, b""), "status"),
        ("503", get(), Known::Nothing, answer(503, b""), "status"),
        (
            "206 unasked",
            get(),
            body(),
            answer(206, BODY).range("bytes 0-9/10"),
            "status",
        ),
        ("416", range(2, 4), body(), answer(416, b""), "status"),
        ("HEAD 404", Verb::Head, body(), answer(404, b""), "status"),
        (
            "PUT refused",
            Verb::Put(Bytes::new()),
            Known::Nothing,
            answer(405, b""),
            "status",
        ),
        // Bytes.
        ("zeros", get(), body(), answer(200, &[0; 10]), "wrong"),
        (
            "zeros, hashed",
            get(),
            hash(),
            answer(200, &[0; 10]),
            "wrong",
        ),
        (
            "one bit",
            get(),
            body(),
            answer(200, b"0123456788"),
            "wrong",
        ),
        (
            "one bit, hashed",
            get(),
            hash(),
            answer(200, b"0123456788"),
            "wrong",
        ),
        (
            "wrong in the second piece",
            get(),
            body(),
            answer(200, b"").in_pieces(&[b"01", b"33"]),
            "wrong",
        ),
        // Lengths.
        ("cut", get(), body(), answer(200, b"012345678"), "truncated"),
        (
            "cut, hashed",
            get(),
            hash(),
            answer(200, b"012345678"),
            "truncated",
        ),
        (
            "cut, length",
            get(),
            Known::Length(10),
            answer(200, b"012345678"),
            "truncated",
        ),
        (
            "cut against the declaration",
            get(),
            Known::Nothing,
            answer(200, b"012").declared(10),
            "truncated",
        ),
        ("nothing", get(), body(), answer(200, b""), "truncated"),
        (
            "declares less",
            get(),
            body(),
            answer(200, b"012").declared(3),
            "truncated",
        ),
        (
            "declares more",
            get(),
            body(),
            answer(200, BODY).declared(11),
            "truncated",
        ),
        (
            "too long",
            get(),
            body(),
            answer(200, b"0123456789a"),
            "wrong",
        ),
        (
            "too long, length",
            get(),
            Known::Length(10),
            answer(200, b"0123456789a"),
            "wrong",
        ),
        (
            "longer than declared",
            get(),
            Known::Nothing,
            answer(200, b"0123").declared(3),
            "wrong",
        ),
        (
            "HEAD with a body",
            Verb::Head,
            body(),
            answer(200, b"0").declared(10),
            "wrong",
        ),
        (
            "HEAD of another length",
            Verb::Head,
            body(),
            answer(200, b"").declared(9),
            "truncated",
        ),
        // Ranges.
        (
            "206 without its range",
            range(2, 4),
            body(),
            answer(206, b"234"),
            "wrong",
        ),
        (
            "206 with nonsense",
            range(2, 4),
            body(),
            answer(206, b"234").range("bytes 2"),
            "wrong",
        ),
        (
            "another range",
            range(2, 4),
            body(),
            answer(206, b"345").range("bytes 3-5/10"),
            "wrong",
        ),
        (
            "another range, of the unknown",
            range(2, 4),
            Known::Nothing,
            answer(206, b"345").range("bytes 3-5/10"),
            "wrong",
        ),
        (
            "the right range, said wrong",
            range(2, 4),
            body(),
            answer(206, b"234").range("bytes 0-2/10"),
            "wrong",
        ),
        (
            "other bytes under the right range",
            range(2, 4),
            body(),
            answer(206, b"012").range("bytes 2-4/10"),
            "wrong",
        ),
        (
            "range of another object",
            range(2, 4),
            body(),
            answer(206, b"234").range("bytes 2-4/11"),
            "wrong",
        ),
        (
            "range cut",
            range(2, 4),
            body(),
            answer(206, b"23").range("bytes 2-4/10"),
            "truncated",
        ),
        (
            "range too long",
            range(2, 4),
            body(),
            answer(206, b"2345").range("bytes 2-4/10"),
            "wrong",
        ),
        (
            "range declared short",
            range(2, 4),
            body(),
            answer(206, b"23").range("bytes 2-4/10").declared(2),
            "truncated",
        ),
        (
            "half of what was asked",
            range(2, 5),
            Known::Nothing,
            answer(206, b"23").range("bytes 2-3/10"),
            "wrong",
        ),
        (
            "beyond the object",
            range(10, 12),
            body(),
            answer(206, b"").range("bytes 10-12/13"),
            "wrong",
        ),
        (
            "whole instead, other bytes",
            range(2, 4),
            hash(),
            answer(200, b"x123456789"),
            "wrong",
        ),
    ];
    for (name, verb, known, answer, want) in table {
        let found = judged(verb, known, &answer);
        let found = found.as_ref().map_or_else(kind, |()| "right");
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn an_end_or_a_byte_without_a_head_is_no_answer() {
    let ask = Ask {
        verb: Verb::Get,
        object: Arc::new(Object {
            path: "/".into(),
            authority: None,
            known: Known::Nothing,
        }),
    };
    assert!(matches!(Sink::new(&ask).end(), Err(Failure::Protocol(_))));
    assert!(matches!(
        Sink::new(&ask).body(b"a"),
        Err(Failure::Protocol(_))
    ));
}
