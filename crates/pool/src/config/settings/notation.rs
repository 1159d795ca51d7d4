//! How values of settings are written: one notation per kind of text in pgbouncer.ini.

use std::path::PathBuf;
use std::time::Duration;

use super::kinds::{FileMode, Keyword, List};

/// A way of writing values of type `T`.
pub(super) trait Notation<T> {
    /// Reads a value; `None`: the text isn't one.
    fn read(text: &str) -> Option<T>;
    /// Writes a value; `None`: it isn't set.
    fn write(value: &T) -> Option<String>;
    /// What a text has to be, for a message.
    fn expected() -> String;
}

/// Yes or no, as a number: pgbouncer takes no words here.
pub(super) struct Flag;

/// A whole number; hexadecimal after `0x`, octal after `0`.
pub(super) struct Integer;

/// Permissions, as a whole number: octal only after a zero.
pub(super) struct Permissions;

/// Seconds, fractions allowed.
pub(super) struct Seconds;

/// Seconds without fractions.
pub(super) struct WholeSeconds;

/// Milliseconds without fractions.
pub(super) struct Milliseconds;

/// Text as it stands.
pub(super) struct Text;

/// Names with commas or blanks between them.
pub(super) struct Names;

/// One of a few words, in either case.
pub(super) struct Word;

impl Notation<bool> for Flag {
    fn read(text: &str) -> Option<bool> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        whole(unsigned).map(|number| number != 0)
    }

    fn write(value: &bool) -> Option<String> {
        Some(u8::from(*value).to_string())
    }

    fn expected() -> String {
        "0 or 1".to_owned()
    }
}

impl<T: TryFrom<u64> + ToString> Notation<T> for Integer {
    fn read(text: &str) -> Option<T> {
        whole(text)?.try_into().ok()
    }

    fn write(value: &T) -> Option<String> {
        Some(value.to_string())
    }

    fn expected() -> String {
        let bits = 8 * size_of::<T>() as u32;
        format!("a whole number from 0 to {}", u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(u64::MAX))
    }
}

impl Notation<FileMode> for Permissions {
    fn read(text: &str) -> Option<FileMode> {
        Some(FileMode(Integer::read(text)?)).filter(|mode| mode.0 <= 0o7777)
    }

    fn write(value: &FileMode) -> Option<String> {
        Some(value.0.to_string())
    }

    fn expected() -> String {
        "permissions such as 0770".to_owned()
    }
}

impl Notation<Duration> for Seconds {
    fn read(text: &str) -> Option<Duration> {
        seconds(text)
    }

    fn write(value: &Duration) -> Option<String> {
        Some(general(value.as_secs_f64()))
    }

    fn expected() -> String {
        "a number of seconds".to_owned()
    }
}

impl Notation<Duration> for WholeSeconds {
    fn read(text: &str) -> Option<Duration> {
        Some(Duration::from_secs(<Integer as Notation<u32>>::read(text)?.into()))
    }

    fn write(value: &Duration) -> Option<String> {
        Some(value.as_secs().to_string())
    }

    fn expected() -> String {
        "a whole number of seconds".to_owned()
    }
}

impl Notation<Duration> for Milliseconds {
    fn read(text: &str) -> Option<Duration> {
        Some(Duration::from_millis(<Integer as Notation<u32>>::read(text)?.into()))
    }

    fn write(value: &Duration) -> Option<String> {
        Some(value.as_millis().to_string())
    }

    fn expected() -> String {
        "a whole number of milliseconds".to_owned()
    }
}

impl Notation<String> for Text {
    fn read(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn write(value: &String) -> Option<String> {
        Some(value.clone())
    }

    fn expected() -> String {
        "text".to_owned()
    }
}

impl Notation<Option<String>> for Text {
    fn read(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()).filter(|t| !t.is_empty()))
    }

    fn write(value: &Option<String>) -> Option<String> {
        value.clone()
    }

    fn expected() -> String {
        "text".to_owned()
    }
}

impl Notation<PathBuf> for Text {
    fn read(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty())
    }

    fn write(value: &PathBuf) -> Option<String> {
        Some(value.display().to_string())
    }

    fn expected() -> String {
        "a file".to_owned()
    }
}

impl Notation<Option<PathBuf>> for Text {
    fn read(text: &str) -> Option<Option<PathBuf>> {
        Some(<Self as Notation<PathBuf>>::read(text))
    }

    fn write(value: &Option<PathBuf>) -> Option<String> {
        value.as_ref().and_then(<Self as Notation<PathBuf>>::write)
    }

    fn expected() -> String {
        "a file".to_owned()
    }
}

impl Notation<List> for Names {
    fn read(text: &str) -> Option<List> {
        Some(List::read(text))
    }

    fn write(value: &List) -> Option<String> {
        Some(value.to_string())
    }

    fn expected() -> String {
        "names with commas between them".to_owned()
    }
}

impl<T: Keyword> Notation<T> for Word {
    fn read(text: &str) -> Option<T> {
        T::find(text)
    }

    fn write(value: &T) -> Option<String> {
        Some(value.word().to_owned())
    }

    fn expected() -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("one of {}", words.join(", "))
    }
}

/// A number as C's `strtol` reads it with base 0, as pgbouncer does, but never more than is there: no sign, no overflow.
fn whole(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    let pure = digits.chars().all(|c| c.is_digit(radix));
    if pure { u64::from_str_radix(digits, radix).ok() } else { None }
}

