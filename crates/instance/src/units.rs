//! Compares parameter values as PostgreSQL does: `256MB` is `32768` pages of 8 kB. Knows no parameter by name.

/// How pg_settings describes a parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The raw value in force, in units of `unit`.
    pub(crate) setting: String,
    /// Such as `8kB`, `ms`, `MB`; `None` for a plain number or text.
    pub(crate) unit: Option<String>,
    /// `bool`, `integer`, `real`, `enum` or `string`.
    pub(crate) vartype: String,
    /// `postmaster` when it takes a restart.
    pub(crate) context: String,
}

/// Whether two texts mean the same value of a parameter of this kind.
pub(crate) fn same(kind: &Setting, a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let unit = kind.unit.as_deref();
    match kind.vartype.as_str() {
        "bool" => boolean(a).is_some() && boolean(a) == boolean(b),
        "integer" => match (number(a, unit), number(b, unit)) {
            (Some(a), Some(b)) => a.round() == b.round(),
            _ => false,
        },
        "real" => match (number(a, unit), number(b, unit)) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()),
            _ => false,
        },
        "enum" => a.eq_ignore_ascii_case(b) || (boolean(a).is_some() && boolean(a) == boolean(b)),
        _ => false,
    }
}

/// Reads a boolean as PostgreSQL does: unique prefixes of true, false, yes, no; on, off; 1, 0.
fn boolean(text: &str) -> Option<bool> {
    let t = text.trim().to_ascii_lowercase();
    let prefix = |word: &str, min: usize| t.len() >= min && word.starts_with(&t);
    if prefix("true", 1) || prefix("yes", 1) || prefix("on", 2) || t == "1" {
        Some(true)
    } else if prefix("false", 1) || prefix("no", 1) || prefix("off", 2) || t == "0" {
        Some(false)
    } else {
        None
    }
}

/// A number with or without a unit, in multiples of the parameter's own unit.
fn number(text: &str, base: Option<&str>) -> Option<f64> {
    let t = text.trim();
    if let Some(hex) = t.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().map(|n| n as f64);
    }
    let end = t.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(t.len());
    let (digits, unit) = (t[..end].trim(), t[end..].trim());
    let n: f64 = digits.parse().ok()?;
    if unit.is_empty() {
        return Some(n);
    }
    let (base_size, base_is_time) = unit_size(base?)?;
    let (size, is_time) = unit_size(unit)?;
    (base_is_time == is_time).then_some(n * size / base_size)
}

/// A unit such as `kB` or `8kB` in bytes, or in microseconds (then the flag is set).
fn unit_size(unit: &str) -> Option<(f64, bool)> {
    let letters = unit.find(|c: char| !c.is_ascii_digit())?;
    let times: f64 = if letters == 0 { 1.0 } else { unit[..letters].parse().ok()? };
    let (size, is_time) = match &unit[letters..] {
        "B" => (1.0, false),
        "kB" => (1024.0, false),
        "MB" => (1_048_576.0, false),
        "GB" => (1_073_741_824.0, false),
        "TB" => (1_099_511_627_776.0, false),
        "us" => (1.0, true),
        "ms" => (1e3, true),
        "s" => (1e6, true),
        "min" => (60e6, true),
        "h" => (3_600e6, true),
        "d" => (86_400e6, true),
        _ => return None,
    };
    Some((times * size, is_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(vartype: &str, unit: Option<&str>) -> Setting {
        Setting { vartype: vartype.into(), unit: unit.map(Into::into), ..Setting::default() }
    }

    #[test]
    fn sizes_and_times_are_compared_in_units() {
        assert!(same(&kind("integer", Some("8kB")), "256MB", "32768"));
        assert!(!same(&kind("integer", Some("8kB")), "256MB", "16384"));
        assert!(same(&kind("integer", Some("MB")), "1600MB", "1600"));
        assert!(same(&kind("integer", Some("MB")), "1GB", "1024"));
        assert!(same(&kind("integer", Some("s")), "5min", "300"));
        assert!(same(&kind("integer", Some("ms")), "0.5s", "500"));
        assert!(same(&kind("real", Some("ms")), "2ms", "2"));
        assert!(same(&kind("integer", None), "0x10", "16"));
        assert!(same(&kind("integer", None), " 100 ", "100"));
        assert!(!same(&kind("integer", Some("8kB")), "5min", "5"));
        assert!(!same(&kind("integer", None), "lots", "100"));
        assert!(same(&kind("real", None), "1e-1", "0.1"));
    }

    #[test]
    fn words_are_compared_as_their_kind_asks() {
        assert!(same(&kind("bool", None), "true", "on"));
        assert!(same(&kind("bool", None), "f", "off"));
        assert!(!same(&kind("bool", None), "o", "on"));
        assert!(same(&kind("enum", None), "Replica", "replica"));
        assert!(same(&kind("enum", None), "true", "on"));
        assert!(!same(&kind("string", None), "A", "a"));
    }
}
