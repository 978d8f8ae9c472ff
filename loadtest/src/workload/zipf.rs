//! Ranks by Zipf's law: rank k of n is drawn with a probability in proportion to k^-s.
//!
//! Exact and without a table: rejection-inversion after W. Hörmann and G. Derflinger, "Rejection-inversion to generate
//! variates from monotone discrete distributions", ACM TOMACS 6(3), 1996. The density k^-s is covered by the integral of the
//! continuous x^-s; a value is drawn by inverting that integral, rounded to a rank, and taken again where it lies in what
//! the integral has too much. A draw takes less than two attempts on average, whatever n and s are.

use rand::Rng;

/// A law of `count` ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Zipf {
    count: f64,
    exponent: f64,
    /// The integral up to the left edge of rank 1, from which on its whole weight is taken.
    left: f64,
    /// The integral up to the right edge of the last rank.
    right: f64,
    /// A value no further than this from its rank is taken without a look at the integral.
    near: f64,
}

impl Zipf {
    /// Ranks 1 to `count` (at least 1) with an exponent of 0 (all alike) or more, finite.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of objects have fewer than 53 bits"
    )]
    pub(super) fn new(count: u64, exponent: f64) -> Self {
        let count = count.max(1) as f64;
        Self {
            count,
            exponent,
            left: integral(1.5, exponent) - 1.0,
            right: integral(count + 0.5, exponent),
            near: 2.0 - inverse(integral(2.5, exponent) - 2.0_f64.powf(-exponent), exponent),
        }
    }

    /// A rank, 1 to the count.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number between 1 and the count"
    )]
    pub(super) fn draw(&self, random: &mut impl Rng) -> u64 {
        loop {
            let area = self.right + random.random::<f64>() * (self.left - self.right);
            let value = inverse(area, self.exponent);
            let rank = value.round().clamp(1.0, self.count);
            if rank - value <= self.near
                || area >= integral(rank + 0.5, self.exponent) - rank.powf(-self.exponent)
            {
                return rank as u64;
            }
        }
    }
}

/// The integral of x^-s from 1 to `x`: (x^(1-s) - 1) / (1-s), or ln x where s is 1; without the loss of digits that the
/// quotient has near 1.
fn integral(x: f64, exponent: f64) -> f64 {
    let log = x.ln();
    let power = (1.0 - exponent) * log;
    if power.abs() < 1e-8 {
        log * (1.0 + power / 2.0)
    } else {
        power.exp_m1() / (1.0 - exponent)
    }
}

/// The `x` up to which the [`integral`] is `area`.
fn inverse(area: f64, exponent: f64) -> f64 {
    // Beyond -1 only by rounding, at the far end of steep laws.
    let power = (area * (1.0 - exponent)).max(-1.0);
    if power.abs() < 1e-8 {
        (area * (1.0 - power / 2.0)).exp()
    } else {
        (power.ln_1p() / (1.0 - exponent)).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;

    /// Pearson's statistic over the first ranks one by one and the others together, against what chance allows.
    fn misfit(count: u64, exponent: f64, seed: u64) -> (f64, f64) {
        const DRAWS: u32 = 40_000;
        let law = Zipf::new(count, exponent);
        let mut random = SmallRng::seed_from_u64(seed);
        let weights: Vec<f64> = (1..=count)
            .map(|rank| (rank as f64).powf(-exponent))
            .collect();
        let sum: f64 = weights.iter().sum();
        // Classes of at least 10 expected draws each.
        let mut class_of = Vec::new();
        let mut expected = vec![0.0];
        for weight in &weights {
            if expected.last().is_some_and(|last| *last >= 10.0) {
                expected.push(0.0);
            }
            *expected.last_mut().unwrap() += weight / sum * f64::from(DRAWS);
            class_of.push(expected.len() - 1);
        }
        let mut seen = vec![0.0; expected.len()];
        for _ in 0..DRAWS {
            let rank = law.draw(&mut random);
            assert!((1..=count).contains(&rank));
            seen[class_of[usize::try_from(rank).unwrap() - 1]] += 1.0;
        }
        let statistic = seen
            .iter()
            .zip(&expected)
            .filter(|(_, expected)| **expected > 0.0)
            .map(|(seen, expected)| (seen - expected) * (seen - expected) / expected)
            .sum();
        // Its mean is the degrees of freedom, its variance twice that (somewhat more with small classes); 7 standard deviations
        // and a bit for the skew of few classes.
        let freedom = (expected.len() - 1) as f64;
        (statistic, freedom + 7.0 * (2.0 * freedom).sqrt() + 30.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn ranks_come_as_often_as_the_law_says(
            count in 1..3_000_u64,
            exponent in prop_oneof![0.0..3.0, Just(0.0), Just(1.0), 0.999_999..1.000_001],
            seed: u64,
        ) {
            let (statistic, bound) = misfit(count, exponent, seed);
            prop_assert!(statistic <= bound, "{statistic} above {bound}");
        }
    }

    #[test]
    fn ten_million_ranks_take_no_table_and_keep_to_the_law() {
        // Share of rank 1 and of the first thousand, of 10^7 ranks with exponent 0.9: within 5 standard deviations.
        let (count, exponent) = (10_000_000_u64, 0.9);
        let weight = |rank: u64| (rank as f64).powf(-exponent);
        let sum: f64 = (1..=count).map(weight).sum();
        let thousand: f64 = (1..=1000).map(weight).sum();
        let law = Zipf::new(count, exponent);
        let mut random = SmallRng::seed_from_u64(1);
        let draws = 200_000;
        let (mut first, mut early) = (0.0, 0.0);
        for _ in 0..draws {
            let rank = law.draw(&mut random);
            assert!((1..=count).contains(&rank));
            first += f64::from(u8::from(rank == 1));
            early += f64::from(u8::from(rank <= 1000));
        }
        for (got, share) in [(first, 1.0 / sum), (early, thousand / sum)] {
            let expected = share * f64::from(draws);
            let bound = 5.0 * (expected * (1.0 - share)).sqrt();
            assert!((got - expected).abs() < bound, "{got}, expected {expected}");
        }
        assert!(size_of::<Zipf>() <= 48);
    }
}
