//! What is asked of a server: objects, how the next is chosen, and what makes an answer right.
//!
//! | workload | the next object is |
//! |---|---|
//! | [`one`](Workload::one) | the same again |
//! | [`list`](Workload::list) | in turn, or at random by weight |
//! | [`zipf`](Workload::zipf) | at random by Zipf's law, of up to 10 million |
//! | [`trace`](Workload::trace) | the recorded one |
//! | [`versioned`](Workload::versioned) | in turn, some of them updated in between |
//!
//! Beside them stand [slices](Workload::in_slices) instead of whole objects and [purges](Workload::purging) among the
//! requests. Each thread draws from a seed of its own; a request is a clone of an `Arc`, with one exception: objects of a
//! Zipf workload beyond those [kept](ZIPF_KEPT) are made when they are asked for.

mod asks;
mod list;
mod trace;
mod versions;
mod zipf;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;

pub use self::asks::Asks;
pub use self::list::Listed;
use self::list::Weights;
use self::trace::Trace;
pub use self::versions::{Body, VERSION_BYTES_MIN, Versions};
use self::zipf::Zipf;

/// Objects of a Zipf workload that are kept in memory, about 100 bytes each, and learned before a run: the most popular.
pub const ZIPF_KEPT: u32 = 10_000;
/// Most objects of a Zipf workload.
pub const ZIPF_OBJECTS_MAX: u64 = 10_000_000;

/// Something a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path and query, as in the request.
    pub path: Arc<str>,
    /// `:authority` or `Host`, where it is not the target's.
    pub authority: Option<Arc<str>>,
    /// What makes an answer right.
    pub known: Known,
}

impl Object {
    fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            authority: None,
            known: Known::Nothing,
        }
    }

    /// Bytes of the whole, where known.
    fn length(&self) -> Option<u64> {
        match &self.known {
            Known::Nothing => None,
            Known::Length(length) | Known::Hash { length, .. } => Some(*length),
            Known::Body(body) => Some(body.len() as u64),
            Known::Versions(versions) => Some(versions.length()),
        }
    }
}

/// What is known of an object's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing but what its own framing says: the declared length is held to. Never the last word: a run first asks for each
    /// object and learns.
    Nothing,
    /// Its length, bytes.
    Length(u64),
    /// Its length and BLAKE3: each answer is hashed.
    Hash {
        /// Bytes.
        length: u64,
        /// BLAKE3 of the whole.
        hash: blake3::Hash,
    },
    /// All of it: each answer is compared byte by byte, which is cheaper than a hash and works for ranges.
    Body(Bytes),
    /// It is updated while the run goes on: an answer must be a whole version, and none older than was acknowledged before
    /// it was asked for.
    Versions(Arc<Versions>),
}

/// One request to make. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub object: Arc<Object>,
}

/// What a request does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// GET, the whole.
    Get,
    /// GET with `Range: bytes=first-last`; right are 206 with these bytes, or 200 with all.
    Range {
        /// First byte.
        first: u64,
        /// Last byte, itself included.
        last: u64,
    },
    /// HEAD.
    Head,
    /// PUT of a body: an update of an object at an origin that takes it.
    Put(Bytes),
    /// PURGE of the object.
    Purge,
}

/// A workload that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// A line of a list or a trace.
    #[error("line {line}, column {column}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// No line of it.
    #[error("{0}")]
    Whole(String),
}

/// Parts of objects instead of whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    /// Bytes of each; the last of an object may be shorter.
    pub length: u64,
    /// From anywhere; otherwise from the first to the last of an object, then of the next.
    pub random: bool,
}

/// What a run asks: its objects, and the order in which they are asked for.
#[derive(Debug, Clone)]
pub struct Workload {
    /// At least one.
    objects: Arc<[Arc<Object>]>,
    order: Order,
    slices: Option<Slices>,
    /// Of all requests, 0 to 1.
    purge_share: f64,
    /// Requests of a trace that were taken, of all threads.
    taken: Arc<AtomicUsize>,
}

/// How the next object is chosen.
#[derive(Debug, Clone)]
enum Order {
    InTurn,
    Weighted(Arc<Weights>),
    Zipf(Arc<Popular>),
    Trace(Arc<Trace>),
    Versioned { put_share: f64 },
}

/// Objects of a Zipf workload, by rank.
#[derive(Debug)]
struct Popular {
    law: Zipf,
    count: u64,
    exponent: f64,
    pattern: Pattern,
}

/// A path with a place for a number: `/object/{}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    before: String,
    after: String,
}

impl Pattern {
    fn path(&self, number: u64) -> String {
        format!("{}{number}{}", self.before, self.after)
    }
}

impl Workload {
    fn new(objects: Vec<Arc<Object>>, order: Order) -> Self {
        Self {
            objects: objects.into(),
            order,
            slices: None,
            purge_share: 0.0,
            taken: Arc::default(),
        }
    }

    /// One object, again and again.
    #[must_use]
    pub fn one(path: &str) -> Self {
        Self::of(vec![Arc::new(Object::new(path))])
    }

