//! What the operator asks the keeper for, and what it says.

use std::cmp::Reverse;
use std::time::{Duration, Instant, SystemTime};

use stoq_ebpf::helper::{Helper, HelperError, Status, Why};
use stoq_ebpf::{Limiter as _, Mode, Record, object_hash};
use stoq_node::CallError;
use stoq_node::config::Xdp;

use super::Duty;
use crate::xdp::calls::Verb;
use crate::xdp::policy::{self, wish};
use crate::xdp::report::{LOWERED_SHOWN_MAX, Lowered, XdpReport};

impl Duty {
    /// Does what was asked for, and says how it stands then.
    pub(super) fn answer(&mut self, verb: Verb) -> Result<XdpReport, CallError> {
        let done = match verb {
            Verb::Status => None,
            Verb::Enable { trial } => Some(self.enable(trial)?),
            Verb::Confirm => Some(self.confirm()?),
            Verb::Disable => Some(self.disable()?),
            Verb::Reload => Some(self.reread()?),
        };
        self.report(done)
    }

    fn enable(&mut self, trial: Duration) -> Result<String, CallError> {
        self.needs_helper()?;
        let interface = self.interface().to_owned();
        let enabled = self
            .limiter
            .enable(&interface, wish(self.config.mode), Some(trial));
        let held = enabled.map_err(|error| self.refused(error))?;
        self.note(self.limiter.beat(self.shed.of_all()));
        self.last_mode = held.mode;
        self.not_at_start = None;
        tracing::info!(mode = %held.mode, %interface, ?trial, "xdp: enabled on trial");
        let mut done = format!("enabled on {interface}: {}", held.mode);
        for finding in &held.passed_over {
            done.push_str(&format!("\n           {finding}"));
        }
        Ok(done)
    }

    fn confirm(&mut self) -> Result<String, CallError> {
        self.needs_helper()?;
        let confirmed = self.limiter.with_helper(Helper::confirm);
        let held = confirmed.map_err(|error| self.refused(error))?;
        let record = Record::new(
            &held.interface,
            held.mode,
            object_hash(),
            held.driver.as_deref(),
            SystemTime::now(),
        );
        record.store(&self.state_dir).map_err(|error| {
            CallError::Failed(format!(
                "it stays as long as this process runs, but the next start will not attach: {error}"
            ))
        })?;
        tracing::info!(mode = %held.mode, interface = %held.interface, "xdp: confirmed");
        Ok("confirmed: it stays, and the next start attaches too".to_owned())
    }

    fn disable(&mut self) -> Result<String, CallError> {
        // The record first: what fails afterwards is gone with the process, and does not come back with the next.
        let forgotten = Record::remove(&self.state_dir);
        if self.has_helper {
            let disabled = self.limiter.disable();
            // Where the helper did not answer it was ended, and that takes the program away as well.
            self.noted(disabled);
        }
        self.last_mode = Mode::UserSpace;
        self.not_at_start = None;
        tracing::info!("xdp: disabled");
        match forgotten {
            Ok(()) => {
                Ok("disabled: nothing is attached, and the next start does not attach".to_owned())
            }
            Err(error) => Err(CallError::Failed(format!(
                "nothing is attached, but the next start will attach again: {error}"
            ))),
        }
    }

