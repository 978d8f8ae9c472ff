//! What lies between the hosts, as a value without sockets and clock: packets go in with the time of their arrival and come out when they are due.
//!
//! Each host has a rate up and a rate down, each with a queue before it that holds so much as the rate carries in [`QUEUE`]; what finds no room is dropped, as by a router. From
//! each host to each other one there is a way of its own, with its delay and its loss, and it may be cut: so a matrix of round trips can be laid between hosts, and what one direction
//! suffers the other need not.
//!
//! All of it may be changed at any time, and holds for packets that come in from then on. Which packets are lost follows from the seed and their order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// What a queue before a rate holds: 50 ms.
const QUEUE: Duration = Duration::from_millis(50);

/// What all packets that are held may come to: 64 MiB. More is dropped, and is this switch's own fault.
const HELD_BYTES_MAX: usize = 64 << 20;

/// An Ethernet header: rates count whole frames, as those of links do.
const HEADER_BYTES: usize = 14;

/// The way from one host to another.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Way {
    /// How long packets take.
    pub(crate) delay: Duration,
    /// Share of packets lost, each by itself.
    pub(crate) loss: f64,
    /// Nothing passes.
    pub(crate) is_cut: bool,
}

/// A host's link, in one direction.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    bytes_per_second: Option<f64>,
    /// When what was taken on will have passed.
    free_at: Duration,
}

impl Link {
    /// When a packet that arrives at `now` has passed; `None` where the queue is full.
    fn pass(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let Some(rate) = self.bytes_per_second else {
            return Some(now);
        };
        let begins = self.free_at.max(now);
        if begins - now > QUEUE {
            return None;
        }
        let bytes = u32::try_from(bytes + HEADER_BYTES).expect("a packet is short");
        self.free_at = begins + Duration::from_secs_f64(f64::from(bytes) / rate);
        Some(self.free_at)
    }
}

/// What became of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    /// Packets that came out.
    pub(crate) passed: u64,
    /// Their bytes, with what Ethernet adds.
    pub(crate) passed_bytes: u64,
    /// Lost on the way, as it is set, or at a cut.
    pub(crate) lost: u64,
    /// Found no room before a link's rate.
    pub(crate) queue_drops: u64,
    /// Found no room in the switch: what was measured then was measured of it.
    pub(crate) overflowed: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Duration,
    sequence: u64,
    has_come: bool,
    to: usize,
    packet: Vec<u8>,
}

/// What lies between so many hosts.
#[derive(Debug)]
pub(crate) struct Switch {
    hosts: usize,
    ways: Vec<Way>,
    up: Vec<Link>,
    down: Vec<Link>,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    sequence: u64,
    rng: StdRng,
    counters: Counters,
    /// Bytes that came out of each host, with what Ethernet adds.
    sent_bytes: Vec<u64>,
    /// Packets that a host sent to another one, by way; not those for all.
    sent_to: Vec<u64>,
}

impl Switch {
    /// Ways without delay or loss, links without a rate.
    pub(crate) fn new(hosts: usize, seed: u64) -> Self {
        Self {
            hosts,
            ways: vec![Way::default(); hosts * hosts],
            up: vec![Link::default(); hosts],
            down: vec![Link::default(); hosts],
            held: BinaryHeap::new(),
            held_bytes: 0,
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            counters: Counters::default(),
            sent_bytes: vec![0; hosts],
            sent_to: vec![0; hosts * hosts],
        }
    }

    /// How many hosts there are.
    pub(crate) const fn hosts(&self) -> usize {
        self.hosts
    }

