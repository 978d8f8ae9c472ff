//! The STOQ wire protocol, version 1.
//!
//! # Participants
//!
//! Two nodes of one cluster, joined by a QUIC connection with the ALPN `stoq/1` and mutual TLS 1.3. The one that
//! dialled is the *client*, the other the *server*. Exchanges are started by the client; a node that wants to ask
//! in the other direction dials.
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
//! Meaning of requests (the layers above number their own kinds), compression, ordering between exchanges,
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
//! interest resets its sending half and stops its receiving half with a [`StreamCode`].
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
//! agreed version in all other frames. `kind` is the application's in `REQUEST` and `MESSAGE`, and 0 elsewhere.
//! `length` counts payload bytes only: at most 65,536, or in `DATA` at most 1,048,576.
//!
//! | type | name | payload |
//! |---|---|---|
//! | 1 | `HELLO` | see below |
//! | 2 | `GOAWAY` | `u32` milliseconds that exchanges under way are still given |
//! | 3 | `REQUEST` | `u32` milliseconds left until the deadline, 0 = none; `u32` flags, sent as 0 and ignored; control bytes |
//! | 4 | `HEAD` | control bytes |
//! | 5 | `MESSAGE` | control bytes |
//! | 6 | `DATA` | 1 or more body bytes; where one `DATA` frame ends and the next begins carries no meaning |
//! | 7 | `END` | none |
//! | 8 | `ERROR` | `u32` code of the application; UTF-8 text of at most 1,024 bytes |
//!
//! Another type, version or length is a protocol error; new types are announced by a capability first.
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
//! optional: both sides use those that both set. Capabilities 32–63 are critical: who sets one will not talk
//! without it, so a receiver that does not know it closes with [`CloseCode::Capability`]. `name` is the node's,
//! and must be that of its certificate. The roles are those in which the sender takes part in this
//! connection; each must stand in its identity certificate, from which alone it has any force. Bytes after the
//! last role are ignored, so that later versions can add to the message.
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
#[cfg(test)]
mod tests;

pub use codes::{CloseCode, StreamCode};
pub use decode::{Decoder, WireError};
pub use encode::{EncodeError, encode};
pub use frame::{
    CONTROL_BYTES_MAX, DATA_BYTES_MAX, ERROR_TEXT_BYTES_MAX, Frame, HEADER_BYTES,
    REQUEST_CONTROL_BYTES_MAX, VERSION,
};
pub use hello::Hello;
