//! How a client's TLS handshake went. The QUIC implementation below does not say whether the server took a ticket, so
//! the session is wrapped and looks at the server's first message itself: nothing else is touched.

use std::{any::Any, sync::Arc};

use quinn::{
    ConnectError, ConnectionId, Side,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        rustls::{HandshakeData, QuicClientConfig},
    },
};
use quinn_proto::{TransportError, transport_parameters::TransportParameters};

/// How a handshake that has ended began; see [`Connection::handshake`](super::Connection::handshake).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handshake {
    /// The server took a ticket of an earlier connection: no certificates were shown.
    pub resumed: bool,
    /// The server took what was sent before the handshake's end.
    pub early_data: bool,
}

/// What the wrapped session answers when asked for its handshake data.
pub(super) struct Seen {
    pub(super) data: HandshakeData,
    /// `None` until the handshake has ended.
    pub(super) handshake: Option<Handshake>,
}

/// A client's configuration whose sessions can be asked for their [`Handshake`].
pub(super) struct Watching(pub(super) Arc<QuicClientConfig>);

impl crypto::ClientConfig for Watching {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(Watched {
            inner,
            hello: Hello::Reading(Vec::new()),
        }))
    }
}

struct Watched {
    inner: Box<dyn Session>,
    hello: Hello,
}

/// The server's first messages, until it is known whether they resume.
enum Hello {
    /// Bytes so far, at most [`HELLO_MAX`].
    Reading(Vec<u8>),
    Known {
        resumed: bool,
    },
}

/// Longer ones are not looked at: a ServerHello with a post-quantum share has about 1,200 bytes.
const HELLO_MAX: usize = 16 * 1024;

impl Hello {
    fn read(&mut self, bytes: &[u8]) {
        let Self::Reading(kept) = self else {
            return;
        };
        kept.extend_from_slice(bytes);
        if let Some(resumed) = resumes(kept) {
            *self = Self::Known { resumed };
        } else if kept.len() > HELLO_MAX {
            *self = Self::Known { resumed: false };
        }
    }
}

/// Whether the ServerHello among these handshake messages resumes; `None` while it is not all there. What is no TLS is
/// the session's to refuse, and resumes nothing.
fn resumes(mut messages: &[u8]) -> Option<bool> {
    const SERVER_HELLO: u8 = 2;
    loop {
        let (kind, rest) = messages.split_first()?;
        let len = number(rest.get(..3)?);
        let body = rest.get(3..)?;
        let message = body.get(..len)?;
        if *kind != SERVER_HELLO {
            return Some(false);
        }
        if !is_retry(message) {
            return Some(takes_ticket(message).unwrap_or(false));
        }
        messages = body.get(len..)?;
    }
}

//= https://www.rfc-editor.org/rfc/rfc8446#section-4.1.3
//# For reasons of backward compatibility with middleboxes (see Appendix D.4), the HelloRetryRequest message uses the
//# same structure as the ServerHello, but with Random set to the special value of the SHA-256 of "HelloRetryRequest"
fn is_retry(hello: &[u8]) -> bool {
    const RETRY: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8,
        0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8,
        0x33, 0x9c,
    ];
    hello.get(2..34) == Some(&RETRY)
}

//= https://www.rfc-editor.org/rfc/rfc8446#section-4.2.11
//# In response to a ClientHello that offers pre-shared keys, the server MUST supply the selected identity in the
//# "pre_shared_key" extension, and otherwise it is absent.
fn takes_ticket(hello: &[u8]) -> Option<bool> {
    const PRE_SHARED_KEY: usize = 41;
    // Version and random; a session ID; suite and compression; the extensions' length.
    let session = hello.get(34..)?;
    let (len, rest) = session.split_first()?;
    let mut extensions = rest.get(usize::from(*len) + 2 + 1 + 2..)?;
    while !extensions.is_empty() {
        let kind = number(extensions.get(..2)?);
        let len = number(extensions.get(2..4)?);
        if kind == PRE_SHARED_KEY {
            return Some(true);
        }
        extensions = extensions.get(4 + len..)?;
    }
    Some(false)
}

/// A big-endian number of two or three bytes.
fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | usize::from(*byte))
}

impl Session for Watched {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.hello.read(buf);
        self.inner.read_handshake(buf)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let data = self.inner.handshake_data()?.downcast().ok()?;
        let ended = !self.inner.is_handshaking();
        let handshake = ended.then(|| Handshake {
            resumed: matches!(self.hello, Hello::Known { resumed: true }),
            early_data: self.inner.early_data_accepted() == Some(true),
        });
        Some(Box::new(Seen {
            data: *data,
            handshake,
        }))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(random: &[u8; 32], extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend(random);
        body.extend([0, 0x13, 0x01, 0]);
        let list: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, value)| {
                let len = u16::try_from(value.len()).unwrap();
                [&kind.to_be_bytes()[..], &len.to_be_bytes(), value].concat()
            })
            .collect();
        body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
        body.extend(list);
        let len = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[2], &len[1..], &body].concat()
    }

    #[test]
    fn a_hello_resumes_if_it_names_a_ticket_wherever_it_is_cut() {
        let (plain, ticket) = ((51, &[7; 36][..]), (41, &[0, 0][..]));
        for (messages, want) in [
            (hello(&[1; 32], &[plain]), false),
            (hello(&[1; 32], &[plain, ticket]), true),
            (hello(&[1; 32], &[]), false),
        ] {
            for cut in 0..messages.len() {
                assert_eq!(resumes(&messages[..cut]), None, "{cut}");
                let mut read = Hello::Reading(Vec::new());
                read.read(&messages[..cut]);
                read.read(&messages[cut..]);
                assert!(matches!(read, Hello::Known { resumed } if resumed == want));
            }
        }
    }

    #[test]
    fn what_is_no_hello_resumes_nothing() {
        for bytes in [&[11, 0, 0, 0][..], &[2, 0, 0, 1, 3], &[2, 0, 0, 0]] {
            assert_eq!(resumes(bytes), Some(false));
        }
        // Extensions that run over their end.
        let mut cut = hello(&[1; 32], &[(51, &[7; 4])]);
        cut.truncate(cut.len() - 2);
        cut[3] -= 2;
        assert_eq!(resumes(&cut), Some(false));
        let mut endless = Hello::Reading(Vec::new());
        endless.read(&[2, 0xff, 0xff, 0xff]);
        endless.read(&vec![0; HELLO_MAX]);
        assert!(matches!(endless, Hello::Known { resumed: false }));
    }
}
