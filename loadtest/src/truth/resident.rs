//! Memory that idle connections cost: resident sets of both sides, before and after.

use super::process;
use super::tree::Tree;

/// Resident bytes of this process and of the server's, with its children. `None` where the kernel does not say, or no
/// server was named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Of this process.
    pub client: Option<u64>,
    /// Of the server's processes.
    pub server: Option<u64>,
}

impl Resident {
    /// As it is now. One read of `/proc`, and one of all processes where a server is named.
    #[must_use]
    pub fn now(server_pid: Option<u32>) -> Self {
        let client = process::memory("self").ok().flatten();
        let server = server_pid.and_then(|pid| Tree::of(pid).ok());
        Self {
            client: client.map(|memory| memory.resident),
            server: server
                .map(|tree| tree.resident())
                .filter(|bytes| *bytes > 0),
        }
    }

    /// What each of `count` added since `earlier`; `None` where nothing is known to have been added.
    #[must_use]
    pub fn each_since(self, earlier: Self, count: u64) -> Self {
        let each = |now: Option<u64>, earlier: Option<u64>| {
            now?.checked_sub(earlier?)?
                .checked_div(count)
                .filter(|each| *each > 0)
        };
        Self {
            client: each(self.client, earlier.client),
            server: each(self.server, earlier.server),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrank_or_cannot_be_read_is_no_figure() {
        let is = |client, server| Resident { client, server };
        let before = is(Some(1000), Some(5000));
        assert_eq!(
            is(Some(3000), Some(6000)).each_since(before, 10),
            is(Some(200), Some(100))
        );
        assert_eq!(
            is(Some(900), None).each_since(before, 10),
            Resident::default()
        );
        assert_eq!(
            is(Some(3000), Some(6000)).each_since(before, 0),
            Resident::default()
        );
    }

    #[test]
    fn this_process_has_memory_and_a_process_that_is_not_has_none() {
        let now = Resident::now(Some(u32::MAX));
        assert!(now.client.is_some_and(|bytes| bytes > 0));
        assert_eq!(now.server, None);
    }
}
