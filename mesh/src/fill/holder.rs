//! One holder as a swarm sees it: how fast it gives, how much to have under way with it, and how long to be patient.

use std::collections::VecDeque;
use std::time::Duration;

use stoq::path::{Bandwidth, Distance, PathClass, Plan, WindowBounds};

/// Which holders are asked first: the shield for what no peer can give, or two were waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Other edges.
    Peer,
    /// The shield.
    Shield,
}

/// A holder that joins a swarm.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Which it is among the holders.
    pub tier: Tier,
    /// Whether it holds all that will be wanted. Of another it is told chunk by chunk ([`Swarm::said`](super::Swarm::said)).
    pub whole: bool,
    /// The round trip to it, where that is known.
    pub rtt: Option<Duration>,
}

/// How long holders are waited for. What is too short costs bytes that another must send again, what is too long holds up the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// A miss waits this long to hear who holds what, and then asks the shield for all of it. Default 300 ms.
    pub found_within: Duration,
    /// The silence of a holder that has not given a byte yet, beyond four round trips: a connection may have to be made. Default 1 s.
    pub first: Duration,
    /// The least silence of a holder that gave something: it is eight round trips, but not less. Default 500 ms.
    pub least: Duration,
    /// The most. Default 2 s.
    pub most: Duration,
    /// How much longer than four times what another would take somebody may take for the chunk that all wait for. Default 250 ms.
    pub held_up: Duration,
    /// How long a peer may take over 256 KiB while it is asked for something, whoever else there is. Default 30 s.
    pub floor: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            found_within: Duration::from_millis(300),
            first: Duration::from_secs(1),
            least: Duration::from_millis(500),
            most: Duration::from_secs(2),
            held_up: Duration::from_millis(250),
            floor: Duration::from_secs(30),
        }
    }
}

/// The round trip taken for one that is not known.
const RTT_UNKNOWN: Duration = Duration::from_millis(50);
/// Bytes a second taken for a rate that is not known: 100 Mbit/s. It decides who is asked first.
const RATE_UNKNOWN: f64 = 12_500_000.0;
/// What is expected of one that idles where nothing is known of anybody, and at least, however slow the others are: 10 Mbit/s. So nobody who gives next to
/// nothing is waited for because he always has.
const RATE_UNKNOWN_MIN: f64 = 1_250_000.0;
/// Bytes under way with a holder whose rate is not known.
const FIRST_BYTES: u64 = 256 << 10;
/// Bytes under way with the slowest of holders: one chunk.
const LEAST_BYTES: u64 = 1;
/// Bytes under way with one holder, at most, however wide its path is: what a link between nodes holds unread.
const WIDTH_MAX: u64 = 16 << 20;
/// What is under way with a holder takes it this long beyond a round trip: enough that it never waits for a request, and little enough
/// that the body does not wait long for the slowest.
const QUEUE: Duration = Duration::from_millis(50);
/// What one request asks for takes this long.
const BATCH: Duration = Duration::from_millis(25);
/// The most that one request asks for, in bytes.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// A rate is measured over at least so many bytes, or
const MEASURED_BYTES: u64 = 128 << 10;
/// so much time.
const MEASURED_TIME: Duration = Duration::from_millis(20);
/// What is written down of a time too short to measure.
const MEASURED_TIME_MIN: Duration = Duration::from_micros(100);
/// How much a measurement moves the rate: a quarter of what they differ by.
const WEIGHT: f64 = 0.25;
/// The first rest of a holder that failed; each further one is twice as long.
const REST: Duration = Duration::from_millis(250);
/// How many times as long after its rest it is asked only for what nobody else can give.
const PROBATION: u32 = 4;
/// Failures after which a holder is not asked any more.
pub(super) const STRIKES_MAX: u8 = 3;
/// One of them is forgiven for so much given since the last, in bytes: a machine that was late three times in an hour is well. What is sent for nothing, at most the width each time, stays
/// a part of what comes.
const FORGIVEN_FOR: u64 = 16 << 20;

/// A holder within a swarm.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) tier: Tier,
    pub(super) whole: bool,
    rtt: Option<Duration>,
    /// Bytes a second while it was asked for something.
    rate: Option<f64>,
    /// Bytes asked for and not here yet.
    pub(super) under_way: u64,
    /// Failures that are not forgiven.
    strikes: u8,
    /// Bytes given since the last of them, or since one was forgiven.
    good_bytes: u64,
    /// Not asked again.
    out: bool,
    rests_until: Duration,
    /// Until when it is asked only for what nobody else can give.
    probation_until: Duration,
    /// Whether it has not given anything since it failed.
    proving: bool,
    /// When it last gave something, or was asked after it had nothing to do.
    heard: Duration,
    /// Whether it ever gave a byte.
    gave: bool,
    /// Whether its silence was excused since it last gave something.
    excused: bool,
    meter: Meter,
    floor: Floor,
}

