//! Content: what bytes are called, where they are cut, and how an object lists its pieces.
//!
//! - [`ChunkKey`] and [`ChunkId`]: the keyed name of a chunk's bytes.
//! - [`Profile`]: which cut points an object gets; [`Chunker`]: the cutting, as bytes arrive.
//! - [`GrowingManifest`] while an object is being received, [`Manifest`] once it is whole.
//!
//! Nothing here does I/O, reads a clock or knows HTTP. The cut points and encodings are a protocol:
//! two nodes that differ in them share no chunk, so each carries a version and has golden vectors.

mod chunker;
mod cut;
mod id;
mod manifest;
mod profile;
mod verified;
mod wire;

pub use self::{
    chunker::Chunker,
    id::{ChunkHasher, ChunkId, ChunkKey, ChunkKeyId, ManifestId},
    manifest::{
        ENTRIES_MAX, Entry, GrowingManifest, Location, Manifest, ManifestError, PAGE_ENTRIES, Page,
        Validators,
    },
    profile::{CHUNK_BYTES_MAX, PROFILE_VERSION, Profile, SINGLE_BYTES_MAX, SNIFF_BYTES},
    verified::VerifiedChunk,
    wire::{HEAD_BYTES_MAX, ManifestHead, PAGE_BYTES_MAX, WireError},
};
