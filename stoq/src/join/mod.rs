//! How a node without papers gets them: enrolment, on an ALPN of its own, `stoq-join/1`.
//!
//! # Participants
//!
//! A [`Desk`], run where the root key is, for as long as nodes are to be let in; and a machine that was given a [`Token`]
//! by whoever runs the desk. The token names the desk's address and the root's fingerprint, and holds a secret. It lets in
//! one node, whose name and roles were settled when it was made, until its time is over.
//!
//! # Goals
//!
//! * The node's key is made on the node and never leaves it. The root key stays where it is.
//! * The joiner talks to nobody but a desk of the root in its token: the secret is not sent before the desk has shown a
//!   certificate signed by that root.
//! * A token is good once. Of two who use it at the same time one gets an identity; the log of issued identities has it before
//!   it is handed out.
//! * Nothing but enrolment is possible on this ALPN, and its certificates are worth nothing on `stoq/1`.
//!
//! # The conversation
//!
//! TLS 1.3 with certificates on both sides. The desk shows a leaf for the name `join.stoq`, signed by the root, and the root.
//! The joiner shows a self-signed certificate with its Ed25519 key; by its handshake it has proven that the key is its own.
//! Then, on one bidirectional stream:
//!
//! ```text
//! joiner → desk   u8 1 │ 8 bytes token id │ 32 bytes token secret                                  FIN
//! desk → joiner   u8 1 │ 32 bytes cluster secret │ identity certificate (DER, at most 64 KiB)        FIN
//! ```
//!
//! Another first byte, length or order is malformed. The joiner closes with code 0 when it has the answer. Who is refused
//! is told by the code with which the desk closes: [`TokenUnknown`](crate::wire::CloseCode::TokenUnknown),
//! [`TokenUsed`](crate::wire::CloseCode::TokenUsed), [`TokenExpired`](crate::wire::CloseCode::TokenExpired),
//! [`JoinMalformed`](crate::wire::CloseCode::JoinMalformed) or [`JoinFailed`](crate::wire::CloseCode::JoinFailed).
//!
//! If the answer is lost on the way the token is spent all the same: the operator makes another one, and revokes the identity, which nobody has, or somebody who took the token:
//! [`Desk::last_enrolled`] names it also where nobody confirmed that it arrived.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | tokens known, used and expired ones included | [`TOKENS_MAX`] | those that can let nobody in are forgotten, oldest first; then refused |
//! | joiners there at once, all and of a prefix | the transport's | refused |
//! | tokens looked at at once | [`JOINERS_MAX`] | the next waits, in its time |
//! | time for one, from the end of its handshake to its answer, and as much to confirm it | [`DeskConfig::patience`] | closed, `JoinMalformed` |

mod ask;
mod desk;
mod token;
mod wire;

pub use ask::{JoinConfig, JoinError, Joined, join};
pub use desk::{Desk, DeskConfig, Enrolled, JOINERS_MAX, TOKENS_MAX, Wish, WishError};
pub use token::{Token, TokenError};

/// The ALPN of enrolment.
pub const ALPN: &[u8] = b"stoq-join/1";
