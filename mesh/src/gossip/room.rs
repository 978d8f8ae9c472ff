//! How many processes chitchat is told of: its messages are bounded, and each of its digests names every process it knows.
//!
//! It never forgets one before it has been silent for two minutes, and no signature covers a digest. So a member can name processes that nobody has seen, in any number. What it names
//! of others fills three quarters of the room at most. The last quarter is for processes whose own node names them, on a connection that proves which node it is: those
//! who are there come in, whatever was made up, if not as fast.
//!
//! Counted is what chitchat has, and what it is about to take from the message that it was given last.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::gate::Sender;
use super::wire::{Entry, Id};

/// Bytes of a digest, and with it the processes that are known at once: 1,170 with IPv4 addresses, 939 with IPv6. chitchat's messages are at most
/// 65,507 bytes, and what a digest leaves is for values. Beyond it processes that are new are not taken note of, and the view is not complete.
pub(super) const BYTES_MAX: usize = 56 << 10;
/// Of them, what is named by others than its own node: three quarters.
const HEARSAY_BYTES_MAX: usize = BYTES_MAX / 4 * 3;
/// Processes of one node that its own word makes room for. A node that begins anew more often within two minutes is known by hearsay, where that has room.
const OF_A_NODE_MAX: usize = 8;
/// How long after one was left out the view is not complete: as long as chitchat remembers the dead, which may be all that fills it.
const LEFT_OUT_FOR: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Room {
    known: BTreeSet<Id>,
    bytes: usize,
    /// What was new in the message that chitchat was given last: it may not have taken it yet.
    given: Vec<Id>,
    left_out: Option<Instant>,
}

impl Room {
    /// Told all that chitchat knows, this process included. Returns whether one was left out of late.
    pub(super) fn look(&mut self, known: BTreeSet<Id>, now: Instant) -> bool {
        self.known = known;
        self.known.extend(self.given.iter().cloned());
        self.bytes = self.known.iter().map(Id::digest_bytes).sum();
        let since = |at: Instant| now.duration_since(at);
        self.left_out.is_some_and(|at| since(at) < LEFT_OUT_FOR)
    }

    /// Leaves in a digest what there is room for, and returns how many there was none for. To be asked right before chitchat is given the message, so of one message after the other.
    pub(super) fn admit(&mut self, digest: &mut Vec<Entry>, by: &Sender, now: Instant) -> usize {
        self.given.clear();
        let named = digest.len();
        digest.retain(|entry| self.takes(&entry.id, by));
        let left_out = named - digest.len();
        if left_out > 0 {
            self.left_out = Some(now);
        }
        left_out
    }

    fn takes(&mut self, id: &Id, by: &Sender) -> bool {
        if self.known.contains(id) {
            return true;
        }
        let bytes = self.bytes + id.digest_bytes();
        let room = match id.node == by.node && id.addr == by.listens {
            true if !self.is_crowded(&id.node) => BYTES_MAX,
            _ => HEARSAY_BYTES_MAX,
        };
        if bytes > room {
            return false;
        }
        self.bytes = bytes;
        self.known.insert(id.clone());
        self.given.push(id.clone());
        true
    }

    /// Whether as many processes of a node are known as its own word makes room for. Looks at no more of them: a message can name a thousand.
    fn is_crowded(&self, node: &str) -> bool {
        let first = Id {
            node: node.to_owned(),
            generation: 0,
            addr: SocketAddr::from(([0; 4], 0)),
        };
        let of_node = self.known.range(first..).take(OF_A_NODE_MAX);
        of_node.filter(|id| id.node == node).count() == OF_A_NODE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Id {
        Id {
            node: format!("{number:08x}"),
            generation: 1,
            addr: SocketAddr::from(([10, 0, 0, 1], 7443)),
        }
    }

    fn digest(ids: impl IntoIterator<Item = Id>) -> Vec<Entry> {
        let entry = |id| Entry {
            id,
            heartbeat: 1,
            last_gc_version: 0,
            max_version: 0,
        };
        ids.into_iter().map(entry).collect()
    }

    fn sender(number: usize) -> Sender {
        let Id { node, addr, .. } = id(number);
        Sender {
            name: "sender".to_owned(),
            node,
            addr,
            listens: addr,
        }
    }

    /// How many of these are let in.
    fn admitted(room: &mut Room, ids: impl IntoIterator<Item = Id>, by: usize) -> usize {
        let mut digest = digest(ids);
        room.admit(&mut digest, &sender(by), Instant::now());
        digest.len()
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_makes_up_leaves_room_for_those_who_speak_for_themselves() {
        let mut room = Room::default();
        room.look([id(0)].into(), Instant::now());
        let mut made_up = 0;
        for group in 1..5 {
            made_up += admitted(&mut room, (group * 500..(group + 1) * 500).map(id), 9);
        }
        assert_eq!(1 + made_up, HEARSAY_BYTES_MAX / 49);
        // Others know no way to bring a newcomer in; itself it comes in, also under another generation.
        assert_eq!(admitted(&mut room, [id(7)], 8), 0);
        assert_eq!(admitted(&mut room, [id(7)], 7), 1);
        assert_eq!(admitted(&mut room, [id(7)], 8), 1, "it is known now");
        let again = Id {
            generation: 2,
            ..id(7)
        };
        assert_eq!(admitted(&mut room, [again], 7), 1);
        // It speaks for where it listens, and not for processes without end.
        let elsewhere = Id {
            addr: SocketAddr::from(([10, 0, 0, 2], 7443)),
            ..id(8)
        };
        assert_eq!(admitted(&mut room, [elsewhere], 8), 0);
        let processes = (10..100).map(|generation| Id {
            generation,
            ..id(9)
        });
        assert_eq!(admitted(&mut room, processes, 9), OF_A_NODE_MAX);
        // And all of them together stay below the bound.
        for number in 10_000..12_000 {
            admitted(&mut room, [id(number)], number);
        }
        assert_eq!(room.known.len(), BYTES_MAX / 49);
    }

    #[tokio::test(start_paused = true)]
    async fn what_chitchat_is_about_to_take_counts_until_it_has_it() {
        let mut room = Room::default();
        let of_chitchat = BTreeSet::from([id(0)]);
        room.look(of_chitchat.clone(), Instant::now());
        let all = HEARSAY_BYTES_MAX / 49 - 1;
        assert_eq!(admitted(&mut room, (1..5_000).map(id), 9), all);
        // It is looked at before chitchat has them.
        assert!(room.look(of_chitchat.clone(), Instant::now()));
        assert_eq!(admitted(&mut room, (5_000..9_000).map(id), 9), 0);
        // Before the next message it has, or has refused, them.
        room.look(of_chitchat, Instant::now());
        assert_eq!(admitted(&mut room, (5_000..9_000).map(id), 9), all);
    }

    #[tokio::test(start_paused = true)]
    async fn that_one_was_left_out_is_known_for_as_long_as_the_dead_are() {
        let mut room = Room::default();
        assert!(!room.look([id(0)].into(), Instant::now()));
        let mut digest = digest((1..2_000).map(id));
        let left_out = room.admit(&mut digest, &sender(9), Instant::now());
        assert_eq!(left_out, 1_999 - digest.len());
        tokio::time::advance(LEFT_OUT_FOR - Duration::from_millis(1)).await;
        assert!(room.look([id(0)].into(), Instant::now()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!room.look([id(0)].into(), Instant::now()));
    }
}
