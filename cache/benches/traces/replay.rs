//! Traces through policies, and the table of what they missed.

use std::fmt::Write as _;

use bytes::Bytes;
use stoq_cache::{
    content::ChunkId,
    store::{MokaTier, QuickTier, RamTier, S3FifoTier},
};

use crate::{
    reference::{Lru, Policy, S3Fifo},
    trace::{self, REQUESTS, Random, Trace},
};

/// Capacities of the tables, in MiB.
pub(crate) const CAPACITIES_MIB: [usize; 3] = [64, 256, 1024];

/// Makes a policy of so many bytes.
type New = fn(usize) -> Box<dyn Policy>;

/// The columns of the tables, in order.
pub(crate) const POLICIES: [(&str, New); 5] = [
    ("LRU", |capacity| Box::new(Lru::new(capacity))),
    ("ideal S3-FIFO", |capacity| Box::new(S3Fifo::new(capacity))),
    ("`S3FifoTier`", |capacity| {
        Box::new(Tier(Box::new(S3FifoTier::new(capacity as u64))))
    }),
    ("`QuickTier`", |capacity| {
        Box::new(Tier(Box::new(QuickTier::new(capacity as u64))))
    }),
    ("`MokaTier`", |capacity| {
        Box::new(Tier(Box::new(MokaTier::new(capacity as u64))))
    }),
];

/// The bytes of all chunks: what is replayed is lengths, and no memory is moved.
static BYTES: [u8; 256 << 10] = [0; 256 << 10];

struct Tier(Box<dyn RamTier>);

impl Policy for Tier {
    fn hit(&mut self, chunk: u64, len: usize) -> bool {
        let id = id(chunk);
        if self.0.get(&id).is_some() {
            return true;
        }
        self.0.insert(id, Bytes::from_static(&BYTES[..len]));
        false
    }
}

/// A name as uniform as those of chunks.
pub(crate) fn id(chunk: u64) -> ChunkId {
    let mut random = Random(chunk);
    let mut bytes = [0; 32];
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes());
    }
    ChunkId::from_bytes(bytes)
}

/// What a trace came to, in its second half.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Missed {
    /// Percent of the requests that lacked a chunk or more.
    pub(crate) requests: f64,
    /// Percent of the bytes.
    pub(crate) bytes: f64,
}

/// Asks for each object's chunks in order.
pub(crate) fn replay(requests: &[u64], policy: &mut dyn Policy) -> Missed {
    let (mut missed_requests, mut missed_bytes, mut bytes) = (0, 0, 0);
    let (warm_up, counted) = requests.split_at(requests.len() / 2);
    let mut ask = |object: u64| {
        let (mut all, mut missed) = (0, 0);
        for (index, len) in trace::chunks(object).enumerate() {
            all += len;
            if !policy.hit(object << 16 | index as u64, len) {
                missed += len;
            }
        }
        (all, missed)
    };
    for object in warm_up {
        ask(*object);
    }
    for object in counted {
        let (all, missed) = ask(*object);
        bytes += all;
        missed_bytes += missed;
        missed_requests += usize::from(missed > 0);
    }
    Missed {
        requests: 100.0 * missed_requests as f64 / counted.len() as f64,
        bytes: 100.0 * missed_bytes as f64 / bytes as f64,
    }
}

/// One row: the trace at a capacity through every policy.
pub(crate) fn row(trace: &Trace, seed: u64, capacity_mib: usize) -> [Missed; POLICIES.len()] {
    let requests = trace.requests(seed);
    POLICIES.map(|(_, new)| replay(&requests, &mut *new(capacity_mib << 20)))
}

/// How a row begins in the table.
pub(crate) fn row_name(trace: &Trace, capacity_mib: usize) -> String {
    format!("| {} | {capacity_mib} |", trace.name)
}

pub(crate) fn cell(missed: &Missed) -> String {
    format!(" {:.1} / {:.1} |", missed.requests, missed.bytes)
}

/// The table, with a last row of means.
pub(crate) fn table(seed: u64) -> String {
    let mut text = String::from("| trace | MiB |");
    for (name, _) in POLICIES {
        let _ = write!(text, " {name} |");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(POLICIES.len()));
    text.push('\n');
    let mut sums = [Missed::default(); POLICIES.len()];
    let mut rows = 0.0;
    for trace in trace::TRACES {
        for capacity in CAPACITIES_MIB {
            text.push_str(&row_name(&trace, capacity));
            rows += 1.0;
            for (sum, missed) in sums.iter_mut().zip(row(&trace, seed, capacity)) {
                sum.requests += missed.requests;
                sum.bytes += missed.bytes;
                text.push_str(&cell(&missed));
            }
            text.push('\n');
        }
    }
    text.push_str("| **mean** | |");
    for sum in sums {
        text.push_str(&cell(&Missed {
            requests: sum.requests / rows,
            bytes: sum.bytes / rows,
        }));
    }
    let _ = write!(
        text,
        "\n\n{REQUESTS} requests each, the first half not counted; seed {seed:#x}.\n"
    );
    text
}
