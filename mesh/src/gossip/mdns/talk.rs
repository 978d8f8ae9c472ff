//! What a node says on the link and when, and whom it has heard there: a value without sockets and clock. Messages go in with the time of their arrival; what is to be said comes out
//! when it is due.
//!
//! It announces itself twice when it begins and asks who is there, at once and then ever less often, as RFC 6762 has it. Who is asked answers to all, at most once a second, so however
//! many ask, and whatever is sent to it, a node says little. Who is not heard again within two minutes is forgotten; before that it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stoq_routing::discovery::PER_SOURCE_MAX;

use super::wire::{self, ADDRESSES_MAX, Fault, Node, Said, Seal, TTL};

/// Nodes that are remembered: 64 × (8 addresses of 32 bytes and its name) is some 32 KiB. Newcomers beyond are passed over; only members of the cluster get so far.
pub(super) const NODES_MAX: usize = 64;
/// Messages that are read in a second: what a large office says, and of a flood what is judged within a hundredth of a core. More wait for the next second in the sockets' buffers and
/// are dropped there.
pub(super) const READ_MAX: u32 = 128;

const SECOND: Duration = Duration::from_secs(1);
/// How long what a node says of itself holds.
const HOLDS: Duration = Duration::from_secs(TTL as u64);
/// How often a newcomer announces itself, a second apart.
const ANNOUNCEMENTS: u8 = 2;
/// How long an answer waits, so that not all who are asked speak at once (RFC 6762 §6).
const DELAY_MS: std::ops::Range<u64> = 20..120;
/// The longest time between two questions that nothing calls for.
const ASK_MAX: Duration = Duration::from_secs(3600);

/// A node that was heard.
#[derive(Debug)]
struct Known {
    addresses: BTreeSet<SocketAddr>,
    until: Duration,
    /// When to ask for it again: at four fifths of its time, then with each twentieth.
    ask: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By what it says.
    Fault(Fault),
    /// There are [`NODES_MAX`] others.
    NoRoom,
}

#[derive(Debug)]
pub(super) struct Talk {
    own: Node,
    seal: Seal,
    rng: StdRng,
    known: BTreeMap<String, Known>,
    /// Whether `known` changed since it was last told.
    has_news: bool,
    /// When to announce this node, and when it last was.
    say: Option<Duration>,
    said: Option<Duration>,
    announcements: u8,
    ask: Duration,
    ask_wait: Duration,
    has_left: bool,
    /// The second under way, and what was read in it.
    second: Duration,
    read: u32,
}

impl Talk {
    /// Of a node with these addresses, of which those that mean something to others are told.
    pub(super) fn new(
        instance: String,
        addresses: impl IntoIterator<Item = SocketAddr>,
        seal: Seal,
        seed: u64,
    ) -> Self {
        let usable = addresses.into_iter().filter(wire::is_usable);
        // As others read them.
        let usable = usable.map(|addr| SocketAddr::new(addr.ip(), addr.port()));
        Self {
            own: Node {
                instance,
                addresses: usable.take(ADDRESSES_MAX).collect(),
            },
            seal,
            rng: StdRng::seed_from_u64(seed),
            known: BTreeMap::new(),
            has_news: false,
            say: None,
            said: None,
            announcements: 0,
            ask: Duration::MAX,
            ask_wait: SECOND,
            has_left: false,
            second: Duration::ZERO,
            read: 0,
        }
    }

    /// There is a link to talk on, or one more.
    pub(super) fn begin(&mut self, now: Duration) {
        if self.has_left {
            return;
        }
        self.announcements = ANNOUNCEMENTS;
        self.ask_wait = SECOND;
        self.ask = now + self.delay();
        self.speak_soon(now);
    }

    /// When [`next`](Self::next) has something to do; `None` where that depends on others.
    pub(super) fn due(&self) -> Option<Duration> {
        let known = self.known.values().map(|known| known.ask.min(known.until));
        let ask = (self.ask != Duration::MAX).then_some(self.ask);
        known.chain(self.say).chain(ask).min()
    }

