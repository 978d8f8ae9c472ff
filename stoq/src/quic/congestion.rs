//! Congestion control as the QUIC implementation below runs it, metered: what is acknowledged passes through here, and
//! nowhere else with the time at which it was sent.
//!
//! The meter costs some additions an acknowledged packet. It is read by cloning the controller, which is how the
//! implementation below shows it; nothing is shared between threads but the histograms.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{
    BbrConfig, Controller as Control, ControllerFactory, CubicConfig, NewRenoConfig,
};
use quinn_proto::RttEstimator;

use crate::path::{Controller, PathHistograms};

/// Makes metered controllers.
pub(super) struct Metering {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
    controller: Controller,
    histograms: Arc<PathHistograms>,
}

impl Metering {
    pub(super) fn new(
        controller: Controller,
        initial_window: u64,
        histograms: Arc<PathHistograms>,
    ) -> Self {
        let inner: Arc<dyn ControllerFactory + Send + Sync> = match controller {
            Controller::Cubic => {
                let mut config = CubicConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
            Controller::Bbr => {
                let mut config = BbrConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
            Controller::NewReno => {
                let mut config = NewRenoConfig::default();
                config.initial_window(initial_window);
                Arc::new(config)
            }
        };
        Self {
            inner,
            controller,
            histograms,
        }
    }
}

impl ControllerFactory for Metering {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Control> {
        Box::new(Metered {
            inner: Arc::clone(&self.inner).build(now, current_mtu),
            meter: Meter {
                controller: self.controller,
                ..Meter::default()
            },
            batch: Batch::default(),
            histograms: Arc::clone(&self.histograms),
        })
    }
}

/// What was measured on a path since it was first used.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meter {
    pub(super) controller: Controller,
    /// Bytes acknowledged.
    pub(super) acked: u64,
    /// Those acknowledged while there was nothing more to send.
    pub(super) acked_idle: u64,
    /// Smoothed difference of successive round trips, as RFC 3550 §6.4.1 has it; zero before the second.
    pub(super) jitter: Duration,
    /// The last round trip.
    last: Option<Duration>,
}

impl Meter {
    /// That of a connection's controller; `None` if it is not one of ours.
    pub(super) fn of(controller: Box<dyn Control>) -> Option<Self> {
        let metered = controller.into_any().downcast::<Metered>().ok()?;
        Some(metered.meter)
    }

    fn round_trip(&mut self, rtt: Duration, histograms: &PathHistograms) {
        histograms.rtt_us.record(micros(rtt));
        if let Some(last) = self.last.replace(rtt) {
            let difference = rtt.abs_diff(last);
            histograms.jitter_us.record(micros(difference));
            //= https://www.rfc-editor.org/rfc/rfc3550#section-6.4.1
            //# J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16
            self.jitter = (self.jitter * 15 + difference) / 16;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What one acknowledgement has covered so far.
#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    packets: u32,
    /// Of the packet sent last.
    shortest: Option<Duration>,
}

struct Metered {
    inner: Box<dyn Control>,
    meter: Meter,
    batch: Batch,
    histograms: Arc<PathHistograms>,
}

impl Control for Metered {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.meter.acked += bytes;
        if app_limited {
            self.meter.acked_idle += bytes;
        }
        let took = now.saturating_duration_since(sent);
        self.batch.packets += 1;
        self.batch.shortest = Some(self.batch.shortest.map_or(took, |other| other.min(took)));
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let batch = std::mem::take(&mut self.batch);
        //= https://www.rfc-editor.org/rfc/rfc9000#section-13.2.2
        //# A receiver SHOULD send an ACK frame after receiving at least two
        //# ack-eliciting packets.
        // So the second of two was not held back, while a single one may have been, for up to 25 ms.
        if batch.packets >= 2
            && let Some(rtt) = batch.shortest
        {
            self.meter.round_trip(rtt, &self.histograms);
        }
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn clone_box(&self) -> Box<dyn Control> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            meter: self.meter,
            batch: self.batch,
            histograms: Arc::clone(&self.histograms),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_zero_on_an_even_path_and_the_difference_where_round_trips_alternate() {
        let histograms = PathHistograms::default();
        let mut even = Meter::default();
        let mut uneven = Meter::default();
        for number in 0..200 {
            even.round_trip(Duration::from_millis(10), &histograms);
            let rtt = if number % 2 == 0 { 10 } else { 14 };
            uneven.round_trip(Duration::from_millis(rtt), &histograms);
        }
        assert_eq!(even.jitter, Duration::ZERO);
        let jitter = uneven.jitter.as_secs_f64() * 1e3;
        assert!((3.9..=4.0).contains(&jitter), "{jitter} ms");
        assert_eq!(histograms.rtt_us.quantiles().count, 400);
        assert_eq!(histograms.jitter_us.quantiles().count, 398);
    }
}
