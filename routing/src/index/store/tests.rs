//! What was written is read again; what cannot be read is set aside.

use std::io::{Seek, Write as _};

use super::*;
use crate::index::{
    message::Change,
    record::{WHOLE, root},
};

const NOW: Duration = Duration::from_secs(5);

fn id(n: u8) -> NodeId {
    NodeId([n; 32])
}

fn key(n: u32) -> Key {
    Key(*blake3::hash(&n.to_be_bytes()).as_bytes())
}

fn record(n: u32) -> Record {
    Record {
        key: key(n),
        manifest: *blake3::hash(&n.to_le_bytes()).as_bytes(),
        fraction: WHOLE,
        generation: u64::from(n),
    }
}

fn terms() -> StoreTerms {
    StoreTerms {
        me: id(1),
        table: TableLimits::default(),
        holder: HolderLimits::default(),
        now: NOW,
        wall: 1_800_000_000_000,
    }
}

fn lease(holder: u8, sequence: u64) -> Terms {
    Terms {
        holder: id(holder),
        owner: id(1),
        generation: 1,
        sequence,
    }
}

fn adds(range: std::ops::Range<u32>) -> Vec<Change> {
    range.map(|n| Change::Add(record(n))).collect()
}

fn flush(opened: &mut Opened) {
    let (table, held) = (opened.table.take_journal(), opened.holder.take_journal());
    opened.store.write(&table, &held).unwrap();
}

/// Two holders, and some objects of its own.
fn filled(path: &Path) -> Opened {
    let mut opened = Store::open(path, &terms()).unwrap();
    opened
        .table
        .announce(&lease(2, 1), &adds(0..500), NOW)
        .unwrap();
    opened
        .table
        .announce(&lease(3, 1), &adds(300..700), NOW)
        .unwrap();
    flush(&mut opened);
    for n in 0..100 {
        opened
            .holder
            .provide(key(n), [4; 32], WHOLE, NOW, 1_800_000_000_001);
    }
    opened.holder.withdraw(&key(7), NOW);
    opened
        .table
        .announce(
            &lease(2, 2),
            &[Change::Remove(key(1)), Change::Clear(key(2).0[31])],
            NOW,
        )
        .unwrap();
    flush(&mut opened);
    opened
}

/// Of a key, who announced it here, and whether this node announces it.
type Known = (Vec<(NodeId, Record)>, Option<Record>);

/// All that is known of the first keys.
fn known(table: &Table, holder: &Holder) -> Vec<Known> {
    let of = |n| {
        let mut holders: Vec<_> = table.holders(&key(n), NOW).collect();
        holders.sort_by_key(|(holder, _)| *holder);
        (holders, holder.held(&key(n)))
    };
    (0..800).map(of).collect()
}

#[test]
fn what_was_written_is_there_after_a_restart_and_leases_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let before = filled(&path);
    let expected = known(&before.table, &before.holder);
    let tally = before.table.tally();
    assert!(tally.records > 800 && tally.leases == 2, "{tally:?}");
    drop(before);
    let mut after = Store::open(&path, &terms()).unwrap();
    assert!(after.set_aside.is_none());
    assert_eq!(known(&after.table, &after.holder), expected);
    assert_eq!(after.table.tally(), tally);
    // The lease's place in its order is kept too, and its time begins anew.
    let stale = after.table.renew(&lease(2, 2), 0, NOW);
    assert!(stale.is_err());
    let later = NOW + TableLimits::default().lease - Duration::from_secs(1);
    assert_eq!(after.table.holders(&key(650), later).count(), 1);
    // A lease that ended takes its records along, on disk too.
    after.table.forget(&id(3));
    flush(&mut after);
    drop(after);
    let last = Store::open(&path, &terms()).unwrap();
    assert_eq!(last.table.holders(&key(650), NOW).count(), 0);
    assert_eq!(last.table.holders(&key(450), NOW).count(), 1);
    assert_eq!(last.table.tally().strays, 0);
}

#[test]
fn a_file_of_another_node_or_format_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    drop(filled(&path));
    let other = StoreTerms {
        me: id(9),
        ..terms()
    };
    let opened = Store::open(&path, &other).unwrap();
    assert_eq!(opened.table.tally().records, 0);
    let (aside, why) = opened.set_aside.unwrap();
    assert!(why.contains("another node"), "{why}");
    assert_eq!(aside, directory.path().join("index.redb.set-aside"));
    assert!(aside.exists());
    drop(opened.store);
    let database = Database::create(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing
        .open_table(NUMBERS)
        .unwrap()
        .insert("format", FORMAT + 1)
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let opened = Store::open(&path, &other).unwrap();
    let (_, why) = opened.set_aside.unwrap();
    assert!(why.contains("format 2, not 1"), "{why}");
}

#[test]
fn a_file_that_is_in_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    let opened = filled(&path);
    let again = Store::open(&path, &terms());
    assert!(matches!(again, Err(StoreError::InUse { .. })), "{again:?}");
    drop(opened);
    assert!(Store::open(&path, &terms()).unwrap().set_aside.is_none());
}

/// Whatever happens to the file's bytes, the node starts, and either has what was there or begins empty and says so. A record that is changed unseen
/// is found by the digests.
#[test]
fn a_damaged_file_never_keeps_the_index_from_opening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.redb");
    drop(filled(&path));
    let good = fs::read(&path).unwrap();
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1u64);
    println!("SEED={seed}");
    let (mut set_aside, mut changed) = (0, 0);
    for round in 0..60u64 {
        let random = |what: u64, below: usize| {
            let hash = blake3::hash(
                &[seed.to_be_bytes(), round.to_be_bytes(), what.to_be_bytes()].concat(),
            );
            let number = u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap());
            usize::try_from(number % below as u64).unwrap()
        };
        fs::write(&path, &good).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        match round % 3 {
            0 => file.set_len(random(0, good.len()) as u64).unwrap(),
            1 => {
                file.seek(io::SeekFrom::Start(random(0, good.len() - 600) as u64))
                    .unwrap();
                file.write_all(&[0xa5; 600]).unwrap();
            }
            _ => {
                let at = random(0, good.len());
                file.seek(io::SeekFrom::Start(at as u64)).unwrap();
                file.write_all(&[good[at] ^ (1 << random(1, 8))]).unwrap();
            }
        }
        drop(file);
        let mut opened =
            Store::open(&path, &terms()).unwrap_or_else(|error| panic!("{round}: {error}"));
        if opened.set_aside.is_some() {
            set_aside += 1;
            assert_eq!(opened.table.tally().records, 0);
        }
        // What is there is consistent with its digests, so a renewal tells.
        let digests = [0; 256];
        changed += u32::from(
            opened
                .table
                .renew(&lease(2, 1 << 60), root(&digests), NOW)
                .unwrap()
                .is_some(),
        );
    }
    println!("{set_aside} of 60 set aside, {changed} have records of the holder");
    assert!(set_aside > 0);
}
