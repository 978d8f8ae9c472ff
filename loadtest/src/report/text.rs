//! Text from anywhere, made harmless: a report shows names, commands and error messages that others chose.

/// Longest text that is shown, characters; the rest is cut and an ellipsis says so.
const TEXT_MAX: usize = 400;

/// `text` for element content and quoted attributes of HTML and XML, cut at 400 characters. What no XML may contain, and
/// what turns the direction of the text around it, is shown as U+FFFD.
pub(super) fn escape(text: &str) -> String {
    escape_to(text, TEXT_MAX)
}

/// The same, cut at `most` characters.
pub(super) fn escape_to(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most) + 16);
    for (nth, letter) in text.chars().enumerate() {
        if nth == most {
            out.push('…');
            break;
        }
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' | '\r' => out.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => {
                out.push('\u{fffd}');
            }
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(
            escape("<script>\"&'\0\u{202e}"),
            "&lt;script&gt;&quot;&amp;&#39;\u{fffd}\u{fffd}"
        );
        assert_eq!(escape_to("abcdef", 3), "abc…");
    }

    proptest! {
        #[test]
        fn whatever_is_escaped_is_one_text_and_one_attribute(text in any::<String>()) {
            let escaped = escape(&text);
            let page = format!("<a b=\"{escaped}\" c='{escaped}'>{escaped}</a>");
            let read = roxmltree::Document::parse(&page).unwrap();
            let root = read.root_element();
            prop_assert_eq!(root.children().filter(|child| child.is_element()).count(), 0);
            prop_assert_eq!(root.attributes().count(), 2);
        }
    }
}