    /// The next message that is to be sent on all links now. To be called until there is none.
    pub(super) fn next(&mut self, now: Duration) -> Option<Vec<u8>> {
        let before = self.known.len();
        self.known.retain(|_, known| known.until > now);
        self.has_news |= self.known.len() != before;
        if self.say.is_some_and(|say| say <= now) {
            self.say = None;
            self.said = Some(now);
            self.announcements = self.announcements.saturating_sub(1);
            if self.announcements > 0 {
                self.say = Some(now + SECOND);
            }
            return wire::announcement(&self.own, &self.seal, false);
        }
        let is_missed = self.known.values().any(|known| known.ask <= now);
        if self.ask > now && !is_missed {
            return None;
        }
        if self.ask <= now {
            self.ask = now + self.ask_wait;
            self.ask_wait = (self.ask_wait * 2).min(ASK_MAX);
        }
        for known in self.known.values_mut() {
            while known.ask <= now {
                known.ask += HOLDS / 20;
            }
        }
        let left = |known: &Known| u32::try_from((known.until - now).as_secs()).unwrap_or(TTL);
        let known = self.known.iter().map(|(name, known)| (name, left(known)));
        let known = known.filter(|(_, left)| *left >= TTL / 2);
        wire::question(known.map(|(name, left)| (name.as_str(), left)))
    }

    /// Until when nothing is to be read, since enough was in this second. To be asked before each message.
    pub(super) fn pause(&self, now: Duration) -> Option<Duration> {
        let end = self.second + SECOND;
        (now < end && self.read >= READ_MAX).then_some(end)
    }

    /// Takes a message.
    ///
    /// # Errors
    /// It is passed over.
    pub(super) fn hear(&mut self, now: Duration, message: &[u8]) -> Result<(), Refusal> {
        if now >= self.second + SECOND {
            self.second = now;
            self.read = 0;
        }
        self.read = self.read.saturating_add(1);
        match wire::read(message, &self.own.instance, &self.seal).map_err(Refusal::Fault)? {
            Said::Nothing => {}
            Said::Asked => self.speak_soon(now),
            // Its own, as all on the link hear it.
            Said::Here(node) if node == self.own => {}
            // Somebody repeats what it said earlier, before it began anew at other addresses or when it left.
            Said::Here(node) | Said::Leaves(node) if node.instance == self.own.instance => {
                self.speak_soon(now);
            }
            Said::Here(node) => self.note(now, node)?,
            Said::Leaves(node) => {
                self.has_news |= self.known.remove(&node.instance).is_some();
            }
        }
        Ok(())
    }

    fn note(&mut self, now: Duration, node: Node) -> Result<(), Refusal> {
        let before = self.known.get(&node.instance);
        if before.is_none() && self.known.len() >= NODES_MAX {
            return Err(Refusal::NoRoom);
        }
        self.has_news |= before.is_none_or(|known| known.addresses != node.addresses);
        let known = Known {
            addresses: node.addresses,
            until: now + HOLDS,
            ask: now + HOLDS * 4 / 5,
        };
        self.known.insert(node.instance, known);
        Ok(())
    }

    /// Where others are, if that changed since this was last asked. At most [`PER_SOURCE_MAX`], the first of each node before the second of any.
    pub(super) fn news(&mut self) -> Option<Vec<SocketAddr>> {
        std::mem::take(&mut self.has_news).then(|| self.addresses())
    }

