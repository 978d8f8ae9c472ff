//! Bytes as lower-case hexadecimal digits, and back.

pub(super) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// `None` for anything but exactly `2 * N` digits, as [`encode`] writes them: bytes have one text.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        let digit = |digit: u8| match digit {
            b'A'..=b'F' => None,
            digit => u8::try_from(char::from(digit).to_digit(16)?).ok(),
        };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_and_bytes_are_inverse() {
        let bytes: [u8; 4] = [0, 0x0f, 0xa0, 0xff];
        assert_eq!(encode(&bytes), "000fa0ff");
        assert_eq!(decode::<4>("000fa0ff"), Some(bytes));
        for bad in [
            "000FA0FF",
            "000fa0fF",
            "000fa0f",
            "000fa0ff0",
            "000fa0fg",
            "+0+0+0+0",
            "äääà",
        ] {
            assert_eq!(decode::<4>(bad), None, "{bad}");
        }
    }
}
