//! Who is in the mesh: what each node says of itself, signed by it, and the view that comes of it.
//!
//! | file | what it is |
//! |---|---|
//! | `codec` | a state as bytes |
//! | `statement` | a state signed by its node, in its place among that node's others |
//! | `roster` | the view that comes of the statements of those that live |
//! | `changes` | what changed, and the log of it |
//! | `publish` | when this node says something new |
//!
//! Who lives is for whoever carries the statements to find out; here it is an input. What carries them is behind [`Membership`].

mod changes;
mod codec;
mod publish;
mod roster;
mod statement;
#[cfg(test)]
pub(crate) mod testing;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::node::NodeState;
use crate::view::View;

pub use changes::{CHANGES_MAX, Change, ChangeLog, What, between};
pub use codec::{
    NAME_BYTES_MAX, PLACES_MAX, PUBLIC_NAME_BYTES_MAX, PURGE_MARKS_BYTES_MAX, STATE_BYTES_MAX,
    StateError, decode, encode,
};
pub use publish::{DRIFT_EVERY, Due, URGENT_EVERY, due, have_moved};
pub use roster::{Looked, NODES_MAX, REMEMBERED_MAX, Roster, SUPERSEDED_FOR};
pub use statement::{Order, STATEMENT_BYTES_MAX, Statement, StatementError};

/// The next view, when there is one.
pub type NextView<'a> = Pin<Box<dyn Future<Output = Arc<View>> + Send + 'a>>;

/// Who is in the mesh, as this node sees it, and what it says of itself. Whatever carries it.
pub trait Membership: Send + Sync {
    /// The members now. Cheap.
    fn view(&self) -> Arc<View>;

    /// Waits for a view of another generation than `seen`, which is there at once where it came meanwhile; views in between may be passed
    /// over. Never ends when the mesh has ended. Cancel-safe.
    fn changed(&self, seen: u64) -> NextView<'_>;

    /// Changes what this node says of itself. It goes out when [`due`] says; what is set twice before goes out once. What is more than
    /// [allowed](encode) is not published, and said in the log.
    fn publish(&self, change: &mut dyn FnMut(&mut NodeState));

    /// The last [`CHANGES_MAX`] changes, oldest first.
    fn changes(&self) -> Vec<Change>;
}
