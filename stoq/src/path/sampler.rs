//! Rates out of a connection's counters.
//!
//! What the other end acknowledged within a span is what the path delivered. Where the sender always had something to
//! send, that is all the path carries; where it had not, the path may carry more, and the rate is a lower bound. What
//! was received is a lower bound in any case, since the other end's reasons are unknown.

use std::time::{Duration, Instant};

/// What a connection has counted since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the other end has acknowledged.
    pub acked: u64,
    /// Those of them acknowledged while there was nothing more to send.
    pub acked_idle: u64,
    /// Bytes received.
    pub received: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// The least round trip of the path. Zero: none was measured.
    pub rtt_min: Duration,
}

/// What a rate proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The sender had always something to send: this is what the path carried.
    Full,
    /// It carried at least this.
    AtLeast,
}

/// Bytes delivered in a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// What it proves.
    pub evidence: Evidence,
}

/// What was measured in one span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// The least round trip of the path; `None` before the first.
    pub rtt_min: Option<Duration>,
    /// `None`: nothing worth measuring was moved.
    pub rate: Option<Rate>,
    /// Share of the packets sent in this span's time that were declared lost; `None` below 50.
    pub loss: Option<f64>,
}

/// Fewer packets in a span say nothing about loss.
pub(super) const LOSS_PACKETS_MIN: u64 = 50;

/// Less than this in a span is talk, not transport: 64 packets of 1,200 bytes, more than an initial window.
pub(super) const RATE_BYTES_MIN: u64 = 64 * 1200;

/// Turns counts into samples.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    last: Option<(Instant, Counts)>,
}

impl Sampler {
    /// The shortest span worth sampling at this round trip: two of them, since a sender that fills a small window sends
    /// in bursts a round trip apart; at least 100 ms, at most 1 s.
    #[must_use]
    pub fn span(rtt: Duration) -> Duration {
        (rtt * 2).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// Whether any bytes but a few were moved since the last [`take`](Self::take).
    #[must_use]
    pub fn is_active(&self, counts: &Counts) -> bool {
        let Some((_, last)) = &self.last else {
            return true;
        };
        let moved = |now: u64, then: u64| now.saturating_sub(then) >= RATE_BYTES_MIN;
        moved(counts.acked, last.acked) || moved(counts.received, last.received)
    }

    /// What was measured since the call before; `None` at the first call and when no time has passed.
    pub fn take(&mut self, now: Instant, counts: Counts) -> Option<Sample> {
        let (then, last) = self.last.replace((now, counts))?;
        let elapsed = now.checked_duration_since(then)?;
        if elapsed.is_zero() {
            return None;
        }
        let acked = counts.acked.saturating_sub(last.acked);
        let acked_idle = counts.acked_idle.saturating_sub(last.acked_idle);
        let received = counts.received.saturating_sub(last.received);
        let sent = counts.sent_packets.saturating_sub(last.sent_packets);
        let lost = counts.lost_packets.saturating_sub(last.lost_packets);
        Some(Sample {
            rtt_min: (!counts.rtt_min.is_zero()).then_some(counts.rtt_min),
            rate: rate(elapsed, acked, acked_idle, received),
            loss: share(lost, sent),
        })
    }
}

fn rate(elapsed: Duration, acked: u64, acked_idle: u64, received: u64) -> Option<Rate> {
    let moved = acked.max(received);
    if moved < RATE_BYTES_MIN {
        return None;
    }
    // A tenth may be the end of a burst: the next has begun before the sender ran dry.
    let full = acked >= received && acked_idle.saturating_mul(10) <= acked;
    let nanos = elapsed.as_nanos().max(1);
    let per_second = u128::from(moved) * 1_000_000_000 / nanos;
    Some(Rate {
        bytes_per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
        evidence: if full {
            Evidence::Full
        } else {
            Evidence::AtLeast
        },
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share of packets")]
fn share(lost: u64, sent: u64) -> Option<f64> {
    (sent >= LOSS_PACKETS_MIN).then(|| (lost as f64 / sent as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sample(elapsed: Duration, counts: Counts) -> Option<Sample> {
        let mut sampler = Sampler::default();
        let began = Instant::now();
        assert_eq!(sampler.take(began, Counts::default()), None);
        sampler.take(began + elapsed, counts)
    }

    #[test]
    fn what_was_acknowledged_in_a_span_is_the_rate_of_the_path() {
        let counts = Counts {
            acked: 1_250_000,
            acked_idle: 100_000,
            sent_packets: 1_000,
            lost_packets: 10,
            rtt_min: MS * 3,
            ..Counts::default()
        };
        let sample = sample(MS * 100, counts).unwrap();
        assert_eq!(
            sample.rate,
            Some(Rate {
                bytes_per_second: 12_500_000,
                evidence: Evidence::Full
            })
        );
        assert_eq!(sample.loss, Some(0.01));
        assert_eq!(sample.rtt_min, Some(MS * 3));
    }

    #[test]
    fn a_sender_that_ran_dry_and_a_receiver_prove_a_lower_bound() {
        let dry = Counts {
            acked: 1_000_000,
            acked_idle: 200_000,
            ..Counts::default()
        };
        let received = Counts {
            acked: 100_000,
            received: 1_000_000,
            ..Counts::default()
        };
        for counts in [dry, received] {
            let rate = sample(MS * 500, counts).unwrap().rate.unwrap();
            assert_eq!(rate.evidence, Evidence::AtLeast);
            assert_eq!(rate.bytes_per_second, 2_000_000);
        }
    }

    #[test]
    fn little_is_no_measurement() {
        let counts = Counts {
            acked: RATE_BYTES_MIN - 1,
            sent_packets: LOSS_PACKETS_MIN - 1,
            lost_packets: 3,
            ..Counts::default()
        };
        let sample = sample(MS * 100, counts).unwrap();
        assert_eq!(
            sample,
            Sample {
                rtt_min: None,
                rate: None,
                loss: None
            }
        );
        let mut sampler = Sampler::default();
        let now = Instant::now();
        assert!(sampler.is_active(&Counts::default()));
        sampler.take(now, Counts::default());
        assert!(!sampler.is_active(&counts));
        assert_eq!(sampler.take(now, counts), None, "no time has passed");
    }
}
