//! `[xdp]` in a running edge: packets judged at the interface, or at the sockets while that cannot be had.
//!
//! ```text
//! run ─▶ bind ─▶ helper ─▶ capabilities given up ─▶ keeper.rs  a thread: ten beats a second, and the operator's verbs
//!                                                     policy.rs   ports, budgets and lists as the limiter takes them
//!                                                     shed.rs     from load to how many newcomers are shed, and Retry
//!                                                     load.rs     that load
//!                                                     witness.rs  what listeners and the serve path tell it
//!                                                     evidence.rs  who has less for a while, and why
//!                                                     calls.rs, report.rs, metrics.rs  what it says
//! ```
//!
//! The program and its helper are `stoq_ebpf`'s; where none can be had, the same rules hold at the UDP sockets of `listen.https`
//! ([`Keeper::screen`]). Nothing of this exists while `xdp.mode` is off.
//!
//! Invariant: calls to the helper block, so none is made on a worker.

mod calls;
mod evidence;
mod forecast;
mod keeper;
mod load;
mod metrics;
mod policy;
mod report;
mod shed;
mod witness;

pub(crate) use self::{
    calls::{CONFIRM, DISABLE, ENABLE, RELOAD, STATUS, TRIAL},
    forecast::{Forecast, forecast},
    keeper::{Keeper, Reload, Setup},
    policy::{Ports, mandate, of_file},
    report::{Verdicts, XdpReport},
    witness::{Miscarried, Teller, Witness},
};

use stoq_ebpf::helper::{Helper, HelperError};
use stoq_node::config::{Xdp, XdpMode};

/// The hidden verb under which this binary is its own helper.
pub(crate) const HELPER_VERB: &str = "xdp-helper";

/// Starts the helper; none where the configuration has no use for it. To be called once sockets are bound, since it is told their ports and
/// no others ever, and before a byte was read from them.
pub(crate) fn start_helper(config: &Xdp, ports: &Ports) -> Option<Result<Helper, HelperError>> {
    (config.mode != XdpMode::Off).then(|| Helper::spawn_self(HELPER_VERB, &mandate(config, ports)))
}
