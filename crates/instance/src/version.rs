//! Everything that differs between PostgreSQL versions (12 to the newest). No other module compares version numbers.

use crate::error::Error;

/// `server_version_num`, such as 150020 for 15.20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl Version {
    /// The oldest version that is supported.
    pub const OLDEST: Version = Version(120_000);

    /// Reads the output of `postgres --version`: `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`, `17beta1`.
    pub fn parse(output: &str) -> Option<Version> {
        let word = output.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
        let mut numbers = word.split(|c: char| !c.is_ascii_digit());
        let major: u32 = numbers.next()?.parse().ok()?;
        let minor: u32 = if word.contains('.') { numbers.next()?.parse().ok()? } else { 0 };
        let pre10 = major < 10;
        Some(Version(if pre10 { major * 10_000 + minor * 100 } else { major * 10_000 + minor }))
    }

    /// Refuses versions that are too old, with what to do.
    pub fn check(self) -> Result<Version, Error> {
        if self >= Version::OLDEST {
            return Ok(self);
        }
        Err(Error::Setup(format!(
            "PostgreSQL {} is too old: pgherd needs 12 or newer; install one and name its directory in postgresql.bin_dir",
            self.major()
        )))
    }

    /// The major version, as in the file PG_VERSION.
    pub fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// primary_conninfo and primary_slot_name change on reload, without a restart.
    pub fn reloads_conninfo(self) -> bool {
        self.major() >= 13
    }

    /// pg_rewind knows `--config-file`.
    pub fn rewind_takes_config_file(self) -> bool {
        self.major() >= 15
    }

    /// The parameter that keeps WAL: `wal_keep_size`, in older versions `wal_keep_segments`.
    pub fn has_wal_keep_size(self) -> bool {
        self.major() >= 13
    }

    /// libpq knows `channel_binding`.
    pub fn has_channel_binding(self) -> bool {
        self.major() >= 13
    }

    /// Name of the column of pg_stat_wal_receiver with the position that was flushed.
    pub fn receiver_position_column(self) -> &'static str {
        if self.major() >= 13 { "flushed_lsn" } else { "received_lsn" }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 10_000, self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_output_is_read() {
        assert_eq!(Version::parse("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"), Some(Version(150_020)));
        assert_eq!(Version::parse("postgres (PostgreSQL) 12.1\n"), Some(Version(120_001)));
        assert_eq!(Version::parse("postgres (PostgreSQL) 18beta2"), Some(Version(180_000)));
        assert_eq!(Version::parse("postgres (PostgreSQL) 9.6.24"), Some(Version(90_600)));
        assert_eq!(Version::parse("command not found"), None);
        assert!(Version(110_020).check().unwrap_err().to_string().contains("too old"));
        assert_eq!(Version(150_020).to_string(), "15.20");
    }
}
