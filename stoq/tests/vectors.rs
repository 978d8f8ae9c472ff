//! The golden vectors in `vectors/wire.json`, read by this crate and by a decoder of another make.

#![expect(clippy::unwrap_used, reason = "a vector that cannot be read fails")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use stoq::datagram::{Datagram, DatagramError, NotNew, ReplayWindow};
use stoq::identity::Role;
use stoq::wire::{Decoder, Frame, Hello, Marks, Opening, Urgency, WireError, encode};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn vectors() -> Value {
    let text = std::fs::read_to_string(folder().join("wire.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The vectors of one list; a list that is empty or not there checks nothing.
fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty(), "no vectors of {name}");
    list
}

fn hex(text: &str) -> Bytes {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    assert_eq!(digits.len() % 2, 0, "{text}");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

fn name(vector: &Value) -> &str {
    vector["name"].as_str().unwrap()
}

fn number<T: TryFrom<u64>>(vector: &Value, field: &str) -> T {
    let value = vector[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{}: no number {field}", name(vector)));
    let Ok(value) = T::try_from(value) else {
        panic!("{}: {field} is too large", name(vector))
    };
    value
}

fn bytes(vector: &Value, field: &str) -> Bytes {
    hex(vector[field].as_str().unwrap())
}

fn frame(vector: &Value) -> Frame {
    let millis = |field| Duration::from_millis(number::<u32>(vector, field).into());
    let opening = || Opening {
        kind: number(vector, "kind"),
        time_left: Some(millis("time_left_ms")).filter(|left| !left.is_zero()),
        marks: Marks {
            urgency: Urgency::new(number(vector, "urgency")).unwrap(),
            replay_safe: vector["replay_safe"].as_bool().unwrap(),
        },
        control: bytes(vector, "control"),
    };
    match vector["type"].as_str().unwrap() {
        "HELLO" => Frame::Hello(Hello {
            version_min: number(vector, "version_min"),
            version_max: number(vector, "version_max"),
            capabilities: number(vector, "capabilities"),
            name: vector["node"].as_str().unwrap().to_owned(),
            roles: vector["roles"]
                .as_array()
                .unwrap()
                .iter()
                .map(|role| role.as_str().unwrap().parse::<Role>().unwrap())
                .collect(),
        }),
        "GOAWAY" => Frame::GoAway {
            grace: millis("grace_ms"),
        },
        "REQUEST" => Frame::Request(opening()),
        "TELL" => Frame::Tell(opening()),
        "HEAD" => Frame::Head(bytes(vector, "control")),
        "MESSAGE" => Frame::Message {
            kind: number(vector, "kind"),
            payload: bytes(vector, "control"),
        },
        "DATA" => Frame::Data(bytes(vector, "control")),
        "END" => Frame::End,
        "ERROR" => Frame::Error {
            code: number(vector, "code"),
            text: vector["text"].as_str().unwrap().to_owned(),
        },
        other => panic!("{}: type {other}", name(vector)),
    }
}

fn decode_only(vector: &Value) -> bool {
    vector["decode_only"].as_bool().unwrap_or(false)
}

/// Every frame of `bytes`, which are all that its stream carries.
fn message(version: u8, mut bytes: Bytes) -> Result<Vec<Frame>, WireError> {
    let (mut decoder, mut frames) = (Decoder::new(version), Vec::new());
    while let Some(frame) = decoder.next(&mut bytes)? {
        frames.push(frame);
    }
    decoder.finish().map(|()| frames)
}

#[test]
fn frames_are_encoded_and_decoded_as_written() {
    let vectors = vectors();
    for vector in list(&vectors, "frames") {
        let (version, wire) = (number(vector, "version"), bytes(vector, "bytes"));
        let want = frame(vector);
        let mut input = wire.clone();
        let got = Decoder::new(version).next(&mut input);
        assert_eq!(got, Ok(Some(want.clone())), "{}", name(vector));
        assert!(input.is_empty(), "{}", name(vector));
        if !decode_only(vector) {
            assert_eq!(
                encode(version, &want).unwrap().concat(),
                wire,
                "{}",
                name(vector)
            );
        }
    }
}

#[test]
fn what_the_protocol_does_not_allow_is_refused_for_the_reason_written() {
    let vectors = vectors();
    for vector in list(&vectors, "refused") {
        let why = match message(number(vector, "version"), bytes(vector, "bytes")) {
            Err(WireError::Version { .. }) => "version",
            Err(WireError::Type(_)) => "type",
            Err(WireError::Length { .. }) => "length",
            Err(WireError::Kind { .. }) => "kind",
            Err(WireError::Hello(_)) => "hello",
            Err(WireError::Text) => "text",
            Err(WireError::AfterEnd) => "after end",
            Err(WireError::Truncated) => "truncated",
            other => panic!("{}: {other:?}", name(vector)),
        };
        assert_eq!(why, vector["why"], "{}", name(vector));
    }
}

#[test]
fn datagrams_are_encoded_and_decoded_as_written() {
    let vectors = vectors();
    for vector in list(&vectors, "datagrams") {
        let (version, wire) = (number(vector, "version"), bytes(vector, "bytes"));
        let want = Datagram {
            kind: number(vector, "kind"),
            sequence: number(vector, "sequence"),
            payload: bytes(vector, "payload"),
        };
        let got = Datagram::decode(version, wire.clone());
        assert_eq!(got.as_ref(), Ok(&want), "{}", name(vector));
        if !decode_only(vector) {
            assert_eq!(want.encode(version), wire, "{}", name(vector));
        }
    }
    for vector in list(&vectors, "datagrams_refused") {
        let why = match Datagram::decode(number(vector, "version"), bytes(vector, "bytes")) {
            Err(DatagramError::Short(_)) => "short",
            Err(DatagramError::Version { .. }) => "version",
            other => panic!("{}: {other:?}", name(vector)),
        };
        assert_eq!(why, vector["why"], "{}", name(vector));
    }
}

#[test]
fn sequence_numbers_are_judged_as_written() {
    let vectors = vectors();
    for vector in list(&vectors, "replay") {
        let mut window = ReplayWindow::default();
        for step in list(vector, "steps") {
            let got = match window.admit(step[0].as_u64().unwrap()) {
                Ok(()) => "new",
                Err(NotNew::Zero) => "zero",
                Err(NotNew::Replayed(_)) => "replayed",
                Err(NotNew::TooOld { .. }) => "too old",
                Err(other) => panic!("{other}"),
            };
            assert_eq!(step[1], got, "{}: {step}", name(vector));
        }
    }
}

/// What the decoder written in Python says of these vectors, and whether it is content; `None`, loudly, where there is no
/// Python.
fn ask_python(vectors: &Path) -> Option<(bool, String)> {
    let python = std::env::var("STOQ_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match Command::new(&python)
        .arg(folder().join("check.py"))
        .arg(vectors)
        .output()
    {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((
                output.status.success(),
                String::from_utf8_lossy(&said).into_owned(),
            ))
        }
        Err(error) => {
            assert!(
                std::env::var_os("STOQ_REQUIRE_PRIVILEGED").is_none(),
                "{python} is required: {error}"
            );
            eprintln!("SKIPPED: no second opinion on the vectors: {python}: {error}");
            None
        }
    }
}

fn count(vectors: &Value) -> usize {
    let lists = [
        "frames",
        "refused",
        "datagrams",
        "datagrams_refused",
        "replay",
    ];
    lists.iter().map(|name| list(vectors, name).len()).sum()
}

#[test]
fn a_decoder_in_another_language_agrees() {
    let Some((content, said)) = ask_python(&folder().join("wire.json")) else {
        return;
    };
    let all = format!("{} vectors, 0 wrong", count(&vectors()));
    assert!(content && said.contains(&all), "{said}");
}

/// The check above is worth what it finds: with the last digit of every vector's bytes changed, each is found wrong.
#[test]
fn the_other_decoder_finds_every_wrong_vector() {
    let mut vectors = vectors();
    let mut changed = 0;
    for list in ["frames", "datagrams"] {
        for vector in vectors[list].as_array_mut().unwrap() {
            let text = vector["bytes"].as_str().unwrap().to_owned();
            let (head, last) = text.split_at(text.len() - 1);
            let digit = u8::from_str_radix(last, 16).unwrap() ^ 1;
            // Bits that a decoder passes over are no vector's point.
            if !decode_only(vector) {
                vector["bytes"] = format!("{head}{digit:x}").into();
                changed += 1;
            }
        }
    }
    for (list, other) in [("refused", "none"), ("datagrams_refused", "none")] {
        for vector in vectors[list].as_array_mut().unwrap() {
            vector["why"] = other.into();
            changed += 1;
        }
    }
    for vector in vectors["replay"].as_array_mut().unwrap() {
        vector["steps"][0][1] = "replayed".into();
        changed += 1;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.json");
    std::fs::write(&path, vectors.to_string()).unwrap();
    let Some((content, said)) = ask_python(&path) else {
        return;
    };
    let all = format!("{} vectors, {changed} wrong", count(&vectors));
    assert!(!content && said.contains(&all), "{said}");
}
