//! Resumption between nodes, and what may be said before the handshake has ended.
//!
//! | | |
//! |---|---|
//! | [`Tickets`] | the server's side: sessions that each resume once, in one bounded store for all workers |
//! | [`Sessions`] | the client's side: for each peer the tickets it gave and what was agreed on with it |
//!
//! Why stateful, and why once: what is sent before the handshake's end can be recorded and sent again by anybody on the
//! path. A ticket is the name of a session in [`Tickets`], and whoever comes first with it takes the session out. A
//! second flight with the same ticket finds nothing: it begins an ordinary handshake, which only the owner of a certificate
//! can finish, and its early data is never decrypted.
//!
//! What this does not do: if the flight that was recorded is kept from the server and the copy comes first, the copy is acted
//! on, and the client, which hears that its early data was not taken, sends the request again. So a request may be
//! acted on twice, once early and once not, and only what is [replay-safe](crate::wire::Marks::replay_safe) may be early.
//!
//! Nothing is trusted longer for being resumed: certificates, revocation and roles are judged after every handshake, and a
//! session is not used when a connection on its certificates would be due for replacement, so that rotation goes on.
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | sessions that a server keeps | [`TicketConfig::bytes_max`] | the oldest are forgotten: a full handshake |
//! | age of a session | [`TicketConfig::lifetime`] | forgotten |
//! | peers that a client remembers | [`Sessions::new`] | the least used is forgotten |
//! | tickets of a peer | 8 | the oldest is forgotten |

mod sessions;
mod store;
mod tickets;

pub(crate) use sessions::{Known, Way};
pub use sessions::{SessionCounters, Sessions};
pub use tickets::{TicketConfig, TicketCounters, Tickets};
