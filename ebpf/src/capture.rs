//! Captures of packets, as `tcpdump` and Wireshark write them: the classic form and pcapng, either byte order.
//!
//! A reader of files that may come from anywhere: no length in them is believed beyond its bound, and what follows
//! something that cannot be understood is not guessed. Only what `xdp test-pcap` needs is read: frames, when they came,
//! and whether they are whole. Names, comments and statistics are passed over.

use std::io::{self, BufRead, Read};

/// Bytes of a packet at most, as the tools' own bound (`MAXIMUM_SNAPLEN`).
const PACKET_BYTES_MAX: u32 = 262_144;
/// Bytes of a block at most: a packet with its options.
const BLOCK_BYTES_MAX: u32 = 2 * PACKET_BYTES_MAX;
/// Interfaces of a section at most; each costs 16 bytes here.
const INTERFACES_MAX: usize = 1024;

const CLASSIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const CLASSIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const SECTION_BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const OPTION_TIME_RESOLUTION: u16 = 9;

const LINK_ETHERNET: u32 = 1;
const LINK_RAW: u32 = 101;
const LINK_IPV4: u32 = 228;
const LINK_IPV6: u32 = 229;

/// Why a capture cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no capture, or damaged.
    #[error("packet {after}: {what}")]
    Malformed {
        /// Packets that were read before.
        after: u64,
        /// What is wrong.
        what: String,
    },
}

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it came, in nanoseconds since 1970; 0 where the file does not say.
    pub at_ns: u64,
    /// The frame from its Ethernet header on; of captures that have none, behind one made up.
    pub frame: Vec<u8>,
    /// Bytes that the capture cut off.
    pub missing: u32,
}

/// Reads the packets of a capture in their order.
pub struct Capture<R> {
    from: R,
    big_endian: bool,
    form: Form,
    read: u64,
}

#[derive(Debug)]
enum Form {
    Classic { link: u32, nanoseconds: bool },
    Blocks { interfaces: Vec<Interface> },
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    cut_at: u32,
    /// Ticks a second.
    resolution: u64,
}

impl<R> std::fmt::Debug for Capture<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture")
            .field("form", &self.form)
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

impl<R: BufRead> Capture<R> {
    /// Reads the beginning of a capture.
    ///
    /// # Errors
    ///
    /// Where it is none, or one of packets that have no Ethernet or IP header at a known place.
    pub fn new(mut from: R) -> Result<Self, CaptureError> {
        let mut magic = [0; 4];
        from.read_exact(&mut magic)
            .map_err(|error| short(0, error))?;
        let little = u32::from_le_bytes(magic);
        let big = u32::from_be_bytes(magic);
        let mut capture = Self {
            from,
            big_endian: false,
            form: Form::Blocks {
                interfaces: Vec::new(),
            },
            read: 0,
        };
        if little == SECTION_HEADER {
            capture.section()?;
            return Ok(capture);
        }
        let (big_endian, magic) = match (little, big) {
            (magic @ (CLASSIC_MICROSECONDS | CLASSIC_NANOSECONDS), _) => (false, magic),
            (_, magic @ (CLASSIC_MICROSECONDS | CLASSIC_NANOSECONDS)) => (true, magic),
            _ => return Err(capture.wrong("not a capture: neither pcap nor pcapng")),
        };
        capture.big_endian = big_endian;
        // Version, zone, accuracy and length limit say nothing here; the link type's upper bits are about check sums.
        let [_, _, _, _, link] = capture.numbers::<5>()?;
        let link = link & 0xffff;
        capture.check_link(link)?;
        capture.form = Form::Classic {
            link,
            nanoseconds: magic == CLASSIC_NANOSECONDS,
        };
        Ok(capture)
    }

    /// The next packet; none at the end.
    ///
    /// # Errors
    ///
    /// Where the file is cut off or damaged. It is not to be read further then.
    pub fn next_packet(&mut self) -> Result<Option<Captured>, CaptureError> {
        let packet = match &self.form {
            Form::Classic { link, nanoseconds } => {
                let (link, nanoseconds) = (*link, *nanoseconds);
                self.classic(link, nanoseconds)?
            }
            Form::Blocks { .. } => self.block()?,
        };
        if packet.is_some() {
            self.read += 1;
        }
        Ok(packet)
    }

