//! What every device does, whatever moves its blocks: the same claims for each.

use std::{collections::HashMap, io, path::Path, sync::Arc};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Devices of all makes over files in this directory, and one in memory.
fn devices(directory: &Path) -> Vec<(&'static str, Arc<dyn Device>)> {
    let file = |name: &str, engine| open(&directory.join(name), Some(engine)).unwrap().0;
    vec![
        ("threads", file("threads", Engine::Threads)),
        ("io_uring", file("io_uring", Engine::IoUring)),
        ("memory", Arc::new(Sim::new(1, 1 << 30))),
    ]
}

fn extent(block: u64, blocks: usize) -> Extent {
    Extent {
        offset: block * BLOCK,
        len: blocks * BLOCK_BYTES,
    }
}

fn filled(blocks: usize, byte: u8) -> Arc<IoBuf> {
    let mut buffer = IoBuf::zeroed(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    Arc::new(buffer)
}

#[tokio::test]
async fn what_is_written_is_read_and_the_end_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for (name, device) in devices(directory.path()) {
        assert!(device.is_empty(), "{name}");
        device.allocate(extent(0, 8)).unwrap();
        assert_eq!(device.len(), 8 * BLOCK, "{name}");
        device.write(2 * BLOCK, filled(3, 7)).await.unwrap();
        device.sync().await.unwrap();
        let read = device.read(extent(1, 5)).await.unwrap();
        let blocks: Vec<u8> = read.chunks(BLOCK_BYTES).map(|block| block[17]).collect();
        assert_eq!(blocks, [0, 7, 7, 7, 0], "{name}");

        device.write(9 * BLOCK, filled(1, 9)).await.unwrap();
        assert_eq!(device.len(), 10 * BLOCK, "a write beyond the end, {name}");
        for beyond in [extent(9, 2), extent(10, 1), extent(1 << 20, 4)] {
            let error = device.read(beyond).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_not_whole_blocks_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, device) in devices(directory.path()) {
        for (offset, len) in [(1, 4096), (0, 4095), (0, 0), (u64::MAX - 4095, 4096)] {
            let extent = Extent { offset, len };
            let error = device.read(extent).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
            let error = device.allocate(extent).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        let error = device.write(512, filled(1, 1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        assert!(device.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn answers_of_many_reads_are_in_the_order_asked() {
    let directory = tempfile::tempdir().unwrap();
    for (name, device) in devices(directory.path()) {
        for block in 0..64 {
            let byte = u8::try_from(block).unwrap();
            device.write(block * BLOCK, filled(1, byte)).await.unwrap();
        }
        let order: Vec<u64> = (0..600).map(|i| i * 37 % 65).collect();
        let extents: Vec<Extent> = order.iter().map(|block| extent(*block, 1)).collect();
        let answers = join_all(device.read_many(&extents)).await;
        for (block, answer) in order.iter().zip(answers) {
            match answer {
                Ok(buffer) => assert!(buffer.iter().all(|byte| u64::from(*byte) == *block)),
                Err(error) => {
                    assert_eq!((error.kind(), *block), (io::ErrorKind::UnexpectedEof, 64));
                }
            }
        }
        assert!(device.read_many(&[]).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn an_operation_goes_on_when_nobody_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    for (name, device) in devices(directory.path()) {
        device.allocate(extent(0, 512)).unwrap();
        for block in 0..256 {
            let mut asked = device.write(2 * block * BLOCK, filled(1, 5));
            if block % 2 == 0 {
                // Begun, and dropped on the way.
                let _ = futures_util::poll!(&mut asked);
            }
            drop(asked);
            drop(device.read(extent(block, 64)));
        }
        drop(device);
        if name == "memory" {
            continue;
        }
        // The end of a device waits for what it was asked.
        let (device, _) = open(&directory.path().join(name), Some(Engine::Threads)).unwrap();
        let all = device.read(extent(0, 512)).await.unwrap();
        for (block, bytes) in all.chunks(BLOCK_BYTES).enumerate() {
            let expected = if block % 2 == 0 { 5 } else { 0 };
            assert!(bytes.iter().all(|byte| *byte == expected), "{name} {block}");
        }
    }
}

/// Any order of operations, many at once where they do not touch, against a map.
#[tokio::test]
async fn a_device_holds_what_a_map_would() {
    let seed =
        std::env::var("STOQ_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("STOQ_SEED={seed}");
    let directory = tempfile::tempdir().unwrap();
    for (name, device) in devices(directory.path()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut model: HashMap<u64, u8> = HashMap::new();
        device.allocate(extent(0, 256)).unwrap();
        for _ in 0..30 {
            let mut writes = Vec::new();
            let mut block = rng.random_range(0..16);
            while block < 240 {
                let blocks = rng.random_range(1..16);
                let byte = rng.random();
                writes.push(device.write(block * BLOCK, filled(blocks, byte)));
                for block in block..block + blocks as u64 {
                    model.insert(block, byte);
                }
                block += blocks as u64 + rng.random_range(0..40);
            }
            assert!(
                join_all(writes)
                    .await
                    .into_iter()
                    .all(|write| write.is_ok())
            );
            if rng.random_bool(0.2) {
                device.sync().await.unwrap();
            }
            let extents: Vec<Extent> = (0..20)
                .map(|_| extent(rng.random_range(0..240), rng.random_range(1..16)))
                .collect();
            for (extent, read) in extents
                .iter()
                .zip(join_all(device.read_many(&extents)).await)
            {
                let read = read.unwrap();
                assert_eq!(read.len(), extent.len);
                for (block, bytes) in (extent.offset / BLOCK..).zip(read.chunks(BLOCK_BYTES)) {
                    let expected = model.get(&block).copied().unwrap_or(0);
                    assert!(
                        bytes.iter().all(|byte| *byte == expected),
                        "{name}, block {block}, seed {seed}"
                    );
                }
            }
        }
    }
}
