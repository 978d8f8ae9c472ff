//! Which worker gets a datagram: the socket selector where this process may load programs, else the classic filter that needs no
//! privilege. Both go by the connection ID. The selector checks its tag too, so that nobody's invention picks a worker, and the
//! kernel's numbering of sockets is nothing to it.

use std::sync::Arc;

use parking_lot::Mutex;
use stoq::quic::{CidKeys, SocketGroup};
use stoq_ebpf::{
    abi::Steer,
    selector::{Selector, SelectorError},
};
use stoq_node::Registry;

/// The selectors that are attached: one an address. The kernel keeps each as long as its sockets; here they are kept to be asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors(Arc<Mutex<Vec<Selector>>>);

impl Selectors {
    /// None yet; what they will count is exported.
    pub(crate) fn new(registry: &Registry) -> Self {
        let selectors = Self::default();
        let counted = selectors.clone();
        registry.add_counters("stoq_quic_steered", move |each| counted.visit(each));
        selectors
    }

    /// Steers the sockets of an address by the selector, or says why the classic filter goes on. To be called while the process
    /// has what privileges it will ever have.
    pub(crate) fn steer(&self, sockets: &mut SocketGroup, cid_keys: &CidKeys) {
        let addr = sockets.local_addr();
        let keys = cid_keys.by_generation();
        match sockets.steer_by(|group| Selector::of_group(group, &keys)) {
            None => {}
            Some(Ok(selector)) => {
                tracing::info!(%addr, "datagrams are steered to their workers by the socket selector");
                self.0.lock().push(selector);
            }
            Some(Err(error)) => {
                let error: &SelectorError = &error;
                tracing::info!(%addr, %error, "datagrams are steered to their workers by the classic filter: the socket selector cannot be had");
            }
        }
    }

    fn visit(&self, each: &mut dyn FnMut(&'static str, &'static str, u64)) {
        let selectors = self.0.lock();
        let ways = [
            (
                Steer::ById,
                "by_id",
                "Datagrams given to the worker that their connection ID names.",
            ),
            (
                Steer::ByHash,
                "by_hash",
                "Datagrams of newcomers, given by their addresses.",
            ),
            (
                Steer::Orphan,
                "orphan",
                "Datagrams whose worker is gone, given by their addresses.",
            ),
            (
                Steer::Kernel,
                "by_kernel",
                "Datagrams for which the selector had no socket.",
            ),
        ];
        for (way, name, help) in ways {
            // A kernel that lets nobody without privileges ask says nothing, and nothing is said of it.
            let counted: Result<Vec<u64>, _> = selectors
                .iter()
                .map(|selector| selector.steered(way))
                .collect();
            if let Ok(counted) = counted {
                each(name, help, counted.iter().sum());
            }
        }
    }
}
