//! Load shed at the NIC: an XDP program that knows QUIC, a selector of sockets, and a model of the first in Rust.
//!
//! The programs are restricted C in `bpf/`; their compiled objects are beside them and in [`object`]. What they and
//! their loader agree on is [`abi`]. [`model`] gives the program's verdicts without a kernel, [`mod@bench`] asks the program
//! itself without an interface, and [`selector`] is the second program.
//!
//! What an edge uses stands at the root: a [`Policy`] says what is wanted, a [`Report`] what would happen here, the
//! [`helper`] holds the program for a data plane without privileges, and a [`Limiter`] is what either way comes to:
//! [`Fallback`] is the program while it can be had, and [`AtSocket`] its model while it cannot. [`Record`] and [`Trial`] keep a machine from losing itself;
//! [`replay`] tells of a [`capture`] what would have become of it.

pub mod abi;
mod attach;
pub mod bench;
pub mod capture;
mod confirm;
mod counters;
mod fallback;
mod filter;
mod handover;
pub mod helper;
mod limiter;
mod maps;
pub mod model;
pub mod object;
mod policy;
mod privileges;
mod probe;
pub mod replay;
pub mod selector;
mod tables;
mod validated;

pub use self::{
    attach::{AttachError, Attachment, object_hash},
    confirm::{Record, RecordError, TRIAL_MAX, TRIAL_MIN, Trial, Unconfirmed},
    counters::Counters,
    fallback::Fallback,
    limiter::{AtSocket, Judged, Limiter, LimiterError},
    maps::{MapsError, monotonic_ns},
    policy::{
        HEARTBEAT_MAX, HEARTBEAT_MIN, Limits, POLICY_PORTS_MAX, Policy, PolicyError, Port, Profile,
        Rate, RuleEdit, Rules, Treatment, edits,
    },
    privileges::{PrivilegeError, give_up_all, has_none},
    probe::{
        Attached, Device, Facts, Finding, How, KERNEL_MIN, Mode, NATIVE_MTU_MAX, Report, Weight,
        judge,
    },
    tables::{SHED_ALL, VALIDATED_FOR_MAX},
};

/// Whether an error of this crate comes of a process that may not do it: then the way without privileges is open.
pub fn is_for_want_of_privilege(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::PermissionDenied;
        }
        source = error.source();
    }
    false
}
