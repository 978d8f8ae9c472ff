//! Durations, sizes and rates as people write them.

use std::time::Duration;

/// `500ms`, `30s`, `5m`, `1h`; a number alone is seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is no unit of time: ms, s, m or h")),
    };
    Duration::try_from_secs_f64(number * seconds)
        .ok()
        .filter(|time| *time <= LONGEST)
        .ok_or_else(|| format!("`{text}` is longer than {} days", LONGEST.as_secs() / 86400))
}

const LONGEST: Duration = Duration::from_secs(30 * 86400);

/// Bytes: `1000`, `64KiB`, `1MB`, `2GiB`.
///
/// # Errors
/// What is wrong with the text.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => {
            return Err(format!(
                "`{other}` is no unit of size: B, KB, KiB, MB, MiB, GB or GiB"
            ));
        }
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and bounded below 2^53 just before"
    )]
    let bytes = (number * factor as f64) as u64;
    if number * f64::from(u32::MAX) > 9e15 || bytes > 1 << 50 {
        return Err(format!("`{text}` is more than 1 PiB"));
    }
    if number.fract() != 0.0 && factor == 1 {
        return Err(format!("`{text}` is no whole number of bytes"));
    }
    Ok(bytes)
}

/// Requests a second: `1000`, `1000/s`, `10k/s`, `600/m`.
///
/// # Errors
/// What is wrong with the text.
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text)?;
    let (thousand, per) = match unit.strip_prefix('k') {
        Some(per) => (1000.0, per),
        None => (1.0, unit),
    };
    let per = match per {
        "" | "/s" => 1.0,
        "/m" | "/min" => 60.0,
        other => return Err(format!("`{other}` is no unit of a rate: /s or /m")),
    };
    let rate = number * thousand / per;
    if rate > 100e6 {
        return Err(format!("`{text}` is more than 100 million a second"));
    }
    Ok(rate)
}

/// A number and what follows it.
fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'))
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: f64 = digits
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` does not begin with a number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1500),
            ("2", 2000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, size) in [
            ("0", 0),
            ("1000", 1000),
            ("64KiB", 65536),
            ("1.5 MiB", 3 << 19),
            ("2GB", 2_000_000_000),
            ("1_000", 1000),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for (text, want) in [
            ("1000/s", 1000.0),
            ("0.5", 0.5),
            ("10k/s", 10_000.0),
            ("600/m", 10.0),
        ] {
            assert_eq!(rate(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_units_there_are() {
        for (text, part) in [
            ("", "number"),
            ("-1s", "number"),
            ("5 parsecs", "ms, s, m or h"),
            ("1.2.3s", "number"),
            ("1000000h", "days"),
        ] {
            assert!(duration(text).unwrap_err().contains(part), "{text}");
        }
        for (text, part) in [("64kb", "KiB"), ("1.5", "whole"), ("99999999GiB", "PiB")] {
            assert!(bytes(text).unwrap_err().contains(part), "{text}");
        }
        for (text, part) in [
            ("10/h", "/s or /m"),
            ("1e9", "/s or /m"),
            ("999999k", "million"),
        ] {
            assert!(rate(text).unwrap_err().contains(part), "{text}");
        }
    }
}
