//! The provider index: who holds an object.
//!
//! Nodes and keys share one space. The closest live nodes to a key own it, in each of three [`Level`]s, and keep what holders say of it. Who
//! holds an object announces it to the owners of its key in its own metro, its own region and the world; who seeks one asks the
//! owners in its own. With the members' view at hand both are one hop.
//!
//! It is an index of hints. What it says of who holds what may be stale by a second, an owner may lie, and a holder may have
//! dropped what it announced: who fetches verifies what comes, whoever named the source. It knows objects, never chunks.
//!
//! Known gap: a lookup goes from node to node where its view is not complete, an announcement does not. It reaches the closest nodes that the
//! holder sees, so a seeker elsewhere may miss it; beyond some 1,000 nodes, where views cease to be complete, that will matter.

mod answer;
mod counts;
mod driver;
mod holder;
mod lookup;
mod message;
mod owners;
mod record;
mod slab;
mod store;
mod table;
#[cfg(test)]
mod testing;
mod wire;

pub use answer::answer;
pub use counts::IndexTally;
pub use driver::{Finding, Index, LOOKUPS_MAX, Parts, ProviderIndex, Rpc, RpcError, Rtt, report};
pub use holder::{
    FRACTION_STEP, HeldWrite, Holder, HolderLimits, HolderStep, HolderTally, Lag, Provided,
};
pub use lookup::{Lookup, LookupLimits, Step, Tally};
pub use message::{
    Announcement, CHANGES_MAX, Change, Refusal, Renewal, Reply, Request, Signed, Statement, Terms,
};
pub use owners::{Level, Owners, REPLICAS};
pub use record::{
    ADDRESSES_MAX, Answer, BUCKETS, CLOSER_MAX, Contact, Digests, PROVIDERS_MAX, Provider, Record,
    WHOLE, Worth, bucket, root,
};
pub use store::{Opened, Store, StoreError, StoreTerms};
pub use table::{CONSIDERED_MAX, Table, TableLimits, TableTally, Write};
pub use wire::{MESSAGE_BYTES_MAX, Malformed};
