//! Who lives: what chitchat knows of processes, and for how long one that is silent counts as alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chitchat::{Chitchat, ChitchatId};
use stoq_routing::membership::Statement;
use tokio::time::Instant;

use super::engine::GossipConfig;
use super::gate::{CERTIFICATE, Gate, STATE};

/// How long an engine that was begun again may take to see who lives.
const HELD_FOR: Duration = Duration::from_secs(5);
/// Processes that chitchat has forgotten and whose heartbeats are remembered.
const FORGOTTEN_MAX: usize = 1_024;

/// The processes that chitchat knows.
#[derive(Default)]
pub(super) struct Living {
    processes: BTreeMap<ChitchatId, Process>,
    /// The last heartbeats of processes that chitchat has forgotten, so that one that comes back is seen to live by its first. At most [`FORGOTTEN_MAX`].
    forgotten: BTreeMap<ChitchatId, u64>,
    /// Those that the engine before this one saw alive, taken to be so until this one has had its time to see them.
    held: Vec<Statement>,
    held_until: Option<Instant>,
}

struct Process {
    heartbeat: u64,
    /// When the heartbeat was seen to go on.
    at: Instant,
    alive: bool,
    /// The version of the statement, and it, if it is to be believed.
    version: u64,
    statement: Option<Statement>,
}

impl Living {
    pub(super) fn begin_again(&mut self, now: Instant) {
        let processes = std::mem::take(&mut self.processes).into_values();
        let alive = processes.filter(|process| process.alive);
        self.held = alive.filter_map(|process| process.statement).collect();
        self.held_until = Some(now + HELD_FOR);
    }

    pub(super) fn look(
        &mut self,
        chitchat: &Chitchat,
        own: &ChitchatId,
        gate: &Gate,
        config: &GossipConfig,
        now: Instant,
    ) {
        let live: BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let forgotten = self
            .processes
            .extract_if(.., |id, _| chitchat.node_state(id).is_none());
        self.forgotten
            .extend(forgotten.map(|(id, process)| (id, process.heartbeat)));
        while self.forgotten.len() > FORGOTTEN_MAX {
            self.forgotten.pop_first();
        }
        for (id, node) in chitchat.node_states() {
            if id == own {
                continue;
            }
            let heartbeat = u64::from(node.heartbeat());
            let process = self.processes.entry(id.clone()).or_insert_with(|| Process {
                heartbeat: self.forgotten.remove(id).unwrap_or(heartbeat),
                at: now,
                alive: false,
                version: 0,
                statement: None,
            });
            // A heart that beats is alive, though chitchat waits for a second beat; who was alive stays so for a while, though chitchat has given it up.
            let beats = heartbeat != process.heartbeat;
            if beats {
                (process.heartbeat, process.at) = (heartbeat, now);
            }
            let silence = now.duration_since(process.at);
            process.alive = beats
                || (live.contains(id) && silence < config.silence_max)
                || (process.alive && silence < config.silence_min);
            let version = node.get_versioned(STATE).map_or(0, |value| value.version);
            if process.alive && (version != process.version || process.statement.is_none()) {
                process.version = version;
                process.statement = match (node.get(CERTIFICATE), node.get(STATE)) {
                    (Some(certificate), Some(state)) => gate.again(certificate, state),
                    _ => None,
                };
            }
        }
    }

    /// Those that live and are to be believed now.
    pub(super) fn statements<'a>(
        &'a self,
        gate: &'a Gate,
        now: Instant,
    ) -> impl Iterator<Item = &'a Statement> {
        let alive = self.processes.values().filter(|process| process.alive);
        let held = self.held_until.is_some_and(|until| now < until);
        let held = self.held.iter().filter(move |_| held);
        alive
            .filter_map(|process| process.statement.as_ref())
            .chain(held)
            .filter(|statement| gate.is_current(&statement.state.id))
    }
}
