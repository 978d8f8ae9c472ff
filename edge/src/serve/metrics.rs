//! What the serve path counts. Labels come from enums; counters are made once and found by index, so counting a
//! request is a few additions and no lookup.

use std::sync::Arc;

use http::Version;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use stoq_cache::http::cache_status::CacheStatus;

use crate::service::{End, Sent};

/// The label of a request that ended before it had an answer.
pub(crate) const UNANSWERED: &str = "unanswered";

const OUTCOMES: usize = CacheStatus::ALL.len() + 1;
const PROTOCOLS: [&str; 3] = ["h1", "h2", "h3"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const ENDS: [End; 5] = [
    End::Complete,
    End::ClientLeft,
    End::BodyFailed,
    End::TimedOut,
    End::Failed,
];

/// Upper bounds in seconds; from 50 µs, below which the clock of a busy host says little.
const SECONDS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// The serve path's counters. Cloning shares them.
#[derive(Clone, Debug)]
pub(crate) struct ServeMetrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Requests that ended, by protocol and outcome.
    requests: [[Counter; OUTCOMES]; 3],
    /// Final statuses written, by class; pairs with `requests` less those that left before a head.
    responses: [Counter; 5],
    /// How requests ended.
    ends: [Counter; 5],
    /// Bytes of response bodies handed to the transport.
    response_bytes: Counter,
    /// Bytes of request bodies read.
    request_bytes: Counter,
    /// Requests answered on their connection's task.
    inline: Counter,
    /// Seconds from the complete request head to the response head, for answers from the store.
    hit_seconds: Histogram,
    /// The same, for answers that waited for an upstream.
    forward_seconds: Histogram,
    /// Access records that were dropped because the log could not keep up.
    records_dropped: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    protocol: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabel {
    class: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabel {
    end: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

impl ServeMetrics {
    /// Makes the counters and registers them under `stoq_edge_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("stoq_edge");
        let requests = Family::<RequestLabels, Counter>::default();
        let responses = Family::<ClassLabel, Counter>::default();
        let ends = Family::<EndLabel, Counter>::default();
        let seconds =
            Family::<SourceLabel, Histogram, _>::new_with_constructor(|| Histogram::new(SECONDS));
        let inner = Inner {
            requests: PROTOCOLS.map(|protocol| {
                std::array::from_fn(|index| {
                    let outcome = CacheStatus::ALL
                        .get(index)
                        .map_or(UNANSWERED, |outcome| outcome.word());
                    requests.get_or_create_owned(&RequestLabels { protocol, outcome })
                })
            }),
            responses: CLASSES.map(|class| responses.get_or_create_owned(&ClassLabel { class })),
            ends: ENDS.map(|end| ends.get_or_create_owned(&EndLabel { end: end_word(end) })),
            response_bytes: Counter::default(),
            request_bytes: Counter::default(),
            inline: Counter::default(),
            hit_seconds: seconds.get_or_create_owned(&SourceLabel { source: "store" }),
            forward_seconds: seconds.get_or_create_owned(&SourceLabel { source: "upstream" }),
            records_dropped: Counter::default(),
        };
        registry.register(
            "requests",
            "Requests that ended, by protocol and what the cache did",
            requests,
        );
        registry.register(
            "responses",
            "Final response heads written, by class of status",
            responses,
        );
        registry.register("request_ends", "How requests ended", ends);
        registry.register(
            "response_body_bytes",
            "Bytes of response bodies sent",
            inner.response_bytes.clone(),
        );
        registry.register(
            "request_body_bytes",
            "Bytes of request bodies read",
            inner.request_bytes.clone(),
        );
        registry.register(
            "inline_answers",
            "Requests answered on their connection's task",
            inner.inline.clone(),
        );
        registry.register(
            "head_seconds",
            "From the request's head to the response's",
            seconds,
        );
        registry.register(
            "access_records_dropped",
            "Access records dropped because the log could not keep up",
            inner.records_dropped.clone(),
        );
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Counts one request that has ended. `outcome` is `None` when it had no answer.
    pub(crate) fn ended(&self, version: Version, outcome: Option<CacheStatus>, sent: &Sent) {
        let protocol = match version {
            Version::HTTP_3 => 2,
            Version::HTTP_2 => 1,
            _ => 0,
        };
        let place = outcome.map_or(OUTCOMES - 1, CacheStatus::index);
        if let Some(counter) = self.inner.requests[protocol].get(place) {
            counter.inc();
        }
        if let Some(status) = sent.status
            && let Some(counter) = self
                .inner
                .responses
                .get(usize::from(status.as_u16() / 100).wrapping_sub(1))
        {
            counter.inc();
        }
        self.inner.ends[end_place(sent.end)].inc();
        self.inner.response_bytes.inc_by(sent.body_bytes);
        if sent.request_body_bytes > 0 {
            self.inner.request_bytes.inc_by(sent.request_body_bytes);
        }
        if sent.inline {
            self.inner.inline.inc();
        }
        if let (Some(outcome), Some(after)) = (outcome, sent.head_after) {
            let seconds = if outcome.is_hit() {
                &self.inner.hit_seconds
            } else {
                &self.inner.forward_seconds
            };
            seconds.observe(after.as_secs_f64());
        }
    }

    /// Counts access records that were dropped.
    pub(crate) fn records_dropped(&self, records: u64) {
        self.inner.records_dropped.inc_by(records);
    }
}

const fn end_place(end: End) -> usize {
    match end {
        End::Complete => 0,
        End::ClientLeft => 1,
        End::BodyFailed => 2,
        End::TimedOut => 3,
        End::Failed => 4,
    }
}

/// The word for log and metric.
pub(crate) const fn end_word(end: End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::ClientLeft => "client-left",
        End::BodyFailed => "body-failed",
        End::TimedOut => "timed-out",
        End::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    #[test]
    fn a_request_is_counted_under_its_word() {
        let mut registry = Registry::default();
        let metrics = ServeMetrics::register(&mut registry);
        let sent = Sent {
            status: Some(StatusCode::OK),
            body_bytes: 7,
            request_body_bytes: 0,
            head_after: Some(Duration::from_micros(70)),
            total: Duration::from_micros(90),
            end: End::Complete,
            inline: true,
        };
        metrics.ended(Version::HTTP_3, Some(CacheStatus::Hit), &sent);
        metrics.ended(
            Version::HTTP_11,
            None,
            &Sent {
                status: None,
                head_after: None,
                end: End::ClientLeft,
                ..sent
            },
        );
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "stoq_edge_requests_total{protocol=\"h3\",outcome=\"hit\"} 1",
            "stoq_edge_requests_total{protocol=\"h1\",outcome=\"unanswered\"} 1",
            "stoq_edge_responses_total{class=\"2xx\"} 1",
            "stoq_edge_request_ends_total{end=\"client-left\"} 1",
            "stoq_edge_response_body_bytes_total 14",
            "stoq_edge_head_seconds_count{source=\"store\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_table_of_ends_is_in_the_order_of_their_place() {
        for (place, end) in ENDS.into_iter().enumerate() {
            assert_eq!(end_place(end), place);
        }
    }
}
