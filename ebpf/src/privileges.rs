//! Giving capabilities up, for good.
//!
//! Capabilities belong to threads, and a thread that exists keeps its own: so this is done before a second thread does,
//! and refused afterwards. What is given up cannot come back: the bounding set is emptied too where the process may do
//! that, and `no_new_privs` keeps a program that it starts from having more than it has.

use std::{fs, io};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What the helper keeps: loading and attaching, and ports below 1024.
pub(crate) const OF_THE_HELPER: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Bits of a capability set.
const CAPABILITIES_MAX: u32 = u64::BITS;

/// Why capabilities were not given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Ourselves: too late. Threads keep what they have.
    #[error(
        "{threads} threads exist, and each keeps its capabilities: give them up before the first is started"
    )]
    Threads {
        /// How many there are.
        threads: usize,
    },
    /// The kernel refused.
    #[error("giving up capabilities: {0}")]
    Refused(#[from] io::Error),
}

impl From<rustix::io::Errno> for PrivilegeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Refused(error.into())
    }
}

/// Gives every capability up, for good; what a data plane does once it has its [`Helper`](crate::helper::Helper) and its
/// listeners. The user stays who it is: a process of root's that has none is still the owner of root's files.
///
/// # Errors
///
/// Where the process has more than one thread, or the kernel refuses; nothing may be relied on then.
pub fn give_up_all() -> Result<(), PrivilegeError> {
    keep_only(CapabilitySet::empty())
}

/// Gives up every capability that is not in `kept`.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    let threads = fs::read_dir("/proc/self/task")?
        .take(CAPABILITIES_MAX as usize)
        .count();
    if threads != 1 {
        return Err(PrivilegeError::Threads { threads });
    }
    let have = capabilities(None)?;
    // Emptying the bounding set takes CAP_SETPCAP. Without it `no_new_privs` alone has to do, and does.
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..CAPABILITIES_MAX {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match capability_is_in_bounding_set(one) {
                Ok(true) if !kept.contains(one) => remove_capability_from_bounding_set(one)?,
                Ok(_) => {}
                // Past the last one that this kernel knows.
                Err(_) => break,
            }
        }
    }
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let kept = have.permitted & kept;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(())
}

/// Whether the calling thread has no capability, and could get none by becoming another program.
///
/// # Errors
///
/// Where the kernel does not say.
pub fn has_none() -> io::Result<bool> {
    let have = capabilities(None)?;
    Ok(have.effective.is_empty()
        && have.permitted.is_empty()
        && have.inheritable.is_empty()
        && rustix::thread::no_new_privs()?)
}
