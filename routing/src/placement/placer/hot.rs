//! How often each key is asked for, in a fixed space: a count-min sketch (Cormode and Muthukrishnan 2005) that raises only what must be raised
//! (Estan and Varghese 2002). It never counts too little; keys that meet in all four rows count together, which is rare and makes a cold key pass
//! for a hot one at worst.

use crate::Key;

const ROWS: usize = 4;
const COLUMNS: usize = 2_048;

/// Counts of keys, 4 × 2,048 × 4 bytes = 32 KiB.
#[derive(Debug, Clone)]
pub(super) struct HotKeys(Vec<f32>);

impl HotKeys {
    pub(super) fn new() -> Self {
        Self(vec![0.0; ROWS * COLUMNS])
    }

    /// Counts; what the key has now.
    pub(super) fn add(&mut self, key: &Key, cost: f64) -> f64 {
        let cells = cells(key);
        let counts = cells.iter().filter_map(|cell| self.0.get(*cell));
        #[expect(clippy::cast_possible_truncation, reason = "it is a count, roughly")]
        let count = counts.copied().fold(f32::MAX, f32::min) + cost as f32;
        for cell in cells {
            if let Some(cell) = self.0.get_mut(cell) {
                *cell = cell.max(count);
            }
        }
        count.into()
    }

    pub(super) fn fade(&mut self, keeps: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "a factor of at most 1")]
        let keeps = keeps as f32;
        self.0.iter_mut().for_each(|count| *count *= keeps);
    }
}

/// A key is a hash, so its first bytes are as good a place as any.
fn cells(key: &Key) -> [usize; ROWS] {
    std::array::from_fn(|row| {
        let [high, low] = [key.0[2 * row], key.0[2 * row + 1]];
        row * COLUMNS + usize::from(u16::from_be_bytes([high, low])) % COLUMNS
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn no_key_counts_too_little_and_a_cold_one_hardly_too_much() {
        let mut rng = StdRng::seed_from_u64(crate::latency::world::seed(51));
        let hot = Key(rng.random());
        let mut counts = HotKeys::new();
        for _ in 0..20_000 {
            counts.add(&hot, 1.0);
            counts.add(&Key(rng.random()), 1.0);
        }
        assert!(counts.add(&hot, 0.0) >= 20_000.0);
        let cold = counts.add(&Key(rng.random()), 0.0);
        println!("a key that was never asked for counts {cold} of 40,000");
        assert!(cold <= 40.0, "{cold}");
        counts.fade(0.5);
        assert!(counts.add(&hot, 0.0) < 10_100.0);
    }
}
