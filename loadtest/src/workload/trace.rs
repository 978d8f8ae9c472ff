//! Recorded traces: `OFFSET_MS METHOD PATH [FIRST-LAST]` a line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::list::{check_path, lines};
use super::{Ask, Object, Verb, WorkloadError};

/// Most requests of a trace, 40 bytes each.
const REQUESTS_MAX: usize = 4_000_000;

/// Requests in the order of their times.
#[derive(Debug)]
pub(super) struct Trace {
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    at: Duration,
    /// The object's place.
    object: u32,
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Get,
    Range { first: u64, last: u64 },
    Head,
    Purge,
}

impl Trace {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn ask(&self, number: usize, objects: &[Arc<Object>]) -> Option<Ask> {
        let request = self.requests.get(number)?;
        Some(Ask {
            verb: match request.what {
                What::Get => Verb::Get,
                What::Range { first, last } => Verb::Range { first, last },
                What::Head => Verb::Head,
                What::Purge => Verb::Purge,
            },
            object: objects.get(request.object as usize).cloned()?,
        })
    }
}

/// Times of every `threads`-th request, from `thread` on.
pub(super) fn times(
    trace: Arc<Trace>,
    speed: f64,
    thread: u32,
    threads: u32,
) -> impl Iterator<Item = Duration> {
    let numbers = (thread as usize..trace.len()).step_by(threads.max(1) as usize);
    numbers.map_while(move |number| {
        let at = trace.requests.get(number)?.at.as_secs_f64() / speed;
        Duration::try_from_secs_f64(at).ok()
    })
}

pub(super) fn read(text: &str) -> Result<(Vec<Arc<Object>>, Trace), WorkloadError> {
    let mut objects = Vec::new();
    let mut places = HashMap::new();
    let mut requests: Vec<Request> = Vec::new();
    for words in lines(text) {
        let (offset, method, path, range) = match words.as_slice() {
            [offset, method, path] => (offset, method, path, None),
            [offset, method, path, range] => (offset, method, path, Some(range)),
            [first, ..] => {
                return Err(first.wrong(format!(
                    "{} words; a request is `OFFSET_MS METHOD PATH [FIRST-LAST]`",
                    words.len()
                )));
            }
            [] => continue,
        };
        if requests.len() >= REQUESTS_MAX {
            return Err(offset.wrong(format!("more than {REQUESTS_MAX} requests")));
        }
        let ms: f64 = offset.text.parse().unwrap_or(f64::NAN);
        let at = Duration::try_from_secs_f64(ms / 1000.0)
            .map_err(|_| offset.wrong(format!("`{}` is no time in ms", offset.text)))?;
        if let Some(last) = requests.last()
            && at < last.at
        {
            return Err(offset.wrong(format!(
                "{:?} is before the request above it, at {:?}: sort the trace by time",
                at, last.at
            )));
        }
        let what = match (method.text, range) {
            ("GET", None) => What::Get,
            ("GET", Some(range)) => {
                let bounds = range.text.split_once('-').and_then(|(first, last)| {
                    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                    (first <= last).then_some((first, last))
                });
                let (first, last) = bounds.ok_or_else(|| {
                    range.wrong(format!(
                        "`{}` is no range of bytes, as in `0-1023`",
                        range.text
                    ))
                })?;
                What::Range { first, last }
            }
            ("HEAD", None) => What::Head,
            ("PURGE", None) => What::Purge,
            ("HEAD" | "PURGE", Some(range)) => {
                return Err(range.wrong(format!("a {} has no range", method.text)));
            }
            (other, _) => {
                return Err(method.wrong(format!(
                    "`{other}` is none of GET, HEAD, PURGE (a trace has no bodies to send)"
                )));
            }
        };
        check_path(path.text).map_err(|why| path.wrong(why))?;
        let place = match places.get(path.text) {
            Some(place) => *place,
            None => {
                let place = u32::try_from(objects.len())
                    .map_err(|_| path.wrong("more objects than can be told apart"))?;
                objects.push(Arc::new(Object::new(path.text)));
                places.insert(path.text, place);
                place
            }
        };
        requests.push(Request {
            at,
            object: place,
            what,
        });
    }
    if requests.is_empty() {
        return Err(WorkloadError::Whole("a trace of no requests".to_owned()));
    }
    Ok((objects, Trace { requests }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    const TRACE: &str =
        "# offset method path range\n0 GET /a\n0.5 HEAD /b\n10 GET /a 5-9\n10 PURGE /a # gone\n";

    #[test]
    fn a_trace_is_replayed_in_order_to_its_end_by_all_threads_together() {
        let trace = Workload::trace(TRACE).unwrap();
        let paths: Vec<_> = trace.objects().iter().map(|object| &*object.path).collect();
        assert_eq!(paths, ["/a", "/b"]);
        let (mut one, mut two) = (trace.asks(0, 0), trace.asks(0, 1));
        let verbs = [
            one.next_ask(),
            two.next_ask(),
            one.next_ask(),
            two.next_ask(),
        ]
        .map(|ask| ask.unwrap().verb);
        let range = Verb::Range { first: 5, last: 9 };
        assert_eq!(verbs, [Verb::Get, Verb::Head, range, Verb::Purge]);
        assert!(one.next_ask().is_none() && two.next_ask().is_none());
        let again = trace.learned(trace.objects().to_vec());
        assert!(again.asks(0, 0).next_ask().is_some());
    }

    #[test]
    fn its_times_are_dealt_out_to_the_threads_and_can_run_faster() {
        let trace = Workload::trace(TRACE).unwrap();
        let of = |thread| -> Vec<u128> {
            let times = trace.times(2.0, thread, 2).unwrap();
            times.map(|at| at.as_micros()).collect()
        };
        assert_eq!(of(0), [0, 5_000]);
        assert_eq!(of(1), [250, 5_000]);
        assert!(Workload::one("/").times(1.0, 0, 1).is_none());
    }

    #[test]
    fn a_mistake_is_refused_with_line_and_column() {
        for (text, place, part) in [
            ("", (0, 0), "no requests"),
            ("0 GET", (1, 1), "2 words"),
            ("0 GET /a\nx GET /a", (2, 1), "no time"),
            ("-1 GET /a", (1, 1), "no time"),
            ("5 GET /a\n4 GET /a", (2, 1), "sort"),
            ("0 POST /a", (1, 3), "PURGE"),
            ("0 GET a", (1, 7), "begin with"),
            ("0 GET /a 9-5", (1, 10), "0-1023"),
            ("0 HEAD /a 0-5", (1, 11), "no range"),
        ] {
            let error = Workload::trace(text).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            if let WorkloadError::Line { line, column, .. } = error {
                assert_eq!((line, column), place, "{text}");
            } else {
                assert_eq!(place, (0, 0));
            }
        }
    }
}
