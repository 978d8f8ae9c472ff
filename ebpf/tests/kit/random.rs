//! Packets as they come, as they should not come, and again; and what changes around them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use stoq_ebpf::{
    abi::{self, Budget, Control, GLOBALS},
    bench::FRAME_BYTES_MIN,
};

use super::{
    Judge,
    frame::{
        AUTHENTICATION, DESTINATION, HOP_BY_HOP, Packet, ROUTING, TCP, UDP, VERSION_1, VERSION_2,
        keyed_id, long, short, tcp, udp_with,
    },
    scene::{self, KEYS, Kind, OTHER, PEERS, PUBLIC, RULES, SSH},
};

/// Frames that may come again.
const REMEMBERED: usize = 256;

/// With this it is sources and prefixes that are over budget, for the budget of all is asked first.
const ROOM_FOR_ALL: [Budget; GLOBALS as usize] = [Budget::NONE; GLOBALS as usize];

pub(crate) struct Traffic {
    rng: StdRng,
    now_ns: u64,
    heartbeat_ns: u64,
    slot: u32,
    shed: u32,
    /// Of a hundred frames so many are damaged.
    damaged: u32,
    remembered: Vec<Vec<u8>>,
    frame: Vec<u8>,
}

impl Traffic {
    pub(crate) fn new(seed: u64, damaged: u32) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            now_ns: 1_000_000_000_000,
            heartbeat_ns: 1_000_000_000_000,
            slot: 0,
            shed: 0,
            damaged,
            remembered: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Ports, rules and settings to begin with.
    pub(crate) fn furnish(&self, judges: &mut [&mut dyn Judge]) {
        let mut strict = Kind::Strict.settings();
        strict.global = ROOM_FOR_ALL;
        for judge in judges {
            scene::furnish(*judge);
            judge.set_settings(0, &Kind::Usual.settings());
            judge.set_settings(1, &strict);
            judge.set_control(self.control());
        }
    }

    fn control(&self) -> Control {
        Control {
            heartbeat_ns: self.heartbeat_ns,
            slot: self.slot,
            shed: self.shed,
        }
    }

    /// Lets time pass, and now and then changes what all judges know.
    pub(crate) fn pass(&mut self, judges: &mut [&mut dyn Judge]) {
        self.now_ns += match self.rng.random_range(0..10_000) {
            0 => self.rng.random_range(0..5_000_000_000),
            1..10 => self.rng.random_range(0..400_000_000),
            10..3000 => self.rng.random_range(0..600_000),
            _ => 0,
        };
        match self.rng.random_range(0..400) {
            0..20 => {
                let is_hung = self.rng.random_range(0..12) == 0;
                self.heartbeat_ns = self.now_ns - u64::from(is_hung) * 5_000_000_000;
                self.shed = *[0, 0, 1 << 15, 1 << 16].choose(&mut self.rng).unwrap();
                self.slot = self.rng.random_range(0..3);
                let control = self.control();
                judges
                    .iter_mut()
                    .for_each(|judge| judge.set_control(control));
            }
            20..22 => {
                let source = abi::source(self.source());
                let until_ns = self.now_ns + self.rng.random_range(0..2_000_000_000);
                judges
                    .iter_mut()
                    .for_each(|judge| judge.validate(source, until_ns));
            }
            22 if self.rng.random_range(0..20) == 0 => {
                let kind = match self.rng.random_range(0..12) {
                    0 => Kind::Foreign,
                    1..3 => Kind::DryRun,
                    3..6 => Kind::Strict,
                    _ => Kind::Usual,
                };
                let mut settings = kind.settings();
                settings.hash_key[1] = self.rng.random();
                if self.rng.random() {
                    settings.global = ROOM_FOR_ALL;
                }
                let slot = self.rng.random_range(0..2);
                judges
                    .iter_mut()
                    .for_each(|judge| judge.set_settings(slot, &settings));
            }
            _ => {}
        }
    }

    /// The next frame, and when.
    pub(crate) fn next(&mut self) -> (&[u8], u64) {
        if self.remembered.len() == REMEMBERED && self.rng.random_range(0..3) == 0 {
            // Mostly the one before, as of one that sends too much.
            if self.rng.random_range(0..3) == 0 {
                let again = self.remembered.choose(&mut self.rng).unwrap();
                self.frame.clone_from(again);
            }
        } else {
            self.frame = self.packet().bytes();
            if self.rng.random_range(0..100) < self.damaged {
                self.damage();
            }
            if self.remembered.len() < REMEMBERED {
                self.remembered.push(self.frame.clone());
            } else {
                let place = self.rng.random_range(0..REMEMBERED);
                self.remembered[place].clone_from(&self.frame);
            }
        }
        (&self.frame, self.now_ns)
    }

    fn damage(&mut self) {
        for _ in 0..self.rng.random_range(0..4) {
            let place = self.rng.random_range(0..self.frame.len().min(110));
            self.frame[place] = match self.rng.random_range(0..3) {
                0 => self.frame[place] ^ 1 << self.rng.random_range(0..8),
                1 => *[0, 1, 0x7f, 0x80, 0xff].choose(&mut self.rng).unwrap(),
                _ => self.rng.random(),
            };
        }
        if self.rng.random_range(0..3) == 0 {
            let most = if self.rng.random() {
                self.frame.len()
            } else {
                self.frame.len().min(120)
            };
            self.frame
                .truncate(self.rng.random_range(FRAME_BYTES_MIN..=most));
        }
        if self.rng.random_range(0..8) == 0 {
            let more = self.rng.random_range(0..64);
            self.frame.resize(self.frame.len() + more, 0x33);
        }
    }

