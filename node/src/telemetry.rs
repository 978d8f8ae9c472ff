//! Log records: to standard error, as text for people or JSON for machines, through one filter.
//!
//! Access records are events of the target [`ACCESS`] at level info. They are on unless `log.access` is false, whatever
//! level the filter sets for the rest, unless the filter names the target itself.
//! Records are written by the thread that makes them: whoever does not read standard error slows the process down and
//! loses nothing; nothing queues up.

use std::io::{self, IsTerminal};

use tracing::{Subscriber, subscriber::set_global_default};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::config::{Log, LogFormat};

/// The target of access records.
pub const ACCESS: &str = "access";

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse. A loaded configuration has one that does.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has logging already.
    #[error("logging was started twice: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Starts logging to standard error for the whole process. Text is coloured when standard error is a terminal.
///
/// # Errors
/// The filter does not parse, or logging was started before.
pub fn init(log: &Log) -> Result<(), TelemetryError> {
    let colour = io::stderr().is_terminal();
    Ok(set_global_default(subscriber(log, io::stderr, colour)?)?)
}

/// What [`init`] installs, writing elsewhere.
///
/// # Errors
/// The filter does not parse.
pub fn subscriber<W>(
    log: &Log,
    writer: W,
    colour: bool,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let mut filter = EnvFilter::try_new(&log.filter)?;
    if !log.access {
        filter = filter.add_directive(format!("{ACCESS}=off").parse()?);
    } else if !names_access(&log.filter) {
        filter = filter.add_directive(format!("{ACCESS}=info").parse()?);
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    Ok(match log.format {
        LogFormat::Text => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

fn names_access(filter: &str) -> bool {
    filter.split(',').any(|directive| {
        directive
            .split(['=', '['])
            .next()
            .is_some_and(|target| target.trim() == ACCESS)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written for one record of each kind.
    fn written(format: LogFormat, filter: &str, access: bool) -> String {
        let sink = Sink::default();
        let log = Log {
            format,
            filter: filter.to_owned(),
            access,
        };
        let make = {
            let sink = sink.clone();
            move || sink.clone()
        };
        tracing::subscriber::with_default(subscriber(&log, make, false).unwrap(), || {
            tracing::info!(target: ACCESS, status = 200, "served");
            tracing::info!("working");
            tracing::warn!("worried");
        });
        String::from_utf8(sink.0.lock().clone()).unwrap()
    }

    #[test]
    fn access_records_have_their_own_switch() {
        for (filter, access, expected) in [
            ("info", true, [true, true, true]),
            ("warn", true, [true, false, true]),
            ("info", false, [false, true, true]),
            ("info,access=off", true, [false, true, true]),
        ] {
            let text = written(LogFormat::Text, filter, access);
            let found = ["served", "working", "worried"].map(|word| text.contains(word));
            assert_eq!(found, expected, "{filter} {access}:\n{text}");
        }
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(LogFormat::Json, "info", true);
        let records: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0]["target"], ACCESS);
        assert_eq!(records[0]["status"], 200);
    }
}
