//! From what the threads found to the bundle.

use std::time::{Duration, SystemTime};

use super::idle::Found;
use super::thread::{Findings, Schedule};
use crate::bundle::{Outcome, Setup};
use crate::plan::{Handshake, Plan, Protocol, Session, Shape};
use crate::record::{Connects, Series, Tally, Times};
use crate::truth::Resident;

/// All threads' findings in one.
pub(super) struct Gathered {
    tally: Tally,
    connects: Connects,
    series: Series,
    idle: Found,
    elapsed: Duration,
    pub(super) socket_drops: Option<u64>,
    pub(super) lag: Times,
}

impl Gathered {
    /// Of at least one thread. `None`: the run ended before its counted time began.
    pub(super) fn new(
        findings: &[Findings],
        mut series: Series,
        schedule: &Schedule,
        interrupted: bool,
    ) -> Option<Self> {
        let ends = findings.iter().map(|found| {
            let until = found.tally.counted().until;
            // A thread that was done early was done with its last answer.
            if interrupted || until >= schedule.counted.until {
                until
            } else {
                found.tally.last.unwrap_or(until)
            }
        });
        let elapsed = ends
            .max()?
            .checked_duration_since(schedule.counted.from)
            .filter(|elapsed| !elapsed.is_zero())?;
        let mut all = findings.iter();
        let first = all.next()?;
        let (mut tally, mut connects) = (first.tally.clone(), first.connects.clone());
        let (mut idle, mut socket_drops) = (first.idle.clone(), first.socket_drops);
        let mut lag = first.lag.clone();
        for found in all {
            tally.merge(&found.tally);
            connects.merge(&found.connects);
            idle.merge(&found.idle);
            socket_drops = socket_drops
                .zip(found.socket_drops)
                .map(|(all, more)| all.saturating_add(more));
            lag.merge(&found.lag);
        }
        for slice in findings.iter().flat_map(|found| &found.slices) {
            series.add(slice);
        }
        Some(Self {
            tally,
            connects,
            series,
            idle,
            elapsed,
            socket_drops,
            lag,
        })
    }

    /// As a bundle has it. `ramp`: memory before and after the idle connections were opened.
    pub(super) fn outcome(&self, plan: &Plan, ramp: (Resident, Resident)) -> Outcome {
        let (tally, connects) = (&self.tally, &self.connects);
        let (requests, body_bytes, _) = self.series.totals();
        Outcome {
            elapsed_s: self.elapsed.as_secs_f64(),
            requests,
            body_bytes,
            due: tally.due,
            answered: tally.answered,
            errors: tally.failures.counts(),
            error_examples: tally.failures.examples(),
            unanswered: tally.unanswered,
            connections_opened: connects.opened,
            connections_resumed: connects.resumed,
            connections_early: connects.early,
            connections_failed: connects.failed,
            statuses: tally.statuses.clone(),
            latency: tally.latency.distribution(),
            service: tally.service.distribution(),
            first_byte: tally.first_byte.distribution(),
            connect: connects.times.distribution(),
            series: self.series.ticks(self.elapsed),
            idle: plan.idle.map(|_| self.idle.outcome(ramp.0, ramp.1)),
        }
    }
}

/// What was to be done, for people and for deciding whether two runs are alike.
pub(super) fn setup(plan: &Plan) -> Setup {
    let target = &plan.target;
    let mut workload = plan.workload.describe();
    if let Some(rate) = plan.read_rate {
        workload.push_str(&format!(", read at {rate} B/s"));
    }
    if let Some(idle) = plan.idle {
        workload.push_str(&format!(", {} idle connections", idle.connections));
    }
    Setup {
        target: format!("{}://{}", target.scheme(), target.authority()),
        protocol: protocol(plan.protocol).to_owned(),
        shape: shape(plan.shape),
        connections: plan.connections,
        streams: plan.streams,
        threads: plan.threads,
        session: session(plan.session),
        workload,
        seed: plan.seed,
        duration_s: plan.stop.duration.as_secs_f64(),
        warmup_s: plan.warmup.as_secs_f64(),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http3 => "h3",
        Protocol::Http2 => "h2",
        Protocol::Http1 => "h1",
        Protocol::Stoq => "stoq",
    }
}

fn shape(shape: Shape) -> String {
    match shape {
        Shape::Closed => "closed".to_owned(),
        Shape::Constant { rate } => format!("constant {rate}/s"),
        Shape::Poisson { rate } => format!("poisson {rate}/s"),
        Shape::Ramp { from, to } => format!("ramp {from}-{to}/s"),
        Shape::Recorded { speed } => format!("recorded, at {speed} times its speed"),
    }
}

fn session(session: Session) -> String {
    match session {
        Session::Kept => "kept".to_owned(),
        Session::Churn(age) => format!("churn {age:?}"),
        Session::PerRequest(Handshake::Full) => "full".to_owned(),
        Session::PerRequest(Handshake::Resumed) => "resumed".to_owned(),
        Session::PerRequest(Handshake::EarlyData) => "0-rtt".to_owned(),
    }
}

/// RFC 3339, UTC, to the second. Moments before 1970 are 1970.
pub(super) fn rfc3339(moment: SystemTime) -> String {
    let since = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years that begin in March, in eras of 400 of them: the leap day is the last of its year.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(moment), text);
        }
    }
}