    fn source(&mut self) -> IpAddr {
        match self.rng.random_range(0..10) {
            0 => IpAddr::V4(Ipv4Addr::from(self.rng.random::<u32>())),
            1 => IpAddr::V6(Ipv6Addr::from(self.rng.random::<u128>())),
            2 => {
                let (prefix, ..) = RULES.choose(&mut self.rng).unwrap();
                match prefix.parse().unwrap() {
                    IpAddr::V4(prefix) => IpAddr::V4(Ipv4Addr::from(
                        u32::from(prefix) | self.rng.random_range(0..4),
                    )),
                    IpAddr::V6(prefix) => {
                        let host: u128 = self.rng.random_range(0..4);
                        IpAddr::V6(Ipv6Addr::from(u128::from(prefix) | host << 63))
                    }
                }
            }
            3..7 => IpAddr::V4(Ipv4Addr::new(
                192,
                0,
                self.rng.random_range(0..4),
                self.rng.random_range(0..8),
            )),
            _ => IpAddr::V6(Ipv6Addr::new(
                0x2001,
                0xdb8,
                self.rng.random_range(0..4),
                self.rng.random_range(0..4),
                0,
                0,
                0,
                self.rng.random(),
            )),
        }
    }

    fn id(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..10) {
            0..5 => {
                let generation = self.rng.random_range(0..3);
                keyed_id(
                    KEYS[usize::from(generation)],
                    generation,
                    self.rng.random_range(0..64),
                    self.rng.random(),
                )
            }
            5..9 => {
                let byte = self.rng.random_range(0..8u8);
                vec![byte; *[8, 8, 8, 12, 16, 18, 20].choose(&mut self.rng).unwrap()]
            }
            _ => {
                let mut id = vec![0; self.rng.random_range(0..24)];
                self.rng.fill(&mut id[..]);
                id
            }
        }
    }

    fn datagram(&mut self) -> Vec<u8> {
        let id = self.id();
        match self.rng.random_range(0..10) {
            0..3 => {
                let bytes = if self.rng.random_range(0..8) == 0 {
                    self.rng.random_range(0..34)
                } else {
                    self.rng.random_range(33..100)
                };
                short(&id, bytes)
            }
            3..9 => {
                let version = match self.rng.random_range(0..12) {
                    0 => 0,
                    1 => 0x1a2a_3a4a,
                    2 => self.rng.random(),
                    3..5 => VERSION_2,
                    _ => VERSION_1,
                };
                let kind = *[0, 0, 0, 0, 1, 2, 3].choose(&mut self.rng).unwrap();
                let source_id = vec![7; self.rng.random_range(0..22)];
                let token = vec![9; *[0, 0, 0, 1, 63, 64, 300].choose(&mut self.rng).unwrap()];
                let token = (kind == 0).then_some(&token[..]);
                let bytes = match self.rng.random_range(0..10) {
                    0 => self.rng.random_range(0..80),
                    1 => self.rng.random_range(80..1200),
                    _ => self.rng.random_range(1200..1260),
                };
                long(version, kind, &id, &source_id, token, bytes)
            }
            _ => {
                let mut bytes = vec![0; self.rng.random_range(0..80)];
                self.rng.fill(&mut bytes[..]);
                bytes
            }
        }
    }

    fn packet(&mut self) -> Packet {
        let ports = [
            PUBLIC, PUBLIC, PUBLIC, PUBLIC, PEERS, OTHER, OTHER, OTHER, SSH,
        ];
        let port = *ports.choose(&mut self.rng).unwrap();
        let source = self.source();
        let mut packet = if self.rng.random_range(0..8) == 0 {
            let flags = *[2, 2, 2, 0x12, 0x10, 0xc2, 0]
                .choose(&mut self.rng)
                .unwrap();
            Packet::new(source, TCP, tcp(port, flags))
        } else {
            let datagram = self.datagram();
            let length = if self.rng.random_range(0..40) == 0 {
                Some(self.rng.random_range(0..80))
            } else {
                None
            };
            Packet::new(source, UDP, udp_with(port, &datagram, length))
        };
        if self.rng.random_range(0..8) == 0 {
            for _ in 0..self.rng.random_range(1..4) {
                let kind = *[0x8100, 0x88a8].choose(&mut self.rng).unwrap();
                packet = packet.vlan(kind);
            }
        }
        if source.is_ipv4() {
            if self.rng.random_range(0..8) == 0 {
                packet = packet.options(self.rng.random_range(0..11));
            }
        } else if self.rng.random_range(0..6) == 0 {
            for _ in 0..self.rng.random_range(1..11) {
                packet = match self.rng.random_range(0..12) {
                    0 => packet.fragment(0, false),
                    1 => packet.extension(AUTHENTICATION, &[0; 22]),
                    2 => packet.extension(ROUTING, &[0; 22]),
                    3 => packet.extension(HOP_BY_HOP, &[0; 6]),
                    _ => packet.extension(DESTINATION, &[0; 6]),
                };
            }
        }
        if self.rng.random_range(0..40) == 0 {
            let offset = *[0, 0, 0, 185].choose(&mut self.rng).unwrap();
            packet = packet.fragment(offset, self.rng.random());
        }
        if self.rng.random_range(0..40) == 0 {
            packet = packet.ip_length(self.rng.random_range(0..120));
        }
        if self.rng.random_range(0..10) == 0 {
            packet = packet.padding(self.rng.random_range(0..30));
        }
        packet
    }
}