    /// These objects in turn; at least one.
    #[must_use]
    pub fn of(objects: Vec<Arc<Object>>) -> Self {
        Self::new(objects, Order::InTurn)
    }

    /// Objects in turn, or, where any has a weight other than 1, at random by weight.
    ///
    /// # Errors
    /// None at all, a weight of 0 for each, or weights whose sum is above 2^64.
    pub fn list(listed: Vec<Listed>) -> Result<Self, WorkloadError> {
        let order = if listed.iter().all(|one| one.weight == 1) {
            Order::InTurn
        } else {
            let weights = Weights::new(listed.iter().map(|one| one.weight));
            Order::Weighted(Arc::new(weights.map_err(WorkloadError::Whole)?))
        };
        if listed.is_empty() {
            return Err(WorkloadError::Whole("a list of no objects".to_owned()));
        }
        let objects = listed.into_iter().map(|one| Arc::new(one.object));
        Ok(Self::new(objects.collect(), order))
    }

    /// The [`list`](Self::list) in `text`: one object a line,
    /// `PATH-OR-URL [blake3:HEX length:BYTES] [weight:N]`; `#` begins a comment. URLs must have the scheme of the
    /// target; their authority is sent where it is not `authority`, the target's own.
    ///
    /// # Errors
    /// The line and column that cannot be read, and why.
    pub fn read_list(text: &str, scheme: &str, authority: &str) -> Result<Self, WorkloadError> {
        Self::list(list::read(text, scheme, authority)?)
    }