    /// The way from a host to another.
    pub(crate) fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.hosts + to]
    }

    /// All ways that there are.
    pub(crate) fn all_ways(&mut self) -> impl Iterator<Item = &mut Way> {
        self.ways.iter_mut()
    }

    /// Cuts all ways between these two sets of hosts, in both directions, or heals them.
    pub(crate) fn cut(&mut self, some: &[usize], others: &[usize], is_cut: bool) {
        for one in some {
            for other in others {
                self.way(*one, *other).is_cut = is_cut;
                self.way(*other, *one).is_cut = is_cut;
            }
        }
    }

    /// The rates of a host's link, bits a second.
    pub(crate) fn shape(&mut self, host: usize, up: Option<f64>, down: Option<f64>) {
        self.up[host].bytes_per_second = up.map(|bits| bits / 8.0);
        self.down[host].bytes_per_second = down.map(|bits| bits / 8.0);
    }

    /// What became of packets so far.
    pub(crate) const fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes that a host sent and that were not lost on the way, with what Ethernet adds.
    pub(crate) fn sent_bytes(&self, host: usize) -> u64 {
        self.sent_bytes[host]
    }

    /// Packets that a host sent to another, lost ones too; not those that are for all.
    pub(crate) fn sent_to(&self, from: usize, to: usize) -> u64 {
        self.sent_to[from * self.hosts + to]
    }

    /// Takes a packet from a host, for a host.
    pub(crate) fn take(&mut self, now: Duration, from: usize, to: usize, packet: Vec<u8>) {
        self.sent_to[from * self.hosts + to] += 1;
        self.pass(now, from, to, packet);
    }

    /// Takes a packet from a host, for all others. Each is reached by its own way.
    pub(crate) fn spread(&mut self, now: Duration, from: usize, packet: &[u8]) {
        for to in (0..self.hosts).filter(|to| *to != from) {
            self.pass(now, from, to, packet.to_vec());
        }
    }

    fn pass(&mut self, now: Duration, from: usize, to: usize, packet: Vec<u8>) {
        // A draw for each packet, needed or not.
        let draw: f64 = self.rng.random();
        let way = *self.way(from, to);
        let Some(passed) = self.up[from].pass(now, packet.len()) else {
            self.counters.queue_drops += 1;
            return;
        };
        if way.is_cut || draw < way.loss {
            self.counters.lost += 1;
            return;
        }
        if self.held_bytes + packet.len() > HELD_BYTES_MAX {
            self.counters.overflowed += 1;
            return;
        }
        self.sent_bytes[from] += (packet.len() + HEADER_BYTES) as u64;
        self.held_bytes += packet.len();
        self.hold(passed + way.delay, false, to, packet);
    }

    fn hold(&mut self, due: Duration, has_come: bool, to: usize, packet: Vec<u8>) {
        self.sequence += 1;
        self.held.push(Reverse(Held {
            due,
            sequence: self.sequence,
            has_come,
            to,
            packet,
        }));
    }

    /// When something is to be done next.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// The next packet that is due by `now`: when it was, for whom it is, and it.
    pub(crate) fn release(&mut self, now: Duration) -> Option<(Duration, usize, Vec<u8>)> {
        while self.due()? <= now {
            let Reverse(held) = self.held.pop()?;
            let (to, packet) = (held.to, held.packet);
            if !held.has_come {
                match self.down[to].pass(held.due, packet.len()) {
                    Some(passed) if passed > now => {
                        self.hold(passed, true, to, packet);
                        continue;
                    }
                    Some(_) => {}
                    None => {
                        self.held_bytes -= packet.len();
                        self.counters.queue_drops += 1;
                        continue;
                    }
                }
            }
            self.held_bytes -= packet.len();
            self.counters.passed += 1;
            self.counters.passed_bytes += (packet.len() + HEADER_BYTES) as u64;
            return Some((held.due, to, packet));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn out(switch: &mut Switch, until: Duration) -> Vec<(Duration, usize)> {
        std::iter::from_fn(|| switch.release(until))
            .map(|(due, to, _)| (due, to))
            .collect()
    }

    #[test]
    fn each_direction_has_a_delay_of_its_own_and_a_cut_lets_nothing_pass() {
        let mut switch = Switch::new(3, 1);
        switch.way(0, 1).delay = 20 * MS;
        switch.way(1, 0).delay = 5 * MS;
        switch.take(MS, 0, 1, vec![0; 100]);
        switch.take(MS, 1, 0, vec![0; 100]);
        assert_eq!(out(&mut switch, 20 * MS), [(6 * MS, 0)]);
        assert_eq!(switch.due(), Some(21 * MS));
        assert_eq!(out(&mut switch, 21 * MS), [(21 * MS, 1)]);
        switch.cut(&[0], &[1, 2], true);
        switch.take(MS, 0, 1, vec![0; 100]);
        switch.take(MS, 2, 0, vec![0; 100]);
        switch.take(MS, 1, 2, vec![0; 100]);
        assert_eq!(out(&mut switch, 100 * MS), [(MS, 2)]);
        switch.cut(&[0], &[1, 2], false);
        switch.take(MS, 2, 0, vec![0; 100]);
        assert_eq!(out(&mut switch, 100 * MS), [(MS, 0)]);
    }

    #[test]
    fn a_link_carries_its_rate_and_drops_what_does_not_fit_before_it() {
        for is_up in [true, false] {
            let mut switch = Switch::new(2, 1);
            // A packet of a thousand bytes a millisecond.
            let rate = Some(8.0 * 1e6);
            let (up, down) = if is_up { (rate, None) } else { (None, rate) };
            switch.shape(0, up, None);
            switch.shape(1, None, down);
            for _ in 0..200 {
                switch.take(MS, 0, 1, vec![0; 1_000 - HEADER_BYTES]);
            }
            let (mut now, mut seen) = (MS, 0);
            while let Some(due) = switch.due() {
                now = due;
                seen += out(&mut switch, due).len();
            }
            // What is under way, and what waits.
            assert_eq!((seen, now), (51, 52 * MS), "up {is_up}");
            assert_eq!(switch.counters().queue_drops, 149);
        }
    }

    #[test]
    fn what_is_for_all_reaches_all_others_whom_nothing_cuts_off() {
        let mut switch = Switch::new(4, 1);
        switch.cut(&[1], &[2], true);
        switch.way(1, 3).delay = MS;
        switch.spread(MS, 1, &[0; 100]);
        assert_eq!(out(&mut switch, 2 * MS), [(MS, 0), (2 * MS, 3)]);
        switch.take(MS, 1, 3, vec![0; 100]);
        assert_eq!([switch.sent_to(1, 3), switch.sent_to(1, 0)], [1, 0]);
    }

    #[test]
    fn the_share_that_is_set_is_lost_in_one_direction() {
        let mut switch = Switch::new(2, 7);
        switch.way(0, 1).loss = 0.25;
        for _ in 0..4_000 {
            switch.take(MS, 0, 1, vec![0; 10]);
            switch.take(MS, 1, 0, vec![0; 10]);
        }
        let out = out(&mut switch, MS);
        let there = out.iter().filter(|(_, to)| *to == 1).count();
        assert_eq!(out.len() - there, 4_000);
        assert!((2_850..3_150).contains(&there), "{there}");
    }
}
