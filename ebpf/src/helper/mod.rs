//! The privileged helper: a small process that holds what the data plane must not have.
//!
//! An edge that parses what strangers send should hold no capability. Loading a program into the kernel takes three. So
//! before it gives its own up, the edge starts this process ([`Helper::spawn`]), and asks it from then on over a pair of
//! sockets. The helper ([`serve`]) keeps `CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` and `CAP_NET_BIND_SERVICE`, holds the
//! program's link, and ends when its socket does: so the program is gone when the edge is, however that came about.
//!
//! **What a hostile edge gets from it.** Before it has read anything from outside, the edge tells the helper a [`Mandate`]:
//! which interfaces and which ports. There is no second one. A data plane that was taken over can make the limiter drop
//! packets to the edge's own ports, or let all of them pass; it cannot touch another port, another interface, another
//! program. Every message is bounded in length and version, decoded into types that refuse what they do not know, and
//! answered one at a time. A file that comes along uninvited is closed.
//!
//! **What a hostile or dead helper gets from the edge.** Answers are bounded and decoded alike, waits end
//! ([`ANSWER_WITHIN`]), and an edge without its helper goes on with the limiter at its sockets.

mod client;
mod serve;
mod socket;
mod wire;

#[doc(hidden)]
pub use self::wire::reread;
pub use self::{
    client::{ANSWER_WITHIN, Helper, HelperError, LOAD_WITHIN},
    serve::{ServeError, serve, serve_stdin},
    wire::{
        EDITS_MAX, EVENTS_MAX, Held, Mandate, Protocol, Refusal, SOURCES_MAX, Sample, Status, Why,
    },
};
