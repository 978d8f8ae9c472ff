//! The superblock: what a volume is, in two copies of a block at [`SUPERBLOCK_OFFSETS`].
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic, `STOQ-VOL` |
//! | 4 | format version, 1 |
//! | 4 | zeroes |
//! | 32 | the build that wrote it: its version as text, zeroes after it |
//! | 16 | the volume's random id |
//! | 16 | id of the key under which chunks are named |
//! | 4 | bytes of a segment |
//! | 4 | segments at most |
//! | 8 | epoch |
//! | | zeroes |
//! | 8 | xxh3 of all before |
//!
//! Formatting writes both copies, each made durable before the next. After that each opening writes one of them, that of its
//! [`offset`](Superblock::offset), so that one is whole at any time. Magic, version, build and checksum keep their places in every format, so that a newer one is named.

use xxhash_rust::xxh3::xxh3_64;

use super::{FORMAT_VERSION, Fields, Geometry, Row, VolumeId};
use crate::store::disk::device::BLOCK_BYTES;

/// Where the two copies lie on the device.
pub const SUPERBLOCK_OFFSETS: [u64; 2] = [0, BLOCK_BYTES as u64];
/// The length of the region that holds them, which is what [`Superblock::read`] wants.
pub const SUPERBLOCKS_BYTES: usize = 2 * BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"STOQ-VOL";
const BUILD_BYTES: usize = 32;

/// What a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The volume's random id.
    pub volume: VolumeId,
    /// The id of the key under which its chunks are named. Under another one nothing in it can be found, nor passes a check.
    pub key_id: [u8; 16],
    /// How it is divided.
    pub geometry: Geometry,
    /// Openings so far.
    pub epoch: u64,
}

/// Why a device holds no volume that this build can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Nothing was ever written here, or formatting did not get to its second copy: nothing can be lost by formatting.
    #[error("not formatted")]
    Absent,
    /// Something else lies here.
    #[error("holds something else than a volume of the cache")]
    Foreign,
    /// A newer build wrote it.
    #[error(
        "written in format {version} by version {build}, this is version {} and reads format {FORMAT_VERSION}: \
         run that version or a newer one, or empty the directory",
        env!("CARGO_PKG_VERSION")
    )]
    Newer {
        /// The format it is in.
        version: u32,
        /// The version of the build that wrote it, as it calls itself.
        build: String,
    },
    /// Both copies are damaged.
    #[error("both superblocks are damaged: empty the directory")]
    Damaged,
    /// The two copies are of different volumes, which nothing writes.
    #[error("superblocks of two volumes, {0} and {1}: empty the directory")]
    Two(VolumeId, VolumeId),
}

