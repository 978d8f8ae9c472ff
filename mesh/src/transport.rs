//! How nodes of a cluster talk to each other: one setting for both sides, and what a configuration makes of it.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use stoq::path::WindowBounds;
use stoq::quic::TransportConfig;
use stoq::shape::{ClassLimits, Limits, Rate};
use stoq_node::config::{Shape, ShapeClass, Stoq};

/// Exchanges on one connection, which is one worker's to one node. 1,024 × about 60 B of stream limits = 60 KiB a connection; a miss
/// beyond that waits for a stream. As many as an origin is sent at once by default, so that what nobody may share does not queue
/// between nodes.
pub const EXCHANGES_MAX: u32 = 1024;

/// The transport between nodes, before a configuration says anything.
///
/// Windows: 2 MiB a stream and 16 MiB a connection carry 1.3 Gbit/s over 100 ms; a connection holds at most 16 MiB unread and 16 MiB unsent. Idle
/// connections are kept alive, since a handshake would stand before the next miss.
#[must_use]
pub fn between_nodes() -> TransportConfig {
    TransportConfig {
        max_bidi_streams: EXCHANGES_MAX + 1,
        stream_window: 2 << 20,
        connection_window: 16 << 20,
        send_window: 16 << 20,
        keep_alive: Some(Duration::from_secs(10)),
        ..TransportConfig::default()
    }
}

/// The transport between nodes as `[stoq]` has it.
#[must_use]
pub fn between_nodes_of(stoq: &Stoq) -> TransportConfig {
    let window = u32::try_from(stoq.window_max).unwrap_or(u32::MAX);
    TransportConfig {
        mtu_max: stoq.mtu_max,
        adapt: stoq.adapt.then_some(WindowBounds {
            connection: window,
            stream: window / 4,
            send: window,
        }),
        ..between_nodes()
    }
}

/// What `[shape]` holds a node to.
#[must_use]
pub fn limits_of(shape: &Shape) -> Limits {
    // Neither is ever 0: the configuration takes none.
    let rate = |bytes: Option<u64>| bytes.and_then(NonZeroU64::new).map(Rate::new);
    let class = |class: &ShapeClass| ClassLimits {
        weight: NonZeroU16::new(class.weight).unwrap_or(NonZeroU16::MIN),
        cap: rate(class.cap),
    };
    Limits {
        node: rate(shape.rate),
        serve: class(&shape.serve),
        fill: class(&shape.fill),
        replicate: class(&shape.replicate),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use stoq::shape::{Class, Shaper};
    use stoq_node::config::{Config, Env, Role};

    use super::*;

    fn config(tables: &str) -> Config {
        let text = format!(
            "[listen]\nhttp = [\"127.0.0.1:0\"]\n{tables}\n[[site]]\nhosts = [\"*\"]\norigins = [\"http://127.0.0.1:1\"]\n"
        );
        Config::parse("edge.toml", &text, Path::new("."), &Env::none(), Role::Edge)
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn bounds(mib: u32) -> WindowBounds {
        WindowBounds {
            connection: mib << 20,
            stream: mib << 18,
            send: mib << 20,
        }
    }

    #[test]
    fn without_a_word_links_adapt_within_32_mib_and_packets_are_those_of_the_internet() {
        let transport = between_nodes_of(&config("").stoq);
        let expected = TransportConfig {
            adapt: Some(bounds(32)),
            ..between_nodes()
        };
        assert_eq!(transport, expected);
        assert_eq!(limits_of(&config("").shape), Limits::default());
    }

    #[test]
    fn what_is_said_of_links_is_what_they_have() {
        let tables = "[stoq]\nadapt = false\nmtu_max = \"8952B\"";
        let transport = between_nodes_of(&config(tables).stoq);
        assert_eq!((transport.adapt, transport.mtu_max), (None, 8952));
        let window = config("[stoq]\nwindow_max = \"48MiB\"").stoq;
        assert_eq!(between_nodes_of(&window).adapt, Some(bounds(48)));
    }

    /// Megabytes that each class was granted in ten seconds in which all always wanted more.
    async fn shares(tables: &str) -> [u64; 3] {
        let shaper = Shaper::new(&limits_of(&config(tables).shape));
        let writers = Class::ALL.map(|class| {
            let shaper = shaper.clone();
            tokio::spawn(async move {
                let mut granted = 0;
                let until = tokio::time::Instant::now() + Duration::from_secs(10);
                while tokio::time::Instant::now() < until {
                    granted += shaper.take(class, 1 << 20).await as u64;
                }
                granted
            })
        });
        let mut shares = Vec::new();
        for writer in writers {
            shares.push(writer.await.unwrap() / 1_000_000);
        }
        shares.try_into().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn rate_weights_and_caps_of_the_file_hold_between_the_classes() {
        for (tables, expected) in [
            // 16, 4 and 1 of 21.
            ("[shape]\nrate = \"21MB\"", [160, 40, 10]),
            (
                "[shape]\nrate = \"21MB\"\nserve = { weight = 1 }\nfill = { weight = 5 }",
                [30, 150, 30],
            ),
            // What a cap leaves is shared by the others, 16 to 1.
            (
                "[shape]\nrate = \"21MB\"\nfill = { cap = \"4MB\" }",
                [160, 40, 10],
            ),
            (
                "[shape]\nrate = \"19MB\"\nfill = { cap = \"2MB\" }\nreplicate = { weight = 16 }",
                [85, 20, 85],
            ),
            (
                "[shape]\nserve = { cap = \"3MB\" }\nfill = { cap = \"2MB\" }\nreplicate = { cap = \"1MB\" }",
                [30, 20, 10],
            ),
        ] {
            let shares = shares(tables).await;
            for (share, expected) in shares.into_iter().zip(expected) {
                let range = expected * 95 / 100 - 1..=expected * 105 / 100 + 1;
                assert!(range.contains(&share), "{tables}: {shares:?}");
            }
        }
    }
}