    /// Where others are.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let nth = |place: usize| {
            let known = self.known.values();
            known.filter_map(move |known| known.addresses.iter().nth(place))
        };
        let all = (0..ADDRESSES_MAX).flat_map(nth);
        all.take(PER_SOURCE_MAX).copied().collect()
    }

    /// The goodbye, once. After it this node is not announced any more.
    pub(super) fn leave(&mut self) -> Option<Vec<u8>> {
        let was_said = self.said.is_some() && !self.has_left;
        self.has_left = true;
        self.say = None;
        self.announcements = 0;
        match was_said {
            true => wire::announcement(&self.own, &self.seal, true),
            false => None,
        }
    }

    fn speak_soon(&mut self, now: Duration) {
        if self.has_left || self.own.addresses.is_empty() {
            return;
        }
        //= https://www.rfc-editor.org/rfc/rfc6762#section-6
        //# A Multicast DNS responder MUST NOT (except in the one special case of
        //# answering probe queries) multicast a record on a given interface until at
        //# least one second has elapsed since the last time that record was multicast
        //# on that particular interface.
        let earliest = self.said.map_or(now, |said| said + SECOND);
        let at = earliest.max(now + self.delay());
        self.say = Some(self.say.map_or(at, |say| say.min(at)));
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(DELAY_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;
    const MS: fn(u64) -> Duration = Duration::from_millis;
    const SECRET: [u8; 32] = [7; 32];

    fn named(number: usize) -> String {
        format!("{number:032x}")
    }

    fn at(number: usize) -> SocketAddr {
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 7443))
    }

    fn talk(number: usize) -> Talk {
        Talk::new(named(number), [at(number)], Seal::of(&SECRET), 1)
    }

    fn announcement(number: usize, leaves: bool) -> Vec<u8> {
        let node = Node {
            instance: named(number),
            addresses: [at(number)].into(),
        };
        wire::announcement(&node, &Seal::of(&SECRET), leaves).unwrap()
    }

    /// A link on which everybody hears everything, itself too. What was said, by whom and when.
    fn run(nodes: &mut [Talk], from: Duration, until: Duration) -> Vec<(Duration, usize, Vec<u8>)> {
        let mut said = Vec::new();
        let mut now = from;
        loop {
            for speaker in 0..nodes.len() {
                while let Some(message) = nodes[speaker].next(now) {
                    for node in nodes.iter_mut() {
                        node.hear(now, &message).unwrap();
                    }
                    said.push((now, speaker, message));
                }
            }
            let due = nodes.iter().filter_map(Talk::due).min();
            match due.filter(|due| *due <= until) {
                Some(due) => now = due.max(now),
                None => return said,
            }
        }
    }

    #[test]
    fn nodes_on_a_link_find_each_other_at_once_and_stay_known_for_hours() {
        let mut nodes = [talk(1), talk(2)];
        nodes[0].begin(S(0));
        run(&mut nodes[..1], S(0), S(10));
        assert_eq!(nodes[0].news(), None);
        nodes[1].begin(S(10));
        run(&mut nodes, S(10), S(10) + MS(300));
        assert_eq!(nodes[0].news(), Some(vec![at(2)]));
        assert_eq!(nodes[1].news(), Some(vec![at(1)]));
        let said = run(&mut nodes, S(11), S(10_000));
        assert_eq!(nodes.each_mut().map(Talk::news), [None, None]);
        assert_eq!(nodes[0].addresses(), [at(2)]);
        // A question by each and its answer in each time that an announcement holds, at most.
        assert!((100..=450).contains(&said.len()), "{}", said.len());
    }

    #[test]
    fn however_often_it_is_asked_a_node_answers_once_a_second() {
        let mut nodes = [talk(1)];
        nodes[0].begin(S(0));
        run(&mut nodes, S(0), S(100));
        let question = wire::question(std::iter::empty()).unwrap();
        let mut answers = 0;
        for ms in 0..3_000 {
            let now = S(100) + MS(ms);
            if nodes[0].pause(now).is_none() {
                nodes[0].hear(now, &question).unwrap();
            }
            while nodes[0].next(now).is_some() {
                answers += 1;
            }
        }
        assert!((3..=4).contains(&answers), "{answers}");
    }

    #[test]
    fn who_says_goodbye_is_forgotten_at_once_and_who_falls_silent_within_two_minutes() {
        let mut node = talk(1);
        node.hear(S(0), &announcement(2, false)).unwrap();
        node.hear(S(0), &announcement(3, false)).unwrap();
        assert_eq!(node.news(), Some(vec![at(2), at(3)]));
        node.hear(S(1), &announcement(2, true)).unwrap();
        assert_eq!(node.news(), Some(vec![at(3)]));
        let mut asked = Vec::new();
        while let Some(due) = node.due() {
            while node.next(due).is_some() {
                asked.push(due);
            }
        }
        // It is missed before it is given up.
        assert_eq!(asked, [S(96), S(102), S(108), S(114)]);
        assert_eq!(node.news(), Some(Vec::new()));
    }

    #[test]
    fn a_node_that_leaves_says_so_once_and_is_silent_then() {
        let mut node = talk(1);
        assert_eq!(node.leave(), None, "nobody was told of it");
        let mut node = talk(1);
        node.begin(S(0));
        let mut nodes = [node, talk(2)];
        run(&mut nodes, S(0), S(5));
        assert_eq!(nodes[1].news(), Some(vec![at(1)]));
        let goodbye = nodes[0].leave().unwrap();
        nodes[1].hear(S(5), &goodbye).unwrap();
        assert_eq!(nodes[1].news(), Some(Vec::new()));
        assert_eq!(nodes[0].leave(), None);
        nodes[0].begin(S(6));
        nodes[0].hear(S(6), &goodbye).unwrap();
        let question = wire::question(std::iter::empty()).unwrap();
        nodes[0].hear(S(6), &question).unwrap();
        assert!(
            run(&mut nodes, S(6), S(60))
                .iter()
                .all(|(_, who, said)| *who == 1
                    || matches!(
                        wire::read(said, &named(9), &Seal::of(&SECRET)),
                        Ok(Said::Asked)
                    ))
        );
        assert!(nodes[1].addresses().is_empty());
    }

    #[test]
    fn a_goodbye_in_the_name_of_one_that_stays_is_answered() {
        let mut nodes = [talk(1), talk(2)];
        nodes[0].begin(S(0));
        run(&mut nodes, S(0), S(5));
        for node in &mut nodes {
            node.hear(S(5), &announcement(1, true)).unwrap();
        }
        assert!(nodes[1].addresses().is_empty());
        run(&mut nodes, S(5), S(6));
        assert_eq!(nodes[1].addresses(), [at(1)]);
    }

    #[test]
    fn what_a_node_said_before_it_moved_is_answered_with_where_it_is() {
        let moved = Talk::new(named(1), [at(7)], Seal::of(&SECRET), 1);
        let mut nodes = [moved, talk(2)];
        nodes[0].begin(S(0));
        let said = run(&mut nodes, S(0), S(60));
        // Its own words are no reason to speak.
        assert!(said.iter().all(|(at, ..)| *at < S(40)), "{said:?}");
        for node in &mut nodes {
            node.hear(S(60), &announcement(1, false)).unwrap();
        }
        assert_eq!(nodes[1].addresses(), [at(1)]);
        run(&mut nodes, S(60), S(61));
        assert_eq!(nodes[1].addresses(), [at(7)]);
    }

    #[test]
    fn more_nodes_and_messages_than_there_is_room_for_are_passed_over() {
        let mut node = talk(0);
        let mut refused = 0;
        for other in 1..=NODES_MAX + 10 {
            let heard = node.hear(S(0), &announcement(other, false));
            refused += usize::from(heard == Err(Refusal::NoRoom));
        }
        assert_eq!(refused, 10);
        assert_eq!(node.addresses().len(), PER_SOURCE_MAX);
        // Those that are known stay up to date.
        node.hear(S(1), &announcement(1, false)).unwrap();

        let mut read = 0;
        for ms in 0..4_000 {
            let now = S(10) + MS(ms / 2);
            if node.pause(now).is_none() {
                let _ = node.hear(now, b"noise");
                read += 1;
            }
        }
        assert_eq!(read, 2 * READ_MAX);
    }

    #[test]
    fn addresses_that_mean_nothing_to_others_are_not_told() {
        let own = [
            "127.0.0.1:7443",
            "[fe80::1]:7443",
            "[::1]:7443",
            "0.0.0.0:7443",
        ];
        let own = own.map(|text| text.parse().unwrap());
        let mut node = Talk::new(named(1), own, Seal::of(&SECRET), 1);
        node.begin(S(0));
        let said = run(std::slice::from_mut(&mut node), S(0), S(60));
        for (_, _, message) in said {
            let read = wire::read(&message, &named(2), &Seal::of(&SECRET));
            assert_eq!(read, Ok(Said::Asked));
        }
    }
}
