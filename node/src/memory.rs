//! Keeps the process's memory within `limits.memory` against what its allocator holds on to.
//!
//! glibc keeps what was freed amid what is not: seen on an edge that ran for an hour on 256 MiB, 53 of its 237 resident MiB were free. When an eighth of the limit is left,
//! such pages are given back to the system. Not here: what the process may have in use, which has bounds of its own.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::Registry;
use crate::process::resident_bytes;

/// How often it is looked at how much there is: a read of one line of `/proc`.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Least time between two times that pages are given back. Each holds up whoever allocates meanwhile for some milliseconds.
const TRIM_EVERY: Duration = Duration::from_secs(30);

/// Keeps within `limit` bytes, as far as free memory is what exceeds it. Never ends; for one worker of a process. Does nothing but look where the allocator
/// is another than glibc's.
pub async fn keep_within(limit: u64, registry: &Registry) {
    let trims = Counter::<u64>::default();
    registry.with(|registry| {
        registry.sub_registry_with_prefix("stoq").register(
            "memory_trims",
            "Times that free memory was given back to the system since little of limits.memory was left",
            trims.clone(),
        );
    });
    let high = limit - limit / 8;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(before) = resident_bytes().filter(|resident| *resident > high) else {
            continue;
        };
        let began = Instant::now();
        if !spawn_blocking(trim).await.unwrap_or(false) {
            return std::future::pending().await;
        }
        trims.inc();
        let took = began.elapsed();
        tracing::debug!(
            before,
            after = resident_bytes(),
            ?took,
            "free memory was given back"
        );
        sleep_until(began + TRIM_EVERY).await;
    }
}

/// Gives free pages back to the system. Whether the allocator is one that can.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps this call of glibc's")]
fn trim() -> bool {
    // SAFETY: takes a number, and locks what it works on.
    unsafe { libc::malloc_trim(0) };
    true
}

/// Gives free pages back to the system. Whether the allocator is one that can.
#[cfg(not(target_env = "gnu"))]
fn trim() -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// Beside tests that use little.
    #[test]
    fn what_is_free_amid_what_is_not_is_given_back() {
        const PIECE: usize = 4 << 10;
        const PIECES: usize = 64 << 8;
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| black_box(vec![1; PIECE])).collect();
        let full = resident_bytes().unwrap();
        // Every eighth stays, so that no run that is free reaches the end of the heap.
        let kept: Vec<_> = pieces
            .into_iter()
            .enumerate()
            .filter_map(|(at, piece)| at.is_multiple_of(8).then_some(piece))
            .collect();
        assert!(trim());
        let trimmed = resident_bytes().unwrap();
        println!(
            "{full} bytes resident, {trimmed} once seven eighths of 64 MiB were free and given back"
        );
        assert!(full.saturating_sub(trimmed) > 40 << 20, "{full} {trimmed}");
        drop(black_box(kept));
    }
}
