//! What a scenario found: each link's counters, and the load's bundle with a verdict that knows of the relays.

use serde::Serialize;

use super::lab::LinkCounts;
use super::relay::RelayReport;
use super::scenario::Scenario;
use super::steps::{self, Impairer};
use crate::bundle::{Bundle, Verdict};

/// The result of a scenario with a load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// What delayed and lost frames: `our relay`, `the kernel's netem`; `None` where no link does.
    pub impairment: Option<String>,
    /// Seed of the relays.
    pub seed: u64,
    /// Each host's link, in the order of the scenario.
    pub links: Vec<LinkReport>,
    /// How the load ended.
    pub load: LoadReport,
    /// Of the relays; with a bundle also what that says.
    pub verdict: Verdict,
    /// The load's, with this verdict. `None` for a load that makes none.
    #[serde(skip)]
    pub bundle: Option<Bundle>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkReport {
    /// Its host.
    pub host: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Bits a second, as set.
    pub rate: Option<u64>,
    /// Delay and loss in words, as set.
    pub impairment: Option<String>,
    /// Frames that waited too long for the rate and were dropped, from the host: the link's doing. `None`: could not be
    /// read.
    pub queue_drops_up: Option<u64>,
    /// To the host.
    pub queue_drops_down: Option<u64>,
    /// Where the link has a relay of ours.
    pub relay: Option<RelayReport>,
}

/// The load's end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// Its exit code; 128 + signal where one killed it.
    pub exit_code: i32,
    /// Seconds.
    pub elapsed_s: f64,
}

impl Report {
    pub(super) fn new(
        scenario: &Scenario,
        impairer: Impairer,
        counts: Vec<LinkCounts>,
        load: LoadReport,
        bundle: Option<Bundle>,
    ) -> Self {
        let link = |(host, counts): (&super::scenario::Host, LinkCounts)| LinkReport {
            host: host.name.clone(),
            mtu: host.link.mtu,
            rate: host.link.rate,
            impairment: (!host.link.impairment.is_nothing())
                .then(|| steps::describe(&host.link.impairment)),
            queue_drops_up: counts.queue_drops_up,
            queue_drops_down: counts.queue_drops_down,
            relay: counts.relay,
        };
        let links: Vec<LinkReport> = scenario.hosts.iter().zip(counts).map(link).collect();
        let impaired = links.iter().any(|link| link.impairment.is_some());
        let impairment = impaired.then(|| impairer.to_string());
        let faults = links.iter().flat_map(|link| {
            let relay = link.relay.iter();
            relay.flat_map(|relay| relay.faults(&link.host))
        });
        let mut verdict = bundle.as_ref().map_or_else(
            || Verdict {
                valid: true,
                reasons: Vec::new(),
                remarks: Vec::new(),
            },
            |bundle| bundle.verdict.clone(),
        );
        verdict.reasons.extend(faults);
        verdict.valid &= verdict.reasons.is_empty();
        verdict.remarks.push(match &impairment {
            Some(means) => format!("in the lab `{}`, impaired by {means}", scenario.name),
            None => format!("in the lab `{}`", scenario.name),
        });
        let bundle = bundle.map(|bundle| Bundle {
            verdict: verdict.clone(),
            ..bundle
        });
        Self {
            scenario: scenario.name.clone(),
            impairment,
            seed: scenario.seed,
            links,
            load,
            verdict,
            bundle,
        }
    }
}