    /// Takes over what may change while the process runs.
    fn reread(&mut self) -> Result<String, CallError> {
        let Some(reload) = &self.reload else {
            return Err(CallError::Absent(
                "this node was not started from a file".to_owned(),
            ));
        };
        let new = reload().map_err(CallError::Failed)?;
        let restart: Vec<&str> = [
            ("mode", new.mode != self.config.mode),
            ("interface", new.interface != self.config.interface),
            (
                "keep_capabilities",
                new.keep_capabilities != self.config.keep_capabilities,
            ),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect();
        let new = Xdp {
            mode: self.config.mode,
            interface: self.config.interface.clone(),
            keep_capabilities: self.config.keep_capabilities,
            ..new
        };
        let policy = policy::policy(&new, &self.ports, &self.keys, self.hash_key);
        let applied = self.limiter.apply(&policy);
        applied.map_err(|error| CallError::Failed(error.to_string()))?;
        let lists = policy::lists(&new);
        self.config = new;
        self.put_lists(lists).map_err(|error| {
            CallError::Failed(format!(
                "budgets are those of the file, but allow and deny do not hold in full; reload again once that is mended: {error}"
            ))
        })?;
        tracing::info!(?restart, "xdp: budgets and lists were read again");
        let mut done = "budgets and lists are those of the file".to_owned();
        if !restart.is_empty() {
            done.push_str(&format!("; {} take a restart", restart.join(", ")));
        }
        Ok(done)
    }

    fn needs_helper(&self) -> Result<(), CallError> {
        if self.has_helper {
            return Ok(());
        }
        let why = self.why_at_socket().unwrap_or_default();
        Err(CallError::Failed(format!(
            "there is no helper to do it: {why}"
        )))
    }

    fn refused(&mut self, error: HelperError) -> CallError {
        let text = error.to_string();
        let is_busy = matches!(&error, HelperError::Refused(refusal) if refusal.why == Why::Order);
        self.noted(Err(error));
        if is_busy {
            CallError::Busy(text)
        } else {
            CallError::Failed(text)
        }
    }

    fn report(&mut self, done: Option<String>) -> Result<XdpReport, CallError> {
        let counters = self
            .limiter
            .counters()
            .unwrap_or_else(|_| self.figures.counters.clone());
        let status = self.status();
        let samples = match self.limiter.mode() {
            Mode::UserSpace => Vec::new(),
            Mode::Native | Mode::Generic => {
                self.limiter.with_helper(Helper::events).unwrap_or_default()
            }
        };
        let mode = self.limiter.mode();
        Ok(XdpReport {
            ok: true,
            done,
            wish: wish(self.config.mode),
            interface: self.interface().to_owned(),
            mode,
            why: self.why_at_socket().or_else(|| {
                let held = status.as_ref()?.held.as_ref()?;
                let findings: Vec<_> = held.passed_over.iter().map(ToString::to_string).collect();
                (!findings.is_empty()).then(|| findings.join("; "))
            }),
            dry_run: self.config.dry_run,
            trial_left_ms: status.and_then(|status| status.trial_left_ms),
            confirmed: matches!(Record::load(&self.state_dir), Ok(Some(_))),
            shed: self.shed.level(),
            retry: self.shed.is_retrying(),
            pressure: self.load.map_or(0.0, |load| load.pressure()),
            lowered: self.lowered(),
            counters,
            samples,
        })
    }

    /// Who has smaller budgets, those first that have them for longest.
    fn lowered(&self) -> Vec<Lowered> {
        let now = Instant::now();
        let mut lowered: Vec<Lowered> = self
            .evidence
            .lowered()
            .map(|(source, cause, until)| Lowered {
                source,
                cause,
                left_s: until.saturating_duration_since(now).as_secs(),
            })
            .collect();
        lowered.sort_by_key(|one| (Reverse(one.left_s), one.source));
        lowered.truncate(LOWERED_SHOWN_MAX);
        lowered
    }

    /// Why packets are judged at the sockets, where they are.
    fn why_at_socket(&self) -> Option<String> {
        let why = self.limiter.why_at_socket()?;
        Some(self.not_at_start.clone().unwrap_or(why))
    }

    /// What the helper holds, while it holds anything.
    fn status(&mut self) -> Option<Status> {
        if self.limiter.mode() == Mode::UserSpace {
            return None;
        }
        match self.limiter.with_helper(Helper::status) {
            Ok(status) => Some(status),
            Err(error) => {
                self.noted(Err(error));
                None
            }
        }
    }
}
