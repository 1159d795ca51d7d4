//! `*_tls_protocols`, `*_tls_ecdhcurve` and `*_tls_dheparams`: protocol versions and key exchange.

use rustls::SupportedProtocolVersion;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::kx_group::{SECP256R1, SECP384R1, X25519};
use rustls::version::{TLS12, TLS13};

use super::Error;
use super::files::Files;

/// Versions that are allowed; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) tls12: bool,
    pub(super) tls13: bool,
}

impl Versions {
    pub(super) fn list(self) -> Vec<&'static SupportedProtocolVersion> {
        let mut list = Vec::new();
        if self.tls13 {
            list.push(&TLS13);
        }
        if self.tls12 {
            list.push(&TLS12);
        }
        list
    }
}

const TLS_1_0: u8 = 1;
const TLS_1_1: u8 = 2;
const TLS_1_2: u8 = 4;
const TLS_1_3: u8 = 8;
const ALL: u8 = TLS_1_0 | TLS_1_1 | TLS_1_2 | TLS_1_3;
const SECURE: u8 = TLS_1_2 | TLS_1_3;

/// Reads a list of versions as libtls does: names or shortcuts between `,` or `:`, `!` takes one away, and a list that
/// begins by taking away begins with all.
pub(super) fn versions(text: &str, files: &mut Files) -> Result<Versions, Error> {
    let invalid = || Error(format!("invalid {}_protocols: {text}", files.prefix()));
    let mut chosen = if text.trim().is_empty() { SECURE } else { 0 };
    for word in text.split([',', ':']).map(str::trim).filter(|_| !text.trim().is_empty()) {
        let (negated, name) = word.strip_prefix('!').map_or((false, word), |name| (true, name.trim()));
        let bits = match name.to_ascii_lowercase().as_str() {
            "all" | "legacy" | "tlsv1" => ALL,
            "default" | "secure" => SECURE,
            "tlsv1.0" => TLS_1_0,
            "tlsv1.1" => TLS_1_1,
            "tlsv1.2" => TLS_1_2,
            "tlsv1.3" => TLS_1_3,
            _ => return Err(invalid()),
        };
        match negated {
            true if chosen == 0 => chosen = ALL & !bits,
            true => chosen &= !bits,
            false => chosen |= bits,
        }
    }
    let versions = Versions { tls12: chosen & TLS_1_2 != 0, tls13: chosen & TLS_1_3 != 0 };
    if !versions.tls12 && !versions.tls13 {
        return Err(Error(format!(
            "invalid {}_protocols: {text}: only tlsv1.2 and tlsv1.3 can be had",
            files.prefix()
        )));
    }
    let old: Vec<_> =
        [(TLS_1_0, "tlsv1.0"), (TLS_1_1, "tlsv1.1")].into_iter().filter(|(bit, _)| chosen & bit != 0).collect();
    if !old.is_empty() {
        let names = old.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(" and ");
        files.warn("protocols", format!("{names} can't be had, they are no longer secure"));
    }
    Ok(versions)
}

/// The curves for servers. The first is the one that a handshake begins with, and PostgreSQL before 18 has no other:
/// any but this would cost each connection a round trip more.
pub(super) fn groups_for_servers() -> Vec<&'static dyn SupportedKxGroup> {
    vec![SECP256R1, X25519, SECP384R1]
}

/// Reads the curves for clients: `auto`, or names between `:` or `,`.
pub(super) fn groups(text: &str, files: &mut Files) -> Result<Vec<&'static dyn SupportedKxGroup>, Error> {
    let auto: Vec<&'static dyn SupportedKxGroup> = vec![X25519, SECP256R1, SECP384R1];
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "auto" => return Ok(auto),
        "none" => {
            files.warn("ecdhcurve", "none can't be had, key exchange is always over an elliptic curve".to_owned());
            return Ok(auto);
        }
        _ => {}
    }
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let mut left_out = Vec::new();
    for word in text.split([',', ':']).map(str::trim).filter(|word| !word.is_empty()) {
        let group = match word.to_ascii_lowercase().as_str() {
            "x25519" => X25519,
            "prime256v1" | "secp256r1" | "p-256" => SECP256R1,
            "secp384r1" | "p-384" => SECP384R1,
            _ => {
                left_out.push(word);
                continue;
            }
        };
        if !groups.iter().any(|known| known.name() == group.name()) {
            groups.push(group);
        }
    }
    if groups.is_empty() {
        let why = "only X25519, prime256v1 and secp384r1 can be had";
        return Err(Error(format!("invalid {}_ecdhcurve: {text}: {why}", files.prefix())));
    }
    if !left_out.is_empty() {
        files.warn("ecdhcurve", format!("{} can't be had and is left out", left_out.join(", ")));
    }
    Ok(groups)
}

/// Finite fields aren't offered at all, so the setting does nothing.
pub(super) fn warn_of_dheparams(text: &str, files: &mut Files) -> Result<(), Error> {
    match text.trim().to_ascii_lowercase().as_str() {
        "" | "auto" | "none" => Ok(()),
        "legacy" => {
            files.warn("dheparams", "legacy has no effect, DHE key exchange isn't offered".to_owned());
            Ok(())
        }
        _ => Err(Error(format!("invalid {}_dheparams: {text}", files.prefix()))),
    }
}
