//! What a start would come to: asked by `check`, and by the keeper of its own helper.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use stoq_ebpf::{Mode, Record, Report, object_hash};
use stoq_node::config::{Xdp, XdpMode};

use super::policy::wish;

/// Where packets would be judged, and why not where the configuration wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Forecast {
    /// The mode asked for.
    pub(crate) wish: Mode,
    /// The mode that the machine has.
    pub(crate) would: Mode,
    /// Whether a start would attach it: only what was confirmed is attached.
    pub(crate) attaches: bool,
    /// What is in the way.
    pub(crate) why: Option<String>,
}

impl Forecast {
    /// From what is known of the machine and what was confirmed on it.
    pub(crate) fn new(
        report: &Report,
        wish: Mode,
        interface: &str,
        record: Result<Option<Record>, String>,
    ) -> Self {
        let refusals = |mode| {
            let reasons: Vec<String> = report.refusals(mode).map(ToString::to_string).collect();
            reasons.join("; ")
        };
        let device = report.facts.device.as_ref();
        let confirmed = record.and_then(|record| {
            let driver = device.and_then(|device| device.driver.as_deref());
            allowed(record.as_ref(), interface, report.would, driver)
        });
        let attaches = report.would != Mode::UserSpace && confirmed.is_ok();
        let why = match (report.would, confirmed) {
            (Mode::UserSpace, _) => Some(refusals(wish)),
            (_, Err(why)) => Some(why),
            (would, Ok(())) if would != wish => Some(refusals(wish)),
            (_, Ok(())) => None,
        };
        Self {
            wish,
            would: report.would,
            attaches,
            why,
        }
    }
}

/// Whether a start may attach the program so, with what to do where it may not.
pub(super) fn allowed(
    record: Option<&Record>,
    interface: &str,
    mode: Mode,
    driver: Option<&str>,
) -> Result<(), String> {
    let now = Record::new(interface, mode, object_hash(), driver, SystemTime::now());
    Record::allows(record, &now).map_err(|why| {
        format!(
            "{why} (`stoq-edge xdp enable`, then `xdp confirm` while you still reach this machine)"
        )
    })
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attaches {
            write!(f, "xdp: packets would be judged in mode {}", self.would)?;
        } else {
            f.write_str(
                "xdp: packets would be judged at the sockets of listen.https, TCP would not",
            )?;
        }
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// What a start with this configuration would come to; none where it asks for nothing. With the privileges of this process.
///
/// # Errors
/// What the machine does not say.
pub(crate) fn forecast(config: &Xdp, state_dir: &Path) -> Option<Result<Forecast, String>> {
    if config.mode == XdpMode::Off {
        return None;
    }
    let interface = config.interface.as_deref().unwrap_or_default();
    let wish = wish(config.mode);
    Some(
        Report::of(interface, wish)
            .map(|report| {
                let record = Record::load(state_dir).map_err(|error| error.to_string());
                Forecast::new(&report, wish, interface, record)
            })
            .map_err(|error| format!("{interface}: {error}")),
    )
}

#[cfg(test)]
mod tests {
    use stoq_ebpf::{Device, Facts, judge};

    use super::*;

    fn report(wish: Mode, missing: &[&str], driver_runs: bool) -> Report {
        let device = Device {
            index: 2,
            driver: Some("ixgbe".to_owned()),
            mtu: 1500,
            rx_queues: Some(2),
            up: true,
            ethernet: true,
            native_xdp: Some(driver_runs),
            offloads: None,
            attached: None,
        };
        let facts = Facts {
            interface: "eth0".to_owned(),
            kernel: "6.18.4".to_owned(),
            missing_capabilities: missing.iter().map(|name| (*name).to_owned()).collect(),
            jit: Some(true),
            device: Some(device),
        };
        judge(facts, wish)
    }

    fn record(mode: Mode) -> Record {
        Record::new(
            "eth0",
            mode,
            object_hash(),
            Some("ixgbe"),
            SystemTime::now(),
        )
    }

    #[test]
    fn only_what_was_confirmed_would_be_attached_and_what_is_in_the_way_is_said() {
        let native = || report(Mode::Native, &[], true);
        let cases = [
            (native(), Ok(Some(record(Mode::Native))), true, None),
            (
                native(),
                Ok(None),
                false,
                Some("no enable has been confirmed"),
            ),
            (
                native(),
                Ok(Some(record(Mode::Generic))),
                false,
                Some("the mode is native, and generic was confirmed"),
            ),
            (
                native(),
                Err("unreadable".to_owned()),
                false,
                Some("unreadable"),
            ),
            // The second best is attached where that was confirmed, and the reason is said.
            (
                report(Mode::Native, &[], false),
                Ok(Some(record(Mode::Generic))),
                true,
                Some("does not run programs itself"),
            ),
            (
                report(Mode::Native, &[], false),
                Ok(None),
                false,
                Some("no enable has been confirmed"),
            ),
            (
                report(Mode::Native, &["CAP_BPF"], true),
                Ok(Some(record(Mode::Native))),
                false,
                Some("this process has not CAP_BPF"),
            ),
        ];
        for (report, record, attaches, why) in cases {
            let forecast = Forecast::new(&report, Mode::Native, "eth0", record);
            assert_eq!(forecast.attaches, attaches, "{forecast:?}");
            match (why, &forecast.why) {
                (None, None) => {}
                (Some(expected), Some(said)) => assert!(said.contains(expected), "{said}"),
                (expected, said) => panic!("{expected:?}, {said:?}"),
            }
        }
    }
}
