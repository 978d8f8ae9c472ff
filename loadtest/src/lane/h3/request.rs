//! Requests as frames, encoded once for as long as the same is asked for.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use stoq::h3::frame::{self, DATA, HEADERS};
use stoq::h3::qpack;

use super::super::Failure;
use super::super::request::{self, Common};
use crate::workload::{Ask, Object, Verb};

/// Encodes the requests of one lane.
#[derive(Debug)]
pub(super) struct Encoder {
    common: Arc<Common>,
    /// What was asked last, and its frames, unless it had a body.
    last: Option<(Arc<Object>, Verb, Bytes)>,
}

impl Encoder {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self { common, last: None }
    }

    /// A request's frames but for its body's bytes, which follow as they are.
    pub(super) fn frames(&mut self, ask: &Ask) -> Result<Bytes, Failure> {
        if let Some((object, verb, frames)) = &self.last
            && Arc::ptr_eq(object, &ask.object)
            && *verb == ask.verb
        {
            return Ok(frames.clone());
        }
        let frames = encode(&self.common, ask)?;
        if !matches!(ask.verb, Verb::Put(_)) {
            self.last = Some((Arc::clone(&ask.object), ask.verb.clone(), frames.clone()));
        }
        Ok(frames)
    }
}

/// The body of a request.
pub(super) fn body(ask: &Ask) -> Option<Bytes> {
    match &ask.verb {
        Verb::Put(body) => Some(body.clone()),
        Verb::Get | Verb::Range { .. } | Verb::Head | Verb::Purge => None,
    }
}

fn encode(common: &Common, ask: &Ask) -> Result<Bytes, Failure> {
    let path = request::path(ask)?;
    let mut section = BytesMut::with_capacity(256);
    qpack::put_prefix(&mut section);
    let mut line = |name: &str, value: &[u8]| qpack::put_line(&mut section, name, value);
    line(":method", request::method(&ask.verb).as_bytes());
    line(":scheme", common.scheme.as_str().as_bytes());
    line(":authority", common.authority(ask).as_bytes());
    line(":path", path.as_bytes());
    for (name, value) in &common.fields {
        line(name.as_str(), value.as_bytes());
    }
    if let Some((name, value)) = request::range(&ask.verb) {
        line(name.as_str(), value.as_bytes());
    }
    let body = body(ask);
    if let Some(body) = &body {
        line("content-length", body.len().to_string().as_bytes());
    }
    let mut frames = BytesMut::with_capacity(section.len() + 32);
    frame::put_head(&mut frames, HEADERS, section.len() as u64);
    frames.put_slice(&section);
    if let Some(body) = body.filter(|body| !body.is_empty()) {
        frame::put_head(&mut frames, DATA, body.len() as u64);
    }
    Ok(frames.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Known;

    fn lines(frames: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
        let (kind, len, used) = frame::head(frames).unwrap();
        assert_eq!(kind, HEADERS);
        let (section, rest) = frames[used..].split_at(usize::try_from(len).unwrap());
        let mut section = qpack::Section::new(section).unwrap();
        let (mut lines, mut scratch) = (Vec::new(), Vec::new());
        while let Some(line) = section.next_line().unwrap() {
            let mut text = |text: qpack::Text<'_>| {
                String::from_utf8(text.bytes(&mut scratch).unwrap().to_vec()).unwrap()
            };
            lines.push((text(line.name), text(line.value)));
        }
        (lines, rest.to_vec())
    }

    fn ask(verb: Verb, path: &str) -> Ask {
        Ask {
            verb,
            object: Arc::new(Object {
                path: path.into(),
                authority: None,
                known: Known::Nothing,
            }),
        }
    }

    #[test]
    fn each_verb_is_the_request_it_names() {
        for (verb, method, extra) in [
            (Verb::Get, "GET", None),
            (Verb::Head, "HEAD", None),
            (Verb::Purge, "PURGE", None),
            (
                Verb::Range { first: 2, last: 5 },
                "GET",
                Some(("range", "bytes=2-5")),
            ),
            (
                Verb::Put(Bytes::from_static(b"abc")),
                "PUT",
                Some(("content-length", "3")),
            ),
        ] {
            let has_body = matches!(verb, Verb::Put(_));
            let mut encoder = Encoder::new(Arc::new(Common::plain("a.test:1")));
            let (lines, rest) = lines(&encoder.frames(&ask(verb, "/x?y")).unwrap());
            let mut want = vec![
                (":method", method),
                (":scheme", "http"),
                (":authority", "a.test:1"),
                (":path", "/x?y"),
                ("x", "y"),
            ];
            want.extend(extra);
            let want: Vec<_> = want
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(lines, want);
            assert_eq!(rest, if has_body { vec![0, 3] } else { Vec::new() });
        }
    }

    #[test]
    fn what_is_asked_again_is_not_encoded_again_and_another_is() {
        let mut encoder = Encoder::new(Arc::new(Common::plain("a.test")));
        let one = ask(Verb::Get, "/one");
        let first = encoder.frames(&one).unwrap();
        assert_eq!(encoder.frames(&one).unwrap().as_ptr(), first.as_ptr());
        let head = Ask {
            verb: Verb::Head,
            ..one.clone()
        };
        assert_ne!(encoder.frames(&head).unwrap(), first);
        assert_ne!(encoder.frames(&ask(Verb::Get, "/two")).unwrap(), first);
        assert!(encoder.frames(&ask(Verb::Get, "no path")).is_err());
    }
}