impl Superblock {
    /// Where the copy of this epoch goes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        let [even, odd] = SUPERBLOCK_OFFSETS;
        if self.epoch.is_multiple_of(2) {
            even
        } else {
            odd
        }
    }

    /// One copy as bytes, a block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut build = [0; BUILD_BYTES];
        // A version is shorter; one that is not is cut.
        for (to, from) in build.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
            *to = from;
        }
        let mut out = [0; BLOCK_BYTES];
        let (said, sum) = out.split_at_mut(BLOCK_BYTES - 8);
        let mut row = Row(said);
        row.put(&MAGIC);
        row.put(&FORMAT_VERSION.to_le_bytes());
        row.put(&[0; 4]);
        row.put(&build);
        row.put(self.volume.as_bytes());
        row.put(&self.key_id);
        row.put(&self.geometry.segment_bytes().to_le_bytes());
        row.put(&self.geometry.segments().to_le_bytes());
        row.put(&self.epoch.to_le_bytes());
        sum.copy_from_slice(&xxh3_64(said).to_le_bytes());
        out
    }

    /// What the device's first [`SUPERBLOCKS_BYTES`] say: the copy of the later epoch of those that are whole. Fewer bytes count as zeroes.
    ///
    /// # Errors
    /// [`SuperblockError`]; [`Absent`](SuperblockError::Absent) alone invites to format.
    pub fn read(region: &[u8]) -> Result<Self, SuperblockError> {
        let (first, rest) = region
            .split_at_checked(BLOCK_BYTES)
            .unwrap_or((region, &[]));
        let second = rest.get(..BLOCK_BYTES).unwrap_or(rest);
        match (Self::decode(first), Self::decode(second)) {
            // An older copy beside a newer format's says nothing any more.
            (Err(newer @ SuperblockError::Newer { .. }), _)
            | (_, Err(newer @ SuperblockError::Newer { .. })) => Err(newer),
            (Ok(a), Ok(b)) if a.volume != b.volume => Err(SuperblockError::Two(a.volume, b.volume)),
            (Ok(a), Ok(b)) => Ok(if b.epoch > a.epoch { b } else { a }),
            (Ok(whole), Err(_)) | (Err(_), Ok(whole)) => Ok(whole),
            (Err(SuperblockError::Foreign), _) | (_, Err(SuperblockError::Foreign)) => {
                Err(SuperblockError::Foreign)
            }
            (Err(SuperblockError::Absent), Err(_)) | (Err(_), Err(SuperblockError::Absent)) => {
                Err(SuperblockError::Absent)
            }
            (Err(_), Err(_)) => Err(SuperblockError::Damaged),
        }
    }

    fn decode(block: &[u8]) -> Result<Self, SuperblockError> {
        if block.iter().all(|byte| *byte == 0) {
            return Err(SuperblockError::Absent);
        }
        let mut fields = Fields(block);
        let magic: [u8; 8] = fields.array().ok_or(SuperblockError::Foreign)?;
        if magic == [0; 8] {
            // The later sectors of a copy without its first.
            return Err(SuperblockError::Damaged);
        }
        if magic != MAGIC {
            return Err(SuperblockError::Foreign);
        }
        Self::checked(block, fields)?.ok_or(SuperblockError::Damaged)
    }

    /// The fields after the magic. None if the copy is damaged.
    fn checked(block: &[u8], mut fields: Fields<'_>) -> Result<Option<Self>, SuperblockError> {
        let whole = block
            .split_last_chunk()
            .is_some_and(|(said, sum)| xxh3_64(said) == u64::from_le_bytes(*sum));
        let (Some(version), Some([0, 0, 0, 0]), Some(build), true) = (
            fields.u32(),
            fields.array(),
            fields.array::<BUILD_BYTES>(),
            whole,
        ) else {
            return Ok(None);
        };
        if version > FORMAT_VERSION {
            return Err(SuperblockError::Newer {
                version,
                build: readable(&build),
            });
        }
        Ok((version == FORMAT_VERSION)
            .then(|| Self::fields(fields))
            .flatten())
    }

    fn fields(mut fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            volume: VolumeId::from_bytes(fields.array()?),
            key_id: fields.array()?,
            geometry: Geometry::new(fields.u32()?, fields.u32()?)?,
            epoch: fields.u64()?,
        })
    }
}

