//! What a server means when it refuses a login.

use super::exchange::{error_field, error_text};
use super::login::Error;

/// Where PostgreSQL counts the connections of one user and of one database (`src/backend/utils/init`). These limits say
/// nothing of the server's room for others.
const OF_ONE: [&str; 2] = ["InitializeSessionUserId", "CheckMyDatabase"];

/// From the body of an ErrorResponse. The codes are in PostgreSQL's documentation, "PostgreSQL Error Codes".
pub(super) fn refusal(body: &[u8]) -> Error {
    let code = error_field(body, b'C').unwrap_or_default();
    tracing::debug!("the server refused a login with {code}");
    let text = error_text(body);
    let of_one = || error_field(body, b'R').is_some_and(|routine| OF_ONE.contains(&routine.as_str()));
    match code.as_str() {
        operator if operator.starts_with("57P0") => Error::Unready(text),
        "53300" if !of_one() => Error::Full(text),
        _ => Error::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &str, routine: &str) -> Error {
        refusal(format!("SFATAL\0C{code}\0Msorry\0R{routine}\0\0").as_bytes())
    }

    #[test]
    fn only_what_concerns_everybody_is_the_servers_state() {
        assert!(matches!(told("57P03", "ProcessStartupPacket"), Error::Unready(text) if text == "sorry"));
        assert!(matches!(told("53300", "InitProcess"), Error::Full(_)));
        assert!(matches!(told("53300", "CheckMyDatabase"), Error::Refused(_)));
        assert!(matches!(told("53300", "InitializeSessionUserId"), Error::Refused(_)));
        assert!(matches!(told("28P01", "auth_failed"), Error::Refused(_)));
    }
}
