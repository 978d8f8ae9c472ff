//! A set of names, small enough to hold all that a volume has.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hasher},
};

use super::Name;

/// Names, told apart by their first eight bytes: 9 to 18 bytes of memory a name, which is less than the index has for its record. Two names are taken for one with
/// a chance of 3 in a million among ten million.
#[derive(Clone, Debug, Default)]
pub struct NameSet(HashSet<u64, AsTheyAre>);

impl NameSet {
    /// Adds a name. Whether it is new.
    pub fn insert(&mut self, name: &Name) -> bool {
        self.0.insert(first(name))
    }

    /// Whether the name is in it.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.0.contains(&first(name))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn first(name: &Name) -> u64 {
    u64::from_le_bytes(*name.first_chunk().unwrap_or(&[0; 8]))
}

/// Names are hashes already.
#[derive(Clone, Debug, Default)]
struct AsTheyAre;

#[derive(Debug)]
struct Itself(u64);

impl BuildHasher for AsTheyAre {
    type Hasher = Itself;

    fn build_hasher(&self) -> Itself {
        Itself(0)
    }
}

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, name: u64) {
        self.0 = name;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
