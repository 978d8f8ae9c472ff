//! A volume that is smaller than what is put.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_oldest_leave_and_what_was_used_stays_within_the_bound_of_writing() {
    let device = Sim::new(1, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    let hot: Vec<u64> = (0..60).collect();
    for chunk in &hot {
        assert_eq!(rig.put(*chunk).await, Put::Queued);
    }
    // 80 MB into 8.
    let mut put = 0;
    for chunk in 1_000..40_000 {
        assert_eq!(rig.put(chunk).await, Put::Queued, "chunk {chunk}");
        put += body(chunk).len() as u64;
        if chunk % 500 == 0 {
            for chunk in &hot {
                let read = rig.get(*chunk).await;
                assert!(
                    matches!(read, DiskRead::Hit(_)),
                    "hot chunk {chunk}: {read:?}"
                );
            }
        }
        if put > 80 << 20 {
            break;
        }
    }
    rig.volume.flush().await.unwrap();
    let metrics = &rig.volume.metrics;
    assert!(metrics.reclaimed_segments.get() > 100);
    assert!(metrics.evicted_records.get() > 0 && metrics.moved_records.get() > 0);
    assert_eq!(rig.get(1_000).await, DiskRead::Miss);
    let put = metrics.put_bytes.get() as f64;
    let written = metrics.written_bytes.get() as f64;
    println!("write amplification {:.3}", written / put);
    // Headers and padding of short records included.
    assert!(written / put < 1.5, "{}", written / put);
    assert!(rig.volume.device.len() <= SMALL);
    let live: u64 = {
        let mut live = 0;
        rig.volume
            .index
            .for_each(|place, _| live += u64::from(place.record_bytes()));
        live
    };
    assert_eq!(
        live,
        rig.volume
            .live_bytes
            .load(std::sync::atomic::Ordering::Relaxed)
    );
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_above_stays_too() {
    let device = Sim::new(2, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    let held = name(0);
    let _ = rig.volume.retained.set(Arc::new(move |name| *name == held));
    for chunk in 0..8_000 {
        assert_eq!(rig.put(chunk).await, Put::Queued);
    }
    assert!(matches!(rig.get(0).await, DiskRead::Hit(_)));
    assert_eq!(rig.get(1).await, DiskRead::Miss);
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_there_at_the_end_is_there_at_the_next_start_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let saved_at = directory.path().join("checkpoint");
    let device = Sim::new(3, SMALL);
    let mut first = 0;
    for life in 0..6 {
        let saved_at = (life % 2 == 0).then(|| saved_at.clone());
        let rig = Rig::start(&device, SMALL, saved_at).await;
        let mut hits = 0;
        for chunk in 0..first {
            // Room is being made meanwhile.
            let there = rig.volume.index.contains(&name(chunk));
            match rig.get(chunk).await {
                DiskRead::Hit(_) => hits += 1,
                DiskRead::Miss => assert!(!there || !rig.volume.index.contains(&name(chunk))),
                other => panic!("life {life}, chunk {chunk}: {other:?}"),
            }
        }
        assert_eq!(life > 0, hits > 500, "life {life}: {hits} hits");
        for chunk in first..first + 1_500 {
            assert_eq!(rig.put(chunk).await, Put::Queued);
        }
        first += 1_500;
        rig.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_read_in_pieces_and_answered_in_order() {
    let device = Sim::new(4, SMALL);
    let rig = Rig::start(&device, SMALL, None).await;
    for chunk in 0..200 {
        assert_eq!(rig.put(chunk).await, Put::Queued);
    }
    rig.volume.flush().await.unwrap();
    let before = device.counts().reads;
    let wanted: Vec<u64> = (20..60).rev().chain([9_999]).collect();
    let names: Vec<(usize, Name)> = wanted
        .iter()
        .map(|chunk| name(*chunk))
        .enumerate()
        .collect();
    let expected: Vec<Vec<u8>> = wanted.iter().map(|chunk| body(*chunk)).collect();
    let check = |at: usize, got: &[u8]| got == expected[at];
    let mut answers = rig.volume.read_run(&names, &check).await;
    answers.sort_by_key(|(at, _)| *at);
    for (at, read) in &answers {
        match read {
            DiskRead::Hit(got) => assert_eq!(got[..], expected[*at]),
            other => assert!(*at == 40 && *other == DiskRead::Miss, "{at}: {other:?}"),
        }
    }
    assert_eq!(answers.len(), 41);
    assert_eq!(device.counts().reads - before, 1, "neighbours are one read");
    rig.close().await;
}

#[tokio::test(start_paused = true)]
async fn segments_are_sealed_whatever_the_lengths_of_their_records() {
    const BYTES: u64 = 64 << 20;
    let device = Sim::new(6, BYTES);
    let rig = Rig::start(&device, BYTES, None).await;
    for number in 0..3_000_u64 {
        let seed = name(number);
        // Half of them short, the others up to the longest there is.
        let len = match seed[0] % 4 {
            0 | 1 => usize::from(seed[1]) * 16,
            2 => usize::from(seed[1]) * 256,
            _ => usize::from(seed[1]) * 1_028,
        };
        let body = filled(len, number + 1);
        let kind = if seed[0].is_multiple_of(4) {
            Kind::Head
        } else {
            Kind::Chunk
        };
        rig.volume.room().await;
        assert_eq!(rig.volume.put(kind, seed, &body), Put::Queued);
        if seed[2] < 8 {
            rig.volume.forget(&name(number / 2));
        }
        if seed[2] > 240 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
    rig.volume.flush().await.unwrap();
    assert!(rig.volume.metrics.reclaimed_segments.get() > 20);
    assert_eq!(rig.volume.metrics.write_errors.get(), 0);
    rig.close().await;
}
