//! The machine, as its kernel describes it.

use std::fs;
use std::io;
use std::net::SocketAddr;

use super::interface;
use crate::bundle::Environment;

/// Why the machine could not be described. A run on such a one could not be judged either.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A file of the kernel's cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{path} has no {what}")]
    Unknown {
        /// Which.
        path: &'static str,
        /// What was looked for.
        what: &'static str,
    },
}

/// The machine, and the way to `peer` from the calling thread's network namespace.
///
/// # Errors
/// `/proc` or `/sys` cannot be read. An MTU that is not known is none.
pub fn environment(peer: Option<SocketAddr>) -> Result<Environment, EnvironmentError> {
    const STATUS: &str = "/proc/thread-self/status";
    const MEMORY: &str = "/proc/meminfo";
    const LOAD: &str = "/proc/loadavg";
    const CORES: &str = "/sys/devices/system/cpu/online";
    let affinity = labelled(&read(STATUS)?, "Cpus_allowed_list")
        .ok_or(EnvironmentError::Unknown {
            path: STATUS,
            what: "Cpus_allowed_list",
        })?
        .to_owned();
    let memory_bytes = kibibytes(&read(MEMORY)?, "MemTotal").ok_or(EnvironmentError::Unknown {
        path: MEMORY,
        what: "MemTotal",
    })?;
    let load = read(LOAD)?
        .split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .ok_or(EnvironmentError::Unknown {
            path: LOAD,
            what: "load average",
        })?;
    let cores = cores_in_list(read(CORES)?.trim()).ok_or(EnvironmentError::Unknown {
        path: CORES,
        what: "list of cores",
    })?;
    Ok(Environment {
        cpu: processor(&read("/proc/cpuinfo")?).unwrap_or_else(|| "unknown".to_owned()),
        cores,
        affinity,
        memory_bytes,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        os: ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| system_name(&fs::read_to_string(path).ok()?))
            .unwrap_or_else(|| "unknown".to_owned()),
        load,
        mtu: peer.and_then(|peer| interface::Link::to(peer).ok()?.mtu()),
    })
}

fn read(path: &'static str) -> Result<String, EnvironmentError> {
    // Some files of /proc carry bytes of others' choosing.
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|source| EnvironmentError::Unreadable { path, source })
}

/// The value of the line `name: value`.
pub(super) fn labelled<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// The value of the line `name: value kB`, in bytes.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let number = labelled(text, name)?.strip_suffix("kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many cores a list such as `0-3,8` names; `None` for what is no such list.
pub(super) fn cores_in_list(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |count, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// `model name` on x86. Arm has numbers in its place, which tell as much to whoever knows them.
fn processor(cpuinfo: &str) -> Option<String> {
    let value = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    value("model name").or_else(|| {
        Some(format!(
            "implementer {} part {}",
            value("CPU implementer")?,
            value("CPU part")?
        ))
    })
}

fn system_name(os_release: &str) -> Option<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_counted() {
        for (list, cores) in [
            ("0", Some(1)),
            ("0-1", Some(2)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-1", None),
            ("0-4294967295", None),
            ("a", None),
        ] {
            assert_eq!(cores_in_list(list), cores, "{list:?}");
        }
    }

    #[test]
    fn processors_of_both_makes_are_named() {
        let x86 = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(processor(x86).as_deref(), Some("AMD EPYC"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        assert_eq!(
            processor(arm).as_deref(),
            Some("implementer 0x41 part 0xd0c")
        );
        assert_eq!(processor("processor\t: 0\n"), None);
    }

    #[test]
    fn a_label_is_the_whole_word_before_the_colon() {
        let text = "VmHWM2:\t1 kB\nVmHWM:\t    1716 kB\nOdd: 9 MB\nHuge: 99999999999999999999 kB";
        assert_eq!(kibibytes(text, "VmHWM"), Some(1716 * 1024));
        assert_eq!(kibibytes(text, "VmRSS"), None);
        assert_eq!(kibibytes(text, "Odd"), None);
        assert_eq!(kibibytes(text, "Huge"), None);
    }

    #[test]
    fn this_machine_can_be_described() {
        let machine = environment(Some(([127, 0, 0, 1], 9).into())).unwrap();
        assert!(machine.cores >= 1 && machine.memory_bytes > 1 << 20);
        assert!(cores_in_list(&machine.affinity).is_some_and(|cores| cores <= machine.cores));
        assert!(!machine.kernel.is_empty() && machine.load >= 0.0);
        assert!(machine.mtu.is_some_and(|mtu| mtu >= 1280));
    }
}
