//! Profiles: where an object is cut, chosen once per object from what its head and first bytes say.
//!
//! A profile is a protocol constant. Two nodes that cut the same bytes by different rules share no
//! chunk, so the numbers, the algorithm behind [`Profile::Fine`] and [`Profile::Coarse`] and the
//! choice function change only together with [`PROFILE_VERSION`]. The choice is a function of the
//! response alone: no clock, no load, no setting. A new version of an object takes the profile of
//! the predecessor whose manifest is held, whatever [`Profile::choose`] would say; that is its
//! caller's business.

/// The version of everything in this file and of the cut algorithm. It travels in manifests.
pub const PROFILE_VERSION: u8 = 1;

/// No profile makes a longer chunk.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Objects of a declared length up to this are one chunk.
pub const SINGLE_BYTES_MAX: usize = 16 * 1024;

/// [`Profile::choose`] looks at no more of the body than this.
pub const SNIFF_BYTES: usize = 512;

/// From this declared length on, content-defined chunks are the coarse ones.
const COARSE_FROM_BYTES: u64 = 16 * 1024 * 1024;

/// How an object is cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Profile {
    /// One chunk, for objects declared to be at most [`SINGLE_BYTES_MAX`] long. A body that turns
    /// out longer than declared is cut every [`SINGLE_BYTES_MAX`] bytes, so the bound holds.
    Single = 0,
    /// Content-defined, 8 to 24 KiB, 16 KiB on average. 0.22 % of manifest.
    Fine = 1,
    /// Content-defined, 32 to 96 KiB, 64 KiB on average. 0.05 % of manifest.
    Coarse = 2,
    /// Every 256 KiB, for bytes whose next version shares nothing with this one. Chunk
    /// `i` starts at `i × 256 KiB`, so ranges need no manifest.
    Fixed = 3,
}

/// What [`Profile::cuts`] says: the rule behind a profile, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cuts {
    /// Every `len` bytes.
    Every { len: usize },
    /// At the content-defined point within `min..=max`.
    Content { min: usize, max: usize },
}

impl Profile {
    /// The profile of an object with these response fields.
    ///
    /// `content_type` and `content_encoding` are the raw field values, `first` the body's first
    /// bytes: [`SNIFF_BYTES`] of them, or all there are if the body is shorter.
    ///
    /// What is already compressed as a whole (encoded bodies, media, solid archives) is cut at
    /// fixed places: one changed byte changes all that follow it, so content-defined cuts find
    /// nothing again. Zip files are not solid: their members dedupe. Random-looking bytes of no
    /// known format are cut by content too: it costs nothing, and an insertion then moves one chunk.
    #[must_use]
    pub fn choose(
        content_type: Option<&[u8]>,
        content_encoding: Option<&[u8]>,
        declared_len: Option<u64>,
        first: &[u8],
    ) -> Self {
        if declared_len.is_some_and(|len| len <= SINGLE_BYTES_MAX as u64) {
            Self::Single
        } else if is_encoded(content_encoding)
            || content_type.is_some_and(is_compressed_type)
            || is_compressed_format(first)
        {
            Self::Fixed
        } else if declared_len.is_some_and(|len| len >= COARSE_FROM_BYTES) {
            Self::Coarse
        } else {
            Self::Fine
        }
    }

    /// The number that stands for the profile on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The profile of a number from the wire; `None` if this version knows none.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Single),
            1 => Some(Self::Fine),
            2 => Some(Self::Coarse),
            3 => Some(Self::Fixed),
            _ => None,
        }
    }

    /// The longest chunk of the profile, in bytes.
    #[must_use]
    pub const fn chunk_bytes_max(self) -> usize {
        match self.cuts() {
            Cuts::Every { len } => len,
            Cuts::Content { max, .. } => max,
        }
    }

    pub(super) const fn cuts(self) -> Cuts {
        match self {
            Self::Single => Cuts::Every {
                len: SINGLE_BYTES_MAX,
            },
            Self::Fine => Cuts::Content {
                min: 8 * 1024,
                max: 24 * 1024,
            },
            Self::Coarse => Cuts::Content {
                min: 32 * 1024,
                max: 96 * 1024,
            },
            Self::Fixed => Cuts::Every {
                len: CHUNK_BYTES_MAX,
            },
        }
    }
}

