//! How a command line answers: results on standard output, as text or as one JSON object; complaints on standard error; an exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed.
    Failed,
    /// 2: the arguments make no sense.
    Usage,
    /// 3: works, but something it needs does not.
    Degraded,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Degraded => 3,
        })
    }
}

/// Where a command's result goes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// As JSON, or as text.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Writes a result and flushes it, so that who reads a pipe has it before the command goes on to serve.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn result<T: Serialize + Display>(&self, result: &T) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, result)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", result.to_string().trim_end())?;
        }
        out.flush()
    }

    /// Writes why there is no result, with its causes.
    pub fn failed(&self, error: &(dyn Error + 'static)) {
        let error = with_causes(error);
        if self.json {
            #[derive(Serialize)]
            struct Failure<'a> {
                ok: bool,
                error: &'a str,
            }
            let failure = serde_json::to_string(&Failure {
                ok: false,
                error: &error,
            });
            println!("{}", failure.unwrap_or_default());
        }
        eprintln!("{error}");
    }
}

/// What an error says, then its causes, but for those that were said already: some errors say their causes themselves.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !said.ends_with(&next) {
            said = format!("{said}: {next}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Level {
        #[error("outer: {0}")]
        Saying(#[source] Box<Self>),
        #[error("silent")]
        Silent(#[source] Box<Self>),
        #[error("root.pem: no such file")]
        Cause,
    }

    #[test]
    fn each_cause_is_said_once() {
        let cause = || Box::new(Level::Cause);
        assert_eq!(
            with_causes(&Level::Saying(Box::new(Level::Saying(cause())))),
            "outer: outer: root.pem: no such file"
        );
        assert_eq!(
            with_causes(&Level::Saying(Box::new(Level::Silent(cause())))),
            "outer: silent: root.pem: no such file"
        );
    }
}
