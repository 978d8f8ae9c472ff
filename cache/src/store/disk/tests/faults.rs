//! A device that fails, fills up or stands still: the tier is off or throttled, says so, and comes back.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    super::{
        Refused,
        device::{Effect, Fault, Loss, Op},
    },
    *,
};

fn always(op: Op, errno: i32) -> Fault {
    Fault {
        op,
        range: None,
        after: 0,
        times: None,
        effect: Effect::Errno(errno),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_turns_writing_off_and_a_probe_on_again() {
    let device = Sim::new(1, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    assert_eq!(rig.put(1).await, Put::Queued);
    rig.volume.flush().await.unwrap();
    device.fail(always(Op::Write, libc::EIO));
    assert_eq!(rig.put(2).await, Put::Queued);
    rig.volume.flush().await.unwrap_err();
    assert_eq!(
        rig.get(2).await,
        DiskRead::Miss,
        "it was lost, and that is known"
    );
    assert!(matches!(rig.get(1).await, DiskRead::Hit(_)), "reads go on");
    assert_eq!(rig.put(3).await, Put::Refused(Refused::Off));
    assert!(rig.volume.health.ailments().writes.is_some());
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(rig.put(3).await, Put::Refused(Refused::Off));
    device.heal();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(rig.put(3).await, Put::Queued);
    rig.volume.flush().await.unwrap();
    assert!(matches!(rig.get(3).await, DiskRead::Hit(_)));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn failing_reads_lose_what_they_hit_and_turn_reading_off() {
    let device = Sim::new(2, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    for chunk in 0..40 {
        assert_eq!(rig.put(chunk).await, Put::Queued);
    }
    rig.volume.flush().await.unwrap();
    device.fail(always(Op::Read, libc::EIO));
    for chunk in 0..8 {
        assert_eq!(rig.get(chunk).await, DiskRead::Miss);
    }
    assert_eq!(rig.get(8).await, DiskRead::Throttled);
    assert!(rig.volume.health.ailments().reads.is_some());
    device.heal();
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(matches!(rig.get(8).await, DiskRead::Hit(_)));
    assert_eq!(rig.get(7).await, DiskRead::Miss);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_stands_still_makes_nobody_wait_for_long() {
    let device = Sim::new(3, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    assert_eq!(rig.put(0).await, Put::Queued);
    rig.volume.flush().await.unwrap();
    device.stall();
    let asked = tokio::time::Instant::now();
    assert_eq!(rig.get(0).await, DiskRead::Throttled);
    assert!(asked.elapsed() <= Duration::from_secs(1));
    // Puts go on until the buffers are full, then say busy.
    let mut refused = None;
    for chunk in 1..20_000 {
        match rig.volume.put(Kind::Chunk, name(chunk), &body(chunk)) {
            Put::Queued => {}
            put => {
                refused = Some(put);
                break;
            }
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(refused, Some(Put::Refused(Refused::Busy)));
    assert!(matches!(rig.get(5).await, DiskRead::Hit(_)), "from memory");
    device.resume();
    rig.volume.flush().await.unwrap();
    assert!(matches!(rig.get(0).await, DiskRead::Hit(_)));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_filesystem_makes_the_log_turn_within_what_it_has() {
    // Room for 6 of 16 segments.
    let device = Sim::new(4, (1 << 20) + 6 * (512 << 10));
    let rig = Rig::start(&device, SMALL, None).await;
    for chunk in 0..4_000 {
        assert_eq!(rig.put(chunk).await, Put::Queued, "chunk {chunk}");
    }
    assert!(rig.volume.health.ailments().space.is_some());
    assert!(rig.volume.metrics.reclaimed_segments.get() > 6);
    assert!(matches!(rig.get(3_999).await, DiskRead::Hit(_)));
    rig.close().await;
    // What it turned through is found again.
    let rig = Rig::start(&device, SMALL, None).await;
    assert!(matches!(rig.get(3_999).await, DiskRead::Hit(_)));
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn flipped_bits_are_found_by_the_check_and_dropped() {
    let device = Sim::new(5, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    for chunk in 0..300 {
        assert_eq!(rig.put(chunk).await, Put::Queued);
    }
    rig.volume.flush().await.unwrap();
    device.rot(200);
    let mut corrupt = 0;
    for chunk in 0..300 {
        match rig.get(chunk).await {
            DiskRead::Hit(got) => assert_eq!(got[..], body(chunk)),
            DiskRead::Corrupt => {
                corrupt += 1;
                assert_eq!(rig.get(chunk).await, DiskRead::Miss);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(corrupt > 0);
    assert_eq!(rig.volume.metrics.corrupt.get(), corrupt);
    rig.close().await;
}

fn once(op: Op) -> Fault {
    Fault {
        times: Some(1),
        ..always(op, libc::EIO)
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_behind_a_lost_write_leaves_with_its_segment() {
    for seed in 0..8 {
        let device = Sim::new(seed, SMALL);
        let rig = Rig::start(&device, SMALL, None).await;
        // Three writes under way in one segment, and the one at its start fails.
        let start = rig.volume.layout.offset(0, 0);
        device.fail(Fault {
            range: Some(start..start + 1),
            ..once(Op::Write)
        });
        for flight in 0..3 {
            for chunk in flight * 4..flight * 4 + 4 {
                assert_eq!(rig.put(chunk).await, Put::Queued);
            }
            rig.volume.log.lock().hand_over();
        }
        rig.volume.flush().await.unwrap_err();
        for chunk in 0..12 {
            let is_there = matches!(rig.get(chunk).await, DiskRead::Hit(_));
            assert_eq!(is_there, chunk >= 4, "chunk {chunk} of seed {seed}");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let segments = u64::from(rig.volume.segments.count());
        let mut chunk = 100;
        while rig.volume.metrics.reclaimed_segments.get() < segments {
            assert_eq!(rig.put(chunk).await, Put::Queued);
            chunk += 1;
        }
        rig.volume.flush().await.unwrap();
        let mut live_bytes = 0;
        rig.volume
            .index
            .for_each(|place, _| live_bytes += u64::from(place.record_bytes()));
        let counted = &rig.volume.live_bytes;
        assert_eq!(counted.load(Ordering::Relaxed), live_bytes, "seed {seed}");
        for chunk in (0..12).chain(100..chunk) {
            let read = rig.get(chunk).await;
            assert!(
                matches!(read, DiskRead::Hit(_) | DiskRead::Miss),
                "{read:?}"
            );
        }
        assert_eq!(rig.volume.metrics.corrupt.get(), 0);
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_after_a_failure_is_found_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    for seed in 0..8 {
        let saved_at = Some(directory.path().join(format!("index-{seed}")));
        let device = Sim::new(seed, SMALL);
        let rig = Rig::start(&device, SMALL, saved_at.clone()).await;
        assert_eq!(rig.put(0).await, Put::Queued);
        rig.close().await;
        let rig = Rig::start(&device, SMALL, saved_at.clone()).await;
        // The start of a segment is lost: the chain that recovery follows breaks there.
        device.fail(once(Op::Write));
        assert_eq!(rig.put(1).await, Put::Queued);
        rig.volume.flush().await.unwrap_err();
        let failed = tokio::time::Instant::now();
        while rig.volume.metrics.checkpoints.get() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = failed.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "the index was saved after {took:?}"
        );
        assert_eq!(rig.put(2).await, Put::Queued);
        rig.volume.flush().await.unwrap();
        rig.kill();
        let device = device.after(Loss::Process, seed);
        let rig = Rig::start(&device, SMALL, saved_at).await;
        assert!(matches!(rig.get(0).await, DiskRead::Hit(_)), "seed {seed}");
        assert!(matches!(rig.get(2).await, DiskRead::Hit(_)), "seed {seed}");
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_without_room_or_with_a_failing_device_does_not_come_back() {
    let head = name(1 << 40);
    for seed in 0..8 {
        let device = Sim::new(seed, SMALL);
        let rig = Rig::start(&device, SMALL, None).await;
        rig.volume.room().await;
        for name in [head, name(2 << 40)] {
            assert_eq!(rig.volume.put(Kind::Head, name, b"old"), Put::Queued);
        }
        rig.close().await;
        let rig = Rig::start(&device, SMALL, None).await;
        // No segment is fresh yet.
        rig.volume.forget(&head);
        // Then there is one, and its first write fails.
        rig.volume.room().await;
        device.fail(once(Op::Write));
        rig.volume.forget(&name(2 << 40));
        rig.volume.flush().await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(3)).await;
        rig.kill();
        let rig = Rig::start(&device.after(Loss::Process, seed), SMALL, None).await;
        for name in [head, name(2 << 40)] {
            let read = rig.volume.read(Kind::Head, &name, &|_| true).await;
            assert_eq!(read, DiskRead::Miss, "seed {seed}");
        }
        rig.close().await;
    }
}
