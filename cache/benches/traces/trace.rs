//! Requests for objects made of chunks, generated from a seed: the same everywhere.

/// The seed of the tables in `docs/store.md`.
pub(crate) const SEED: u64 = 0x5107_2026_1121;
/// Objects that are popular by rank.
const CATALOG: u64 = 20_000;
/// Requests of a trace. The first half warms up.
pub(crate) const REQUESTS: usize = 100_000;
/// Objects asked for once have numbers from here on, each trace its own.
const ONCE: u64 = 1 << 32;
/// Objects that scans walk through.
const SCANNED: u64 = 1 << 33;

/// SplitMix64: uniform, and its state can be any number.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From 0 up to 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// As many powers of two above `from` as below `to`.
    fn between(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = ((from as f64).ln(), (to as f64).ln());
        (low + (high - low) * self.part()).exp() as u64
    }
}

/// Lengths of an object's chunks, by its number alone. Successive numbers take turns with small and large, so that no luck decides how
/// large the popular ones are. Half of the objects are one chunk of at most 16 KiB; of the others a third are cut every 256 KiB, as what is
/// compressed, and two thirds at 8 to 24 KiB. 185 KB on average, at most 16 MiB.
pub(crate) fn chunks(object: u64) -> impl Iterator<Item = usize> {
    let mut random = Random(object ^ 0x000b_7ec7);
    let turn = object.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let mut left = match (turn * 100) >> 32 {
        0..50 => random.between(512, 16 << 10),
        50..91 => random.between(16 << 10, 256 << 10),
        91..99 => random.between(256 << 10, 2 << 20),
        _ => random.between(2 << 20, 16 << 20),
    };
    let fixed = random.below(3) == 0;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let len = match (left <= 16 << 10, fixed) {
            (true, _) => left,
            (_, true) => left.min(256 << 10),
            _ => left.min((8 << 10) + random.below(16 << 10)),
        };
        left -= len;
        Some(len as usize)
    })
}

/// Ranks with the probability of rank r in proportion to 1/rᵅ.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: u64, alpha: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=ranks).map(|rank| {
            sum += (rank as f64).powf(-alpha);
            sum
        });
        Self(sums.collect())
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let all = self.0.last().copied().unwrap_or_default();
        let at = random.part() * all;
        self.0.partition_point(|sum| *sum < at) as u64
    }
}

/// A trace's name for tables and what it is.
#[derive(Clone, Copy)]
pub(crate) struct Trace {
    pub(crate) name: &'static str,
    alpha: f64,
    /// Requests in a hundred for an object that is never asked for again.
    once: u64,
    /// After every 10,000 requests so many objects in a row, the same each time.
    scan: u64,
    /// After how many requests another object takes a rank; 0 for never.
    drift: usize,
}

pub(crate) const TRACES: [Trace; 6] = [
    Trace::zipf("Zipf 0.7", 0.7),
    Trace::zipf("Zipf 0.9", 0.9),
    Trace::zipf("Zipf 1.1", 1.1),
    Trace {
        once: 50,
        ..Trace::zipf("one-hit", 0.9)
    },
    Trace {
        scan: 3_000,
        ..Trace::zipf("scans", 0.9)
    },
    Trace {
        once: 20,
        scan: 1_500,
        drift: 10,
        ..Trace::zipf("mix", 0.9)
    },
];

impl Trace {
    const fn zipf(name: &'static str, alpha: f64) -> Self {
        Self {
            name,
            alpha,
            once: 0,
            scan: 0,
            drift: 0,
        }
    }

    /// The objects asked for, in order; [`REQUESTS`] of them.
    pub(crate) fn requests(&self, seed: u64) -> Vec<u64> {
        let mut random = Random(seed);
        let zipf = Zipf::new(CATALOG, self.alpha);
        let mut ranks: Vec<u64> = (0..CATALOG).collect();
        let mut fresh = ONCE;
        let mut requests = Vec::with_capacity(REQUESTS);
        let mut own = 0;
        while requests.len() < REQUESTS {
            own += 1;
            if self.drift > 0 && own % self.drift == 0 {
                fresh += 1;
                let rank = random.below(CATALOG) as usize;
                ranks[rank] = fresh;
            }
            if self.scan > 0 && own % 10_000 == 0 {
                requests.extend((0..self.scan).map(|n| SCANNED + n));
            }
            if random.below(100) < self.once {
                fresh += 1;
                requests.push(fresh);
            } else {
                requests.push(ranks[zipf.rank(&mut random) as usize]);
            }
        }
        requests.truncate(REQUESTS);
        requests
    }
}
