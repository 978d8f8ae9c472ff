//! The verdict on a run: reasons not to believe it, and what else should be known. Pure: the same case has the same verdict.
//!
//! When in doubt a run is invalid. A false alarm costs a second run; a false figure costs whoever trusts it.

use crate::bundle::{ClientShare, Environment, Outcome, ServerShare, Setup, Verdict};

use super::watch::Watched;

/// A load thread that wanted a core for this share of the time was the bottleneck: what it measures is itself.
const CLIENT_BUSY: f64 = 0.90;
/// A load thread that waited for a core for this share of the time.
const CLIENT_STARVED: f64 = 0.05;
/// A 99th percentile of lag above this, and above [`LAG_OF_LATENCY`] of the median latency, is in the latencies.
const LAG_US: f64 = 5_000.0;
/// See [`LAG_US`].
const LAG_OF_LATENCY: f64 = 0.05;
/// Lag from this share of the 99th percentile of latency on is worth a remark.
const LAG_REMARK: f64 = 0.25;
/// Datagrams dropped at the client's sockets, of all packets received.
const DROPS: f64 = 0.000_1;
/// Processor time that a hypervisor gave away.
const STOLEN: f64 = 0.05;
/// The same, worth a remark.
const STOLEN_REMARK: f64 = 0.01;
/// How far body bytes may exceed the kernel's count: readings are not of the very same moment.
const BYTES_SLACK: f64 = 0.02;
/// And what may lie in buffers when counting begins: of the run, and of each connection.
const BYTES_BUFFERED: u64 = 1 << 20;
/// See [`BYTES_BUFFERED`].
const BYTES_BUFFERED_EACH: u64 = 64 << 10;
/// From this share of the cores that it may use on, a server is at its limit.
const SERVER_BUSY: f64 = 0.95;
/// Below these, percentiles mean little.
const ANSWERS_FEW: u64 = 100;
/// See [`ANSWERS_FEW`].
const SECONDS_SHORT: f64 = 1.0;
/// Requests of an open loop that were not answered.
const UNANSWERED: f64 = 0.01;

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What was to be done.
    pub setup: &'a Setup,
    /// Requests were to begin at their own times, and not when others had ended.
    pub open_loop: bool,
    /// Where.
    pub environment: &'a Environment,
    /// What was found.
    pub outcome: &'a Outcome,
    /// What was seen, the client's lag and socket drops put in.
    pub watched: &'a Watched,
}

/// The verdict.
#[must_use]
pub fn judge(case: &Case<'_>) -> Verdict {
    let mut verdict = Verdict {
        valid: true,
        reasons: case.watched.faults.clone(),
        remarks: case.watched.unseen.clone(),
    };
    answers(case, &mut verdict);
    threads(case, &mut verdict);
    lag(case, &mut verdict);
    drops(case, &mut verdict);
    stolen(case, &mut verdict);
    bytes(case, &mut verdict);
    queue(case, &mut verdict);
    server(case, &mut verdict);
    machine(case.environment, &mut verdict);
    verdict.valid = verdict.reasons.is_empty();
    verdict
}

impl Verdict {
    fn invalid(&mut self, reason: String) {
        self.reasons.push(reason);
    }

    fn remark(&mut self, remark: String) {
        self.remarks.push(remark);
    }
}

fn answers(case: &Case<'_>, verdict: &mut Verdict) {
    let outcome = case.outcome;
    if outcome.requests == 0 && outcome.answered == 0 {
        // Idle connections may be all that a run is about.
        if outcome.idle.as_ref().is_none_or(|idle| idle.answered == 0) {
            let of = failures(outcome);
            verdict.invalid(format!("no request was answered rightly; {of} failed"));
        }
        return;
    }
    if outcome.answered < ANSWERS_FEW {
        verdict.remark(format!(
            "{} answers are too few for a 99th percentile to mean much",
            outcome.answered
        ));
    }
    if outcome.elapsed_s < SECONDS_SHORT {
        verdict.remark(format!(
            "{:.2} s were counted: rates of less than {SECONDS_SHORT:.0} s mean little",
            outcome.elapsed_s
        ));
    }
    let failed = failures(outcome);
    if failed > 0 {
        verdict.remark(format!(
            "{failed} of {} requests failed ({}): rates and latencies are of those answered rightly",
            outcome.due,
            percent(ratio(failed, outcome.due))
        ));
    }
}

