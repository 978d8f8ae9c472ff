//! What is peculiar to rings: whose they are, how much they hold, and how they end.

use std::{path::PathBuf, sync::mpsc, thread};

use futures_util::future::join_all;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::store::disk::device::{BLOCK_BYTES, Device, Engine, Extent, IoBuf, open};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

fn device(blocks: usize) -> (tempfile::TempDir, PathBuf, Arc<dyn Device>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (device, opened) = open(&path, Some(Engine::IoUring)).unwrap();
    assert_eq!(opened.engine, Engine::IoUring);
    device.allocate(extent(0, blocks)).unwrap();
    (directory, path, device)
}

fn extent(block: u64, blocks: usize) -> Extent {
    Extent {
        offset: block * BLOCK_BYTES as u64,
        len: blocks * BLOCK_BYTES,
    }
}

fn filled(blocks: usize, byte: u8) -> Arc<IoBuf> {
    let mut buffer = IoBuf::zeroed(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    Arc::new(buffer)
}

#[test]
fn a_ring_ends_with_its_runtime_or_its_device() {
    let (_one, _, first) = device(1);
    let (_two, _, second) = device(1);
    let count = || RINGS.with_borrow(|rings| rings.iter().filter(|(_, ring)| alive(ring)).count());
    let runtime = runtime();
    runtime.block_on(async {
        for _ in 0..3 {
            first.read(extent(0, 1)).await.unwrap();
            second.read(extent(0, 1)).await.unwrap();
        }
        assert_eq!(count(), 2, "a device has a ring of its own");
        drop(first);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        second.read(extent(0, 1)).await.unwrap();
        assert_eq!(count(), 1);
    });
    drop(runtime);
    assert_eq!(count(), 0);
    drop(second);
}

fn alive(ring: &Option<Weak<Ring>>) -> bool {
    ring.as_ref().is_some_and(|ring| ring.strong_count() > 0)
}

#[test]
fn reads_beyond_what_may_wait_are_refused_and_no_others() {
    let (_directory, _, device) = device(16);
    runtime().block_on(async {
        let most = IN_FLIGHT_MAX + READS_WAITING_MAX;
        let extents = vec![extent(3, 1); most + 10];
        // Nothing is answered before the first wait, so the count is exact.
        let mut reads = device.read_many(&extents);
        let write = device.write(0, filled(1, 1));
        let late = join_all(reads.split_off(most)).await;
        for refused in late {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        assert!(join_all(reads).await.into_iter().all(|read| read.is_ok()));
        write.await.unwrap();
        device.read(extent(0, 1)).await.unwrap();
    });
}

#[test]
fn an_answer_reaches_whoever_waits_in_another_runtime() {
    let (_directory, _, device) = device(64);
    let (sender, receiver) = mpsc::sync_channel(64);
    let asking = Arc::clone(&device);
    let asker = thread::spawn(move || {
        // Ends with its operations under way: the end of its ring waits for them.
        runtime().block_on(async {
            for block in 0..64 {
                sender
                    .send(asking.write(block * 4096, filled(1, 8)))
                    .unwrap();
            }
        });
    });
    runtime().block_on(async {
        for write in receiver {
            write.await.unwrap();
        }
        let read = device.read(extent(0, 64)).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 8));
    });
    asker.join().unwrap();
}

#[test]
fn a_runtime_of_many_threads_and_a_caller_outside_of_any_are_served() {
    let (_directory, _, device) = device(64);
    let many = Builder::new_multi_thread()
        .worker_threads(3)
        .enable_io()
        .build()
        .unwrap();
    many.block_on(async {
        let tasks = (0..64).map(|block| {
            let device = Arc::clone(&device);
            tokio::spawn(async move {
                device.write(block * 4096, filled(1, 4)).await.unwrap();
                for _ in 0..20 {
                    let read = device.read(extent(block, 1)).await.unwrap();
                    assert!(read.iter().all(|byte| *byte == 4));
                    tokio::task::yield_now().await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
    drop(many);
    let read = device.read(extent(0, 64));
    let (sender, receiver) = mpsc::sync_channel(1);
    runtime().block_on(async { sender.send(read.await).unwrap() });
    assert!(
        receiver
            .recv()
            .unwrap()
            .unwrap()
            .iter()
            .all(|byte| *byte == 4)
    );
}

#[test]
fn the_end_of_a_device_waits_for_rings_of_other_threads() {
    let (_directory, path, device) = device(512);
    let (begun, wait) = mpsc::sync_channel(1);
    let (release, released) = mpsc::sync_channel::<()>(1);
    let asking = Arc::clone(&device);
    let asker = thread::spawn(move || {
        runtime().block_on(async {
            for block in 0..512 {
                drop(asking.write(block * 4096, filled(1, 6)));
            }
            drop(asking);
            begun.send(()).unwrap();
            // Its thread takes no answers any more, but lives.
            let _ = released.recv();
        });
    });
    wait.recv().unwrap();
    drop(device);
    let written = std::fs::read(&path).unwrap();
    assert!(written.len() == 512 * 4096 && written.iter().all(|byte| *byte == 6));
    drop(release);
    asker.join().unwrap();
}
