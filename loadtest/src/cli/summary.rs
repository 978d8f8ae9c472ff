//! A result as aligned text, for a terminal.

use std::fmt::{self, Display, Write as _};

use crate::bundle::{Bundle, ClientShare, Distribution, IdleOutcome, Outcome, ServerShare, Setup};

/// Writes `bundle` as a table.
#[derive(Debug)]
pub(crate) struct Summary<'a>(pub(crate) &'a Bundle);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bundle = self.0;
        let outcome = &bundle.outcome;
        head(f, &bundle.name, &bundle.setup, outcome)?;
        writeln!(f)?;
        counts(f, outcome)?;
        writeln!(f)?;
        let columns = ["p50", "p90", "p99", "p99.9", "max"];
        write!(f, "{:<14}", "")?;
        for column in columns {
            write!(f, "{column:>10}")?;
        }
        writeln!(f)?;
        // In a closed loop both begin at the same moment, and one says it.
        if bundle.setup.shape == "closed" {
            times(f, "service time", &outcome.latency)?;
        } else {
            times(f, "latency", &outcome.latency)?;
            times(f, "service time", &outcome.service)?;
        }
        times(f, "first byte", &outcome.first_byte)?;
        times(f, "connect", &outcome.connect)?;
        if let Some(idle) = &outcome.idle {
            writeln!(f)?;
            idlers(f, idle)?;
        }
        writeln!(f)?;
        client(f, &bundle.client)?;
        if let Some(server) = &bundle.server {
            self::server(f, server)?;
        }
        if let Some(interface) = &bundle.interface {
            writeln!(
                f,
                "interface     {}: received {}, sent {}, {} packets dropped",
                interface.name,
                bytes(interface.rx_bytes),
                bytes(interface.tx_bytes),
                interface.rx_dropped
            )?;
        }
        verdict(f, bundle)
    }
}

fn head(f: &mut fmt::Formatter<'_>, name: &str, setup: &Setup, outcome: &Outcome) -> fmt::Result {
    if !name.is_empty() {
        writeln!(f, "{name}")?;
    }
    writeln!(f, "{} {}  {}", setup.protocol, setup.target, setup.workload)?;
    writeln!(
        f,
        "{}, {} connections × {} streams ({}), {} threads, {:.1} s counted after {:.1} s of warm-up",
        setup.shape,
        setup.connections,
        setup.streams,
        setup.session,
        setup.threads,
        outcome.elapsed_s,
        setup.warmup_s
    )
}

fn counts(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let rate = ratio(outcome.requests, outcome.elapsed_s);
    let goodput = ratio(outcome.body_bytes, outcome.elapsed_s) / 1e6;
    writeln!(
        f,
        "rate          {rate:.1} requests/s, {goodput:.2} MB/s of bodies"
    )?;
    writeln!(
        f,
        "requests      {} due: {} answered, {} failed, {} unanswered",
        outcome.due,
        outcome.answered,
        outcome.failures(),
        outcome.unanswered
    )?;
    for (kind, count) in &outcome.errors {
        let example = outcome.error_examples.get(kind);
        let example = example.map_or("", String::as_str);
        writeln!(f, "  {count:>10}  {kind}: {example}")?;
    }
    let mut connections = format!("connections   {} opened", outcome.connections_opened);
    for (count, what) in [
        (outcome.connections_resumed, "resumed"),
        (outcome.connections_early, "with early data"),
        (outcome.connections_failed, "attempts failed"),
    ] {
        if count > 0 {
            write!(connections, ", {count} {what}")?;
        }
    }
    writeln!(f, "{connections}")
}

fn times(f: &mut fmt::Formatter<'_>, what: &str, times: &Distribution) -> fmt::Result {
    if times.count == 0 {
        return Ok(());
    }
    write!(f, "{what:<14}")?;
    for micros in [
        times.p50_us,
        times.p90_us,
        times.p99_us,
        times.p999_us,
        times.max_us,
    ] {
        write!(f, "{:>10}", time(micros))?;
    }
    writeln!(f)
}

fn idlers(f: &mut fmt::Formatter<'_>, idle: &IdleOutcome) -> fmt::Result {
    let each = |known: Option<u64>| known.map_or_else(|| "not known".to_owned(), bytes);
    writeln!(
        f,
        "idle          {} of {} opened in {:.1} s, held {:.1} s, {} answered",
        idle.opened, idle.wanted, idle.ramp_s, idle.held_s, idle.answered
    )?;
    writeln!(
        f,
        "  memory      each took {} of this process, {} of the server",
        each(idle.client_bytes_each),
        each(idle.server_bytes_each)
    )?;
    times(f, "  connect", &idle.connect)?;
    times(f, "  answer", &idle.answer)?;
    for (kind, count) in &idle.errors {
        let example = idle.error_examples.get(kind);
        let example = example.map_or("", String::as_str);
        writeln!(f, "  {count:>10}  {kind}: {example}")?;
    }
    Ok(())
}

fn client(f: &mut fmt::Formatter<'_>, client: &ClientShare) -> fmt::Result {
    let threads: Vec<_> = client.thread_cpu.iter().map(|cpu| percent(*cpu)).collect();
    writeln!(
        f,
        "client        {:.2} CPU s, threads at {}, event loop late by {} (p99), {} datagrams dropped, RSS {}",
        client.cpu_s,
        threads.join(" "),
        time(client.lag.p99_us),
        client
            .socket_drops
            .map_or_else(|| "?".to_owned(), |drops| drops.to_string()),
        bytes(client.rss_bytes)
    )
}

fn server(f: &mut fmt::Formatter<'_>, server: &ServerShare) -> fmt::Result {
    write!(
        f,
        "server        {} ({}): {:.2} CPU s, {} of a core",
        server.command,
        server.pid,
        server.cpu_s,
        percent(server.cpu_share)
    )?;
    if let Some(seconds) = server.cpu_s_per_million {
        write!(f, ", {seconds:.2} s per million requests")?;
    }
    if let Some(seconds) = server.cpu_s_per_gb {
        write!(f, ", {seconds:.2} s per GB")?;
    }
    writeln!(
        f,
        ", RSS {} to {}",
        bytes(server.rss_before_bytes),
        bytes(server.rss_max_bytes)
    )
}

fn verdict(f: &mut fmt::Formatter<'_>, bundle: &Bundle) -> fmt::Result {
    let verdict = &bundle.verdict;
    let word = if verdict.valid { "VALID" } else { "INVALID" };
    writeln!(f, "verdict       {word}")?;
    for reason in &verdict.reasons {
        writeln!(f, "  {reason}")?;
    }
    for remark in &verdict.remarks {
        writeln!(f, "  note: {remark}")?;
    }
    Ok(())
}

/// 0 over nothing, for a run of no time counted nothing either.
#[expect(
    clippy::cast_precision_loss,
    reason = "a figure for people, of at most five digits"
)]
fn ratio(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Three digits and a unit.
fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        micros if micros < 1e3 => (micros, "µs"),
        micros if micros < 1e6 => (micros / 1e3, "ms"),
        micros => (micros / 1e6, "s"),
    };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| count >= *size);
    unit.map_or_else(
        || format!("{count} B"),
        |(unit, size)| format!("{:.1} {unit}", ratio(count, 1.0) / ratio(*size, 1.0)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        for (micros, text) in [
            (0.5, "0.50 µs"),
            (12.34, "12.3 µs"),
            (999.0, "999 µs"),
            (1500.0, "1.50 ms"),
            (2_500_000.0, "2.50 s"),
        ] {
            assert_eq!(time(micros), text);
        }
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
