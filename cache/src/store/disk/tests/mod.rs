//! A volume on a device that fails in every way a device can, against a map of what was put.

mod crash;
mod eviction;
mod faults;
mod real;
mod survey;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    DiskRead, Kind, Name, Put,
    device::{Device, Extent, Sim},
    format::{Geometry, superblock::SUPERBLOCKS_BYTES},
    open,
    volume::Volume,
};

/// 16 segments of 512 KiB.
const SMALL: u64 = 9 << 20;

/// A volume that runs.
struct Rig {
    volume: Arc<Volume>,
    end: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Rig {
    async fn start(device: &Sim, bytes: u64, saved_at: Option<PathBuf>) -> Self {
        let device: Arc<dyn Device> = Arc::new(device.clone());
        let geometry = Geometry::for_size(bytes).unwrap();
        let mut region = Vec::new();
        if device.len() >= SUPERBLOCKS_BYTES as u64 {
            let extent = Extent {
                offset: 0,
                len: SUPERBLOCKS_BYTES,
            };
            region = device.read(extent).await.unwrap().to_vec();
        }
        let (superblock, emptied) = open::decide(&region, geometry, [7; 16]).unwrap();
        assert_eq!(emptied, None);
        let started = open::start("sim".to_owned(), device, &superblock, saved_at, None);
        let (volume, keeper) = started.await.unwrap();
        let end = keeper.end.clone();
        Self {
            volume,
            end,
            keeper: tokio::spawn(keeper.run()),
        }
    }

    /// Ends it as an operator would.
    async fn close(self) {
        self.volume.health.close();
        self.end.cancel();
        self.keeper.await.unwrap();
    }

    /// Ends it as `kill -9` would.
    fn kill(self) {
        self.keeper.abort();
    }

    /// Puts a chunk, waiting for room as a fill does.
    async fn put(&self, chunk: u64) -> Put {
        self.volume.room().await;
        self.volume.put(Kind::Chunk, name(chunk), &body(chunk))
    }

    async fn get(&self, chunk: u64) -> DiskRead {
        let expected = body(chunk);
        self.volume
            .read(Kind::Chunk, &name(chunk), &|got| got == expected)
            .await
    }
}

/// The name of the chunk of this number.
fn name(chunk: u64) -> Name {
    *blake3::hash(&chunk.to_le_bytes()).as_bytes()
}

/// The bytes of the chunk of this number: up to 24 KiB, mostly short.
fn body(chunk: u64) -> Vec<u8> {
    let seed = name(chunk);
    let len = match seed[0] {
        0..128 => usize::from(seed[1]),
        128..224 => usize::from(seed[1]) * 16,
        _ => usize::from(seed[1]) * 96,
    };
    filled(len, u64::from_le_bytes(*seed.first_chunk().unwrap()))
}

/// Bytes that look random.
fn filled(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What was put under the names of heads: all versions, the last of them last. `None` for forgotten.
type Heads = HashMap<u64, Vec<Option<Vec<u8>>>>;