impl Holder {
    pub(super) fn new(offer: Offer) -> Self {
        Self {
            tier: offer.tier,
            whole: offer.whole,
            rtt: offer.rtt,
            rate: None,
            under_way: 0,
            strikes: 0,
            good_bytes: 0,
            out: false,
            rests_until: Duration::ZERO,
            probation_until: Duration::ZERO,
            proving: false,
            heard: Duration::ZERO,
            gave: false,
            excused: false,
            meter: Meter::default(),
            floor: Floor::default(),
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN)
    }

    pub(super) fn measured_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    /// Whether it may be asked, now or after a rest.
    pub(super) const fn is_in(&self) -> bool {
        !self.out
    }

    /// When it is to be asked again for nothing else than that time has passed.
    pub(super) const fn returns_at(&self) -> [Duration; 2] {
        [self.rests_until, self.probation_until]
    }

    /// Among whom it is asked, where those of tier `first` are asked before others: the least first. One that failed a moment ago is asked for what nobody else can give, and one that rests
    /// for nothing.
    pub(super) fn rank(&self, first: Tier, now: Duration) -> (bool, bool, bool) {
        let on_probation = now < self.probation_until;
        (now < self.rests_until, on_probation, self.tier != first)
    }

    /// Whether it neither rests nor failed a moment ago.
    pub(super) fn is_sound(&self, now: Duration) -> bool {
        now >= self.rests_until && now >= self.probation_until
    }

    /// The least time that one has which has not given a byte yet.
    pub(super) const fn patience_unproven(&self, patience: &Patience) -> Duration {
        if self.gave {
            Duration::ZERO
        } else {
            patience.first
        }
    }

    /// Bytes to have under way with it.
    pub(super) fn width(&self) -> u64 {
        if self.proving {
            return LEAST_BYTES;
        }
        let Some(rate) = self.rate else {
            return FIRST_BYTES;
        };
        let rtt = self.rtt();
        let class = PathClass {
            distance: Distance::of(rtt),
            bandwidth: Some(Bandwidth::of(whole(rate))),
        };
        let most = Plan::of(class, rtt, None, &WindowBounds::default())
            .map_or(FIRST_BYTES, |plan| u64::from(plan.connection_window))
            .clamp(FIRST_BYTES, WIDTH_MAX);
        whole(rate * (rtt + QUEUE).as_secs_f64()).clamp(LEAST_BYTES, most)
    }

