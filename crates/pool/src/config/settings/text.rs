//! How values of settings are read from text and printed. One module per notation; each has `parse` and `print`, and
//! `print` gives `None` for what isn't set.

use super::kinds::Keyword;

/// Yes or no.
pub(super) mod flag {
    const WORDS: &[(&str, bool)] = &[
        ("1", true),
        ("on", true),
        ("true", true),
        ("yes", true),
        ("0", false),
        ("off", false),
        ("false", false),
        ("no", false),
    ];

    pub(crate) fn parse(text: &str) -> Option<bool> {
        WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "every notation prints from a reference")]
    pub(crate) fn print(value: &bool) -> Option<String> {
        Some(u8::from(*value).to_string())
    }
}

/// Whole numbers.
pub(super) mod integer {
    pub(crate) fn parse<T: TryFrom<i64>>(text: &str) -> Option<T> {
        T::try_from(text.parse::<i64>().ok()?).ok()
    }

    pub(crate) fn print<T: ToString>(value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// Permissions, in octal; printed in decimal, as pgbouncer does.
pub(super) mod octal {
    use crate::config::FileMode;

    pub(crate) fn parse(text: &str) -> Option<FileMode> {
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(FileMode)
    }

    pub(crate) fn print(value: &FileMode) -> Option<String> {
        Some(value.0.to_string())
    }
}

/// Seconds with fractions.
pub(super) mod time {
    use std::time::Duration;

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(text.parse().ok()?).ok()
    }

    pub(crate) fn print(value: &Duration) -> Option<String> {
        Some(value.as_secs_f64().to_string())
    }
}

/// Seconds.
pub(super) mod whole_seconds {
    use std::time::Duration;

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        super::integer::parse::<u32>(text).map(|count| Duration::from_secs(count.into()))
    }

    pub(crate) fn print(value: &Duration) -> Option<String> {
        Some(value.as_secs().to_string())
    }
}

/// Milliseconds.
pub(super) mod milliseconds {
    use std::time::Duration;

    pub(crate) fn parse(text: &str) -> Option<Duration> {
        super::integer::parse::<u32>(text).map(|count| Duration::from_millis(count.into()))
    }

    pub(crate) fn print(value: &Duration) -> Option<String> {
        Some(value.as_millis().to_string())
    }
}

/// Text as it is.
pub(super) mod string {
    pub(crate) fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    pub(crate) fn print(value: &str) -> Option<String> {
        Some(value.to_owned())
    }
}

/// Text; empty is not set.
pub(super) mod optional {
    #[allow(clippy::option_option, reason = "the outer one says that it's valid, as in every notation")]
    pub(crate) fn parse(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()).filter(|t| !t.is_empty()))
    }

    pub(crate) fn print(value: &Option<String>) -> Option<String> {
        value.clone()
    }
}

/// A file; empty is not set.
pub(super) mod path {
    use std::path::PathBuf;

    #[allow(clippy::option_option, reason = "the outer one says that it's valid, as in every notation")]
    pub(crate) fn parse(text: &str) -> Option<Option<PathBuf>> {
        Some(Some(PathBuf::from(text)).filter(|p| !p.as_os_str().is_empty()))
    }

    pub(crate) fn print(value: &Option<PathBuf>) -> Option<String> {
        value.as_ref().map(|path| path.display().to_string())
    }
}

/// A file that there has to be.
pub(super) mod own_path {
    use std::path::{Path, PathBuf};

    pub(crate) fn parse(text: &str) -> Option<PathBuf> {
        Some(PathBuf::from(text)).filter(|p| !p.as_os_str().is_empty())
    }

    pub(crate) fn print(value: &Path) -> Option<String> {
        Some(value.display().to_string())
    }
}

/// Words with commas between them.
pub(super) mod list {
    pub(crate) fn parse(text: &str) -> Option<Vec<String>> {
        Some(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    pub(crate) fn print(value: &[String]) -> Option<String> {
        Some(value.join(", "))
    }
}

/// One of a few words.
pub(super) mod keyword {
    use super::Keyword;

    pub(crate) fn parse<T: Keyword>(text: &str) -> Option<T> {
        T::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
    }

    pub(crate) fn print<T: Keyword>(value: &T) -> Option<String> {
        Some(value.word().to_owned())
    }
}
