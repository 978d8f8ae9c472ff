//! The largest packet of a path is found where no ICMP message tells it, and found again when it changes.
//!
//! The sender's link carries 9000 bytes and passes a relay, so that the kernel cuts batches into packets before they reach the bridge;
//! the receiver's link carries less, and what does not fit vanishes at the bridge.

use std::time::Duration;

use stoq::quic::TransportConfig;

use crate::lab::Lab;
use crate::transfer::Transfer;

/// Headers of IPv4 and UDP.
const HEADERS: u32 = 28;

/// A bridge and a veth leave room for a VLAN tag, which a packet without one may fill.
const TAG: u32 = 4;

fn jumbo() -> TransportConfig {
    TransportConfig {
        mtu_max: 8_972,
        ..TransportConfig::default()
    }
}

/// Whether a size is that of a link, less 3 % at most.
fn fits(mtu: u16, link: u32) -> bool {
    let (found, most) = (f64::from(mtu), f64::from(link - HEADERS));
    found >= most * 0.97 && found <= most + f64::from(TAG)
}

#[test]
fn the_size_that_passes_is_found_within_three_per_cent_without_icmp() {
    for mtu in [1280, 1400, 1500, 9000] {
        let Some(lab) = Lab::up(
            "the_size_that_passes_is_found_within_three_per_cent_without_icmp",
            "mtu = 9000, delay = \"1ms\", rate = \"200Mbit\"",
            &format!("mtu = {mtu}"),
        ) else {
            return;
        };
        let transfer = Transfer::begin(&lab, jumbo(), jumbo());
        let found = transfer.until("the MTU is found", Duration::from_secs(20), |look| {
            fits(look.path.mtu, mtu)
        });
        let took = found.at - transfer.began;
        // The search goes on to its end, and finds nothing that does not pass.
        transfer.go_on(took + Duration::from_secs(2));
        let (sender, receiver) = transfer.end();
        let (last, path) = (sender.last().unwrap(), receiver.last().unwrap().path);
        println!(
            "link of {mtu}: {} after {took:?}, {} of {} probes lost, {} MB received",
            last.path.mtu,
            last.path.mtu_probes_lost,
            last.path.mtu_probes,
            path.received_bytes / 1_000_000
        );
        assert!(fits(last.path.mtu, mtu), "{last:?}");
        assert_eq!(last.path.mtu_shrunk, 0, "{last:?}");
        lab.end();
    }
}

#[test]
fn a_path_whose_size_drops_midway_goes_on_and_is_found_again() {
    let Some(lab) = Lab::up(
        "a_path_whose_size_drops_midway_goes_on_and_is_found_again",
        "mtu = 9000, delay = \"1ms\", rate = \"200Mbit\"",
        "mtu = 9000",
    ) else {
        return;
    };
    let transfer = Transfer::begin(&lab, jumbo(), jumbo());
    transfer.until("the MTU is found", Duration::from_secs(20), |look| {
        fits(look.path.mtu, 9000)
    });
    let dropped = std::time::Instant::now();
    lab.shrink(1400);
    let noticed = transfer.until("the drop is noticed", Duration::from_secs(20), |look| {
        look.path.mtu_shrunk > 0
    });
    let acked = noticed.path.acked_bytes;
    let again = transfer.until("bytes arrive again", Duration::from_secs(10), |look| {
        look.path.acked_bytes > acked + 1_000_000
    });
    let found = transfer.until("the MTU is found again", Duration::from_secs(30), |look| {
        fits(look.path.mtu, 1400)
    });
    println!(
        "noticed {:?} after the drop, a megabyte moved {:?} after it, {} bytes found {:?} after it",
        noticed.at - dropped,
        again.at - dropped,
        found.path.mtu,
        found.at - dropped
    );
    transfer.end();
    lab.end();
}

#[test]
fn a_veth_of_9000_carries_jumbo_batches_whole() {
    let Some(lab) = Lab::up(
        "a_veth_of_9000_carries_jumbo_batches_whole",
        "mtu = 9000",
        "mtu = 9000",
    ) else {
        return;
    };
    let transfer = Transfer::begin(&lab, jumbo(), jumbo());
    // A lost batch would show as a hang, or as packets lost.
    let moved = transfer.until("300 MB are moved", Duration::from_secs(60), |look| {
        look.path.acked_bytes > 300_000_000
    });
    println!(
        "{} MB in {:?} at {} bytes, {} of {} packets lost",
        moved.path.acked_bytes / 1_000_000,
        moved.at - transfer.began,
        moved.path.mtu,
        moved.path.lost_packets,
        moved.path.sent_packets
    );
    assert!(fits(moved.path.mtu, 9000), "{moved:?}");
    assert_eq!(moved.path.mtu_shrunk, 0);
    // The receiver's socket may overflow once on a busy machine; batches that vanish would be most of them.
    assert!(
        moved.path.lost_packets * 100 <= moved.path.sent_packets,
        "{moved:?}"
    );
    transfer.end();
    lab.end();
}
