//! Volumes in directories: opened, closed, opened again, and refused.

use std::path::Path;

use super::{
    super::{
        Disk, DiskTier, OpenError, Refused, Retained, VolumeConfig, directory::DirectoryError,
        format::superblock::SuperblockError,
    },
    *,
};

fn config(path: &Path) -> VolumeConfig {
    VolumeConfig {
        path: path.to_owned(),
        bytes: 64 << 20,
        engine: None,
        bytes_a_day: None,
        scrub_bytes_a_second: None,
    }
}

async fn read(disk: &Disk, chunk: u64) -> DiskRead {
    let expected = body(chunk);
    disk.read(Kind::Chunk, &name(chunk), &|got| got == expected)
        .await
}

async fn fill(disk: &Disk, chunks: std::ops::Range<u64>) {
    for chunk in chunks {
        disk.room().await;
        assert_eq!(
            disk.put(Kind::Chunk, name(chunk), &body(chunk)),
            Put::Queued
        );
    }
    disk.flush().await.unwrap();
}

#[tokio::test]
async fn two_volumes_share_the_names_and_keep_them_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let configs = [
        config(&directory.path().join("a")),
        config(&directory.path().join("b")),
    ];
    let disk = Disk::open(&configs, [7; 16]).unwrap();
    fill(&disk, 0..1_000).await;
    let shares: Vec<u64> = disk.found().map(|(label, _)| label.len() as u64).collect();
    assert_eq!(shares.len(), 2);
    assert_eq!(disk.records(), 1_000);
    for metrics in disk.metrics() {
        let part = metrics.put_records.get();
        assert!((350..650).contains(&part), "{part} of 1,000");
    }
    assert!(disk.close());
    assert_eq!(
        disk.put(Kind::Chunk, name(5_000), b"late"),
        Put::Refused(Refused::Off)
    );
    drop(disk);
    let disk = Disk::open(&configs, [7; 16]).unwrap();
    let names: Vec<Name> = (0..1_001).map(name).collect();
    let expected: Vec<Vec<u8>> = (0..1_001).map(body).collect();
    let answers = disk.read_run(&names, &|at, got| got == expected[at]).await;
    let hits = answers
        .iter()
        .filter(|read| matches!(read, DiskRead::Hit(_)));
    assert_eq!(hits.count(), 1_000);
    assert_eq!(answers.last(), Some(&DiskRead::Miss));
}

#[tokio::test]
async fn a_volume_is_held_by_one_and_begins_empty_under_another_secret() {
    let directory = tempfile::tempdir().unwrap();
    let configs = [config(&directory.path().join("v"))];
    let disk = Disk::open(&configs, [7; 16]).unwrap();
    fill(&disk, 0..10).await;
    let second = Disk::open(&configs, [7; 16]).unwrap_err();
    assert!(
        matches!(second, OpenError::Directory(DirectoryError::Locked { .. })),
        "{second}"
    );
    drop(disk);
    let disk = Disk::open(&configs, [8; 16]).unwrap();
    let found: Vec<_> = disk.found().collect();
    assert!(found[0].1.emptied.is_some() && found[0].1.records == 0);
    assert_eq!(read(&disk, 1).await, DiskRead::Miss);
}

#[tokio::test]
async fn a_smaller_volume_keeps_what_still_fits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    let disk = Disk::open(&[config(&path)], [7; 16]).unwrap();
    fill(&disk, 0..8_000).await;
    drop(disk);
    let smaller = VolumeConfig {
        bytes: 48 << 20,
        ..config(&path)
    };
    // Segments of 2 MiB: 23 of them.
    let disk = Disk::open(std::slice::from_ref(&smaller), [7; 16]).unwrap();
    assert!(disk.records() > 0);
    let mut hits = 0;
    for chunk in 0..8_000 {
        match read(&disk, chunk).await {
            DiskRead::Hit(_) => hits += 1,
            DiskRead::Miss => {}
            other => panic!("chunk {chunk}: {other:?}"),
        }
    }
    assert!(hits > 1_000, "{hits}");
    assert!(std::fs::metadata(path.join("log")).unwrap().len() <= smaller.bytes);
}

#[test]
fn what_is_no_volume_of_this_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    let open = || Disk::open(&[config(&path)], [7; 16]).map(drop);
    open().unwrap();
    let log = path.join("log");
    let ours = std::fs::read(&log).unwrap();
    // A later format, in both copies.
    let mut newer = ours.clone();
    for copy in [0, 4096] {
        newer[copy + 8] = 9;
        let sum = xxhash_rust::xxh3::xxh3_64(&newer[copy..copy + 4088]);
        newer[copy + 4088..copy + 4096].copy_from_slice(&sum.to_le_bytes());
    }
    std::fs::write(&log, &newer).unwrap();
    let error = open().unwrap_err();
    assert!(
        matches!(
            &error,
            OpenError::Superblock {
                source: SuperblockError::Newer { version: 9, .. },
                ..
            }
        ),
        "{error}"
    );
    std::fs::write(&log, b"my diary".repeat(2_000)).unwrap();
    let error = open().unwrap_err();
    assert!(
        matches!(
            &error,
            OpenError::Superblock {
                source: SuperblockError::Foreign,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(std::fs::read(&log).unwrap(), b"my diary".repeat(2_000));
    std::fs::write(&log, &ours).unwrap();
    open().unwrap();
    let tiny = VolumeConfig {
        bytes: 4 << 20,
        ..config(&path)
    };
    assert!(matches!(
        Disk::open(&[tiny], [7; 16]),
        Err(OpenError::Size { .. })
    ));
}

#[tokio::test]
async fn nobody_waits_for_a_thread_that_failed() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::open(&[config(&directory.path().join("v"))], [7; 16]).unwrap();
    // Asked by the volume's thread, when it reclaims the first segment.
    let retained: Retained = Arc::new(|_| panic!("on purpose"));
    disk.retain(&retained);
    let failed = Put::Refused(Refused::Off);
    let mut chunks = 0..100_000;
    let last = chunks.find(|chunk| {
        let put = disk.put(Kind::Chunk, name(*chunk), &body(*chunk));
        if put == Put::Refused(Refused::Busy) {
            std::thread::yield_now();
        }
        put == failed
    });
    assert!(last.is_some(), "the thread did not fail");
    disk.flush().await.unwrap_err();
    disk.room().await;
    assert!(!disk.close(), "not all was written");
}
