//! The client's load threads: how much of a core each had, and how long each was ready to run and had none.
//!
//! Both come from `schedstat`. Where a kernel keeps none (`CONFIG_SCHED_INFO` is off), CPU time comes from `stat`, in
//! hundredths of a second, and waiting is not known.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Pid;

use super::process::{Stat, ticks};

/// What a thread has had since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Had {
    /// CPU, user and system.
    pub(super) cpu: Duration,
    /// Ready to run, without a core. `None` where the kernel does not say.
    pub(super) starved: Option<Duration>,
}

/// Of a thread of this process, while it lives.
///
/// # Errors
/// It has ended, or `/proc` is not that of this process's namespace.
pub(super) fn had(thread: Pid) -> io::Result<Had> {
    let folder = format!("/proc/self/task/{}", thread.as_raw_pid());
    let schedstat = fs::read_to_string(format!("{folder}/schedstat"));
    if let Some((cpu, waited)) = schedstat.ok().as_deref().and_then(parse) {
        return Ok(Had {
            cpu,
            starved: Some(waited),
        });
    }
    let stat = fs::read(format!("{folder}/stat"))?;
    let stat = Stat::parse(&String::from_utf8_lossy(&stat))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "stat has other fields"))?;
    Ok(Had {
        cpu: ticks(stat.cpu_ticks),
        starved: None,
    })
}

/// CPU time and waiting of `schedstat`: two nanosecond counts and a number of turns. A kernel that does not count says
/// three zeros, which a thread that runs cannot have.
pub(super) fn parse(schedstat: &str) -> Option<(Duration, Duration)> {
    let mut fields = schedstat.split_whitespace().map(str::parse::<u64>);
    let (ran, waited, turns) = (
        fields.next()?.ok()?,
        fields.next()?.ok()?,
        fields.next()?.ok()?,
    );
    (turns > 0).then(|| (Duration::from_nanos(ran), Duration::from_nanos(waited)))
}

/// Of all processor time there was, what a hypervisor gave to others, hundredths of seconds: `(stolen, all)`. `None`
/// where the kernel does not say.
pub(super) fn stolen() -> Option<(u64, u64)> {
    parse_stolen(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_stolen(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user nice system idle iowait irq softirq steal; guests, which follow, are in the first two already.
    let fields: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let stolen = *fields.get(7)?;
    let all = fields
        .iter()
        .try_fold(0_u64, |sum, field| sum.checked_add(*field))?;
    Some((stolen, all))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use super::*;

    #[test]
    fn schedstat_that_counts_nothing_says_nothing() {
        assert_eq!(parse("0 0 0\n"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 2"), None);
        assert_eq!(parse("1 -2 3"), None);
        let read = parse("29433924 22795313 70\n").unwrap();
        assert_eq!(read.1, Duration::from_nanos(22_795_313));
    }

    #[test]
    fn stolen_time_is_the_eighth_field_of_the_first_line() {
        let text = "cpu  10 20 30 40 5 6 7 8 9 1\ncpu0 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_stolen(text), Some((8, 126)));
        assert_eq!(parse_stolen("cpu  1 2 3 4\n"), None);
        assert_eq!(parse_stolen("cpu0 1 2 3 4 5 6 7 8\n"), None);
    }

    #[test]
    fn the_cpu_of_a_busy_thread_is_counted() {
        let thread = rustix::thread::gettid();
        let before = had(thread).unwrap();
        let begun = Instant::now();
        while had(thread).unwrap().cpu < before.cpu + Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            black_box((0..1000).sum::<u64>());
        }
        assert!(begun.elapsed() >= Duration::from_millis(40));
    }

    #[test]
    fn a_thread_that_is_gone_is_an_error() {
        let thread = std::thread::spawn(rustix::thread::gettid).join().unwrap();
        let begun = Instant::now();
        // Joined may be a moment before gone.
        while had(thread).is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            std::thread::yield_now();
        }
    }
}
