//! A connection's TLS in the words of pgbouncer's console and log.

use rustls::{CommonState, NamedGroup, ProtocolVersion};

use super::ciphers;

/// Which end of the handshake the pooler was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client's connection: the pooler accepted TLS.
    Accepted,
    /// A server's connection: the pooler asked for TLS.
    Asked,
}

/// For example `TLSv1.2/ECDHE-RSA-AES256-GCM-SHA384/ECDH=prime256v1`, or nothing before the handshake is done.
///
/// pgbouncer can't tell the curve of TLS 1.3 where it accepted, and leaves it out there.
pub fn describe(connection: &CommonState, side: Side) -> String {
    let (Some(version), Some(suite)) = (connection.protocol_version(), connection.negotiated_cipher_suite()) else {
        return String::new();
    };
    let protocol = match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "unknown",
    };
    let cipher = ciphers::openssl_name(suite.suite()).unwrap_or("unknown");
    let known = side == Side::Asked || version != ProtocolVersion::TLSv1_3;
    match connection.negotiated_key_exchange_group().filter(|_| known) {
        Some(group) => format!("{protocol}/{cipher}/ECDH={}", curve(group.name())),
        None => format!("{protocol}/{cipher}"),
    }
}

/// OpenSSL's name.
fn curve(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "unknown",
    }
}
