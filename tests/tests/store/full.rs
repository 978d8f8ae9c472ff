//! A disk that is full, and a volume that is flooded: every request is answered, and no more is taken than was allowed.

use std::fs::{self, File};

use integration::{body, tools};

use crate::{
    refusals::{Tmpfs, is_root},
    rig::{MIB, Node, Setup, Shelf, get},
};

/// Asks for objects that nobody asked for before, at least so many bytes of them; each answer is judged.
async fn flood(node: &Node, shelf: &Shelf, next: &mut u64, bytes: u64) {
    let client = node.client().await;
    let mut got_bytes = 0;
    while got_bytes < bytes {
        let path = format!("/{next}");
        *next += 1;
        let got = get(&client, &path).await;
        let got = got.unwrap_or_else(|error| panic!("{path}: {error}"));
        shelf.judge(&path, &got);
        got_bytes += got.length;
    }
}

/// Asks for new objects, one at a time, until the volume has taken all of one. Its path.
async fn accepted(node: &Node, shelf: &Shelf, next: &mut u64) -> String {
    let refused = async || {
        let metrics = node.metrics().await;
        let names = [
            "stoq_disk_refused_records_total",
            "stoq_disk_lost_records_total",
        ];
        let lines = metrics.lines().map(str::to_owned);
        // None before the first.
        let of_these = lines.filter(|line| names.iter().any(|name| line.starts_with(name)));
        of_these.collect::<Vec<_>>()
    };
    let put = async || node.metric("stoq_disk_put_records_total", &[]).await;
    for _ in 0..100 {
        let before = (refused().await, put().await);
        let path = format!("/{next}");
        flood(node, shelf, next, 1).await;
        let answered = std::time::Instant::now();
        // A chunk at least and the head, which comes last, a moment after the answer.
        while put().await < before.1 + 2.0 && refused().await == before.0 {
            assert!(
                answered.elapsed() < std::time::Duration::from_secs(10),
                "{path} was neither taken nor refused"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        if refused().await == before.0 {
            return path;
        }
    }
    panic!("of 100 objects each was refused, with room on the disk");
}

#[tokio::test]
async fn every_request_is_answered_while_the_disk_is_full_and_the_volume_grows_once_there_is_room()
{
    if !is_root() {
        return tools::skipped("full disk", "mounting needs root");
    }
    let seed = body::seed();
    let shelf = Shelf::start(seed).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(mut setup) = Setup::edge("full disk", directory.path(), &shelf.origin.url()) else {
        return;
    };
    let mount = Tmpfs::new(&directory.path().join("mount"), "size=96m");
    let other = mount.0.join("somebody-else's");
    let file = File::create(&other).expect("a file is made");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 72 * MIB)
        .expect("there is room");
    setup.disk = mount.0.join("disk");
    setup.size = "64MiB";
    let node = setup.start().await;
    let allocated = "stoq_disk_allocated_bytes";
    let mut next = 0;
    // 24 MiB are left: twice as much does not fit.
    flood(&node, &shelf, &mut next, 48 * MIB).await;
    // The writer is behind what was put, and the log behind the writer.
    integration::until("a full disk is said in the log", || {
        node.logged(&["ERROR", "no room for the disk tier to grow"])
    })
    .await;
    let small = node.metric(allocated, &[]).await;
    assert!(small < 24.0 * MIB as f64, "{small} bytes");
    assert!(node.metric("stoq_disk_put_bytes_total", &[]).await > 0.0);
    // The whole filesystem, to its last byte, for others to have nothing of it either.
    fs::write(mount.0.join("rest"), vec![0; 8 << 20]).expect_err("there is no room");
    flood(&node, &shelf, &mut next, 16 * MIB).await;

    drop(file);
    fs::remove_file(&other).expect("a file is removed");
    fs::remove_file(mount.0.join("rest")).expect("a file is removed");
    let begun = std::time::Instant::now();
    let mut grown = small;
    while grown < 56.0 * MIB as f64 {
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(60),
            "the volume does not grow once there is room: {small} bytes became {grown}"
        );
        flood(&node, &shelf, &mut next, 8 * MIB).await;
        grown = node.metric(allocated, &[]).await;
    }
    println!(
        "{} MiB while the disk was full, {} MiB after, {:?} after room was made; {next} requests answered",
        small / MIB as f64,
        grown / MIB as f64,
        begun.elapsed()
    );
    // What is stored is on disk again.
    let last = accepted(&node, &shelf, &mut next).await;
    assert!(node.stop().await.success());
    let node = setup.start().await;
    let asked = shelf.asked(&last);
    let got = get(&node.client().await, &last).await.expect("an answer");
    shelf.judge(&last, &got);
    assert_eq!(shelf.asked(&last), asked, "{}", got.cache_status);
    assert!(node.stop().await.success());
}

#[tokio::test]
async fn a_flood_of_fills_never_takes_more_than_the_size_and_a_segment() {
    let seed = body::seed();
    let shelf = Shelf::start(seed).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let Some(mut setup) = Setup::edge("flood", directory.path(), &shelf.origin.url()) else {
        return;
    };
    setup.size = "64MiB";
    // A volume of this size has segments of 2 MiB.
    let most = (64 + 2) * MIB;
    let (mut next, mut largest) = (0, 0);
    for part in 0..5 {
        let node = setup.start().await;
        for _ in 0..15 {
            flood(&node, &shelf, &mut next, 4 * MIB).await;
            let bytes = setup.disk_bytes();
            assert!(bytes <= most, "part {part}: {bytes} bytes on disk");
            largest = largest.max(bytes);
        }
        if part % 2 == 0 {
            node.kill().await;
        } else {
            assert!(node.stop().await.success());
        }
        let bytes = setup.disk_bytes();
        assert!(bytes <= most, "after part {part}: {bytes} bytes on disk");
        largest = largest.max(bytes);
    }
    println!(
        "300 MiB in {next} objects through a volume of 64 MiB: at most {:.1} MiB on disk",
        largest as f64 / MIB as f64
    );
    assert!(largest > 48 * MIB, "the volume was not filled: {largest}");
}
