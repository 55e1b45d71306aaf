//! Numbers and names as people read them.

/// Gives an enum without fields its list, `Display` and `FromStr`: one list of names, which is
/// printed, parsed, and stands in the error for any other name.
macro_rules! by_name {
    ($enum:ident, $what:literal, $($variant:ident => $name:literal),+ $(,)?) => {
        impl $enum {
            /// All of them.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $name),+
                }
            }
        }

        impl ::std::fmt::Display for $enum {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl ::std::str::FromStr for $enum {
            type Err = $crate::error::Error;

            fn from_str(name: &str) -> $crate::error::Result<Self> {
                let found = $enum::ALL.iter().copied().find(|choice| choice.name() == name);
                found.ok_or_else(|| {
                    let names = [$($name),+].join(", ");
                    $crate::error::Error::input(format!(
                        "there is no {} `{name}`: expected one of {names}", $what
                    ))
                })
            }
        }
    };
}
pub(crate) use by_name;

/// A distance: `0`, or two digits and an exponent.
pub fn error(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { format!("{value:.1e}") }
}

/// A count of bytes in the largest unit that leaves a number over 1.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// A duration given in seconds, in the unit that suits it.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// Text from a file, made safe to print: control characters (a terminal would obey them) and the
/// marks that reorder text stand as their escapes; line ends stay when `lines` says so.
pub fn clean(text: &str, lines: Lines) -> std::borrow::Cow<'_, str> {
    let is_kept = |c: char| lines == Lines::Keep && matches!(c, '\n' | '\t');
    let is_unsafe = |c: char| (c.is_control() && !is_kept(c)) || reorders(c);
    if !text.contains(is_unsafe) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { clean.extend(c.escape_unicode()) } else { clean.push(c) }
    }
    clean.into()
}

/// Whether [`clean`] leaves line ends and tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// They stay: the text is a document.
    Keep,
    /// They are escaped: the text is a name or a cell of a table.
    Escape,
}

/// The marks of Unicode that change the direction of the text behind them, and its line and
/// paragraph separators.
fn reorders(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(error(0.0), "0");
        assert_eq!(error(1.23e-6), "1.2e-6");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(0.00012), "120.0 µs");
    }

    #[test]
    fn text_of_a_file_is_no_terminal_command() {
        let hostile = "x\u{1b}]0;title\u{7}\u{9b}31m\r\n\u{202e}y ü";
        let name = clean(hostile, Lines::Escape);
        assert_eq!(name, "x\\u{1b}]0;title\\u{7}\\u{9b}31m\\u{d}\\u{a}\\u{202e}y ü");
        assert!(clean(hostile, Lines::Keep).contains("\\u{d}\n"));
        assert!(matches!(clean("plain ü", Lines::Escape), std::borrow::Cow::Borrowed(_)));
    }
}
