//! Where an answer goes: its times are taken and its bytes are checked as they come. None is kept, but by the one who
//! [learns](Sink::learning) what an object is.
//!
//! A lane's duty beside handing over the pieces: after each piece it asks [`Sink::pace`], and does not read on before
//! that time has passed. That is a slow reader; what it leaves unread fills the windows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Failure;
use super::content_range::ContentRange;
use crate::workload::{Ask, Body, Known, Verb};

/// Takes the answer to one [`Ask`].
#[derive(Debug)]
pub struct Sink<'a> {
    ask: &'a Ask,
    head_at: Option<Instant>,
    status: u16,
    /// Bytes of the body that must come, where known by now.
    want: Option<u64>,
    /// The first byte's place within the object.
    offset: u64,
    got: u64,
    hasher: Option<Box<blake3::Hasher>>,
    /// Of an object that is updated: which version it is.
    version: Option<Box<Body>>,
    /// `Content-Range`: absent, unreadable, or read.
    ranged: Option<Option<ContentRange>>,
    meter: Option<&'a AtomicU64>,
    /// Bytes a second.
    rate: Option<u64>,
    keep: Option<Box<Keep<'a>>>,
}

/// A body that is being learned.
#[derive(Debug)]
struct Keep<'a> {
    budget: &'a AtomicU64,
    /// `None` once the budget was spent; what was taken of it has then been given back.
    bytes: Option<BytesMut>,
    hasher: blake3::Hasher,
    zeros: bool,
}

/// What [`Sink::learned`] knows of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Bytes.
    pub length: u64,
    /// BLAKE3 of the whole.
    pub hash: blake3::Hash,
    /// The whole, where the budget had room.
    pub body: Option<Bytes>,
    /// There are bytes, and each of them is 0.
    pub zeros: bool,
}

impl<'a> Sink<'a> {
    /// For the answer to `ask`, which is made now: of an object that is updated, what was acknowledged before is the
    /// oldest that is right.
    #[must_use]
    pub fn new(ask: &'a Ask) -> Self {
        let version = match (&ask.object.known, &ask.verb) {
            (Known::Versions(versions), Verb::Get) => Some(Box::new(versions.expect())),
            _ => None,
        };
        Self {
            ask,
            head_at: None,
            status: 0,
            want: None,
            offset: 0,
            got: 0,
            hasher: None,
            version,
            ranged: None,
            meter: None,
            rate: None,
            keep: None,
        }
    }

    /// For the answer to `ask`, whose body is kept as long as it fits into `budget` (bytes left for all who learn), and
    /// hashed in any case.
    #[must_use]
    pub fn learning(ask: &'a Ask, budget: &'a AtomicU64) -> Self {
        Self {
            keep: Some(Box::new(Keep {
                budget,
                bytes: Some(BytesMut::new()),
                hasher: blake3::Hasher::new(),
                zeros: true,
            })),
            ..Self::new(ask)
        }
    }

