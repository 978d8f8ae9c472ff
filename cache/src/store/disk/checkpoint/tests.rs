//! Checkpoints against the index they were taken of, and against damage.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::store::disk::{Name, index::Place};

fn name(n: u64) -> Name {
    *blake3::hash(&n.to_le_bytes()).as_bytes()
}

fn place(n: u32) -> Place {
    Place::new(n % 100, n % 1_000 * 64, n % 262_144).unwrap()
}

fn head(segments: u64) -> CheckpointHead {
    CheckpointHead {
        volume: VolumeId::from_bytes([7; 16]),
        position: Position {
            sequence: 40,
            segment: 3,
            offset: 4096,
        },
        sequences: (0..segments).map(|n| n * 3).collect(),
    }
}

fn index(entries: u32) -> Index {
    let index = Index::new(5);
    for n in 0..entries {
        index.insert(&name(n.into()), place(n));
        for _ in 0..n % 5 {
            index.touch(&name(n.into()));
        }
    }
    index
}

fn encoded(entries: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let written = encode(&mut out, &head(100), &index(entries)).unwrap();
    assert_eq!(
        (written.entries, written.bytes),
        (entries.into(), out.len() as u64)
    );
    out
}

fn decoded(bytes: &[u8]) -> Result<Index, CheckpointError> {
    let len = bytes.len() as u64;
    let checkpoint = Checkpoint::from_reader(bytes, len, head(0).volume)?;
    assert_eq!(*checkpoint.head(), head(100));
    checkpoint.load(|_| true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Names, places and uses, for those that are kept.
    #[test]
    fn loading_inverts_writing(numbers in prop::collection::vec(any::<u32>(), 0..3_000), seed: u64, dropped in 0..5_u32) {
        let index = Index::new(seed);
        let mut model = HashMap::new();
        for n in numbers {
            index.insert(&name((n % 2_000).into()), place(n));
            index.touch(&name((n % 2_000).into()));
            model.insert(n % 2_000, place(n));
        }
        let mut bytes = Vec::new();
        encode(&mut bytes, &head(3), &index).unwrap();
        let checkpoint =
            Checkpoint::from_reader(&*bytes, bytes.len() as u64, head(0).volume).unwrap();
        let keep = |place: Place| place.segment() % 5 != dropped;
        let loaded = checkpoint.load(keep).unwrap();
        for (n, place) in &model {
            let name = name((*n).into());
            let expected = keep(*place).then(|| index.uses(&name, *place)).flatten();
            prop_assert_eq!(loaded.uses(&name, *place), expected);
        }
        prop_assert_eq!(loaded.len(), model.values().filter(|place| keep(**place)).count());
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decoded(&bytes).is_err());
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let mut bytes = encoded(2_000);
    // Every bit of the head and the end; elsewhere a bit of every 101st byte.
    let ends = |at: usize, len: usize| at < HEAD_BYTES || at + END_BYTES > len;
    for at in 0..bytes.len() {
        let bits = if ends(at, bytes.len()) {
            0..8
        } else {
            at % 8..at % 8 + usize::from(at % 101 == 0)
        };
        for bit in bits {
            bytes[at] ^= 1 << bit;
            assert!(decoded(&bytes).is_err(), "byte {at}, bit {bit}");
            bytes[at] ^= 1 << bit;
        }
    }
    assert!(decoded(&bytes).is_ok());
}

#[test]
fn a_file_of_another_length_is_refused() {
    let bytes = encoded(1_000);
    for len in (0..bytes.len()).step_by(397).chain([bytes.len() - 1]) {
        let got = decoded(&bytes[..len]);
        assert!(
            matches!(got, Err(CheckpointError::Truncated)),
            "{len}: {got:?}"
        );
    }
    let long = [&*bytes, b"x"].concat();
    assert!(matches!(decoded(&long), Err(CheckpointError::Trailing(1))));
}

#[test]
fn counts_beyond_the_file_allocate_nothing() {
    let mut bytes = encoded(0);
    let shard = HEAD_BYTES + 100 * 8 + 8;
    bytes[shard + 4..shard + 8].fill(0xff);
    assert!(matches!(decoded(&bytes), Err(CheckpointError::Truncated)));
}

#[test]
fn another_volume_and_another_version_are_named() {
    let bytes = encoded(10);
    let other = VolumeId::from_bytes([8; 16]);
    let got = Checkpoint::from_reader(&*bytes, bytes.len() as u64, other);
    assert!(matches!(got, Err(CheckpointError::Volume { want, .. }) if want == other));
    let mut newer = bytes;
    newer[8] = 2;
    assert!(matches!(decoded(&newer), Err(CheckpointError::Version(2))));
}

#[test]
fn a_checkpoint_takes_the_place_of_the_one_before_or_leaves_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint");
    let volume = head(0).volume;
    let missing = Checkpoint::open(&path, volume);
    assert!(
        matches!(missing, Err(CheckpointError::Io(error)) if error.kind() == io::ErrorKind::NotFound)
    );
    for entries in [1_000, 500] {
        // What a crash left does not matter.
        fs::write(unfinished(&path), vec![1; 1 << 20]).unwrap();
        let written = write(&path, &head(7), &index(entries)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), written.bytes);
        let loaded = Checkpoint::open(&path, volume)
            .unwrap()
            .load(|_| true)
            .unwrap();
        assert_eq!(loaded.len(), entries as usize);
    }
    // A directory in its way: the new one cannot be made.
    fs::create_dir(unfinished(&path)).unwrap();
    assert!(write(&path, &head(7), &index(10)).is_err());
    let loaded = Checkpoint::open(&path, volume)
        .unwrap()
        .load(|_| true)
        .unwrap();
    assert_eq!(loaded.len(), 500);
}

#[test]
fn what_changes_meanwhile_is_in_it_or_not_and_all_else_is() {
    let index = index(5_000);
    let bytes = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 5_000..9_000 {
                index.insert(&name(n), place(1));
                index.remove(&name(n - 1_000));
            }
        });
        let mut bytes = Vec::new();
        encode(&mut bytes, &head(100), &index).unwrap();
        writer.join().unwrap();
        bytes
    });
    let loaded = decoded(&bytes).unwrap();
    for n in 0..4_000 {
        assert_eq!(loaded.get(&name(n.into())), Some(place(n)));
    }
}