/// A time in seconds, to the microsecond. 136 years are for ever: more would overflow clocks.
pub(in crate::config) fn seconds(text: &str) -> Option<Duration> {
    let number = match whole(text) {
        Some(number) if text.contains(['x', 'X']) => number as f64,
        _ => text.parse::<f64>().ok()?,
    };
    let possible = (0.0..=f64::from(u32::MAX)).contains(&number);
    // A thousandth of a microsecond more, because 0.5166 times a million falls just short of 516600.
    possible.then(|| Duration::from_micros((number * 1e6 + 1e-3) as u64))
}

/// A number as C's `%g` prints it: six digits, an exponent where there are more.
fn general(number: f64) -> String {
    let scientific = format!("{number:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let short = |digits: &str| match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => digits.to_owned(),
    };
    match usize::try_from(5 - exponent) {
        Ok(places) if exponent >= -4 => short(&format!("{number:.places$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<N: Notation<T>, T>(text: &str) -> Option<String> {
        N::write(&N::read(text)?)
    }

    #[test]
    fn whole_numbers_are_read_as_c_reads_them() {
        let cases = [("10", 10), ("0x10", 16), ("010", 8), ("+5", 5), ("0", 0), ("0XfF", 255)];
        for (text, number) in cases {
            assert_eq!(<Integer as Notation<u32>>::read(text), Some(number), "{text}");
        }
        for text in ["", "-1", "1.5", "5s", "'10'", "08", "0x", "0x+1", "++1", "99999999999", "1 2", "１"] {
            assert_eq!(<Integer as Notation<u32>>::read(text), None, "{text}");
        }
        assert_eq!(<Integer as Notation<u16>>::read("65536"), None);
        assert_eq!(<Integer as Notation<u16>>::expected(), "a whole number from 0 to 65535");
        assert_eq!(<Integer as Notation<u64>>::expected(), "a whole number from 0 to 18446744073709551615");
    }

    #[test]
    fn flags_are_numbers() {
        for (text, flag) in [("1", true), ("0", false), ("2", true), ("-1", true), ("00", false)] {
            assert_eq!(Flag::read(text), Some(flag), "{text}");
        }
        for text in ["", "yes", "on", "true", "off", "no", "t"] {
            assert_eq!(Flag::read(text), None, "{text}");
        }
    }

    #[test]
    fn times_print_as_pgbouncer_prints_them() {
        let cases = [
            ("10", "10"),
            ("0.5", "0.5"),
            ("1e2", "100"),
            ("0x10", "16"),
            (".25", "0.25"),
            ("0.1234567", "0.123456"),
            ("100000", "100000"),
            ("1234567", "1.23457e+06"),
            ("1e9", "1e+09"),
            ("0.000012", "1.2e-05"),
            ("0.0001", "0.0001"),
            ("0", "0"),
            ("-0", "0"),
            ("999999.5", "1e+06"),
        ];
        for (text, printed) in cases {
            assert_eq!(written::<Seconds, Duration>(text).as_deref(), Some(printed), "{text}");
        }
        for text in ["", "-1", "abc", "5s", "inf", "nan", "1e400", "1e12"] {
            assert_eq!(written::<Seconds, Duration>(text), None, "{text}");
        }
    }

    #[test]
    fn permissions_are_octal_only_after_a_zero() {
        for (text, mode) in [("0777", 0o777), ("777", 777), ("0x1ff", 0o777), ("01777", 0o1777), ("0", 0)] {
            assert_eq!(Permissions::read(text), Some(FileMode(mode)), "{text}");
        }
        assert_eq!(written::<Permissions, FileMode>("0777").as_deref(), Some("511"));
        assert_eq!(Permissions::read("10777"), None);
    }

    #[test]
    fn milliseconds_and_whole_seconds_have_no_fractions() {
        assert_eq!(Milliseconds::read("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(written::<Milliseconds, Duration>("1500").as_deref(), Some("1500"));
        assert_eq!(written::<WholeSeconds, Duration>("60").as_deref(), Some("60"));
        assert_eq!(WholeSeconds::read("0.5"), None);
    }

    #[test]
    fn words_are_known_in_either_case() {
        use super::super::{AuthType, PoolMode, SslMode};
        assert_eq!(written::<Word, PoolMode>("TransAction").as_deref(), Some("transaction"));
        assert_eq!(written::<Word, SslMode>("VERIFY-CA").as_deref(), Some("verify-ca"));
        assert_eq!(written::<Word, AuthType>("scram-sha-256").as_deref(), Some("scram-sha-256"));
        assert_eq!(<Word as Notation<AuthType>>::read("scram"), None);
        assert_eq!(<Word as Notation<PoolMode>>::expected(), "one of session, transaction, statement");
    }

    proptest::proptest! {
        #[test]
        fn a_time_in_microseconds_survives_a_second_reading(micros in 0u64..1_000_000) {
            let time = Duration::from_micros(micros);
            let text = Seconds::write(&time).unwrap();
            proptest::prop_assert_eq!(Seconds::write(&seconds(&text).unwrap()), Some(text));
        }

        #[test]
        fn no_text_makes_a_notation_panic(text in "\\PC{0,20}") {
            let _ = (Flag::read(&text), Permissions::read(&text), seconds(&text), Milliseconds::read(&text));
        }
    }
}
