//! What follows from a class: windows, congestion control, and how many streams a large transfer is worth.
//!
//! Not how many connections: one is one core's work at both ends, and the second of the same worker has no other core. Nodes with
//! several workers have a connection of each.
//!
//! A window must hold what is on its way: rate × round trip. The rate taken is the upper border of the class, so that
//! a path is never held in a class by its own windows; the window is twice the product, since a lost packet costs a
//! round trip until it is there. So windows depend on the class and the least round trip, not on the rate of the moment, and
//! stand still while the class does.

use std::time::Duration;

use super::class::{Bandwidth, Distance, PathClass};

/// How a sender decides how much may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Controller {
    /// RFC 9438. Takes loss for congestion; fills the queue before the narrowest link.
    #[default]
    Cubic,
    /// Takes the delivery rate and the least round trip for the path's measure, and is not slowed by loss that is none
    /// of congestion. Version 1, which takes more than its share beside others; never more on its way than twice what
    /// the path delivered in a round trip.
    Bbr,
    /// RFC 9002 §7. Slow on long paths; for comparison.
    NewReno,
}

/// The most memory that a plan may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowBounds {
    /// Bytes unread on a connection. Default 64 MiB: 2.5 Gbit/s over 200 ms. This is what a peer can make us hold.
    pub connection: u32,
    /// Bytes unread on a stream. Default 16 MiB: 900 Mbit/s over 150 ms on one stream. At most a quarter of `connection`
    /// is used, so that a stream that nobody reads leaves room for the others.
    pub stream: u32,
    /// Bytes not acknowledged on a connection. Default 64 MiB.
    pub send: u32,
}

impl Default for WindowBounds {
    fn default() -> Self {
        Self {
            connection: 64 << 20,
            stream: 16 << 20,
            send: 64 << 20,
        }
    }
}

/// How to use a path. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What the peer may send on all streams before we read. Raised on the living connection.
    pub connection_window: u32,
    /// What we keep until it is acknowledged. Raised on the living connection.
    pub send_window: u32,
    /// What the peer may send on one stream before we read. From the next connection on.
    pub stream_window: u32,
    /// What may be on its way before the first acknowledgement. From the next connection on.
    pub initial_window: u32,
    /// From the next connection on.
    pub controller: Controller,
}

/// Beside the round trip: timers, scheduling, and acknowledgements that are held back.
const SLACK: Duration = Duration::from_millis(1);

//= https://www.rfc-editor.org/rfc/rfc9002#section-7.2
//# Endpoints SHOULD use an initial congestion
//# window of ten times the maximum datagram size (max_datagram_size),
//# while limiting the window to the larger of 14,720 bytes or twice the
//# maximum datagram size.
const INITIAL_WINDOW_MIN: u32 = 14_720;

/// Of a path that was measured before: about as much as large servers send to strangers, 110 packets.
const INITIAL_WINDOW_MAX: u32 = 128 << 10;

/// Streams of one transfer: beyond it, their own cost shows.
const STREAMS_MAX: u16 = 64;

/// Share of packets lost while no queue was seen, from which on a far path is left to BBR: cubic carries less than a tenth
/// of 100 Mbit/s over 40 ms there.
const LOSS_BBR: f64 = 0.005;

impl Plan {
    /// The plan for a path whose bandwidth was measured; `None` else: what was configured stays. `random_loss` is the share of
    /// packets lost while no queue was seen.
    #[must_use]
    pub fn of(
        class: PathClass,
        rtt_min: Duration,
        random_loss: Option<f64>,
        bounds: &WindowBounds,
    ) -> Option<Self> {
        let bandwidth = class.bandwidth?;
        let window = product(bandwidth, rtt_min).saturating_mul(2);
        let stream = window.min(bounds.stream).min(bounds.connection / 4);
        let lossy = random_loss.is_some_and(|share| share >= LOSS_BBR);
        Some(Self {
            connection_window: window.max(stream.saturating_mul(4)).min(bounds.connection),
            send_window: window.min(bounds.send),
            stream_window: stream,
            // A quarter of what the path holds: it may be shared by now.
            initial_window: (window / 8).clamp(INITIAL_WINDOW_MIN, INITIAL_WINDOW_MAX),
            controller: if class.distance == Distance::Wan && lossy {
                Controller::Bbr
            } else {
                Controller::Cubic
            },
        })
    }

