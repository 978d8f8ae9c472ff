//! Another process, as `/proc` shows it. It is known by its id and the time it began, so that one that takes over the id
//! is not taken for it.

use std::fs;
use std::io;
use std::time::Duration;

use super::environment::{cores_in_list, kibibytes, labelled};

/// Why a server's process could not be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// There is none with this id, or `/proc` hides it.
    #[error("process {0} cannot be seen in /proc")]
    Unseen(u32),
    /// It has ended.
    #[error("process {0} ended")]
    Ended(u32),
    /// Another has its id.
    #[error("process {0} ended, and its id is another's by now")]
    Replaced(u32),
    /// This process is it, or descends from it: the client's own work would count as the server's.
    #[error("process {0} is this client or one that it descends from, and no server")]
    Ourselves(u32),
    /// What `/proc` says of it is not what it should be.
    #[error("/proc/{pid}/{file} cannot be understood")]
    Odd {
        /// Its id.
        pid: u32,
        /// The file.
        file: &'static str,
    },
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ended, and not yet waited for.
    pub(super) ended: bool,
    pub(super) parent: u32,
    /// CPU of all its threads, also of those that ended; user and system.
    pub(super) cpu_ticks: u64,
    /// That of its children that ended and were waited for, with theirs.
    pub(super) reaped_ticks: u64,
    /// When it began, after the machine did.
    pub(super) start_ticks: u64,
}

impl Stat {
    pub(super) fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, is the process's choice: it may hold spaces and parentheses, and be all that follows
        // but for the rest, which has none.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let numbers: Vec<&str> = fields.collect();
        let number = |place: usize| numbers.get(place)?.parse::<u64>().ok();
        Some(Self {
            ended: matches!(state, "Z" | "X" | "x"),
            parent: numbers.first()?.parse().ok()?,
            cpu_ticks: number(10)?.checked_add(number(11)?)?,
            reaped_ticks: number(12)?.checked_add(number(13)?)?,
            start_ticks: number(18)?,
        })
    }

    pub(super) fn read(pid: u32) -> Result<Self, ProcessError> {
        let text = fs::read(format!("/proc/{pid}/stat")).map_err(|_| ProcessError::Unseen(pid))?;
        Self::parse(&String::from_utf8_lossy(&text)).ok_or(ProcessError::Odd { pid, file: "stat" })
    }
}

/// Time of so many of the kernel's ticks, of which 100 are a second on most machines.
pub(super) fn ticks(ticks: u64) -> Duration {
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    let seconds = Duration::from_secs(ticks / a_second);
    seconds + Duration::from_nanos(ticks % a_second * 1_000_000_000 / a_second)
}

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) resident: u64,
    /// Most that ever was.
    pub(super) peak: u64,
}

/// Of process `pid`, or `self`.
pub(super) fn memory(pid: &str) -> io::Result<Option<Memory>> {
    let text = fs::read(format!("/proc/{pid}/status"))?;
    let text = String::from_utf8_lossy(&text);
    // One that has ended and is not yet waited for has neither line.
    Ok(kibibytes(&text, "VmRSS")
        .zip(kibibytes(&text, "VmHWM"))
        .map(|(resident, peak)| Memory { resident, peak }))
}

/// Cores it may use.
pub(super) fn cores(pid: u32) -> Option<u32> {
    let text = fs::read(format!("/proc/{pid}/status")).ok()?;
    cores_in_list(labelled(
        &String::from_utf8_lossy(&text),
        "Cpus_allowed_list",
    )?)
}

/// What it was called with: the first word's last part; where there is none, as for threads of the kernel, its name.
pub(super) fn command(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let word = line.split(|byte| *byte == 0).next().unwrap_or_default();
    let word = String::from_utf8_lossy(word);
    // nginx and others write a sentence there.
    let word = word.split_whitespace().next().unwrap_or_default();
    let name = word.rsplit('/').next().unwrap_or_default();
    if !name.is_empty() {
        return Some(name.trim_end_matches(':').to_owned());
    }
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REST: &str =
        "S 41 10204 21988 0 -1 4194304 97 0 0 0 250 50 7 3 20 0 1 0 1788329 3133440 371";

    #[test]
    fn a_name_may_hold_anything() {
        for name in [
            "cat",
            "a b",
            "tmux: server",
            "a) R 1 1",
            "((",
            ") Z 9 9 9",
            "",
            "\u{fffd}",
        ] {
            let stat = Stat::parse(&format!("10209 ({name}) {REST}\n")).unwrap();
            let want = Stat {
                ended: false,
                parent: 41,
                cpu_ticks: 300,
                reaped_ticks: 10,
                start_ticks: 1_788_329,
            };
            assert_eq!(stat, want, "{name:?}");
        }
    }

    #[test]
    fn missing_fields_are_no_figures() {
        for cut in 0..REST.len() {
            let text = format!("1 (x) {}", &REST[..cut]);
            if let Some(stat) = Stat::parse(&text) {
                // Cut within or after the start time, the last that is read.
                assert!(text.contains(" 20 0 1 0 1"), "{text}");
                assert_eq!(stat.cpu_ticks, 300);
            }
        }
        assert_eq!(Stat::parse("1 (x"), None);
        assert_eq!(Stat::parse(&REST.replace("250", "-1")), None);
    }

    #[test]
    fn one_that_ended_and_was_not_waited_for_is_known_as_such() {
        let text = format!("1 (x) {}", REST.replacen('S', "Z", 1));
        assert!(Stat::parse(&text).unwrap().ended);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(Stat::read(pid).unwrap().start_ticks > 0);
        let memory = memory("self").unwrap().unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        assert!(cores(pid).unwrap() >= 1);
        assert!(command(pid).unwrap().starts_with("stoq_loadtest"));
    }

    #[test]
    fn ticks_are_hundredths_of_a_second_or_what_the_kernel_says() {
        let a_second = rustix::param::clock_ticks_per_second();
        assert_eq!(ticks(3 * a_second), Duration::from_secs(3));
    }

    proptest! {
        #[test]
        fn odd_texts_do_no_harm(text in "\\PC{0,200}") {
            let _ = Stat::parse(&text);
        }
    }
}
