//! What was counted, by reason: what `xdp top` shows and the metrics export.

use serde::{Deserialize, Serialize};

use crate::abi::{Counter, REASONS, Reason};

/// Packets and bytes by reason, since the limiter was made. They never go back while it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    by_reason: [Counter; REASONS as usize],
    /// Sampled events that found nobody to take them.
    pub events_lost: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            by_reason: [Counter::default(); REASONS as usize],
            events_lost: 0,
        }
    }
}

impl Counters {
    /// What was counted for `reason`.
    #[must_use]
    pub fn of(&self, reason: Reason) -> Counter {
        self.by_reason
            .get(reason.number() as usize)
            .copied()
            .unwrap_or_default()
    }

    /// All reasons with what was counted for them, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, Counter)> {
        Reason::ALL.into_iter().zip(self.by_reason)
    }

    /// Packets that were dropped: those that were to be, less those that a dry run spared.
    #[must_use]
    pub fn dropped_packets(&self) -> u64 {
        self.iter()
            .filter(|(reason, _)| reason.drops())
            .map(|(_, counter)| counter.packets.saturating_sub(counter.spared_packets))
            .fold(0, u64::saturating_add)
    }

    pub(crate) fn add_all(&mut self, more: &Self) {
        for (reason, counter) in more.iter() {
            self.add(reason, counter);
        }
        self.events_lost = self.events_lost.saturating_add(more.events_lost);
    }

    pub(crate) fn add(&mut self, reason: Reason, more: Counter) {
        if let Some(counter) = self.by_reason.get_mut(reason.number() as usize) {
            counter.packets = counter.packets.saturating_add(more.packets);
            counter.bytes = counter.bytes.saturating_add(more.bytes);
            counter.spared_packets = counter.spared_packets.saturating_add(more.spared_packets);
            counter.spared_bytes = counter.spared_bytes.saturating_add(more.spared_bytes);
        }
    }
}

/// By the words of the reasons, those that were never seen left out; a word that is not known is refused.
impl Serialize for Counters {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let reasons = self
            .iter()
            .filter(|(_, counter)| *counter != Counter::default())
            .map(|(reason, counter)| (reason.word().to_owned(), Row::from(counter)))
            .collect();
        Wire {
            reasons,
            events_lost: self.events_lost,
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Counters {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(from)?;
        let mut counters = Self {
            events_lost: wire.events_lost,
            ..Self::default()
        };
        for (word, row) in wire.reasons {
            let reason = Reason::ALL
                .into_iter()
                .find(|reason| reason.word() == word)
                .ok_or_else(|| serde::de::Error::custom(format!("no reason is called `{word}`")))?;
            counters.add(reason, row.into());
        }
        Ok(counters)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    reasons: std::collections::BTreeMap<String, Row>,
    events_lost: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    packets: u64,
    bytes: u64,
    spared_packets: u64,
    spared_bytes: u64,
}

impl From<Counter> for Row {
    fn from(counter: Counter) -> Self {
        Self {
            packets: counter.packets,
            bytes: counter.bytes,
            spared_packets: counter.spared_packets,
            spared_bytes: counter.spared_bytes,
        }
    }
}

impl From<Row> for Counter {
    fn from(row: Row) -> Self {
        Self {
            packets: row.packets,
            bytes: row.bytes,
            spared_packets: row.spared_packets,
            spared_bytes: row.spared_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_travel_as_text() {
        let mut counters = Counters::default();
        for (index, reason) in (1..).zip(Reason::ALL) {
            counters.add(
                reason,
                Counter {
                    packets: index,
                    bytes: u64::MAX,
                    spared_packets: 1,
                    spared_bytes: 2,
                },
            );
        }
        counters.events_lost = 7;
        let text = serde_json::to_string(&counters).unwrap();
        assert_eq!(serde_json::from_str::<Counters>(&text).unwrap(), counters);
        let wrong = text.replace("drop_shed", "drop_shad");
        assert!(serde_json::from_str::<Counters>(&wrong).is_err());
    }

    #[test]
    fn what_a_dry_run_spared_was_not_dropped() {
        let mut counters = Counters::default();
        let counter = Counter {
            packets: 10,
            bytes: 1000,
            spared_packets: 4,
            spared_bytes: 400,
        };
        counters.add(Reason::Shed, counter);
        counters.add(Reason::Short, counter);
        assert_eq!(counters.dropped_packets(), 6);
    }
}
