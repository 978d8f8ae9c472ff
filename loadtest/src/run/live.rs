//! How a run goes, in one line on standard error.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::Plan;
use crate::record::{Place, SLICES_A_SECOND, Slice};

/// Slices kept: two seconds, for threads that are a little behind the others.
const KEPT: usize = 8;

/// The line, or nothing where nobody looks.
#[derive(Debug)]
pub(super) struct Live {
    line: Option<ProgressBar>,
    /// The latest slices, of all threads together, and of how many threads each is.
    latest: BTreeMap<Place, (u32, Slice)>,
    threads: u32,
    errors: u64,
    warmup: Duration,
    duration: Duration,
}

impl Live {
    /// A line, if one is wanted and standard error is a terminal.
    pub(super) fn new(wanted: bool, plan: &Plan) -> Self {
        let line = (wanted && std::io::stderr().is_terminal()).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(8);
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        Self {
            line,
            latest: BTreeMap::new(),
            threads: plan.threads,
            errors: 0,
            warmup: plan.warmup,
            duration: plan.stop.duration,
        }
    }

    /// Shows what is being done.
    pub(super) fn say(&self, what: &str) {
        if let Some(line) = &self.line {
            line.set_message(what.to_owned());
            line.tick();
        }
    }

    /// Takes a thread's slice.
    pub(super) fn take(&mut self, slice: &Slice) {
        if self.line.is_none() {
            return;
        }
        self.errors += slice.errors;
        self.latest
            .entry(slice.place)
            .and_modify(|(threads, sum)| {
                *threads += 1;
                sum.merge(slice);
            })
            .or_insert_with(|| (1, slice.clone()));
        while self.latest.len() > KEPT {
            self.latest.pop_first();
        }
    }

    /// Shows how it goes, `now` in a run that began at `start`.
    pub(super) fn show(&self, start: Instant, now: Instant) {
        let Some(line) = &self.line else {
            return;
        };
        let passed = now.saturating_duration_since(start);
        line.set_message(self.text(passed));
        line.tick();
    }

    fn text(&self, passed: Duration) -> String {
        let mut text = match passed.checked_sub(self.warmup) {
            None => format!("warm-up {:.0} s", (self.warmup - passed).as_secs_f64()),
            Some(counted) => format!(
                "{:.0}/{:.0} s",
                counted.min(self.duration).as_secs_f64(),
                self.duration.as_secs_f64()
            ),
        };
        let mut whole = Slice::new(Place::After);
        let mut slices = 0;
        let complete = self
            .latest
            .values()
            .rev()
            .filter(|(threads, _)| *threads == self.threads);
        for (_, slice) in complete.take(usize::try_from(SLICES_A_SECOND).unwrap_or(1)) {
            whole.merge(slice);
            slices += 1;
        }
        if slices > 0 {
            let seconds = f64::from(slices) / 4.0;
            let figure = |count: u64| u32::try_from(count).map_or(f64::MAX, f64::from) / seconds;
            let _ = write!(
                text,
                "  {:.0} requests/s  {:.1} MB/s",
                figure(whole.requests),
                figure(whole.body_bytes / 1000) / 1000.0,
            );
        }
        if let (Some(half), Some(most)) = (whole.quantile(0.5), whole.quantile(0.99)) {
            let _ = write!(text, "  p50 {half:.1?}  p99 {most:.1?}");
        }
        let _ = write!(text, "  {} errors", self.errors);
        text
    }

    /// Takes the line away.
    pub(super) fn done(self) {
        if let Some(line) = self.line {
            line.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_of_the_last_second_of_all_threads() {
        let mut live = Live {
            line: Some(ProgressBar::hidden()),
            latest: BTreeMap::new(),
            threads: 2,
            errors: 0,
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(10),
        };
        for number in 0..6 {
            for thread in 0..2 {
                if (number, thread) == (5, 1) {
                    continue;
                }
                let mut slice = Slice::new(Place::Within(number));
                slice.requests = 50;
                slice.body_bytes = 250_000;
                slice.errors = 1;
                slice.record(Duration::from_millis(3));
                live.take(&slice);
            }
        }
        let text = live.text(Duration::from_millis(2250));
        assert!(
            text.starts_with("1/10 s  400 requests/s  2.0 MB/s  p50 3.0"),
            "{text}"
        );
        assert!(text.ends_with("11 errors"), "{text}");
        assert!(live.text(Duration::ZERO).starts_with("warm-up 1 s"));
    }
}
