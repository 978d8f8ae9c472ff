//! Claims about the simulated device itself: a fault injector that cannot injure proves nothing.

use std::collections::BTreeSet;

use super::*;

const BLOCK: u64 = BLOCK_BYTES as u64;

fn filled(blocks: usize, byte: u8) -> Arc<IoBuf> {
    let mut buffer = IoBuf::zeroed(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    Arc::new(buffer)
}

fn all(len: u64) -> Extent {
    Extent {
        offset: 0,
        len: usize::try_from(len).unwrap(),
    }
}

fn fault(op: Op, effect: Effect) -> Fault {
    Fault {
        op,
        range: None,
        after: 0,
        times: None,
        effect,
    }
}

#[tokio::test]
async fn what_was_synced_survives_and_the_rest_by_chance_in_sectors() {
    let device = Sim::new(3, 1 << 20);
    device.write(0, filled(4, 1)).await.unwrap();
    device.sync().await.unwrap();
    device.write(BLOCK, filled(4, 2)).await.unwrap();
    device.write(2 * BLOCK, filled(2, 3)).await.unwrap();

    let (mut lengths, mut outcomes) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..500 {
        let after = device.after(Loss::Power, seed);
        lengths.insert(after.len());
        let bytes = after.read(all(after.len())).await.unwrap();
        let sectors: Vec<u8> = bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "sector {index}"
            );
            let possible: &[u8] = match index / 8 {
                0 => &[1],
                1 => &[1, 2],
                2 | 3 => &[1, 2, 3],
                _ => &[0, 2],
            };
            assert!(possible.contains(&sector[0]), "sector {index}, seed {seed}");
        }
        outcomes.insert(sectors[8..32].to_vec());
        let again = device.after(Loss::Power, seed);
        assert_eq!(&*again.read(all(again.len())).await.unwrap(), &*bytes);
    }
    assert_eq!(lengths, BTreeSet::from([4 * BLOCK, 5 * BLOCK]));
    assert!(outcomes.len() > 100, "{} outcomes", outcomes.len());
    let nothing = [[1; 24].to_vec(), [[2; 8], [3; 8], [3; 8]].concat()];
    assert!(nothing.iter().all(|outcome| outcomes.contains(outcome)));

    let killed = device.after(Loss::Process, 9);
    let bytes = killed.read(all(5 * BLOCK)).await.unwrap();
    let blocks: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
    assert_eq!(blocks, [1, 2, 3, 3, 2]);
}

#[tokio::test]
async fn a_sync_covers_what_was_completed_before_it_alone() {
    let device = Sim::new(4, 1 << 20);
    device.allocate(all(4 * BLOCK)).unwrap();
    let under_way = device.write(0, filled(1, 1));
    let sync = device.sync();
    under_way.await.unwrap();
    sync.await.unwrap();
    let mut survived = BTreeSet::new();
    for seed in 0..50 {
        let after = device.after(Loss::Power, seed);
        survived.insert(after.read(all(BLOCK)).await.unwrap()[0]);
    }
    assert_eq!(survived, BTreeSet::from([0, 1]));
    device.sync().await.unwrap();
    for seed in 0..50 {
        let after = device.after(Loss::Power, seed);
        assert_eq!(after.read(all(BLOCK)).await.unwrap()[0], 1);
    }
}

#[tokio::test]
async fn a_sync_that_failed_is_not_made_good_by_the_next() {
    let device = Sim::new(5, 1 << 20);
    device.allocate(all(4 * BLOCK)).unwrap();
    device.sync().await.unwrap();
    device.write(0, filled(1, 1)).await.unwrap();
    device.fail(Fault {
        times: Some(1),
        ..fault(Op::Sync, Effect::Errno(libc::EIO))
    });
    let error = device.sync().await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    device.sync().await.unwrap();
    let lost = (0..50).filter(|seed| {
        let after = device.after(Loss::Power, *seed);
        let read = futures_util::FutureExt::now_or_never(after.read(all(BLOCK)));
        read.is_some_and(|read| read.unwrap()[0] == 0)
    });
    assert!(lost.count() > 0);
    device.write(0, filled(1, 2)).await.unwrap();
    device.sync().await.unwrap();
    for seed in 0..50 {
        let after = device.after(Loss::Power, seed);
        assert_eq!(after.read(all(BLOCK)).await.unwrap()[0], 2);
    }
}

#[tokio::test]
async fn faults_befall_what_they_name_as_often_as_they_say() {
    let device = Sim::new(6, 8 * BLOCK);
    device.write(0, filled(8, 1)).await.unwrap();
    device.fail(Fault {
        range: Some(BLOCK..2 * BLOCK),
        after: 1,
        times: Some(2),
        ..fault(Op::Read, Effect::Errno(libc::EIO))
    });
    let one = |block: u64| Extent {
        offset: block * BLOCK,
        len: BLOCK_BYTES,
    };
    let mut outcomes = Vec::new();
    for block in [0, 1, 1, 0, 1, 1] {
        outcomes.push(device.read(one(block)).await.is_ok());
    }
    assert_eq!(outcomes, [true, true, false, true, false, true]);

    device.fail(fault(Op::Write, Effect::Lost));
    device.write(0, filled(1, 9)).await.unwrap();
    device.heal();
    assert_eq!(device.read(one(0)).await.unwrap()[0], 1);

    let full = device.write(8 * BLOCK, filled(1, 9)).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let full = device.allocate(one(8)).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);

    device.flip(BLOCK + 5, 3);
    assert_eq!(device.read(one(1)).await.unwrap()[5], 1 ^ 8);
    device.sync().await.unwrap();
    let places = device.rot(20);
    assert!(places.len() == 20 && places.iter().all(|place| *place < 8 * BLOCK));

    let counts = device.counts();
    assert_eq!((counts.reads, counts.writes, counts.syncs), (8, 3, 1));
    assert_eq!((counts.failed, counts.read_bytes), (4, 6 * BLOCK));
}

#[tokio::test]
async fn a_stalled_device_answers_when_it_is_told_to() {
    let device = Sim::new(7, 1 << 20);
    device.write(0, filled(2, 1)).await.unwrap();
    device.stall();
    let mut read = device.read(all(2 * BLOCK));
    let mut write = device.write(0, filled(1, 2));
    drop(device.write(BLOCK, filled(1, 3)));
    for _ in 0..10 {
        assert!(futures_util::poll!(&mut read).is_pending());
        assert!(futures_util::poll!(&mut write).is_pending());
    }
    // What was under way may have arrived or not.
    let mut firsts = BTreeSet::new();
    for seed in 0..50 {
        let after = device.after(Loss::Process, seed);
        firsts.insert(after.read(all(2 * BLOCK)).await.unwrap()[0]);
    }
    assert_eq!(firsts, BTreeSet::from([1, 2]));
    device.resume();
    write.await.unwrap();
    let bytes = read.await.unwrap();
    assert_eq!((bytes[0], bytes[BLOCK_BYTES]), (2, 3));
}
