//! What a client of the console is told about its "server" after logging in.

/// The parameters reported at login, in order. `version` is a bare number (`1.25.0`); drivers take the leading number
/// of `server_version` for PostgreSQL's.
#[must_use]
pub fn parameters(version: &str) -> [(&'static str, String); 7] {
    [
        ("server_version", format!("{version}/bouncer")),
        ("client_encoding", "UTF8".to_owned()),
        ("server_encoding", "UTF8".to_owned()),
        ("DateStyle", "ISO".to_owned()),
        ("TimeZone", "GMT".to_owned()),
        ("standard_conforming_strings", "on".to_owned()),
        ("is_superuser", "on".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_marked_as_a_poolers() {
        assert_eq!(parameters("1.25.0")[0], ("server_version", "1.25.0/bouncer".to_owned()));
    }
}