fn threads(case: &Case<'_>, verdict: &mut Verdict) {
    let client = &case.watched.client;
    let count = client.thread_cpu.len();
    if count == 0 {
        verdict.invalid("no load thread was watched".to_owned());
    }
    let mut unknown = false;
    for (number, cpu) in client.thread_cpu.iter().enumerate() {
        let starved = client.thread_starved.get(number).copied().flatten();
        unknown |= starved.is_none();
        let who = format!("load thread {} of {count}", number + 1);
        let waited = starved.unwrap_or(0.0);
        if waited >= CLIENT_STARVED {
            verdict.invalid(format!(
                "{who} was ready to run and had no core for {} of the time (limit {}): give the client \
                 cores of its own, apart from the server's (taskset)",
                percent(waited),
                percent(CLIENT_STARVED)
            ));
        }
        // Waiting below its own limit is work that was to be done all the same.
        let wanted = if waited < CLIENT_STARVED {
            cpu + waited
        } else {
            *cpu
        };
        if wanted >= CLIENT_BUSY {
            verdict.invalid(format!(
                "{who} used {} of a core{} (limit {}): the client was the bottleneck; {}",
                percent(*cpu),
                if waited >= 0.005 {
                    format!(" and waited for one for {}", percent(waited))
                } else {
                    String::new()
                },
                percent(CLIENT_BUSY),
                more_threads(case, client)
            ));
        }
    }
    if unknown {
        verdict.remark(
            "this kernel keeps no schedstat: whether load threads waited for a core is not known, but for the \
             lag of their event loops"
                .to_owned(),
        );
    }
}

/// What could be done about a client that is too slow.
fn more_threads(case: &Case<'_>, client: &ClientShare) -> String {
    let threads = client.thread_cpu.len();
    let cores = super::environment::cores_in_list(&case.environment.affinity).unwrap_or(1);
    if threads < usize::try_from(cores).unwrap_or(usize::MAX) {
        format!("use --threads {}", threads + 1)
    } else if case.open_loop {
        "offer less, or give the client more cores and threads".to_owned()
    } else {
        "give the client more cores and threads, or the server fewer".to_owned()
    }
}

fn lag(case: &Case<'_>, verdict: &mut Verdict) {
    let lag = &case.watched.client.lag;
    if lag.count == 0 {
        if case.outcome.elapsed_s >= SECONDS_SHORT {
            verdict.invalid(
                "the lag of the event loops was not measured: no timer was noticed".to_owned(),
            );
        }
        return;
    }
    let latency = &case.outcome.latency;
    let limit = LAG_US.max(LAG_OF_LATENCY * latency.p50_us);
    if lag.p99_us > limit {
        verdict.invalid(format!(
            "event loops were late by {} at the 99th percentile (limit {}), and latencies by as much: give the \
             client cores of its own, or more threads with fewer connections each",
            milliseconds(lag.p99_us),
            milliseconds(limit)
        ));
    } else if lag.p99_us > 1_000.0 && lag.p99_us >= LAG_REMARK * latency.p99_us {
        verdict.remark(format!(
            "event loops were late by {} at the 99th percentile, latency there is {}: a part of it is the client's",
            milliseconds(lag.p99_us),
            milliseconds(latency.p99_us)
        ));
    }
}

fn drops(case: &Case<'_>, verdict: &mut Verdict) {
    let drops = match case.watched.client.socket_drops {
        Some(0) => return,
        Some(drops) => drops,
        None => {
            return verdict.remark(
                "whether the kernel dropped datagrams at the client's full sockets is not known"
                    .to_owned(),
            );
        }
    };
    let fix = "raise net.core.rmem_max, or use more threads";
    let Some(interface) = &case.watched.interface else {
        verdict.invalid(format!(
            "the kernel dropped {drops} datagrams at the client's full sockets, of how many is not known: {fix}"
        ));
        return;
    };
    let share = ratio(drops, interface.rx_packets);
    let figures = format!(
        "the kernel dropped {drops} datagrams at the client's full sockets, for {} packets received",
        interface.rx_packets
    );
    if share > DROPS {
        verdict.invalid(format!(
            "{figures}: {:.3} % (limit {:.2} %); {fix}",
            share * 100.0,
            DROPS * 100.0
        ));
    } else {
        verdict.remark(figures);
    }
}