/// The name of a build for a line of text: what is printable of it.
fn readable(build: &[u8; BUILD_BYTES]) -> String {
    build
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| char::from(*byte))
        .map(|char| if char.is_ascii_graphic() { char } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock(epoch: u64) -> Superblock {
        Superblock {
            volume: VolumeId::from_bytes([1; 16]),
            key_id: [2; 16],
            geometry: Geometry::for_size(1 << 30).unwrap(),
            epoch,
        }
    }

    fn region(first: &[u8; BLOCK_BYTES], second: &[u8; BLOCK_BYTES]) -> Vec<u8> {
        [*first, *second].concat()
    }

    const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

    fn flip(block: &mut [u8], bit: usize) {
        block[bit / 8] ^= 1 << (bit % 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn decoding_inverts_encoding(
            volume: [u8; 16], key_id: [u8; 16], size in 9_u32..1_000_000, epoch: u64
        ) {
            let superblock = Superblock {
                volume: VolumeId::from_bytes(volume),
                key_id,
                geometry: Geometry::for_size(u64::from(size) << 20).unwrap(),
                epoch,
            };
            let copy = superblock.encode();
            prop_assert_eq!(Superblock::read(&region(&copy, &copy)), Ok(superblock));
        }

        #[test]
        fn any_flipped_bit_gives_way_to_the_other_copy(bit in 0..BLOCK_BYTES * 8, odd: bool) {
            let (old, mut new) = (superblock(4), superblock(5).encode());
            flip(&mut new, bit);
            let region = if odd { region(&old.encode(), &new) } else { region(&new, &old.encode()) };
            prop_assert_eq!(Superblock::read(&region), Ok(old));
        }

        #[test]
        fn a_torn_copy_gives_way_to_the_other(sectors in 0..8_usize, newer_first: bool) {
            let (old, new) = (superblock(4), superblock(6).encode());
            let mut torn = superblock(3).encode();
            let kept = sectors * 512;
            if newer_first { torn[..kept].copy_from_slice(&new[..kept]) } else { torn[kept..].copy_from_slice(&new[kept..]) }
            let got = Superblock::read(&region(&old.encode(), &torn)).unwrap();
            prop_assert!(got == old || got.encode() == torn, "{:?}", got);
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9_000)) {
            prop_assert!(Superblock::read(&bytes).is_err());
        }
    }

    #[test]
    fn the_golden_superblock() {
        let copy = superblock(0x0102).encode();
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        // The build's version is not part of the format.
        assert_eq!(hex(&copy[..16]), "53544f512d564f4c0100000000000000");
        assert_eq!(
            hex(&copy[48..96]),
            format!(
                "{}{}000000021f0000000201000000000000",
                "01".repeat(16),
                "02".repeat(16)
            )
        );
        assert!(copy[96..BLOCK_BYTES - 8].iter().all(|byte| *byte == 0));
        assert_eq!(
            xxh3_64(&copy[..BLOCK_BYTES - 8]).to_le_bytes(),
            copy[BLOCK_BYTES - 8..]
        );
    }

    /// A copy that says these things of itself under a right checksum.
    fn says(change: impl Fn(&mut [u8])) -> [u8; BLOCK_BYTES] {
        let mut copy = superblock(8).encode();
        let (said, sum) = copy.split_at_mut(BLOCK_BYTES - 8);
        change(said);
        sum.copy_from_slice(&xxh3_64(said).to_le_bytes());
        copy
    }

    #[test]
    fn a_newer_format_is_named_whatever_the_other_copy_is() {
        let newer = says(|said| {
            said[8] = 2;
            said[16..48].fill(0);
            said[16..22].copy_from_slice(b"3.1\n-x");
        });
        for other in [ZEROES, superblock(9).encode(), newer, [7; BLOCK_BYTES]] {
            for region in [region(&newer, &other), region(&other, &newer)] {
                let error = Superblock::read(&region).unwrap_err();
                assert_eq!(
                    error,
                    SuperblockError::Newer {
                        version: 2,
                        build: "3.1?-x".to_owned()
                    }
                );
                let line = error.to_string();
                assert!(
                    line.starts_with("written in format 2 by version 3.1?-x, this is version"),
                    "{line}"
                );
            }
        }
    }

    #[test]
    fn each_state_of_the_copies_has_its_answer() {
        let (five, six) = (superblock(5), superblock(6));
        let mut damaged = six.encode();
        flip(&mut damaged, 500);
        let mut headless = six.encode();
        headless[..512].fill(0);
        let foreign = [0x41; BLOCK_BYTES];
        let stranger = says(|said| said[48] = 9);
        let misshapen = says(|said| said[80] = 3);
        let version_0 = says(|said| said[8] = 0);
        for (a, b, expected) in [
            (six.encode(), five.encode(), Ok(six)),
            (six.encode(), ZEROES, Ok(six)),
            (six.encode(), foreign, Ok(six)),
            (damaged, five.encode(), Ok(five)),
            (ZEROES, ZEROES, Err(SuperblockError::Absent)),
            (damaged, ZEROES, Err(SuperblockError::Absent)),
            (headless, ZEROES, Err(SuperblockError::Absent)),
            (foreign, ZEROES, Err(SuperblockError::Foreign)),
            (foreign, damaged, Err(SuperblockError::Foreign)),
            (damaged, headless, Err(SuperblockError::Damaged)),
            (misshapen, version_0, Err(SuperblockError::Damaged)),
            (
                six.encode(),
                stranger,
                Err(SuperblockError::Two(
                    six.volume,
                    VolumeId::from_bytes({
                        let mut id = [1; 16];
                        id[0] = 9;
                        id
                    }),
                )),
            ),
        ] {
            assert_eq!(Superblock::read(&region(&a, &b)), expected);
        }
        // A file that ends early.
        assert_eq!(Superblock::read(&[]), Err(SuperblockError::Absent));
        assert_eq!(Superblock::read(&six.encode()), Ok(six));
        assert_eq!(
            Superblock::read(&six.encode()[..100]),
            Err(SuperblockError::Absent)
        );
    }

    #[test]
    fn openings_write_the_copies_in_turn() {
        assert_eq!(superblock(6).offset(), SUPERBLOCK_OFFSETS[0]);
        assert_eq!(superblock(7).offset(), SUPERBLOCK_OFFSETS[1]);
    }
}