/// Whether the body is encoded; `identity` and an empty field are no encoding.
fn is_encoded(content_encoding: Option<&[u8]>) -> bool {
    let Some(value) = content_encoding else {
        return false;
    };
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// Media types whose bytes are compressed as a whole.
fn is_compressed_type(content_type: &[u8]) -> bool {
    let essence = content_type
        .split(|&byte| byte == b';')
        .next()
        .map_or(&[][..], <[u8]>::trim_ascii);
    let is = |name: &str| essence.eq_ignore_ascii_case(name.as_bytes());
    let starts = |prefix: &str| {
        essence
            .get(..prefix.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };

    if starts("video/") || starts("audio/") {
        // Raw sound is the exception among audio types.
        return !["audio/wav", "audio/x-wav", "audio/l16"]
            .into_iter()
            .any(is);
    }
    if starts("image/") {
        // The uncompressed ones; every other image format in use compresses.
        return ![
            "image/svg+xml",
            "image/bmp",
            "image/x-icon",
            "image/vnd.microsoft.icon",
        ]
        .into_iter()
        .any(is);
    }
    [
        "application/gzip",
        "application/x-gzip",
        "application/zstd",
        "application/x-xz",
        "application/x-bzip2",
        "application/x-7z-compressed",
        "application/vnd.rar",
        "application/x-rar-compressed",
        "application/vnd.debian.binary-package",
        "application/x-rpm",
        "font/woff",
        "font/woff2",
    ]
    .into_iter()
    .any(is)
}

/// Formats that are compressed as a whole, by their first bytes, for origins that send
/// `application/octet-stream`.
fn is_compressed_format(first: &[u8]) -> bool {
    const MAGIC: &[(usize, &[u8])] = &[
        (0, b"\x1f\x8b"),           // gzip
        (0, b"\x28\xb5\x2f\xfd"),   // Zstandard
        (0, b"\xfd7zXZ\0"),         // xz
        (0, b"BZh"),                // bzip2
        (0, b"7z\xbc\xaf\x27\x1c"), // 7-Zip
        (0, b"Rar!\x1a\x07"),       // RAR
        (0, b"!<arch>\ndebian-"),   // Debian package
        (0, b"\xed\xab\xee\xdb"),   // RPM
        (0, b"\x89PNG\r\n\x1a\n"),  // PNG
        (0, b"\xff\xd8\xff"),       // JPEG
        (0, b"GIF8"),               // GIF
        (8, b"WEBP"),               // WebP, in RIFF
        (4, b"ftyp"),               // MP4, AVIF, HEIC
        (0, b"\x1a\x45\xdf\xa3"),   // Matroska, WebM
        (0, b"OggS"),               // Ogg
        (0, b"fLaC"),               // FLAC
        (0, b"ID3"),                // MP3 with a tag
        (0, b"wOFF"),               // WOFF
        (0, b"wOF2"),               // WOFF2
    ];
    MAGIC
        .iter()
        .any(|&(at, magic)| first.get(at..at + magic.len()) == Some(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_profiles_and_nothing_else() {
        for code in 0..=u8::MAX {
            match Profile::from_code(code) {
                Some(profile) => assert_eq!(profile.code(), code),
                None => assert!(code > 3),
            }
        }
    }

    #[test]
    fn choice_follows_the_table() {
        let mib = 1024 * 1024;
        let text = &b"plain text"[..];
        type Row<'a> = (&'a str, &'a str, Option<u64>, &'a [u8], Profile);
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            // type, encoding, declared length, first bytes, profile
            ("text/html", "", Some(0), b"", Profile::Single),
            ("text/html", "", Some(16 * 1024), text, Profile::Single),
            ("image/png", "", Some(16 * 1024), text, Profile::Single),
            ("text/html", "", Some(16 * 1024 + 1), text, Profile::Fine),
            ("text/html", "", None, text, Profile::Fine),
            ("", "", None, b"", Profile::Fine),
            ("application/wasm", "", Some(16 * mib - 1), text, Profile::Fine),
            ("application/wasm", "", Some(16 * mib), text, Profile::Coarse),
            ("text/css", "gzip", Some(mib), text, Profile::Fixed),
            ("text/css", "identity", Some(mib), text, Profile::Fine),
            ("text/css", "identity, BR", Some(mib), text, Profile::Fixed),
            ("text/css", " , ", Some(mib), text, Profile::Fine),
            ("Video/MP4; codecs=\"avc1\"", "", Some(64 * mib), text, Profile::Fixed),
            ("audio/wav", "", Some(mib), text, Profile::Fine),
            ("image/svg+xml", "", Some(mib), text, Profile::Fine),
            ("image/jpeg", "", None, text, Profile::Fixed),
            ("font/woff2", "", Some(mib), text, Profile::Fixed),
            ("application/octet-stream", "", Some(mib), b"\x1f\x8b\x08", Profile::Fixed),
            ("application/octet-stream", "", Some(mib), b"RIFF\0\0\0\0WEBPVP8", Profile::Fixed),
            ("application/octet-stream", "", Some(mib), b"RIFF", Profile::Fine),
            ("application/zip", "", Some(mib), b"PK\x03\x04", Profile::Fine),
        ];
        for &(content_type, encoding, len, first, want) in table {
            let got = Profile::choose(
                (!content_type.is_empty()).then_some(content_type.as_bytes()),
                (!encoding.is_empty()).then_some(encoding.as_bytes()),
                len,
                first,
            );
            assert_eq!(got, want, "{content_type:?} {encoding:?} {len:?} {first:?}");
        }
    }

    #[test]
    fn no_profile_exceeds_the_longest_chunk() {
        for code in 0..4 {
            let profile = Profile::from_code(code).unwrap();
            assert!(profile.chunk_bytes_max() <= CHUNK_BYTES_MAX);
        }
    }

    #[test]
    fn sniffing_needs_no_more_than_it_says() {
        let mut long = vec![0; 4 * SNIFF_BYTES];
        long[4..8].copy_from_slice(b"ftyp");
        let whole = Profile::choose(None, None, None, &long);
        assert_eq!(
            whole,
            Profile::choose(None, None, None, &long[..SNIFF_BYTES])
        );
        assert_eq!(whole, Profile::Fixed);
    }
}