    fn classic(&mut self, link: u32, nanoseconds: bool) -> Result<Option<Captured>, CaptureError> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let [seconds, fraction, kept, whole] = self.numbers::<4>()?;
        let fraction = u64::from(fraction) * if nanoseconds { 1 } else { 1000 };
        let at_ns = u64::from(seconds) * 1_000_000_000 + fraction;
        let data = self.bytes(kept, PACKET_BYTES_MAX)?;
        Ok(Some(captured(at_ns, link, data, whole)))
    }

    /// Passes over blocks until one has a packet.
    fn block(&mut self) -> Result<Option<Captured>, CaptureError> {
        // Each turn reads at least 12 bytes of the file, so it ends with the file.
        while !self.from.fill_buf()?.is_empty() {
            let [kind] = self.numbers::<1>()?;
            if kind == SECTION_HEADER {
                self.section()?;
                continue;
            }
            let [length] = self.numbers::<1>()?;
            let body_length = length
                .checked_sub(12)
                .filter(|_| length.is_multiple_of(4))
                .ok_or_else(|| self.wrong("a block of a length that none has"))?;
            let body = self.bytes(body_length, BLOCK_BYTES_MAX)?;
            let [again] = self.numbers::<1>()?;
            if again != length {
                return Err(self.wrong("a block that ends with another length than it began with"));
            }
            match kind {
                INTERFACE_DESCRIPTION => self.interface(&body)?,
                ENHANCED_PACKET => return self.enhanced(&body).map(Some),
                SIMPLE_PACKET => return self.simple(&body).map(Some),
                _ => {}
            }
        }
        Ok(None)
    }

    /// A section's header, after its type: the byte order, and a new list of interfaces.
    fn section(&mut self) -> Result<(), CaptureError> {
        let mut start = [0; 8];
        self.from
            .read_exact(&mut start)
            .map_err(|error| short(self.read, error))?;
        let [length @ .., o0, o1, o2, o3] = start;
        let order = [o0, o1, o2, o3];
        self.big_endian = match (u32::from_le_bytes(order), u32::from_be_bytes(order)) {
            (SECTION_BYTE_ORDER, _) => false,
            (_, SECTION_BYTE_ORDER) => true,
            _ => return Err(self.wrong("a section in no byte order there is")),
        };
        let length = self.number(length);
        let rest = length
            .checked_sub(12)
            .filter(|_| length.is_multiple_of(4))
            .ok_or_else(|| self.wrong("a section's header of a length that none has"))?;
        let _ = self.bytes(rest, BLOCK_BYTES_MAX)?;
        self.form = Form::Blocks {
            interfaces: Vec::new(),
        };
        Ok(())
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), CaptureError> {
        let (Some(&[l0, l1]), Some(&cut_at)) = (
            body.first_chunk(),
            body.get(4..).and_then(|rest| rest.first_chunk()),
        ) else {
            return Err(self.wrong("an interface without its link type"));
        };
        let link = u32::from(self.half([l0, l1]));
        let interface = Interface {
            link,
            cut_at: self.number(cut_at),
            resolution: self.resolution(body.get(8..).unwrap_or_default())?,
        };
        let full = match &mut self.form {
            Form::Blocks { interfaces } if interfaces.len() < INTERFACES_MAX => {
                interfaces.push(interface);
                false
            }
            _ => true,
        };
        if full {
            return Err(self.wrong("more interfaces than are followed"));
        }
        Ok(())
    }

    /// Ticks a second, from the options of an interface: millions unless one says otherwise.
    fn resolution(&self, mut options: &[u8]) -> Result<u64, CaptureError> {
        while let Some(&[k0, k1, l0, l1]) = options.first_chunk() {
            let kind = self.half([k0, k1]);
            let length = usize::from(self.half([l0, l1]));
            let Some(value) = options.get(4..4 + length) else {
                break;
            };
            if kind == OPTION_TIME_RESOLUTION
                && let Some(exponent) = value.first()
            {
                // The top bit says that it is of two and not of ten.
                let base: u64 = if exponent & 0x80 == 0 { 10 } else { 2 };
                return base
                    .checked_pow(u32::from(exponent & 0x7f))
                    .ok_or_else(|| self.wrong("a clock finer than any"));
            }
            let next = (4 + length).next_multiple_of(4).min(options.len());
            options = options.get(next..).unwrap_or_default();
        }
        Ok(1_000_000)
    }

    fn enhanced(&self, body: &[u8]) -> Result<Captured, CaptureError> {
        let field = |at: usize| {
            body.get(at..)
                .and_then(|rest| rest.first_chunk())
                .map(|bytes| self.number(*bytes))
                .ok_or_else(|| self.wrong("a packet without its header"))
        };
        let interface = self.known(field(0)?)?;
        let ticks = u64::from(field(4)?) << 32 | u64::from(field(8)?);
        let data = body
            .get(20..)
            .and_then(|data| data.get(..usize::try_from(field(12).ok()?).ok()?))
            .ok_or_else(|| self.wrong("a packet longer than its block"))?;
        let at_ns = u128::from(ticks) * 1_000_000_000 / u128::from(interface.resolution);
        let at_ns = u64::try_from(at_ns).map_err(|_| self.wrong("a time past all years"))?;
        self.check_link(interface.link)?;
        Ok(captured(at_ns, interface.link, data.to_vec(), field(16)?))
    }

    fn simple(&self, body: &[u8]) -> Result<Captured, CaptureError> {
        let interface = self.known(0)?;
        let (Some(whole), Some(data)) = (body.first_chunk(), body.get(4..)) else {
            return Err(self.wrong("a packet without its length"));
        };
        let whole = self.number(*whole);
        let kept = match interface.cut_at {
            0 => whole,
            cut_at => whole.min(cut_at),
        };
        let data = usize::try_from(kept)
            .ok()
            .and_then(|kept| data.get(..kept))
            .ok_or_else(|| self.wrong("a packet longer than its block"))?;
        self.check_link(interface.link)?;
        Ok(captured(0, interface.link, data.to_vec(), whole))
    }

    fn known(&self, index: u32) -> Result<Interface, CaptureError> {
        let found = match &self.form {
            Form::Blocks { interfaces } => interfaces.get(index as usize).copied(),
            Form::Classic { .. } => None,
        };
        found.ok_or_else(|| self.wrong("a packet of an interface that is not described"))
    }

    fn check_link(&self, link: u32) -> Result<(), CaptureError> {
        match link {
            LINK_ETHERNET | LINK_RAW | LINK_IPV4 | LINK_IPV6 => Ok(()),
            other => Err(self.wrong(format!(
                "packets of link type {other}: only Ethernet (1) and bare IP (101, 228, 229) can be judged; \
                 capture on one interface instead of `any`"
            ))),
        }
    }

    /// Reads `length` bytes, growing with what is there: a length that lies costs no memory.
    fn bytes(&mut self, length: u32, max: u32) -> Result<Vec<u8>, CaptureError> {
        if length > max {
            return Err(self.wrong(format!("{length} bytes, at most {max} are read")));
        }
        let mut bytes = Vec::new();
        (&mut self.from)
            .take(u64::from(length))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(self.wrong("the file ends in the middle"));
        }
        Ok(bytes)
    }

    fn numbers<const N: usize>(&mut self) -> Result<[u32; N], CaptureError> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut bytes = [0; 4];
            self.from
                .read_exact(&mut bytes)
                .map_err(|error| short(self.read, error))?;
            *number = self.number(bytes);
        }
        Ok(numbers)
    }

    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn half(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    }

    fn wrong(&self, what: impl Into<String>) -> CaptureError {
        CaptureError::Malformed {
            after: self.read,
            what: what.into(),
        }
    }
}

