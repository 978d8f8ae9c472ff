//! Text from anywhere made harmless in Markdown, and figures of three digits.

/// Longest command that is shown, characters.
const COMMAND_MAX: usize = 400;

/// `text` as it is to be read, cut at `most` characters, in a table or a line that does not begin with it: no markup, no
/// end of the cell or the line.
pub(super) fn escape(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most) + 16);
    let mut before = ' ';
    let mut letters = text.chars().enumerate().peekable();
    while let Some((nth, letter)) = letters.next() {
        if nth == most {
            out.push('…');
            break;
        }
        let letter = plain(letter);
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '|' | '[' | ']' | '~' | '$' => out.extend(['\\', letter]),
            // Within a word it is itself, as in most names of programs.
            '_' => {
                let after = letters.peek().map_or(' ', |(_, after)| *after);
                if !(before.is_alphanumeric() && after.is_alphanumeric()) {
                    out.push('\\');
                }
                out.push('_');
            }
            letter => out.push(letter),
        }
        before = letter;
    }
    out
}

/// `text` as code within a line outside of tables.
pub(super) fn code(text: &str) -> String {
    let mut out: String = text.chars().take(COMMAND_MAX).map(plain).collect();
    if text.chars().nth(COMMAND_MAX).is_some() {
        out.push('…');
    }
    // CommonMark 6.1: it ends at a run of backticks as long as that which began it; a space on both sides is taken away.
    let longest = out.split(|letter| letter != '`').map(str::len).max();
    let fence = "`".repeat(longest.unwrap_or(0) + 1);
    let beside = if out.is_empty() || out.starts_with('`') || out.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{beside}{out}{beside}{fence}")
}

/// What ends a line, hides, or turns the direction of the text around it is shown as such.
fn plain(letter: char) -> char {
    match letter {
        '\n' | '\t' | '\r' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => '\u{fffd}',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    }
}

/// Three significant digits, thousands apart: `45,300`, `7.54`, `0.0123`.
pub(super) fn digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let (rounded, exponent) = rounded(value);
    match usize::try_from(2 - exponent) {
        _ if !rounded.is_finite() || !(-6..15).contains(&exponent) => format!("{rounded:.2e}"),
        Ok(decimals) => format!("{rounded:.decimals$}"),
        Err(_) => thousands(&format!("{rounded:.0}")),
    }
}

/// Three digits and a unit, of microseconds.
pub(super) fn time(micros: f64) -> String {
    // Rounded first: 999.9 µs are 1.00 ms.
    let (rounded, _) = rounded(micros);
    let (value, unit) = match rounded {
        rounded if rounded < 1e3 => (rounded, "µs"),
        rounded if rounded < 1e6 => (rounded / 1e3, "ms"),
        rounded => (rounded / 1e6, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// To three digits, with the power of ten of the first.
fn rounded(value: f64) -> (f64, i32) {
    let text = format!("{value:.2e}");
    let exponent = text
        .split_once('e')
        .and_then(|(_, exponent)| exponent.parse().ok());
    (text.parse().unwrap_or(value), exponent.unwrap_or(0))
}

fn thousands(digits: &str) -> String {
    let count = digits.chars().filter(char::is_ascii_digit).count();
    let mut left = count;
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    for letter in digits.chars() {
        if letter.is_ascii_digit() {
            if left < count && left.is_multiple_of(3) {
                out.push(',');
            }
            left -= 1;
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_becomes_text() {
        for (text, escaped) in [
            ("a|b", "a\\|b"),
            ("`x`", "\\`x\\`"),
            ("a\nb\r\n", "a b  "),
            ("<!-- end of table -->", "&lt;!-- end of table --&gt;"),
            ("plain_h3 _x_", "plain_h3 \\_x\\_"),
            (
                "[a](b) **c** ~~d~~ $e$",
                "\\[a\\](b) \\*\\*c\\*\\* \\~\\~d\\~\\~ \\$e\\$",
            ),
            ("a\\|b", "a\\\\\\|b"),
            ("&lt;\u{202e}\u{0}", "&amp;lt;\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(escape(text, 100), escaped, "{text:?}");
        }
        assert_eq!(escape("abcdef", 3), "abc…");
    }

    #[test]
    fn code_is_closed_by_its_own_fence_alone() {
        for (text, shown) in [
            ("edge --x", "`edge --x`"),
            ("a `b` c\nd", "``a `b` c d``"),
            ("`", "`` ` ``"),
            ("``x", "``` ``x ```"),
        ] {
            assert_eq!(code(text), shown, "{text:?}");
        }
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        for (value, text) in [
            (0.0, "0"),
            (45_312.7, "45,300"),
            (1_234_567.0, "1,230,000"),
            (999.9, "1,000"),
            (100.0, "100"),
            (7.5, "7.50"),
            (0.7913, "0.791"),
            (0.01234, "0.0123"),
            (-45_312.7, "-45,300"),
            (1e300, "1.00e300"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(digits(value), text);
        }
        for (micros, text) in [
            (0.5, "0.500 µs"),
            (12.34, "12.3 µs"),
            (999.9, "1.00 ms"),
            (2_500_000.0, "2.50 s"),
        ] {
            assert_eq!(time(micros), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_ends_a_cell_a_line_or_an_element(text in "([|`\\\\<>&_*\n\r]|\\PC){0,20}") {
            let escaped = escape(&text, 1000);
            prop_assert!(!escaped.contains(['\n', '\r', '<', '>']));
            let mut letters = escaped.chars();
            while let Some(letter) = letters.next() {
                prop_assert!(letter != '|' && letter != '`');
                if letter == '\\' {
                    prop_assert!(letters.next().is_some_and(|next| next.is_ascii_punctuation()));
                }
            }
        }

        #[test]
        fn code_holds_no_run_as_long_as_its_fence(text in "[` a\n]{0,40}") {
            let shown = code(&text);
            let fence = shown.chars().take_while(|letter| *letter == '`').count();
            prop_assert!(fence > 0 && !shown.contains('\n'));
            let runs: Vec<usize> = shown.split(|letter| letter != '`').map(str::len).filter(|run| *run == fence).collect();
            prop_assert_eq!(runs, [fence, fence], "{}", shown);
        }
    }
}
