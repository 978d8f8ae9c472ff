//! One edge asks another to keep objects: who is about to leave hands over what is asked for most.
//!
//! | file | what it is |
//! |---|---|
//! | `wire` | the request, a list of URLs, and its answer, how many are kept |
//! | `server` | answers other edges from a [`Keeper`] |
//! | `told` | who was said to hold what, asked first by the fills that follow |
//!
//! The asker is believed in nothing but that it holds what it names. Who is asked computes the keys itself, fetches as for a miss of its own, with the asker as its first holder, and
//! verifies what comes; what it would not store it does not keep. It asks nobody else to keep anything for that.

mod server;
mod told;
mod wire;

use std::time::Duration;

use stoq::peer::{Ask, PeerConn};
use stoq::wire::Urgency;

pub use server::{KeepServer, Keeper};
pub use told::{Told, Word};
pub use wire::{Answer, KEPT_MAX, Object, Request};

/// Kind of the exchange. Request and answer are heads without a body.
pub const KEEP: u16 = 66;

/// Has a node keep these objects, within this time; how many it keeps now.
///
/// # Errors
/// It was not reached, does not answer in time, or answers something else; in words.
pub async fn ask(conn: &PeerConn, request: &Request, within: Duration) -> Result<Answer, String> {
    let control = request.encode().map_err(|error| error.to_string())?;
    let ask = Ask::new(KEEP, control)
        .within(within)
        .urgency(Urgency::LAST);
    let answer = conn.call(ask).await.map_err(|error| error.to_string())?;
    Answer::decode(&answer).map_err(|error| error.to_string())
}