fn short(after: u64, error: io::Error) -> CaptureError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CaptureError::Malformed {
            after,
            what: "the file ends in the middle".to_owned(),
        },
        _ => CaptureError::Io(error),
    }
}

fn captured(at_ns: u64, link: u32, data: Vec<u8>, whole: u32) -> Captured {
    let kept = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let missing = whole.saturating_sub(kept);
    let frame = if link == LINK_ETHERNET {
        data
    } else {
        // What a NIC would have put in front: no addresses, and the type that the version in the first byte says.
        let kind = match data.first().map(|first| first >> 4) {
            Some(6) => [0x86, 0xdd],
            _ => [0x08, 0x00],
        };
        let mut frame = vec![0; 12];
        frame.extend(kind);
        frame.extend(data);
        frame
    };
    Captured {
        at_ns,
        frame,
        missing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn classic(big_endian: bool, nanoseconds: bool, link: u32) -> Vec<u8> {
        let magic = if nanoseconds {
            CLASSIC_NANOSECONDS
        } else {
            CLASSIC_MICROSECONDS
        };
        let number = |number: u32| {
            if big_endian {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            }
        };
        let mut file = Vec::new();
        for field in [magic, 0x0002_0004, 0, 0, 65_535, link] {
            file.extend(number(field));
        }
        for field in [10, 5, 3, 7] {
            file.extend(number(field));
        }
        file.extend([0x45, 2, 3]);
        file
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
        let mut block = kind.to_le_bytes().to_vec();
        block.extend(length);
        block.extend(body);
        block.extend(length);
        block
    }

    fn blocks() -> Vec<u8> {
        let mut file = block(
            SECTION_HEADER,
            &[
                0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
            ],
        );
        // Ethernet, cut at 0 (never), nanoseconds.
        file.extend(block(
            INTERFACE_DESCRIPTION,
            &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
        ));
        file.extend(block(0xbad, b"names and such"));
        let mut packet = Vec::new();
        for field in [0_u32, 1, 2, 5, 6] {
            packet.extend(field.to_le_bytes());
        }
        packet.extend(b"frame");
        file.extend(block(ENHANCED_PACKET, &packet));
        file.extend(block(SIMPLE_PACKET, b"\x03\0\0\0abc"));
        file
    }

    fn all(file: &[u8]) -> Result<Vec<Captured>, CaptureError> {
        let mut capture = Capture::new(file)?;
        let mut packets = Vec::new();
        while let Some(packet) = capture.next_packet()? {
            packets.push(packet);
        }
        Ok(packets)
    }

    #[test]
    fn classic_captures_are_read_in_either_order_and_resolution() {
        for big_endian in [false, true] {
            for nanoseconds in [false, true] {
                let packets = all(&classic(big_endian, nanoseconds, 1)).unwrap();
                assert_eq!(
                    packets,
                    [Captured {
                        at_ns: 10_000_000_000 + if nanoseconds { 5 } else { 5000 },
                        frame: vec![0x45, 2, 3],
                        missing: 4,
                    }]
                );
            }
        }
    }

    #[test]
    fn bare_packets_get_the_header_they_lack() {
        let packets = all(&classic(false, false, LINK_RAW)).unwrap();
        assert_eq!(packets[0].frame.len(), 14 + 3);
        assert_eq!(packets[0].frame[12..], [0x08, 0x00, 0x45, 2, 3]);
    }

    #[test]
    fn the_blocks_of_pcapng_are_read_and_unknown_ones_passed_over() {
        assert_eq!(
            all(&blocks()).unwrap(),
            [
                Captured {
                    at_ns: (1 << 32) + 2,
                    frame: b"frame".to_vec(),
                    missing: 1,
                },
                Captured {
                    at_ns: 0,
                    frame: b"abc".to_vec(),
                    missing: 0,
                },
            ]
        );
    }

    #[test]
    fn what_cannot_be_judged_is_refused_and_not_guessed() {
        for (file, word) in [
            (b"GIF8".to_vec(), "neither pcap nor pcapng"),
            (Vec::new(), "ends in the middle"),
            (classic(false, false, 113), "link type 113"),
            (
                classic(false, false, 1)[..30].to_vec(),
                "ends in the middle",
            ),
            (blocks()[..70].to_vec(), "ends in the middle"),
        ] {
            let error = all(&file).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        let mut file = classic(false, false, 1);
        file[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = all(&file).unwrap_err().to_string();
        assert!(error.contains("at most 262144"), "{error}");
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic_or_run_on(
            which in 0_usize..2,
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut file = [classic(false, false, 1), blocks()][which].clone();
            for (at, byte) in changes {
                let at = at.index(file.len());
                file[at] = byte;
            }
            if let Ok(packets) = all(&file) {
                prop_assert!(packets.len() <= file.len());
            }
        }
    }
}
