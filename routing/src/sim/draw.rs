//! Draws from the distributions that the simulator needs.

use rand::Rng;

/// From the normal distribution with mean 0 and deviation 1 (Box and Muller 1958).
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// From the exponential distribution with mean 1.
pub(super) fn exponential(rng: &mut impl Rng) -> f64 {
    -(1.0 - rng.random::<f64>()).ln()
}

/// 32 bytes, each point of the space as likely as any other.
pub(super) fn point(rng: &mut impl Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    bytes
}

/// `count` of `of`, or all where there are fewer, in a random order.
pub(super) fn some<T: Copy>(rng: &mut impl Rng, of: &[T], count: usize) -> Vec<T> {
    let mut left = of.to_vec();
    let count = count.min(left.len());
    for at in 0..count {
        let other = rng.random_range(at..left.len());
        left.swap(at, other);
    }
    left.truncate(count);
    left
}
