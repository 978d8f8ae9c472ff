//! What a million records cost an owner in memory, in this process alone: it is the only test of its binary.

#![expect(clippy::unwrap_used, reason = "a step that fails ends the test")]

use std::{fs, time::Duration, time::Instant};

use stoq_routing::{
    Key, NodeId,
    index::{
        CHANGES_MAX, Change, HolderLimits, Record, Store, StoreTerms, TableLimits, Terms, WHOLE,
    },
};

const RECORDS: u32 = 1_000_000;
const HOLDERS: u8 = 100;
/// The bound, in MiB.
const RSS_MAX: u64 = 150;

/// Resident memory now and at its highest, in MiB.
fn rss() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn record(n: u32) -> Record {
    Record {
        key: Key(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        manifest: *blake3::hash(&n.to_le_bytes()).as_bytes(),
        fraction: WHOLE,
        generation: u64::from(n),
    }
}

fn terms(me: NodeId) -> StoreTerms {
    StoreTerms {
        me,
        table: TableLimits::default(),
        holder: HolderLimits::default(),
        now: Duration::ZERO,
        wall: 1_800_000_000_000,
    }
}

#[test]
fn a_million_records_take_at_most_150_mib_with_their_file_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let me = NodeId([1; 32]);
    let began = rss();
    let mut opened = Store::open(&path, &terms(me)).unwrap();
    let started = Instant::now();
    let mut sequence = 0;
    for holder in 0..HOLDERS {
        let each = RECORDS / u32::from(HOLDERS);
        let records: Vec<u32> =
            (u32::from(holder) * each..(u32::from(holder) + 1) * each).collect();
        for batch in records.chunks(CHANGES_MAX) {
            sequence += 1;
            let terms = Terms {
                holder: NodeId([holder; 32]),
                owner: me,
                generation: 1,
                sequence,
            };
            let changes: Vec<Change> = batch.iter().map(|n| Change::Add(record(*n))).collect();
            let refused = opened
                .table
                .announce(&terms, &changes, Duration::ZERO)
                .unwrap();
            assert!(refused.is_empty());
        }
        opened
            .store
            .write(&opened.table.take_journal(), &[])
            .unwrap();
    }
    let filled = started.elapsed();
    assert_eq!(opened.table.tally().records, 1_000_000);
    let (full, highest) = rss();
    let bytes = fs::metadata(&path).unwrap().len();
    println!(
        "1,000,000 records: {full} MiB resident, {highest} at most, {} before; {} MiB on disk; announced and written in {filled:?}",
        began.0,
        bytes >> 20
    );
    drop(opened);
    let started = Instant::now();
    let opened = Store::open(&path, &terms(me)).unwrap();
    let loaded = started.elapsed();
    assert!(opened.set_aside.is_none());
    assert_eq!(opened.table.tally().records, 1_000_000);
    let started = Instant::now();
    for n in 0..100_000 {
        assert_eq!(
            opened.table.holders(&record(n).key, Duration::ZERO).count(),
            1,
            "{n}"
        );
    }
    println!(
        "loaded in {loaded:?}: {} MiB resident; 100,000 asked in {:?}, debug build: {}",
        rss().0,
        started.elapsed(),
        cfg!(debug_assertions)
    );
    assert!(
        full <= RSS_MAX && highest <= RSS_MAX + 15,
        "{full} MiB, {highest} at most"
    );
}
