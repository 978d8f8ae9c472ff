//! Load shed at the NIC: an XDP program that knows QUIC, a selector of sockets, and a model of the first in Rust.
//!
//! The programs are restricted C in `bpf/`; their compiled objects are beside them and in [`object`]. What they and
//! their loader agree on is [`abi`]. [`model`] gives the program's verdicts without a kernel, [`mod@bench`] asks the program
//! itself without an interface, and [`selector`] is the second program.

pub mod abi;
pub mod bench;
pub mod model;
pub mod object;
pub mod selector;

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
