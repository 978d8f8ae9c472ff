//! What a node that is being emptied hands to whom.
//!
//! Each key goes to the home it has without the leaving node, since that is where everybody looks from then on. The load bound has no say
//! here: it is about requests, and a copy where nobody looks first is a copy for nothing.

use std::collections::HashMap;

use super::Placement;
use crate::{Key, NodeId, View};

/// Keys of one handover, 2 MiB of them; the coldest beyond are left to be missed once.
pub const HANDOVER_KEYS_MAX: usize = 65_536;

/// Which of these keys go where once `leaving` is gone: the hottest first as given, a list for each node, by id. At most
/// [`HANDOVER_KEYS_MAX`] in all. Empty where the metro has nobody else.
#[must_use]
pub fn handover(
    view: &View,
    leaving: &NodeId,
    hottest_first: impl IntoIterator<Item = Key>,
) -> Vec<(NodeId, Vec<Key>)> {
    let rest = Placement::without(view, Some(leaving));
    let mut keys: HashMap<NodeId, Vec<Key>> = HashMap::new();
    for key in hottest_first.into_iter().take(HANDOVER_KEYS_MAX) {
        let Some(home) = rest.home(&key) else {
            break;
        };
        keys.entry(home).or_default().push(key);
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable_by_key(|(id, _)| *id);
    keys
}
