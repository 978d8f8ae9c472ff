//! Objects asked of a shield, as an edge that holds nothing asks for them.
//!
//! What makes an answer right is the [`Sink`]'s; here the frames are held to their protocol: each byte lies in a chunk,
//! the commit record comes last, and its length is that of the bytes that came.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HOST};
use http::{HeaderMap, HeaderValue, Method};
use stoq::peer::{Part, PeerConn};
use stoq_mesh::wire::{self, BodyMode, Head};
use stoq_mesh::{ObjectRequest, SiteNames};

use super::{failed, unsent, wait};
use crate::lane::{Failure, Sink, request};
use crate::plan::Plan;
use crate::workload::{Ask, Verb};

/// A site's objects, as all lanes of a run ask for them.
#[derive(Debug)]
pub(super) struct Objects {
    names: SiteNames,
    https: bool,
    authority: String,
    fields: HeaderMap,
}

impl Objects {
    /// `None` where the target names no site.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let member = plan.target.member()?;
        let site = member.site.as_ref()?;
        let secret = member.identity.cluster_secret();
        let host = plan.fields.iter().find(|(name, _)| *name == HOST);
        let host = host.and_then(|(_, value)| value.to_str().ok());
        let fields = plan.fields.iter().filter(|(name, _)| *name != HOST);
        Some(Self {
            names: SiteNames::new(secret, &site.name, site.dedupe_domain.as_deref()),
            https: site.https,
            authority: host.unwrap_or(&site.name).to_owned(),
            fields: fields.cloned().collect(),
        })
    }

    fn request(&self, ask: &Ask) -> Result<ObjectRequest, Failure> {
        let method = request::method(&ask.verb);
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|error| Failure::Protocol(error.to_string()))?;
        let authority = ask.object.authority.as_deref().unwrap_or(&self.authority);
        let mut fields = self.fields.clone();
        if let Some((name, value)) = request::range(&ask.verb) {
            fields.insert(name, value);
        }
        let path = request::path(ask)?;
        Ok(self
            .names
            .request(method, self.https, authority, path, fields))
    }

    pub(super) async fn exchange(
        &self,
        conn: &PeerConn,
        ask: &Ask,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let control = self.request(ask)?.encode();
        let control = control.map_err(|error| Failure::Protocol(error.to_string()))?;
        let exchange = conn.exchange(wire::OBJECT, control, None).await;
        let stoq::peer::Exchange { mut send, mut recv } = exchange.map_err(unsent)?;
        if let Verb::Put(body) = &ask.verb {
            send.data(body.clone()).await.map_err(failed)?;
        }
        send.finish().await.map_err(failed)?;
        let Some(Part::Head(payload)) = recv.next().await.map_err(failed)? else {
            return Err(Failure::Protocol("an answer without a head".to_owned()));
        };
        let head = Head::decode(&payload).map_err(|error| Failure::Protocol(error.to_string()))?;
        let lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        let declared = request::declared(lengths.map(HeaderValue::as_bytes))?;
        if let Some(value) = head.headers.get(CONTENT_RANGE) {
            sink.content_range(value.as_bytes());
        }
        sink.head(head.status.as_u16(), declared)?;
        let mut body = Body::new(head.body);
        while let Some(part) = recv.next().await.map_err(failed)? {
            if let Part::Data(piece) = &part {
                body.data(piece.len())?;
                sink.body(piece)?;
                wait(sink).await;
            } else {
                body.event(part)?;
            }
        }
        body.end()?;
        sink.end()
    }
}

/// The order of a body's frames.
#[derive(Debug)]
struct Body {
    mode: BodyMode,
    got: u64,
    /// Bytes that lie in chunks.
    closed: u64,
    sealed: bool,
}

impl Body {
    fn new(mode: BodyMode) -> Self {
        Self {
            mode,
            got: 0,
            closed: 0,
            sealed: false,
        }
    }

    fn data(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.mode == BodyMode::Empty || self.sealed {
            return Err(Failure::Protocol("body bytes where none belong".to_owned()));
        }
        self.got += bytes as u64;
        Ok(())
    }

    fn event(&mut self, part: Part) -> Result<(), Failure> {
        let bad = |what: String| Err(Failure::Protocol(what));
        let Part::Frame { kind, payload } = part else {
            return bad("a second head".to_owned());
        };
        if self.mode != BodyMode::Chunked || self.sealed {
            return bad(format!("a frame of kind {kind:#x} where none belongs"));
        }
        match kind {
            wire::PROFILE if self.got == 0 && self.closed == 0 => Ok(()),
            wire::CHUNK => match wire::decode_chunk(&payload) {
                Ok((_, length)) => {
                    self.closed = self.closed.saturating_add(u64::from(length));
                    if self.closed > self.got {
                        return bad("a chunk longer than the bytes that came".to_owned());
                    }
                    Ok(())
                }
                Err(error) => bad(error.to_string()),
            },
            // Where it belongs, which is all that a load tester judges of it: what it says is for those who store the object.
            wire::VOUCHER if self.closed == self.got => Ok(()),
            wire::SEALED => match wire::decode_sealed(&payload) {
                Ok((_, total)) if total == self.got && total == self.closed => {
                    self.sealed = true;
                    Ok(())
                }
                Ok((_, total)) => bad(format!(
                    "sealed as {total} bytes, {} came and {} lie in chunks",
                    self.got, self.closed
                )),
                Err(error) => bad(error.to_string()),
            },
            other => bad(format!("a frame of kind {other:#x} where none belongs")),
        }
    }

    fn end(&self) -> Result<(), Failure> {
        if self.mode == BodyMode::Chunked && !self.sealed {
            return Err(Failure::Truncated {
                got: self.got,
                want: None,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(kind: u16, payload: Bytes) -> Part {
        Part::Frame { kind, payload }
    }

    fn chunk(length: u32) -> Part {
        frame(wire::CHUNK, wire::encode_chunk(&[1; 32], length))
    }

    fn sealed(total: u64) -> Part {
        frame(wire::SEALED, wire::encode_sealed(&[2; 32], total))
    }

    #[test]
    fn a_chunked_body_is_whole_only_when_sealed_over_chunks_that_hold_every_byte() {
        let mut body = Body::new(BodyMode::Chunked);
        body.event(frame(wire::PROFILE, Bytes::from_static(&[1])))
            .unwrap();
        body.data(10).unwrap();
        body.event(chunk(4)).unwrap();
        assert!(matches!(
            body.end(),
            Err(Failure::Truncated { got: 10, .. })
        ));
        body.data(2).unwrap();
        body.event(chunk(8)).unwrap();
        body.event(sealed(12)).unwrap();
        body.end().unwrap();
        assert!(body.data(1).is_err());

        let wrong: [&[Part]; 5] = [
            &[chunk(11)],
            &[sealed(10)],
            &[chunk(10), sealed(11)],
            &[frame(wire::HELD, wire::encode_chunk(&[1; 32], 3))],
            &[frame(wire::PROFILE, Bytes::from_static(&[1]))],
        ];
        for parts in wrong {
            let mut body = Body::new(BodyMode::Chunked);
            body.data(10).unwrap();
            let last = parts.iter().map(|part| body.event(part.clone())).last();
            assert!(matches!(last, Some(Err(Failure::Protocol(_)))), "{parts:?}");
        }
        assert!(Body::new(BodyMode::Empty).data(1).is_err());
        assert!(Body::new(BodyMode::Plain).event(sealed(0)).is_err());
        Body::new(BodyMode::Empty).end().unwrap();
    }
}
