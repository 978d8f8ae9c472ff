//! `[stoq]` and `[shape]`: how a node's links to others are made, and how much it sends over all of them.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::{
    raw::{At, RawClass, RawShape, RawStoq},
    resolve::{Resolver, count, size},
    units::{Count, Size, format_size},
};

/// What QUIC asks of every path, and what one UDP packet carries with room for headers.
const MTU_RANGE: RangeInclusive<u64> = 1200..=65_000;
/// An Ethernet of 1,500 carries it over IPv6 as well.
const MTU_MAX: u16 = 1452;
/// From what every connection has, to what the transport can count.
const WINDOW_RANGE: RangeInclusive<u64> = 16 << 20..=2 << 30;
/// 2.7 Gbit/s over 100 ms, for each worker.
const WINDOW_MAX: u64 = 32 << 20;
/// A weight is 16 bits of the scheduler's arithmetic.
const WEIGHT_MAX: usize = u16::MAX as usize;

/// `[stoq]`: links to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stoq {
    /// Whether connections follow what their path proves to be: windows, and at the next connection to the same address the
    /// initial window and the congestion controller. Default true.
    pub adapt: bool,
    /// Bytes that may wait unread on a connection that adapts, and as many unsent: 16 MiB to 2 GiB. A worker has one connection to
    /// each node it asks. Default 32 MiB.
    pub window_max: u64,
    /// The largest UDP payload that is tried, bytes: 1,200 to 65,000. Default 1,452.
    pub mtu_max: u16,
    /// Whether nodes meet over TCP where UDP does not get through: a shield listens for it, an edge falls back to it. Default
    /// false.
    pub tcp: bool,
}

/// `[shape]`: what the node sends in all, and who goes first when not all can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes a second of bodies, to clients and to nodes. Default: no limit.
    pub rate: Option<u64>,
    /// To clients. Weight 16 by default.
    pub serve: ShapeClass,
    /// To other nodes, whose clients wait. Weight 4 by default.
    pub fill: ShapeClass,
    /// To other nodes, ahead of need. Weight 1 by default.
    pub replicate: ShapeClass,
}

impl Shape {
    /// Whether anything is limited: without a rate and without a cap nobody ever waits.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        let caps = [self.serve.cap, self.fill.cap, self.replicate.cap];
        self.rate.is_some() || caps.iter().any(Option::is_some)
    }
}

/// What holds for one class of `[shape]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeClass {
    /// Its part of `shape.rate` while others wait too, beside their weights: 1 to 65,535.
    pub weight: u16,
    /// Bytes a second that it never exceeds. Default: `shape.rate`.
    pub cap: Option<u64>,
}

impl Resolver<'_> {
    pub(super) fn stoq(&mut self, raw: &RawStoq) -> Stoq {
        let mtu_max = self.within(&raw.mtu_max, "stoq.mtu_max", MTU_MAX.into(), &MTU_RANGE);
        Stoq {
            adapt: raw.adapt.as_ref().is_none_or(|value| *value.get_ref()),
            window_max: self.within(
                &raw.window_max,
                "stoq.window_max",
                WINDOW_MAX,
                &WINDOW_RANGE,
            ),
            mtu_max: u16::try_from(mtu_max).unwrap_or(MTU_MAX),
            tcp: raw.tcp.as_ref().is_some_and(|value| *value.get_ref()),
        }
    }

    pub(super) fn shape(&mut self, raw: &RawShape) -> Shape {
        Shape {
            rate: bytes(&raw.rate),
            serve: self.class(&raw.serve, "shape.serve", 16),
            fill: self.class(&raw.fill, "shape.fill", 4),
            replicate: self.class(&raw.replicate, "shape.replicate", 1),
        }
    }

    fn class(&mut self, raw: &RawClass, table: &str, weight: u16) -> ShapeClass {
        ShapeClass {
            weight: self.weight(&raw.weight, &format!("{table}.weight"), weight),
            cap: bytes(&raw.cap),
        }
    }

    fn weight(&mut self, value: &At<Count>, key: &str, default: u16) -> u16 {
        let weight = count(value, default.into());
        match (u16::try_from(weight), value) {
            (Ok(weight), _) => weight,
            (Err(_), Some(value)) => {
                self.fail(
                    value,
                    key,
                    format!("{weight} is too much (at most {WEIGHT_MAX})"),
                );
                default
            }
            (Err(_), None) => default,
        }
    }

    /// A size that lies in `range`; else that is noted, and the default taken.
    fn within(
        &mut self,
        value: &At<Size>,
        key: &str,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> u64 {
        let bytes = size(value, default);
        let outside = |value: &&Spanned<Size>| !range.contains(&value.get_ref().0);
        if let Some(value) = value.as_ref().filter(outside) {
            let message = format!(
                "{} is not from {} to {}",
                format_size(bytes),
                format_size(*range.start()),
                format_size(*range.end())
            );
            self.fail(value, key, message);
            return default;
        }
        bytes
    }
}

fn bytes(value: &At<Size>) -> Option<u64> {
    value.as_ref().map(|value| value.get_ref().0)
}
