//! A server: a process and its descendants, for many servers do their work in children.
//!
//! CPU is the sum, over the living, of their own time and that of the children they have waited for. A child that ends
//! moves its time to its parent's account, so that the sum goes on. What is lost is the time of children that nobody
//! waits for; a sum that falls shows that, and is an error.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use super::process::{self, ProcessError, Stat, ticks};
use super::threads;

/// Threads of a server that are looked at one by one; of a larger one the busiest is not known.
const THREADS_MAX: usize = 4096;
/// Generations that are followed to find out whether the client descends from the server.
const GENERATIONS_MAX: usize = 64;

/// A server's processes.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: u32,
    start_ticks: u64,
    /// Its descendants and when they began.
    descendants: Vec<(u32, u64)>,
}

/// What they have had since they began.
#[derive(Debug, Clone, Default)]
pub(super) struct Had {
    pub(super) cpu: Duration,
    /// CPU of each thread, nanoseconds; `None` where the kernel does not say, or there are too many.
    threads: Option<HashMap<(u32, u32), u64>>,
}

impl Tree {
    /// The process `root` and all that descend from it now.
    ///
    /// # Errors
    /// There is no such process, it has ended, or this one descends from it.
    pub(super) fn of(root: u32) -> Result<Self, ProcessError> {
        let stat = Stat::read(root)?;
        if stat.ended {
            return Err(ProcessError::Ended(root));
        }
        let mut ancestor = std::process::id();
        for _ in 0..GENERATIONS_MAX {
            if ancestor == root {
                return Err(ProcessError::Ourselves(root));
            }
            match Stat::read(ancestor) {
                Ok(stat) if stat.parent != 0 => ancestor = stat.parent,
                _ => break,
            }
        }
        let mut tree = Self {
            root,
            start_ticks: stat.start_ticks,
            descendants: Vec::new(),
        };
        tree.look_around()?;
        Ok(tree)
    }

    pub(super) fn root(&self) -> u32 {
        self.root
    }

    /// Processes in it when it was last looked at.
    pub(super) fn processes(&self) -> usize {
        1 + self.descendants.len()
    }

    /// Finds its descendants again. Reads one file for each process of the machine.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn look_around(&mut self) -> Result<(), ProcessError> {
        self.alive()?;
        let mut children: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
        let folders = fs::read_dir("/proc").map_err(|_| ProcessError::Unseen(self.root))?;
        for folder in folders.flatten() {
            let Some(pid) = folder
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // One that ended since the folder was listed is no concern of ours.
            if let Ok(stat) = Stat::read(pid) {
                let of_parent = children.entry(stat.parent).or_default();
                of_parent.push((pid, stat.start_ticks));
            }
        }
        self.descendants.clear();
        let mut next = children.remove(&self.root).unwrap_or_default();
        // Ends: each entry is taken out once.
        while let Some(child) = next.pop() {
            self.descendants.push(child);
            next.extend(children.remove(&child.0).unwrap_or_default());
        }
        Ok(())
    }

    /// Whether the process is still the one it was.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn alive(&self) -> Result<Stat, ProcessError> {
        let stat = Stat::read(self.root).map_err(|error| match error {
            ProcessError::Unseen(pid) => ProcessError::Ended(pid),
            other => other,
        })?;
        if stat.start_ticks != self.start_ticks {
            return Err(ProcessError::Replaced(self.root));
        }
        if stat.ended {
            return Err(ProcessError::Ended(self.root));
        }
        Ok(stat)
    }

    /// Their CPU time.
    ///
    /// # Errors
    /// The process has ended.
    pub(super) fn had(&self) -> Result<Had, ProcessError> {
        let root = self.alive()?;
        let mut sum = root.cpu_ticks.saturating_add(root.reaped_ticks);
        for stat in self.living() {
            sum = sum.saturating_add(stat.1.cpu_ticks.saturating_add(stat.1.reaped_ticks));
        }
        Ok(Had {
            cpu: ticks(sum),
            threads: self.threads(),
        })
    }

    /// Their resident memory, bytes, where each page that several have counts for each.
    pub(super) fn resident(&self) -> u64 {
        let pids = std::iter::once(self.root).chain(self.living().map(|(pid, _)| pid));
        pids.filter_map(|pid| process::memory(&pid.to_string()).ok().flatten())
            .fold(0, |sum, memory| sum.saturating_add(memory.resident))
    }

    /// Most that the process ever had, where it has no descendants.
    pub(super) fn peak(&self) -> Option<u64> {
        if !self.descendants.is_empty() {
            return None;
        }
        let memory = process::memory(&self.root.to_string()).ok()??;
        Some(memory.peak)
    }

    /// Cores they may use: those of the process that may use most.
    pub(super) fn cores(&self) -> Option<u32> {
        let pids = std::iter::once(self.root).chain(self.living().map(|(pid, _)| pid));
        pids.filter_map(process::cores).max()
    }

    fn living(&self) -> impl Iterator<Item = (u32, Stat)> {
        self.descendants.iter().filter_map(|(pid, start_ticks)| {
            let stat = Stat::read(*pid).ok()?;
            (stat.start_ticks == *start_ticks).then_some((*pid, stat))
        })
    }

    fn threads(&self) -> Option<HashMap<(u32, u32), u64>> {
        let mut found = HashMap::new();
        let pids = std::iter::once(self.root).chain(self.living().map(|(pid, _)| pid));
        for pid in pids {
            let Ok(folders) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for folder in folders.flatten() {
                let Some(thread) = folder
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                if found.len() >= THREADS_MAX {
                    return None;
                }
                let schedstat = fs::read_to_string(folder.path().join("schedstat")).ok();
                if let Some((cpu, _)) = schedstat.as_deref().and_then(threads::parse) {
                    found.insert((pid, thread), u64::try_from(cpu.as_nanos()).ok()?);
                }
            }
        }
        (!found.is_empty()).then_some(found)
    }
}