    /// How many streams a large transfer needs so that streams of this window do not hold it back: 1 to 64.
    #[must_use]
    pub fn streams(&self, stream_window: u32) -> u16 {
        let streams = self.connection_window.div_ceil(stream_window.max(1));
        u16::try_from(streams)
            .unwrap_or(STREAMS_MAX)
            .clamp(1, STREAMS_MAX)
    }
}

/// What is on its way on a path of this class that is used to its upper border.
fn product(bandwidth: Bandwidth, rtt_min: Duration) -> u32 {
    let rate = bandwidth.below().unwrap_or_else(|| bandwidth.nominal() * 2);
    let bytes = u128::from(rate) * (rtt_min + SLACK).as_nanos() / 1_000_000_000;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(distance: Distance, bandwidth: Bandwidth) -> PathClass {
        PathClass {
            distance,
            bandwidth: Some(bandwidth),
        }
    }

    fn plan(bandwidth: Bandwidth, rtt: Duration, loss: Option<f64>) -> Plan {
        let class = class(Distance::of(rtt), bandwidth);
        Plan::of(class, rtt, loss, &WindowBounds::default()).unwrap()
    }

    proptest! {
        #[test]
        fn windows_carry_the_class_and_keep_their_bounds(
            bandwidth in prop::sample::select(Bandwidth::ALL.to_vec()), micros in 50_u64..400_000,
            connection in (1_u32 << 20)..(512 << 20), stream in (256_u32 << 10)..(64 << 20),
        ) {
            let bounds = WindowBounds { connection, stream, send: connection };
            let rtt = Duration::from_micros(micros);
            let plan = Plan::of(class(Distance::of(rtt), bandwidth), rtt, None, &bounds).unwrap();
            prop_assert!(plan.connection_window <= connection && plan.send_window <= connection);
            prop_assert!(plan.stream_window <= stream && plan.stream_window <= plan.connection_window / 4 + 1);
            prop_assert!((INITIAL_WINDOW_MIN..=INITIAL_WINDOW_MAX).contains(&plan.initial_window));
            // Either the bound holds it back, or it carries a quarter more than the class's border: enough to leave it.
            let on_its_way = |rate: u64| u128::from(rate) * u128::from(micros) / 1_000_000;
            if let Some(border) = bandwidth.below() {
                for window in [plan.connection_window, plan.send_window] {
                    prop_assert!(window == connection || u128::from(window) >= on_its_way(border + border / 4));
                }
            }
            let streams = u64::from(plan.streams(plan.stream_window));
            prop_assert!(streams >= 64 || streams * u64::from(plan.stream_window) >= u64::from(plan.connection_window));
        }

        #[test]
        fn more_distance_or_bandwidth_never_shrinks_a_window(
            rtts in (50_u64..400_000, 50_u64..400_000), classes in (0_usize..4, 0_usize..4),
        ) {
            let (near, far) = (rtts.0.min(rtts.1), rtts.0.max(rtts.1));
            let (slow, fast) = (classes.0.min(classes.1), classes.0.max(classes.1));
            let of = |class: usize, micros| plan(Bandwidth::ALL[class], Duration::from_micros(micros), None);
            let (less, more) = (of(slow, near), of(fast, far));
            prop_assert!(less.connection_window <= more.connection_window);
            prop_assert!(less.send_window <= more.send_window);
        }
    }

    #[test]
    fn without_a_bandwidth_what_was_configured_stays() {
        let class = PathClass {
            distance: Distance::Wan,
            bandwidth: None,
        };
        let rtt = Duration::from_millis(80);
        assert_eq!(Plan::of(class, rtt, None, &WindowBounds::default()), None);
    }

    #[test]
    fn only_a_far_and_lossy_path_is_left_to_bbr() {
        let (near, far) = (Duration::from_millis(1), Duration::from_millis(40));
        for (rtt, loss, controller) in [
            (far, None, Controller::Cubic),
            (far, Some(0.001), Controller::Cubic),
            (far, Some(0.01), Controller::Bbr),
            (near, Some(0.01), Controller::Cubic),
        ] {
            assert_eq!(plan(Bandwidth::Gbit1, rtt, loss).controller, controller);
        }
    }
}