    /// Whether another request may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.under_way < self.width()
    }

    /// Bytes for the next request, at least; the chunk that reaches it is the last.
    pub(super) fn batch(&self) -> u64 {
        let rate = self.rate.unwrap_or(RATE_UNKNOWN);
        let batch = whole(rate * BATCH.as_secs_f64()).min(BATCH_BYTES_MAX);
        batch
            .min(self.width().saturating_sub(self.under_way))
            .max(LEAST_BYTES)
    }

    /// How long until so many bytes more would be here.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        self.time_at(self.rate.unwrap_or(RATE_UNKNOWN), bytes)
    }

    /// How long until so many bytes would be here of this one, who idles, instead of `slow`. One whose rate is not known is taken to be no faster than that.
    pub(super) fn time_instead_of(&self, slow: &Self, bytes: u64) -> Duration {
        let unknown = slow.rate.unwrap_or(RATE_UNKNOWN_MIN);
        let unknown = unknown.clamp(RATE_UNKNOWN_MIN, RATE_UNKNOWN);
        self.time_at(self.rate.unwrap_or(unknown), bytes)
    }

    fn time_at(&self, rate: f64, bytes: u64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate needs no more than 52 bits"
        )]
        let seconds = (self.under_way + bytes) as f64 / rate.max(1.0);
        self.rtt() + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }

    pub(super) fn asked(&mut self, bytes: u64, now: Duration) {
        if self.under_way == 0 {
            self.heard = now;
            self.meter.begin(now, self.rtt());
        }
        self.under_way += bytes;
        self.meter.asked(bytes, now);
        self.floor.asked(now);
    }

    /// Bytes came in, of whatever part of a chunk.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
        (self.gave, self.excused) = (true, false);
    }

    /// What it sent may wait to be read. Its silence begins anew, but once: he who is always late would wait for ever. Whether it does.
    pub(super) fn excuse(&mut self, now: Duration) -> bool {
        if self.under_way == 0 || self.excused {
            return false;
        }
        (self.heard, self.excused) = (now, true);
        true
    }

    /// A chunk is here.
    pub(super) fn gave(&mut self, bytes: u64, now: Duration) {
        self.heard(now);
        self.proving = false;
        self.good_bytes += bytes;
        if self.good_bytes >= FORGIVEN_FOR {
            (self.strikes, self.good_bytes) = (self.strikes.saturating_sub(1), 0);
        }
        self.under_way = self.under_way.saturating_sub(bytes);
        self.floor.gave(bytes, now);
        if self.under_way == 0 {
            self.floor.idles(now);
        }
        let Some(sample) = self.meter.gave(bytes, now) else {
            return;
        };
        self.rate = Some(
            self.rate
                .map_or(sample, |rate| rate + (sample - rate) * WEIGHT),
        );
    }

    /// All that it was asked for and has not given will not come.
    pub(super) fn gives_not(&mut self, now: Duration) {
        self.floor.idles(now);
        self.under_way = 0;
        self.meter.gives_not();
    }

    /// When its silence is too long, or it has taken too long over too little; `None` while nothing is asked of it.
    pub(super) fn deadline(&self, patience: &Patience) -> Option<Duration> {
        let silence = if self.gave {
            (self.rtt() * 8).min(patience.most).max(patience.least)
        } else {
            patience.first + self.rtt() * 4
        };
        let silence = (self.under_way > 0).then(|| self.heard + silence);
        silence.into_iter().chain(self.floor_ends(patience)).min()
    }

    /// When it has taken too long over too little. A shield is left the time it takes: there is nobody behind it.
    pub(super) fn floor_ends(&self, patience: &Patience) -> Option<Duration> {
        match self.tier {
            Tier::Peer => self.floor.ends(patience.floor),
            Tier::Shield => None,
        }
    }

    /// It failed: it rests, or leaves.
    pub(super) fn strike(&mut self, now: Duration) {
        let rest = REST * 2_u32.pow(u32::from(self.strikes.min(STRIKES_MAX)));
        self.rests_until = now + rest;
        self.probation_until = self.rests_until + rest * PROBATION;
        (self.proving, self.rate) = (true, None);
        (self.strikes, self.good_bytes) = (self.strikes.saturating_add(1), 0);
        self.out |= self.strikes >= STRIKES_MAX;
    }

    /// It is not asked for anything any more.
    pub(super) fn leave(&mut self) {
        self.out = true;
    }
}

/// What a peer gives in [`Patience::floor`] at least, in bytes.
const FLOOR_BYTES: u64 = 256 << 10;

/// The time in which a holder was asked for something, since it last had given [`FLOOR_BYTES`] in it. While nothing is asked of it no time passes, so giving little at a time gains none.
#[derive(Debug, Default)]
struct Floor {
    /// Before it had nothing to do last.
    before: Duration,
    /// Since when it has something to do.
    since: Option<Duration>,
    bytes: u64,
}

impl Floor {
    fn asked(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    fn gave(&mut self, bytes: u64, now: Duration) {
        self.bytes += bytes;
        if self.bytes >= FLOOR_BYTES {
            (self.before, self.bytes) = (Duration::ZERO, 0);
            self.since = self.since.map(|_| now);
        }
    }

    fn idles(&mut self, now: Duration) {
        let since = self.since.take();
        self.before += since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
    }

    /// When it has had that much time; `None` while nothing is asked of it.
    fn ends(&self, limit: Duration) -> Option<Duration> {
        let since = self.since?;
        Some(since + limit.saturating_sub(self.before))
    }
}

/// How fast what is asked for comes: for each chunk, what has come since it was asked for, over the longer of two times: that in which it came, and that in which it was asked for.
///
/// Bytes that a lost packet held up come all at once. Measured from chunk to chunk they would seem to come at many times the path's rate; as it is, those asked for before the pause count
/// it, and those asked for after it count the time that the ones which came with it had to come. (The delivery rate of draft-cheng-iccrg-delivery-rate-estimation, for chunks in the place of packets.)
#[derive(Debug, Default)]
struct Meter {
    /// Bytes asked for since the first, less those that will not come, and bytes given.
    asked: u64,
    given: u64,
    last: Last,
    /// The requests under way, the oldest first.
    marks: VecDeque<Mark>,
}

/// The chunk that came last; of an idle holder the one that will.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// When it came. Of an idle holder, when the first byte can.
    came: Duration,
    /// When it came. Of an idle holder, when it is asked.
    seen: Duration,
    /// When it was asked for.
    asked: Duration,
}

