//! The object exchange between nodes: wire, asking side, answering side. The protocol is described at the head of `wire.rs`.

mod ask;
mod body;
mod client;
mod code;
mod holdings;
mod nodes;
mod resume;
mod server;
mod voucher;
mod vouching;
pub mod wire;
mod withhold;

pub use ask::SiteNames;
pub use client::{ChunkKeyIds, Leaving, ShieldClient};
pub use code::Code;
pub use nodes::Node;
pub use server::{AnswerBody, ObjectAnswer, ObjectServer, ObjectSource, Refusal, WithVoucher};
pub(crate) use voucher::told;
pub use voucher::{Voucher, VoucherError};
pub use vouching::OwnWord;
pub use wire::{
    ChunksRequest, Holdings, HoldingsRequest, Manifests, ManifestsRequest, ObjectRequest,
    Provenance, Stored,
};
pub use withhold::withhold;