    /// Adds the bytes of the body to `meter` as they come. One thread alone may write to a meter.
    #[must_use]
    pub fn metered(mut self, meter: &'a AtomicU64) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Is read at no more than `rate` bytes a second, counted from the head; `None` for as fast as they come.
    #[must_use]
    pub fn paced(mut self, rate: Option<u64>) -> Self {
        self.rate = rate.filter(|rate| *rate > 0);
        self
    }

    /// How long the lane must wait before it reads more of the body. `None`, and without a look at the clock, for
    /// whoever is no slow reader.
    #[must_use]
    pub fn pace(&self) -> Option<Duration> {
        let rate = self.rate?;
        let passed = self.head_at?.elapsed();
        ahead(self.got, rate, passed)
    }

    /// The final response's `Content-Range`, if there is one: before its [`head`](Self::head). A 206 without it is
    /// not believed, since nothing else says which bytes these are.
    pub fn content_range(&mut self, value: &[u8]) {
        self.ranged = Some(ContentRange::parse(value));
    }

    /// The final response's head: its status, and `Content-Length` if there was one. Once, before any byte.
    ///
    /// # Errors
    /// A status that is not right, or a length or a range that is not the one asked for.
    pub fn head(&mut self, status: u16, declared: Option<u64>) -> Result<(), Failure> {
        self.head_at = Some(Instant::now());
        self.status = status;
        let length = match &self.ask.object.known {
            // Before the first update it is as long as it is.
            Known::Nothing | Known::Versions(_) => None,
            Known::Length(length) | Known::Hash { length, .. } => Some(*length),
            Known::Body(body) => Some(body.len() as u64),
        };
        let known = match (&self.ask.verb, status) {
            (Verb::Get | Verb::Range { .. }, 200) => length,
            (Verb::Range { first, last }, 206) => {
                self.offset = *first;
                Some(self.range(*first, *last, length)?)
            }
            (Verb::Head, 200) => {
                self.want = Some(0);
                return match (length, declared) {
                    (Some(want), Some(got)) if want != got => Err(Failure::Truncated {
                        got,
                        want: Some(want),
                    }),
                    _ => Ok(()),
                };
            }
            (Verb::Put(_) | Verb::Purge, 200..=299) => None,
            _ => return Err(Failure::Status(status)),
        };
        if let (Some(want), Some(got)) = (known, declared)
            && want != got
        {
            return Err(Failure::Truncated {
                got,
                want: Some(want),
            });
        }
        self.want = known.or(declared);
        if matches!(self.ask.verb, Verb::Get | Verb::Range { .. })
            && status == 200
            && matches!(self.ask.object.known, Known::Hash { .. })
        {
            self.hasher = Some(Box::default());
        }
        Ok(())
    }

    /// Bytes that a 206 to `first`–`last` must have.
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
    //# if the last-pos value is absent, or if the value is greater than or equal to the current length of the
    //# representation data, the byte range is interpreted as the remainder of the representation
    fn range(&self, first: u64, last: u64, length: Option<u64>) -> Result<u64, Failure> {
        let wrong = |what: String| Failure::Wrong(format!("206 to {first}-{last} {what}"));
        let came = match &self.ranged {
            None => return Err(wrong("without Content-Range".to_owned())),
            Some(None) => return Err(wrong("with a Content-Range that is none".to_owned())),
            Some(Some(came)) => came,
        };
        let length = match (length, came.length) {
            (Some(known), Some(said)) if known != said => {
                return Err(wrong(format!("of {said} bytes, the object has {known}")));
            }
            (known, said) => known.or(said),
        };
        let last = match length {
            Some(length) => last.min(length.saturating_sub(1)),
            // Nobody says how long it is: it may end before the last byte asked for.
            None => last.min(came.last),
        };
        if first > last || (came.first, came.last) != (first, last) {
            let (from, to) = (came.first, came.last);
            return Err(wrong(format!("with bytes {from}-{to}")));
        }
        (last - first)
            .checked_add(1)
            .ok_or_else(|| wrong("longer than any body".to_owned()))
    }

    /// The next bytes of the body.
    ///
    /// # Errors
    /// More than there should be, or others.
    pub fn body(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if self.head_at.is_none() {
            return Err(Failure::Protocol("a body without a response".to_owned()));
        }
        let at = self.got;
        self.got += piece.len() as u64;
        if let Some(want) = self.want
            && self.got > want
        {
            return Err(Failure::Wrong(format!(
                "{} bytes or more, {want} were declared or known",
                self.got
            )));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(piece);
        }
        if let (Some(version), Known::Versions(versions)) =
            (&mut self.version, &self.ask.object.known)
        {
            version.take(versions, piece);
        }
        if let (Known::Body(body), Verb::Get | Verb::Range { .. }) =
            (&self.ask.object.known, &self.ask.verb)
        {
            let from = usize::try_from(self.offset.saturating_add(at)).unwrap_or(usize::MAX);
            let right = body
                .get(from..)
                .and_then(|rest| rest.get(..piece.len()))
                .is_some_and(|right| right == piece);
            if !right {
                return Err(Failure::Wrong(format!(
                    "bytes {from} to {} differ from the object's",
                    from.saturating_add(piece.len())
                )));
            }
        }
        if let Some(meter) = self.meter {
            // One writer: a plain addition, not a locked one.
            let sum = meter.load(Ordering::Relaxed) + piece.len() as u64;
            meter.store(sum, Ordering::Relaxed);
        }
        if let Some(keep) = &mut self.keep {
            keep.take(piece);
        }
        Ok(())
    }

    /// The body's end, as the framing has it.
    ///
    /// # Errors
    /// Too few bytes, or a hash that is not the object's.
    pub fn end(&mut self) -> Result<(), Failure> {
        if self.head_at.is_none() {
            return Err(Failure::Protocol("an end without a response".to_owned()));
        }
        if let Some(want) = self.want
            && self.got != want
        {
            return Err(Failure::Truncated {
                got: self.got,
                want: Some(want),
            });
        }
        if let (Some(hasher), Known::Hash { hash, .. }) =
            (self.hasher.take(), &self.ask.object.known)
            && hasher.finalize() != *hash
        {
            return Err(Failure::Wrong(format!("its BLAKE3 is not {hash}")));
        }
        if let Known::Versions(versions) = &self.ask.object.known {
            if let Some(version) = self.version.take() {
                version.end(versions).map_err(Failure::Wrong)?;
            }
            if let Verb::Put(_) = self.ask.verb {
                // Its status was right, or there would be no end.
                versions.acknowledge();
            }
        }
        Ok(())
    }

    /// What was learned, after the [`end`](Self::end) of a sink that [learns](Self::learning).
    #[must_use]
    pub fn learned(self) -> Option<Learned> {
        let keep = *self.keep?;
        Some(Learned {
            length: self.got,
            hash: keep.hasher.finalize(),
            body: keep.bytes.map(BytesMut::freeze),
            zeros: keep.zeros && self.got > 0,
        })
    }

    /// Bytes of the body so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.got
    }

