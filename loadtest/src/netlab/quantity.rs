//! Times, rates and shares as people write them in a scenario: `20ms`, `100Mbit`, `1%`. A number without its unit is
//! refused: whether `delay = 20` means seconds or milliseconds is not ours to guess.

use std::time::Duration;

/// The longest time a scenario can name: 10 minutes.
pub(super) const TIME_MAX: Duration = Duration::from_secs(600);

/// The fastest link a scenario can name, bits a second.
pub(super) const RATE_MAX: u64 = 100_000_000_000;

/// A time: `500us`, `20ms`, `1.5s`, `2m`; at most [`TIME_MAX`].
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let fix = || format!("`{text}` is no time: write it like 20ms (units: us, ms, s, m)");
    let (number, unit) = split(text).ok_or_else(fix)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => return Err(fix()),
    };
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| fix())?;
    if time > TIME_MAX {
        return Err(format!("`{text}` is longer than {TIME_MAX:?}, the most"));
    }
    Ok(time)
}

/// A rate in bits a second: `500kbit`, `100Mbit`, `2.5Gbit` (decimal, as links are sold and as `tc` reads them).
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let fix =
        || format!("`{text}` is no rate: write it like 100Mbit (units: bit, kbit, Mbit, Gbit)");
    let (number, unit) = split(text).ok_or_else(fix)?;
    let factor = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "Mbit" => 1e6,
        "Gbit" => 1e9,
        _ => return Err(fix()),
    };
    let bits = (number * factor).round();
    #[expect(clippy::cast_precision_loss, reason = "1e11 is a float without loss")]
    let most = RATE_MAX as f64;
    if !(8_000.0..=most).contains(&bits) {
        return Err(format!(
            "`{text}` is out of range: a link has 8kbit to 100Gbit"
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and within 8e3..=1e11, checked above"
    )]
    let bits = bits as u64;
    Ok(bits)
}

/// A share as percentage, `0%` to `100%`; given back as 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let fix = || format!("`{text}` is no share: write it like 1% (0% to 100%)");
    let (number, unit) = split(text).ok_or_else(fix)?;
    if unit != "%" || number > 100.0 {
        return Err(fix());
    }
    Ok(number / 100.0)
}

/// The number, finite and not negative, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let number: f64 = number.parse().ok()?;
    number.is_finite().then(|| (number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_their_unit() {
        assert_eq!(time("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(time("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["20", "", "ms", "-1s", "1h", "1e3ms", "11m", "1.2.3s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_decimal_bits() {
        assert_eq!(rate("100Mbit"), Ok(100_000_000));
        assert_eq!(rate("2.5Gbit"), Ok(2_500_000_000));
        assert_eq!(rate("500kbit"), Ok(500_000));
        for wrong in ["100", "100MB", "0Mbit", "1bit", "101Gbit", "100mbit"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(share("30%"), Ok(0.3));
        assert_eq!(share("0.5 %"), Ok(0.005));
        for wrong in ["0.01", "101%", "-1%", "%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
