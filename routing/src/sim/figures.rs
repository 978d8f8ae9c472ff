//! What was measured, and the table it is printed in, each figure beside its bar.

use std::{fmt, time::Duration};

/// Times that were measured, of which quantiles are asked.
#[derive(Debug, Clone, Default)]
pub struct Times {
    sorted: Vec<Duration>,
    /// How many of what was tried had no result.
    pub failed: usize,
}

impl Times {
    /// Of each try the time it took, or `None` where it failed.
    #[must_use]
    pub fn of(tries: impl IntoIterator<Item = Option<Duration>>) -> Self {
        let mut failed = 0;
        let mut sorted: Vec<_> = tries
            .into_iter()
            .inspect(|time| failed += usize::from(time.is_none()))
            .flatten()
            .collect();
        sorted.sort_unstable();
        Self { sorted, failed }
    }

    /// These and those together.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.failed += others.failed;
        self.sorted.extend(others.sorted);
        self.sorted.sort_unstable();
        self
    }

    /// How many there are, failures among them.
    #[must_use]
    pub const fn tries(&self) -> usize {
        self.sorted.len() + self.failed
    }

    /// The part of tries that failed.
    #[must_use]
    pub fn failed_part(&self) -> f64 {
        self.failed as f64 / self.tries().max(1) as f64
    }

    /// The milliseconds that this part of all tries took at most, by the nearest rank; a failure counts as longer than any. Infinite
    /// where that many did not succeed.
    #[must_use]
    pub fn quantile_ms(&self, part: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a count that fits a usize"
        )]
        let rank = (part.clamp(0.0, 1.0) * self.tries() as f64).ceil() as usize;
        self.sorted
            .get(rank.max(1) - 1)
            .map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e3)
    }

    /// Half took no longer.
    #[must_use]
    pub fn p50_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }

    /// 95 of 100 took no longer.
    #[must_use]
    pub fn p95_ms(&self) -> f64 {
        self.quantile_ms(0.95)
    }
}

/// What a figure has to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What it is of.
    pub what: String,
    /// Its value.
    pub value: f64,
    /// What it is counted in: "ms", "×", "%".
    pub unit: &'static str,
    /// What it has to keep, if anything.
    pub bar: Option<Bar>,
}

impl Figure {
    /// A figure without a bar.
    #[must_use]
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            what: what.into(),
            value,
            unit,
            bar: None,
        }
    }

    /// The same with this bar.
    #[must_use]
    pub const fn at_most(mut self, most: f64) -> Self {
        self.bar = Some(Bar::AtMost(most));
        self
    }

    /// The same with this bar.
    #[must_use]
    pub const fn at_least(mut self, least: f64) -> Self {
        self.bar = Some(Bar::AtLeast(least));
        self
    }

    /// Whether it keeps its bar. What is no number keeps none.
    #[must_use]
    pub fn keeps(&self) -> bool {
        match self.bar {
            None => true,
            Some(Bar::AtMost(most)) => self.value <= most,
            Some(Bar::AtLeast(least)) => self.value >= least,
        }
    }
}

/// Figures under a heading.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// What the figures are of, with everything that is needed to make them again.
    pub heading: String,
    /// The figures.
    pub figures: Vec<Figure>,
}

impl Section {
    /// A section without figures.
    #[must_use]
    pub fn new(heading: impl Into<String>) -> Self {
        Self {
            heading: heading.into(),
            figures: Vec::new(),
        }
    }

    /// The figures that miss their bars.
    pub fn missed(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| !figure.keeps())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.heading)?;
        let width = self
            .figures
            .iter()
            .map(|figure| figure.what.chars().count());
        let width = width.max().unwrap_or(0);
        for figure in &self.figures {
            let Figure {
                what, value, unit, ..
            } = figure;
            let fraction = if value.abs() < 10.0 { 2 } else { 1 };
            write!(f, "  {what:width$} {value:>9.fraction$} {unit:<2}")?;
            match figure.bar {
                None => {}
                Some(Bar::AtMost(most)) => write!(f, "  bar: at most {most}")?,
                Some(Bar::AtLeast(least)) => write!(f, "  bar: at least {least}")?,
            }
            match (figure.bar, figure.keeps()) {
                (None, _) => writeln!(f)?,
                (_, true) => writeln!(f, "  kept")?,
                (_, false) => writeln!(f, "  MISSED")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_all_tries_and_a_failure_is_longest() {
        let ms = |ms: &u64| Some(Duration::from_millis(*ms));
        let times = Times::of([4, 1, 3, 2].iter().map(ms));
        assert!((times.p50_ms() - 2.0).abs() < 1e-9);
        assert!((times.p95_ms() - 4.0).abs() < 1e-9);
        let times = Times::of([1, 2].iter().map(ms).chain([None, None]));
        assert!((times.p50_ms() - 2.0).abs() < 1e-9);
        assert!(times.p95_ms().is_infinite());
        assert!(Times::default().p50_ms().is_infinite());
    }

    #[test]
    fn a_bar_that_is_missed_is_said() {
        let mut section = Section::new("so");
        section.figures = vec![
            Figure::new("kept", 1.0, "ms").at_most(1.0),
            Figure::new("missed", 4.9, "×").at_least(5.0),
            Figure::new("no number", f64::NAN, "ms").at_most(1.0),
        ];
        let missed: Vec<_> = section
            .missed()
            .map(|figure| figure.what.as_str())
            .collect();
        assert_eq!(missed, ["missed", "no number"]);
        assert_eq!(section.to_string().matches("MISSED").count(), 2);
    }
}
