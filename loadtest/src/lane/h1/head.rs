//! Request heads as bytes, and response heads from bytes.

use std::fmt::Write as _;

use crate::lane::request::{self, Common};
use crate::lane::{Failure, Sink};
use crate::workload::{Ask, Verb};

/// Longest head of a response: 64 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of a response's head: 128.
const FIELDS_MAX: usize = 128;

/// Writes the head of a request behind what `out` has.
pub(super) fn write(common: &Common, ask: &Ask, out: &mut Vec<u8>) -> Result<(), Failure> {
    let path = request::path(ask)?;
    out.extend_from_slice(request::method(&ask.verb).as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(common.authority(ask).as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut number = String::new();
    match &ask.verb {
        Verb::Range { first, last } => drop(write!(number, "range: bytes={first}-{last}\r\n")),
        Verb::Put(body) => drop(write!(number, "content-length: {}\r\n", body.len())),
        Verb::Get | Verb::Head | Verb::Purge => {}
    }
    out.extend_from_slice(number.as_bytes());
    for (name, value) in &common.fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// What ends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// The last chunk.
    Chunked,
    /// The connection's end.
    Close,
}

/// A response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) declared: Option<u64>,
    pub(super) framing: Framing,
    /// The connection can carry another request afterwards.
    pub(super) keeps: bool,
    /// Bytes of the head.
    pub(super) bytes: usize,
}

/// Reads the head at the beginning of `bytes`; `None` if it is not all there. A final one's `Content-Range` goes to
/// `sink`.
pub(super) fn read(
    bytes: &[u8],
    verb: &Verb,
    sink: &mut Sink<'_>,
) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Failure::Protocol(format!("response head: {error}"))),
    };
    let status = response.code.unwrap_or(0);
    let mut keeps = response.version == Some(1);
    let mut coded: Option<bool> = None;
    for field in response.headers.iter() {
        match field.name.len() {
            10 if field.name.eq_ignore_ascii_case("connection") => {
                if has(field.value, b"close") {
                    keeps = false;
                } else if has(field.value, b"keep-alive") {
                    keeps = true;
                }
            }
            13 if field.name.eq_ignore_ascii_case("content-range") && status >= 200 => {
                sink.content_range(field.value);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                coded = Some(field.value.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
    }
    let lengths = response
        .headers
        .iter()
        .filter(|field| field.name.len() == 14 && field.name.eq_ignore_ascii_case("content-length"))
        .map(|field| field.value);
    let declared = request::declared(lengths)?;
    //= https://www.rfc-editor.org/rfc/rfc9112#section-6.3
    //# Any response to a HEAD request and any response with a 1xx (Informational), 204 (No Content), or 304 (Not
    //# Modified) status code is always terminated by the first empty line after the header fields
    let framing = if matches!(verb, Verb::Head) || matches!(status, 100..=199 | 204 | 304) {
        Framing::Empty
    } else {
        match (coded, declared) {
            //# If a message is received with both a Transfer-Encoding and a Content-Length header field, the
            //# Transfer-Encoding overrides the Content-Length. Such a message might indicate an attempt to perform
            //# request smuggling (Section 11.2) or response splitting (Section 11.1) and ought to be handled as an
            //# error.
            (Some(_), Some(_)) => {
                return Err(Failure::Protocol(
                    "both Transfer-Encoding and Content-Length".to_owned(),
                ));
            }
            (Some(true), None) => Framing::Chunked,
            (Some(false), None) => {
                return Err(Failure::Protocol(
                    "a Transfer-Encoding that was not asked for".to_owned(),
                ));
            }
            (None, Some(0)) => Framing::Empty,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::Close,
        }
    };
    Ok(Some(Head {
        status,
        declared,
        framing,
        keeps: keeps && framing != Framing::Close,
        bytes: length,
    }))
}

/// Whether a list has the token.
fn has(list: &[u8], token: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::workload::{Known, Object};

    fn ask(verb: Verb, path: &str) -> Ask {
        Ask {
            verb,
            object: Arc::new(Object {
                path: path.into(),
                authority: Some("a.example".into()),
                known: Known::Nothing,
            }),
        }
    }

    fn of(text: &str, verb: &Verb) -> Result<Option<Head>, Failure> {
        let ask = ask(verb.clone(), "/");
        read(text.as_bytes(), verb, &mut Sink::new(&ask))
    }

    #[test]
    fn framing_follows_the_order_of_rfc_9112() {
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                Framing::Empty,
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Framing::Chunked,
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close, false),
            (
                "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\n",
                Framing::Length(5),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
                Framing::Length(5),
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n",
                Framing::Length(5),
                true,
            ),
            (
                "HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n",
                Framing::Empty,
                true,
            ),
            ("HTTP/1.1 304 No\r\n\r\n", Framing::Empty, true),
            (
                "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
                Framing::Empty,
                true,
            ),
        ];
        for (text, framing, keeps) in cases {
            let head = of(text, &Verb::Get).unwrap().unwrap();
            assert_eq!((head.framing, head.keeps), (framing, keeps), "{text}");
            assert_eq!(head.bytes, text.len(), "{text}");
            assert_eq!(of(&text[..text.len() - 1], &Verb::Get), Ok(None), "{text}");
        }
        let head = of(cases[0].0, &Verb::Head).unwrap().unwrap();
        assert_eq!((head.framing, head.declared), (Framing::Empty, Some(5)));
    }

    #[test]
    fn heads_that_can_be_read_in_two_ways_are_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(
                matches!(of(text, &Verb::Get), Err(Failure::Protocol(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_path_that_would_write_fields_of_its_own_is_refused() {
        let common = Common::plain("b.example");
        let mut out = Vec::new();
        for path in ["/a b", "/a\r\nx: y", "a", "", "/\u{7f}"] {
            assert!(
                write(&common, &ask(Verb::Get, path), &mut out).is_err(),
                "{path:?}"
            );
        }
        out.clear();
        write(
            &common,
            &ask(Verb::Range { first: 1, last: 2 }, "/a?b"),
            &mut out,
        )
        .unwrap();
        assert_eq!(
            out.escape_ascii().to_string(),
            r"GET /a?b HTTP/1.1\r\nhost: a.example\r\nrange: bytes=1-2\r\nx: y\r\n\r\n"
        );
    }
}
