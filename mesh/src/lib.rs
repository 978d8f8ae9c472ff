//! Where the leaves meet: objects and chunks asked for and given over STOQ between nodes, and origins and tiers made from a node's configuration.
//!
//! [`ShieldClient`] is an upstream for a cache; [`ObjectServer`] answers from whatever implements [`ObjectSource`]; [`Origins`] is
//! what stands behind a node that asks nobody else; [`Links`] is how it reaches other nodes and they it; [`Membership`] is who it is to the others; [`gossip`] is who the others are; [`index`] is who of them holds what; [`keep`] is what one leaves to another; [`Storage`] is what it keeps on disk, [`store`](fn@store) what an operator asks of that.

mod bearings;
mod borders;
mod exchanges;
mod fill;
pub mod gossip;
pub mod index;
pub mod keep;
mod links;
mod membership;
mod metrics;
mod object;
mod origins;
mod paths;
mod presence;
mod query;
mod storage;
mod store;
pub mod store_report;
mod transport;

pub use bearings::{Bearings, GeoWatch, Standing, Whereabouts};
pub use borders::{Borders, Crossing};
pub use exchanges::Exchanges;
pub use fill::{
    BeforeOrigin, Candidate, End, FillMetrics, HOLDERS_MAX, HolderId, Holders, MayAnswer,
    Neighbour, Neighbours, Offer, Patience, PeerFill, PeerFills, Quarantine, SiteKeys, Sought,
    Step, Swarm, Tier, Trouble,
};
pub use links::{Links, NodeDoors, NodeServers, NodeTls, WorkerDoor};
pub use membership::{CertError, CertReport, CertVerb, Membership, cert};
pub use metrics::{ObjectMetrics, Outcome};
pub use object::{
    AnswerBody, ChunkKeyIds, ChunksRequest, Code, Holdings, HoldingsRequest, Leaving, Manifests,
    ManifestsRequest, Node, ObjectAnswer, ObjectRequest, ObjectServer, ObjectSource, OwnWord,
    Provenance, Refusal, ShieldClient, SiteNames, Stored, Voucher, VoucherError, WithVoucher, wire,
    withhold,
};
pub use origins::{Origins, WorkerOrigins};
pub use presence::{Fares, Presence};
pub use query::query_rules;
pub use storage::Storage;
pub use store::{StoreError, StoreVerb, store};
pub use transport::{EXCHANGES_MAX, between_nodes, between_nodes_of, limits_of};