    /// `count` objects, the k-th most popular asked for in proportion to k^-`exponent`. `pattern` is their path with `{}` for
    /// their number, which is 0 for the most popular.
    ///
    /// The [`ZIPF_KEPT`] most popular are learned before a run and their bodies verified. Of others the framing alone is
    /// held to; [`describe`](Self::describe) says so.
    ///
    /// # Errors
    /// A count of 0 or above [`ZIPF_OBJECTS_MAX`], an exponent that is negative or above 10, a pattern that is no path
    /// with one `{}`.
    pub fn zipf(count: u64, exponent: f64, pattern: &str) -> Result<Self, WorkloadError> {
        let wrong = |reason: String| Err(WorkloadError::Whole(reason));
        if !(1..=ZIPF_OBJECTS_MAX).contains(&count) {
            return wrong(format!("{count} objects; 1 to {ZIPF_OBJECTS_MAX} can be"));
        }
        if !(0.0..=10.0).contains(&exponent) {
            return wrong(format!("an exponent of {exponent}; 0 to 10 can be"));
        }
        let Some((before, after)) = pattern.split_once("{}") else {
            return wrong(format!(
                "`{pattern}` has no place for the number; write `{{}}` there, as in `/object/{{}}`"
            ));
        };
        if after.contains("{}") {
            return wrong(format!(
                "`{pattern}` has more than one place for the number"
            ));
        }
        list::check_path(&format!("{before}0{after}")).map_err(WorkloadError::Whole)?;
        let pattern = Pattern {
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let kept = (0..count.min(ZIPF_KEPT.into()))
            .map(|number| Arc::new(Object::new(&pattern.path(number))));
        let objects = kept.collect();
        let popular = Popular {
            law: Zipf::new(count, exponent),
            count,
            exponent,
            pattern,
        };
        Ok(Self::new(objects, Order::Zipf(Arc::new(popular))))
    }

    /// A recorded trace: `OFFSET_MS METHOD PATH [FIRST-LAST]` a line, offsets not decreasing, methods GET, HEAD and PURGE;
    /// `#` begins a comment. Its requests are dealt out in order to whichever thread is next, and end with it.
    ///
    /// # Errors
    /// The line and column that cannot be read, and why.
    pub fn trace(text: &str) -> Result<Self, WorkloadError> {
        let (objects, trace) = trace::read(text)?;
        Ok(Self::new(objects, Order::Trace(Arc::new(trace))))
    }

    /// Objects that are updated while they are asked for: of all requests `put_share` are PUTs of the next version, the
    /// others GETs, which must not bring a version older than was acknowledged before they began. `bytes` is the length of
    /// each version, [`VERSION_BYTES_MIN`] or more.
    ///
    /// An object has one PUT under way at a time. After one that failed nobody knows what the origin has, and whether what
    /// was sent arrives later: the object is not updated any more, and the share of PUTs falls.
    ///
    /// # Errors
    /// No path, a length too small, a share that is not between 0 and 1.
    pub fn versioned(
        paths: &[String],
        bytes: u64,
        put_share: f64,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        let wrong = |reason: String| Err(WorkloadError::Whole(reason));
        if paths.is_empty() {
            return wrong("no object to update".to_owned());
        }
        if !(VERSION_BYTES_MIN..=versions::VERSION_BYTES_MAX).contains(&bytes) {
            return wrong(format!(
                "versions of {bytes} bytes; {VERSION_BYTES_MIN} to {} can be",
                versions::VERSION_BYTES_MAX
            ));
        }
        if !(put_share > 0.0 && put_share < 1.0) {
            return wrong(format!(
                "a share of updates of {put_share}; above 0 and below 1 can be"
            ));
        }
        let mut objects = Vec::with_capacity(paths.len());
        for path in paths {
            list::check_path(path).map_err(WorkloadError::Whole)?;
            objects.push(Arc::new(Object {
                known: Known::Versions(Arc::new(Versions::new(path, bytes, seed))),
                ..Object::new(path)
            }));
        }
        Ok(Self::new(objects, Order::Versioned { put_share }))
    }

    /// The same, of whose objects slices are asked for.
    ///
    /// # Errors
    /// Slices of 0 bytes; of a trace, which has its own ranges; of versions, which are judged as a whole; of a Zipf
    /// workload with objects that are not learned, whose lengths nobody knows.
    pub fn in_slices(mut self, slices: Slices) -> Result<Self, WorkloadError> {
        let wrong = |reason: String| Err(WorkloadError::Whole(reason));
        match &self.order {
            _ if slices.length == 0 => wrong("ranges of 0 bytes".to_owned()),
            Order::Trace(_) => wrong("a trace has its own ranges".to_owned()),
            Order::Versioned { .. } => wrong(
                "which version an answer is, and whether it is all of it, is seen in the whole body: no ranges".to_owned(),
            ),
            Order::Zipf(popular) if popular.count > ZIPF_KEPT.into() => wrong(format!(
                "ranges need the length of each object, which is learned of {ZIPF_KEPT} of {}",
                popular.count
            )),
            Order::InTurn | Order::Weighted(_) | Order::Zipf(_) => {
                self.slices = Some(slices);
                Ok(self)
            }
        }
    }

    /// The same, with a PURGE in place of a request for this share of them.
    ///
    /// # Errors
    /// A share that is not between 0 and 1; of a trace, which has its own.
    pub fn purging(mut self, share: f64) -> Result<Self, WorkloadError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(WorkloadError::Whole(format!(
                "a share of purges of {share}; 0 to 1 can be"
            )));
        }
        if matches!(self.order, Order::Trace(_)) && share > 0.0 {
            let reason = "a trace has its own purges";
            return Err(WorkloadError::Whole(reason.to_owned()));
        }
        self.purge_share = share;
        Ok(self)
    }

    /// The objects; of a Zipf workload those that are kept. A run asks for each once before it begins, and puts what it
    /// [learned](Self::learned) in their place.
    #[must_use]
    pub fn objects(&self) -> &[Arc<Object>] {
        &self.objects
    }

    /// The same with other objects in the same places. A trace begins anew.
    #[must_use]
    pub fn learned(&self, objects: Vec<Arc<Object>>) -> Self {
        Self {
            objects: objects.into(),
            taken: Arc::default(),
            ..self.clone()
        }
    }

    /// In one line, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let count = self.objects.len();
        let mut text = match &self.order {
            Order::InTurn => match &*self.objects {
                [one] => one.path.to_string(),
                many => format!("{} objects", many.len()),
            },
            Order::Weighted(_) => format!("{count} objects by weight"),
            Order::Zipf(popular) => {
                let Popular {
                    count: all,
                    exponent,
                    pattern,
                    ..
                } = &**popular;
                let mut text = format!("{all} objects {}, zipf {exponent}", pattern.path_text());
                if *all > count as u64 {
                    text.push_str(&format!(
                        " (bodies of the {count} most popular verified, of others the framing alone)"
                    ));
                }
                text
            }
            Order::Trace(trace) => {
                format!("trace of {} requests for {count} objects", trace.len())
            }
            Order::Versioned { put_share } => {
                format!("{count} objects, {} % updates", put_share * 100.0)
            }
        };
        if let Some(Slices { length, random }) = self.slices {
            let how = if random { "random" } else { "successive" };
            text.push_str(&format!(", {how} ranges of {length} B"));
        }
        if self.purge_share > 0.0 {
            text.push_str(&format!(", {} % purges", self.purge_share * 100.0));
        }
        text
    }

    /// The times of a recorded trace, of one thread of so many, `speed` times as fast as it was recorded. `None` where
    /// there is no trace.
    #[must_use]
    pub fn times(
        &self,
        speed: f64,
        thread: u32,
        threads: u32,
    ) -> Option<impl Iterator<Item = Duration> + use<>> {
        match &self.order {
            Order::Trace(trace) => Some(trace::times(Arc::clone(trace), speed, thread, threads)),
            Order::InTurn | Order::Weighted(_) | Order::Zipf(_) | Order::Versioned { .. } => None,
        }
    }

    /// The requests of one thread, without end but for a trace. The same seed gives the same requests; those of a trace,
    /// and which of them are updates, depend on what the other threads do.
    #[must_use]
    pub fn asks(&self, seed: u64, thread: u32) -> Asks {
        Asks::new(self.clone(), seed, thread)
    }
}

impl Pattern {
    fn path_text(&self) -> String {
        format!("{}{{}}{}", self.before, self.after)
    }
}