impl Had {
    /// CPU since `earlier`; `None` where the sum fell.
    pub(super) fn since(&self, earlier: &Self) -> Option<Duration> {
        self.cpu.checked_sub(earlier.cpu)
    }

    /// CPU of the thread that had most since `earlier`.
    pub(super) fn busiest_since(&self, earlier: &Self) -> Option<Duration> {
        let (now, before) = (self.threads.as_ref()?, earlier.threads.as_ref()?);
        now.iter()
            .map(|(thread, cpu)| {
                let before = before.get(thread).copied().unwrap_or(0);
                // An id that is another's by now has less than the one before it had.
                Duration::from_nanos(cpu.checked_sub(before).unwrap_or(*cpu))
            })
            .max()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    use super::*;

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn shell(script: &str) -> Killed {
        let child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Killed(child)
    }

    fn until(mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(60), "not within 60 s");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_busy_process_has_no_more_than_a_core_and_what_it_has_is_its_busiest_threads() {
        let busy = shell("while :; do :; done");
        let tree = Tree::of(busy.0.id()).unwrap();
        let (begun, before) = (Instant::now(), tree.had().unwrap());
        until(|| tree.had().unwrap().since(&before).unwrap() >= Duration::from_millis(300));
        let (had, passed) = (tree.had().unwrap(), begun.elapsed());
        let cpu = had.since(&before).unwrap();
        assert!(
            cpu <= passed + Duration::from_millis(20),
            "{cpu:?} {passed:?}"
        );
        let busiest = had.busiest_since(&before).unwrap();
        assert!(
            busiest.abs_diff(cpu) < Duration::from_millis(60),
            "{busiest:?} {cpu:?}"
        );
        assert!(tree.resident() > 0 && tree.peak().unwrap() > 0);
    }

    #[test]
    fn children_count_while_they_live_and_when_they_have_ended() {
        // The child counts, and ends; the parent waits for it, and then for input that does not come.
        let script = "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done) & wait; read y";
        let parent = shell(script);
        let mut tree = Tree::of(parent.0.id()).unwrap();
        until(|| tree.look_around().is_ok() && tree.processes() >= 2);
        let with_child = tree.had().unwrap();
        until(|| tree.look_around().is_ok() && tree.processes() == 1);
        let without = tree.had().unwrap();
        assert!(
            without.since(&with_child).is_some(),
            "{without:?} {with_child:?}"
        );
        assert!(without.cpu > Duration::ZERO);
    }

    #[test]
    fn a_process_that_ends_is_missed() {
        let mut child = shell("read x");
        let tree = Tree::of(child.0.id()).unwrap();
        assert!(tree.alive().is_ok());
        let pid = child.0.id();
        child.0.kill().unwrap();
        until(|| tree.alive() == Err(ProcessError::Ended(pid)));
        child.0.wait().unwrap();
        assert_eq!(tree.alive(), Err(ProcessError::Ended(pid)));
        assert_eq!(Tree::of(pid).unwrap_err(), ProcessError::Unseen(pid));
    }

    #[test]
    fn another_with_the_same_id_is_not_taken_for_it() {
        let child = shell("read x");
        let mut tree = Tree::of(child.0.id()).unwrap();
        tree.start_ticks -= 1;
        assert_eq!(tree.alive(), Err(ProcessError::Replaced(child.0.id())));
    }

    #[test]
    fn the_client_and_its_ancestors_are_no_servers() {
        for pid in [std::process::id(), std::os::unix::process::parent_id()] {
            assert_eq!(Tree::of(pid).unwrap_err(), ProcessError::Ourselves(pid));
        }
    }
}
