//! Numbers for metrics, without knowing a metrics library: whoever exports them visits them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows; read and written from any thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }
}

/// A struct of counters; the doc of a field is its help text.
macro_rules! counters {
    ($(#[$meta:meta])* $of:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $of {
            $($(#[doc = $doc])+ pub $name: $crate::counter::Counter,)+
        }

        impl $of {
            /// Calls `each` with name, help and value of every counter, so that any metrics library can export
            /// them. Names are stable, in snake case, without prefix or suffix.
            pub fn visit(&self, each: &mut dyn FnMut(&'static str, &'static str, u64)) {
                $(each(stringify!($name), concat!($($doc),+).trim_start(), self.$name.get());)+
            }
        }
    };
}
pub(crate) use counters;