/// A request.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    /// [`Meter::asked`] after it.
    end: u64,
    /// [`Meter::given`] and [`Meter::last`] when it was made.
    given: u64,
    last: Last,
}

impl Meter {
    /// An idle holder is asked. What the request and its first byte take on the way says nothing of the rate.
    fn begin(&mut self, now: Duration, rtt: Duration) {
        self.last = Last {
            came: now + rtt,
            seen: now,
            asked: now,
        };
    }

    fn asked(&mut self, bytes: u64, now: Duration) {
        self.asked += bytes;
        self.marks.push_back(Mark {
            at: now,
            end: self.asked,
            given: self.given,
            last: self.last,
        });
    }

    /// A chunk is here. Bytes a second, where they were enough to say.
    fn gave(&mut self, bytes: u64, now: Duration) -> Option<f64> {
        self.given += bytes;
        while self.marks.front()?.end < self.given {
            self.marks.pop_front();
        }
        let mark = *self.marks.front()?;
        self.last = Last {
            came: now,
            seen: now,
            asked: mark.at,
        };
        let bytes = self.given - mark.given;
        let came_in = now.saturating_sub(mark.last.came);
        let asked_in = mark.at.saturating_sub(mark.last.asked);
        // A round trip that is not known may be much less than what is taken for it.
        let least = (now.saturating_sub(mark.last.seen) / 2).max(MEASURED_TIME_MIN);
        let time = came_in.max(asked_in).max(least);
        #[expect(
            clippy::cast_precision_loss,
            reason = "an estimate needs no more than 52 bits"
        )]
        let rate = bytes as f64 / time.as_secs_f64();
        (bytes >= MEASURED_BYTES || time >= MEASURED_TIME).then_some(rate)
    }

    /// Nothing more of what was asked for comes.
    fn gives_not(&mut self) {
        self.asked = self.given;
        self.marks.clear();
    }
}

/// A number of bytes.
fn whole(bytes: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and what is below nothing is nothing"
    )]
    let bytes = bytes as u64;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_come_all_at_once_after_a_pause_are_not_taken_for_a_faster_path() {
        const RATE: u32 = 12_500_000;
        const CHUNK: u32 = 256 << 10;
        let rtt = Duration::from_millis(10);
        let mut holder = Holder::new(Offer {
            tier: Tier::Peer,
            whole: true,
            rtt: Some(rtt),
        });
        // Four under way; every tenth is held up for as long as three take, and comes with those after it.
        let ask = |holder: &mut Holder, now| holder.asked(CHUNK.into(), now);
        for _ in 0..4 {
            ask(&mut holder, Duration::ZERO);
        }
        let each = Duration::from_secs_f64(f64::from(CHUNK) / f64::from(RATE));
        let mut fastest: f64 = 0.0;
        for chunk in 0..400 {
            let held_up = 3_u32.saturating_sub(chunk % 10);
            let now = rtt + each * (chunk + 1 + held_up);
            holder.gave(CHUNK.into(), now);
            ask(&mut holder, now);
            fastest = fastest.max(holder.rate.unwrap_or_default());
        }
        let times = fastest / f64::from(RATE);
        assert!(times < 1.5, "{times} times the rate");
        let times = holder.rate.unwrap() / f64::from(RATE);
        assert!(times > 0.7, "{times} times the rate");
    }

    #[test]
    fn failures_are_forgiven_for_what_is_given_between_them_and_not_in_a_row() {
        let offer = Offer {
            tier: Tier::Peer,
            whole: true,
            rtt: None,
        };
        let now = Duration::from_secs(1);
        let mut steady = Holder::new(offer);
        for _ in 0..10 {
            steady.strike(now);
            for _ in 0..FORGIVEN_FOR >> 18 {
                steady.asked(256 << 10, now);
                steady.gave(256 << 10, now);
            }
            assert!(steady.is_in());
        }
        let mut failing = Holder::new(offer);
        for _ in 0..STRIKES_MAX {
            assert!(failing.is_in());
            failing.strike(now);
            failing.asked(256 << 10, now);
            failing.gave(256 << 10, now);
        }
        assert!(!failing.is_in());
    }
}
