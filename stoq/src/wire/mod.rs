//! The STOQ wire protocol, versions 1 and 2.
//!
//! # Participants
//!
//! Two nodes of one cluster, joined by a QUIC connection with the ALPN `stoq/1` and mutual TLS 1.3. The one that
//! dialled is the *client*, the other the *server*. Exchanges and messages are started by the client; a node that
//! wants to ask in the other direction dials. Datagrams go both ways.
//!
//! # Goals
//!
//! * A request with its answer costs one bidirectional stream and no state between exchanges.
//! * Bodies of any length pass through with the memory of one flow-control window, and without a copy.
//! * A body that ends early can never look whole: an explicit end mark, not only QUIC's FIN, closes a message.
//! * Versions N and N−1 talk; what cannot be understood is refused with a code that says so.
//!
//! # Non-goals
//!
//! Meaning of requests and messages (the layers above number their own kinds), compression, ordering between exchanges,
//! and authorisation beyond "this node may connect at all".
//!
//! # Streams
//!
//! The client's first bidirectional stream is the **control stream**. Each side sends one `HELLO` on it, the client
//! first; nothing else happens until both are in, at most five seconds after the handshake. It then stays
//! open: either side may send `GOAWAY`, after which the client starts no further exchange. It ends with the connection.
//!
//! Each further bidirectional stream is one **exchange**:
//!
//! ```text
//! client → server   REQUEST (HEAD | MESSAGE | DATA)* (END | ERROR) FIN
//! server → client           (HEAD | MESSAGE | DATA)* (END | ERROR) FIN
//! ```
//!
//! The two directions are independent. `END` says the message is whole. `ERROR` says it never will be, and why.
//! A stream that ends with neither is truncated, and its reader must treat it as an error. Whoever loses
//! interest resets its sending half and stops its receiving half with a [`StreamCode`]. One answer to one question,
//! a question of many parts, an answer of many parts: all are this one form, with as many `MESSAGE`s as there are parts.
//!
//! Since version 2 each unidirectional stream, which the client opens, is one **message** to which there is no answer:
//!
//! ```text
//! client → server   TELL (HEAD | MESSAGE | DATA)* (END | ERROR) FIN
//! ```
//!
//! A server that opens one, and a client of version 1 that does, breaks the protocol. Messages are not ordered
//! among each other, and that one was sent does not say that anybody acted on it.
//!
//! # Frames
//!
//! All integers are unsigned and big-endian. A frame is a header of eight bytes and a payload:
//!
//! ```text
//!  0         1         2                   4                                       8
//! ┌─────────┬─────────┬───────────────────┬───────────────────────────────────────┬── ─ ─
//! │ version │  type   │       kind        │                length                 │ payload
//! └─────────┴─────────┴───────────────────┴───────────────────────────────────────┴── ─ ─
//! ```
//!
//! `version` is 1 in `HELLO` whatever is being negotiated, so that any two versions can read each other's, and the
//! agreed version in all other frames. `kind` is the application's in `REQUEST`, `TELL` and `MESSAGE`, and 0 elsewhere.
//! `length` counts payload bytes only: at most 65,536, or in `DATA` at most 1,048,576.
//!
//! | type | name | payload |
//! |---|---|---|
//! | 1 | `HELLO` | see below |
//! | 2 | `GOAWAY` | `u32` milliseconds that exchanges under way are still given |
//! | 3 | `REQUEST` | `u32` milliseconds left until the deadline, 0 = none; `u32` flags; control bytes |
//! | 4 | `HEAD` | control bytes |
//! | 5 | `MESSAGE` | control bytes |
//! | 6 | `DATA` | 1 or more body bytes; where one `DATA` frame ends and the next begins carries no meaning |
//! | 7 | `END` | none |
//! | 8 | `ERROR` | `u32` code of the application; UTF-8 text of at most 1,024 bytes |
//! | 9 | `TELL` | as `REQUEST`; not in version 1 |
//!
//! Another type, version or length is a protocol error; new types come with a version, or are announced by a capability
//! first.
//!
//! Flags, bit 0 being the lowest. Version 1 sends 0 and ignores what it receives.
//!
//! | bits | meaning |
//! |---|---|
//! | 0–2 | urgency as of RFC 9218: 0 first, 7 last, 3 where nobody cares. It orders what both sides send |
//! | 3 | safe to act on twice; see [early data](#early-data) |
//! | 4–31 | sent as 0 and ignored |
//!
//! ```text
//! HELLO payload
//!  0        1        2        3         4                 12
//! ┌────────┬────────┬────────┬─────────┬─────────────────┬─ ─ ─ ─┬─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─┐
//! │  min   │  max   │ roles  │ name len│  capabilities   │ name  │ roles × (u8 length, text)  │
//! └────────┴────────┴────────┴─────────┴─────────────────┴─ ─ ─ ─┴─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─┘
//! ```
//!
//! `min`–`max` is the range of versions the sender speaks; both use the highest in common. Capabilities 0–31 are
//! optional: both sides use those that both set; bit 0 says that the sender takes [datagrams](#datagrams), and no other has a
//! meaning yet. Capabilities 32–63 are critical: who sets one will not talk
//! without it, so a receiver that does not know it closes with [`CloseCode::Capability`]. `name` is the node's,
//! and must be that of its certificate. The roles are those in which the sender takes part in this
//! connection; each must stand in its identity certificate, from which alone it has any force. Bytes after the
//! last role are ignored, so that later versions can add to the message.
//!
//! # Datagrams
//!
//! Since version 2, where both sides have set capability 0, either may send datagrams as soon as it has the other's hello,
//! never as early data. Each is one unreliable datagram of QUIC:
//!
//! ```text
//!  0         1         2                   4                                                12
//! ┌─────────┬─────────┬───────────────────┬────────────────────────────────────────────────┬── ─ ─
//! │ version │  flags  │       kind        │                    sequence                    │ payload
//! └─────────┴─────────┴───────────────────┴────────────────────────────────────────────────┴── ─ ─
//! ```
//!
//! `flags` is sent as 0 and ignored. `kind` is the application's. `sequence` counts the datagrams that this side sent on this
//! connection, whatever their kind, from 1 to 2⁶⁴−1; it never begins anew: after the last one no more are sent. The
//! payload may be empty.
//!
//! A receiver acts on no sequence number twice. It keeps the highest one it took and which of the 63 before it were
//! taken, as of RFC 4303 section 3.4.3: one that is higher is taken, one that is among them is taken if it is the
//! first, one that is lower still is dropped unseen. What is dropped is counted and nothing else; so is what has
//! another version, number 0 or fewer than 12 bytes.
//!
//! # Early data
//!
//! A client that has a ticket of this server, and the server's last hello, may begin before the handshake has ended: with its
//! `HELLO`, and with requests of flag 3 in the version that was agreed on last time. Whoever saw these packets can send
//! them again, so:
//!
//! * a server gives out tickets of which each resumes once, from memory that all who answer at its address share and that ends
//!   with the process; packets that are sent again meet no ticket;
//! * a server acts on early requests only if flag 3 is set and it holds the kind to be safe itself; others wait for the end
//!   of the handshake, which only the true client can bring about;
//! * a client begins anew, with its hello, when the server did not take its early data, or answers in another version.
//!
//! Certificates, roles and revocation are judged on a resumed connection as on any other.
//!
//! # Ends
//!
//! A connection is closed with an application code, and words for people as its reason. What is known inside the TLS
//! handshake can be told only as a TLS alert, which QUIC carries as transport code 0x100 + alert.
//!
//! | code | alert | why |
//! |---|---|---|
//! | 0x00 | | done |
//! | 0x01 | | idle |
//! | 0x02 | | drained |
//! | 0x10 | | hello too slow |
//! | 0x11 | | hello malformed |
//! | 0x12 | | no version in common |
//! | 0x13 | | unknown critical capability |
//! | 0x14 | | wrong role |
//! | 0x15 | | hello claims more than the certificate |
//! | 0x20 | 116 | no certificate |
//! | 0x21 | 42 | malformed certificate |
//! | 0x22 | 48 | not signed by this cluster's root |
//! | 0x23 | 49 | another cluster |
//! | 0x24 | 45 | certificate expired or not yet valid |
//! | 0x25 | | certificate not yet valid |
//! | 0x26 | 43 | leaf valid for too long |
//! | 0x27 | 44 | revoked |
//! | 0x30 | | protocol error |
//! | 0x40 | | unknown token |
//! | 0x41 | | token already used |
//! | 0x42 | | token expired |
//! | 0x43 | | enrolment malformed or too slow |
//! | 0x44 | | enrolment failed |
//!
//! A stream is reset or stopped with 1 = cancelled, 2 = deadline passed, 3 = ended before it was whole,
//! 4 = protocol error, 5 = not permitted by any of its roles. The codes from 0x40 on are those of
//! [enrolment](crate::join), which has an ALPN of its own.

mod codes;
mod decode;
mod encode;
mod frame;
mod hello;
mod marks;
#[cfg(test)]
mod tests;
mod versions;

pub use codes::{CloseCode, StreamCode};
pub use decode::{Decoder, WireError};
pub use encode::{EncodeError, encode};
pub use frame::{
    CONTROL_BYTES_MAX, DATA_BYTES_MAX, ERROR_TEXT_BYTES_MAX, Frame, HEADER_BYTES, Opening,
    REQUEST_CONTROL_BYTES_MAX,
};
pub use hello::Hello;
pub use marks::{Marks, Urgency};
pub(crate) use versions::MESSAGES_SINCE;
pub use versions::{VERSION, VERSION_MIN, Versions};