    /// The status, once the head has come.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.head_at.map(|_| self.status)
    }

    /// When the head came.
    #[must_use]
    pub fn head_at(&self) -> Option<Instant> {
        self.head_at
    }
}

impl Keep<'_> {
    fn take(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.zeros = self.zeros && piece.iter().all(|byte| *byte == 0);
        let Some(bytes) = &mut self.bytes else {
            return;
        };
        let more = piece.len() as u64;
        let room = self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(more)
            });
        if room.is_ok() {
            bytes.extend_from_slice(piece);
        } else {
            self.budget.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.bytes = None;
        }
    }
}

/// How far a reader of `rate` bytes a second is ahead of its time with `got` bytes after `passed`. Less than a
/// millisecond is nothing: the timers of a runtime are no finer.
fn ahead(got: u64, rate: u64, passed: Duration) -> Option<Duration> {
    let due = u128::from(got) * 1_000_000_000 / u128::from(rate);
    let due = Duration::from_nanos(u64::try_from(due).unwrap_or(u64::MAX));
    due.checked_sub(passed)
        .filter(|ahead| *ahead >= Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::workload::{Object, Workload};

    fn ask() -> Ask {
        Ask {
            verb: Verb::Get,
            object: Arc::new(Object {
                path: "/".into(),
                authority: None,
                known: Known::Nothing,
            }),
        }
    }

    fn learn(budget: &AtomicU64, pieces: &[&[u8]]) -> Learned {
        let ask = ask();
        let mut sink = Sink::learning(&ask, budget);
        sink.head(200, None).unwrap();
        for piece in pieces {
            sink.body(piece).unwrap();
        }
        sink.end().unwrap();
        sink.learned().unwrap()
    }

    #[test]
    fn a_body_is_kept_as_long_as_all_kept_bodies_fit_the_budget() {
        let budget = AtomicU64::new(10);
        let kept = learn(&budget, &[b"abc", b"def"]);
        assert_eq!(kept.body.as_deref(), Some(&b"abcdef"[..]));
        assert_eq!(kept.hash, blake3::hash(b"abcdef"));
        let hashed = learn(&budget, &[b"ghi", b"jkl"]);
        assert_eq!((hashed.body, hashed.length), (None, 6));
        assert_eq!(hashed.hash, blake3::hash(b"ghijkl"));
        assert_eq!(budget.into_inner(), 4);
    }

    #[test]
    fn zeros_are_seen_and_nothing_at_all_is_not_zeros() {
        let budget = AtomicU64::new(100);
        assert!(learn(&budget, &[&[0; 9], &[0; 3]]).zeros);
        assert!(!learn(&budget, &[&[0; 9], &[0, 1]]).zeros);
        assert!(!learn(&budget, &[]).zeros);
    }

    #[test]
    fn a_slow_reader_is_told_to_wait_for_as_long_as_it_is_ahead() {
        let ms = Duration::from_millis;
        assert_eq!(ahead(1000, 1000, ms(400)), Some(ms(600)));
        assert_eq!(ahead(1000, 1000, ms(1000)), None);
        assert_eq!(ahead(1000, 1000, ms(2000)), None);
        let ask = ask();
        let mut sink = Sink::new(&ask).paced(Some(1000));
        assert_eq!(sink.pace(), None, "no head yet");
        sink.head(200, None).unwrap();
        sink.body(&[1; 100_000]).unwrap();
        assert!(sink.pace().unwrap() > Duration::from_secs(90));
    }

    #[test]
    fn a_meter_counts_the_bytes_of_bodies_as_they_come() {
        let (ask, meter) = (ask(), AtomicU64::new(5));
        let mut sink = Sink::new(&ask).metered(&meter);
        sink.head(200, None).unwrap();
        sink.body(b"abc").unwrap();
        assert_eq!(meter.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn a_get_after_an_acknowledged_put_may_not_bring_an_older_version() {
        let workload = Workload::versioned(&["/x".to_owned()], 1000, 0.5, 1).unwrap();
        let object = Arc::clone(&workload.objects()[0]);
        let get = Ask {
            verb: Verb::Get,
            object: Arc::clone(&object),
        };
        let mut asks = workload.asks(1, 0);
        let mut put = || loop {
            if let ask @ Ask {
                verb: Verb::Put(_), ..
            } = asks.next_ask().unwrap()
            {
                return ask;
            }
        };
        let body = |ask: &Ask| match &ask.verb {
            Verb::Put(body) => body.clone(),
            other => panic!("{other:?}"),
        };
        let answer = |ask: &Ask, status, bytes: &[u8]| {
            let mut sink = Sink::new(ask);
            sink.head(status, None)?;
            sink.body(bytes)?;
            sink.end()
        };
        assert_eq!(answer(&get, 200, b"of before the run"), Ok(()));
        let first = put();
        assert_eq!(answer(&first, 204, b""), Ok(()));
        assert_eq!(answer(&get, 200, &body(&first)), Ok(()));
        let second = put();
        let mut early = Sink::new(&get);
        assert_eq!(answer(&second, 200, b"thanks"), Ok(()));
        early.head(200, Some(1000)).unwrap();
        early.body(&body(&first)).unwrap();
        assert_eq!(early.end(), Ok(()), "asked for before it was acknowledged");
        let stale = answer(&get, 200, &body(&first));
        assert!(matches!(stale, Err(Failure::Wrong(_))), "{stale:?}");
        assert_eq!(answer(&get, 200, &body(&second)), Ok(()));
    }
}