fn stolen(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(stolen) = case.watched.client.stolen else {
        return;
    };
    let figures = format!(
        "the hypervisor gave {} of this machine's processor time to others",
        percent(stolen)
    );
    if stolen >= STOLEN {
        verdict.invalid(format!(
            "{figures} (limit {}): run again when it is quiet",
            percent(STOLEN)
        ));
    } else if stolen >= STOLEN_REMARK {
        verdict.remark(figures);
    }
}

fn bytes(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(interface) = &case.watched.interface else {
        return;
    };
    let body = case.outcome.body_bytes;
    let whole = interface.rx_bytes.saturating_add(interface.rx_bytes_before);
    let each = u64::from(case.setup.connections).saturating_mul(BYTES_BUFFERED_EACH);
    let buffered = float(BYTES_BUFFERED.saturating_add(each));
    if body > whole || float(body) > float(interface.rx_bytes) * (1.0 + BYTES_SLACK) + buffered {
        verdict.invalid(format!(
            "{body} bytes of bodies were counted, and the kernel received {} on {} meanwhile ({} before): one of \
             them counts wrongly, or bodies were in buffers for long",
            interface.rx_bytes, interface.name, interface.rx_bytes_before
        ));
    } else if interface.name != "lo"
        && interface.rx_bytes > BYTES_BUFFERED
        && float(body) < 0.5 * float(interface.rx_bytes)
        && case.outcome.requests > 0
        && body / case.outcome.requests >= 4096
    {
        // Small bodies are less than their heads; large ones are most of what comes, unless others share the way.
        verdict.remark(format!(
            "the kernel received {} bytes on {}, of which {body} were bodies: other traffic had the link, or much was \
             sent twice",
            interface.rx_bytes, interface.name
        ));
    }
}

fn queue(case: &Case<'_>, verdict: &mut Verdict) {
    if !case.open_loop {
        return;
    }
    let outcome = case.outcome;
    let lanes = format!(
        "{} connections x {} streams",
        case.setup.connections, case.setup.streams
    );
    let unanswered = ratio(outcome.unanswered, outcome.due);
    if unanswered > UNANSWERED {
        verdict.remark(format!(
            "{} of {} requests ({}) were not begun or not answered when the run ended: more was offered than the \
             server answers over {lanes}; latency includes their waiting",
            outcome.unanswered,
            outcome.due,
            percent(unanswered)
        ));
    }
    let (latency, service) = (outcome.latency.p99_us, outcome.service.p99_us);
    if latency > 1.5 * service && latency - service > 1_000.0 {
        verdict.remark(format!(
            "requests waited for a free one of {lanes}: latency is {} at the 99th percentile, of which the \
             server's answer took {}",
            milliseconds(latency),
            milliseconds(service)
        ));
    }
}

fn server(case: &Case<'_>, verdict: &mut Verdict) {
    let Some(server) = &case.watched.server else {
        return;
    };
    let used = format!(
        "the server used {} of the {} it may use",
        percent(server.cpu_share / f64::from(server.cores.max(1))),
        if server.cores == 1 {
            "one core".to_owned()
        } else {
            format!("{} cores", server.cores)
        }
    );
    if server.cpu_share >= SERVER_BUSY * f64::from(server.cores) {
        verdict.remark(format!("{used}: the rate is its limit"));
    } else if busiest(server) >= SERVER_BUSY {
        verdict.remark(format!(
            "{used}, and its busiest thread {} of one: the rate is that thread's limit",
            percent(busiest(server))
        ));
    } else if !case.open_loop {
        verdict.remark(format!(
            "{used}: the rate is not its limit; {} requests at a time did not ask more of it",
            u64::from(case.setup.connections) * u64::from(case.setup.streams)
        ));
    }
}

fn busiest(server: &ServerShare) -> f64 {
    server.busiest_thread.unwrap_or(0.0)
}

fn machine(environment: &Environment, verdict: &mut Verdict) {
    if environment.load > f64::from(environment.cores) {
        verdict.remark(format!(
            "the load average was {:.1} on {} cores when the run began: something else was at work",
            environment.load, environment.cores
        ));
    }
}

fn failures(outcome: &Outcome) -> u64 {
    outcome
        .errors
        .values()
        .copied()
        .fold(0, u64::saturating_add)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn milliseconds(us: f64) -> String {
    format!("{:.1} ms", us / 1e3)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if part == 0 {
        return 0.0;
    }
    float(part) / float(whole.max(1))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts for people: 53 bits are enough"
)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
