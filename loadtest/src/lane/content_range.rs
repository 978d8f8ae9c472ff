//! `Content-Range`: which bytes of the object a 206 has.

/// `bytes first-last/length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// `None` for `*`.
    pub(super) length: Option<u64>,
}

impl ContentRange {
    //= https://www.rfc-editor.org/rfc/rfc9110#section-14.4
    //# range-resp = incl-range "/" ( complete-length / "*" )
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?.trim();
        let (unit, rest) = text.split_once(' ')?;
        let (range, length) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let length = match length {
            "*" => None,
            digits => Some(number(digits)?),
        };
        let (first, last) = (number(first)?, number(last)?);
        let sound = unit.eq_ignore_ascii_case("bytes")
            && first <= last
            && length.is_none_or(|length| last < length);
        sound.then_some(Self {
            first,
            last,
            length,
        })
    }
}

/// Decimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_read_and_all_else_is_none() {
        let of = |text: &str| {
            let range = ContentRange::parse(text.as_bytes())?;
            Some((range.first, range.last, range.length))
        };
        assert_eq!(of("bytes 2-4/10"), Some((2, 4, Some(10))));
        assert_eq!(of("Bytes 0-0/*"), Some((0, 0, None)));
        for bad in [
            "",
            "bytes",
            "bytes 2-4",
            "bytes */10",
            "bytes 4-2/10",
            "bytes 2-10/10",
            "bytes +2-4/10",
            "bytes -4/10",
            "bytes 2-/10",
            "lines 2-4/10",
            "bytes 2-99999999999999999999/*",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
