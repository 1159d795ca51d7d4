//! `*_tls_ciphers` in OpenSSL's syntax and `*_tls13_ciphers`, mapped to the cipher suites that rustls has.

use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256,
    TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::{CipherSuite, SupportedCipherSuite};

use super::Error;
use super::files::Files;

/// A suite of TLS 1.2 with what OpenSSL's lists may call it.
struct Known {
    suite: SupportedCipherSuite,
    /// OpenSSL's name.
    name: &'static str,
    /// OpenSSL's groups that it is in, beside [`EVERY`].
    groups: &'static [&'static str],
    /// Key length in bits.
    strength: u16,
}

/// Groups that all of ours are in.
const EVERY: &[&str] =
    &["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "ECDH", "TLSv1.2", "AEAD", "PROFILE=SYSTEM"];
/// Groups whose members rustls has none of, and which usual lists name without meaning any particular one.
const EMPTY: &[&str] = &["MEDIUM", "LOW"];

/// In order of preference.
static TLS12: &[Known] = &[
    Known {
        suite: TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-ECDSA-AES256-GCM-SHA384",
        groups: &["aECDSA", "ECDSA", "AES", "AESGCM", "AES256", "FIPS"],
        strength: 256,
    },
    Known {
        suite: TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        name: "ECDHE-RSA-AES256-GCM-SHA384",
        groups: &["aRSA", "AES", "AESGCM", "AES256", "FIPS"],
        strength: 256,
    },
    Known {
        suite: TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-ECDSA-CHACHA20-POLY1305",
        groups: &["aECDSA", "ECDSA", "CHACHA20"],
        strength: 256,
    },
    Known {
        suite: TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        name: "ECDHE-RSA-CHACHA20-POLY1305",
        groups: &["aRSA", "CHACHA20"],
        strength: 256,
    },
    Known {
        suite: TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-ECDSA-AES128-GCM-SHA256",
        groups: &["aECDSA", "ECDSA", "AES", "AESGCM", "AES128", "FIPS"],
        strength: 128,
    },
    Known {
        suite: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        name: "ECDHE-RSA-AES128-GCM-SHA256",
        groups: &["aRSA", "AES", "AESGCM", "AES128", "FIPS"],
        strength: 128,
    },
];

/// In order of preference, with the names that everybody uses.
static TLS13: &[(SupportedCipherSuite, &str)] = &[
    (TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
];

impl Known {
    fn is_in(&self, group: &str) -> bool {
        self.name == group || EVERY.contains(&group) || self.groups.contains(&group) || group == registered(self.suite)
    }
}

/// The registered name of a suite of TLS 1.2, which OpenSSL's lists know too.
fn registered(suite: SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite())
}

/// OpenSSL's name of a suite.
pub(super) fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    let tls12 = TLS12.iter().map(|known| (known.suite, known.name));
    tls12.chain(TLS13.iter().copied()).find(|(known, _)| known.suite() == suite).map(|(_, name)| name)
}

/// Reads a list for TLS 1.2.
///
/// pgbouncer's shortcuts stand for all of ours: each of them has forward secrecy and authenticated encryption.
pub(super) fn tls12(text: &str, files: &mut Files) -> Result<Vec<SupportedCipherSuite>, Error> {
    let shortcut = ["", "default", "secure", "compat", "legacy", "insecure", "all", "normal", "fast"];
    if shortcut.iter().any(|word| text.trim().eq_ignore_ascii_case(word)) {
        return Ok(TLS12.iter().map(|known| known.suite).collect());
    }
    let (chosen, left_out) = select(text);
    if chosen.is_empty() {
        let why = "none of these is among the ones that can be had";
        return Err(Error(format!("invalid {}_ciphers: {text}: {why}: {}", files.prefix(), names())));
    }
    if !left_out.is_empty() {
        files.warn("ciphers", format!("{} can't be had and is left out", left_out.join(", ")));
    }
    Ok(chosen.into_iter().map(|known| known.suite).collect())
}

fn names() -> String {
    TLS12.iter().map(|known| known.name).collect::<Vec<_>>().join(":")
}

/// Follows OpenSSL's list word by word: the suites in order, and the words that ask for something rustls doesn't have.
fn select(text: &str) -> (Vec<&'static Known>, Vec<&str>) {
    let mut chosen: Vec<&'static Known> = Vec::new();
    let mut banned: Vec<&'static str> = Vec::new();
    let mut left_out = Vec::new();
    for word in text.split([':', ',', ' ']).filter(|word| !word.is_empty()) {
        if let Some(command) = word.strip_prefix('@') {
            if command == "STRENGTH" {
                chosen.sort_by_key(|known| std::cmp::Reverse(known.strength));
            }
            continue;
        }
        let operator = word.chars().next().filter(|c| matches!(c, '!' | '-' | '+'));
        let groups = word.trim_start_matches(['!', '-', '+']);
        let matches = |known: &Known| groups.split('+').all(|group| known.is_in(group));
        match operator {
            Some('!') => {
                banned.extend(TLS12.iter().filter(|known| matches(known)).map(|known| known.name));
                chosen.retain(|known| !matches(known));
            }
            Some('-') => chosen.retain(|known| !matches(known)),
            Some(_) => chosen.sort_by_key(|known| matches(known)),
            None => {
                if !TLS12.iter().any(matches) && !groups.split('+').any(|group| EMPTY.contains(&group)) {
                    left_out.push(word);
                }
                let fresh = TLS12.iter().filter(|known| matches(known) && !banned.contains(&known.name));
                let fresh: Vec<_> = fresh.filter(|known| !chosen.iter().any(|c| c.name == known.name)).collect();
                chosen.extend(fresh);
            }
        }
    }
    (chosen, left_out)
}

/// Reads a list for TLS 1.3: names between `:`.
pub(super) fn tls13(text: &str, files: &mut Files) -> Result<Vec<SupportedCipherSuite>, Error> {
    let mut words = text.split([':', ',', ' ']).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Ok(TLS13.iter().map(|(suite, _)| *suite).collect());
    }
    let mut chosen = Vec::new();
    let mut left_out = Vec::new();
    for word in words {
        match TLS13.iter().find(|(_, name)| *name == word) {
            Some((suite, _)) if chosen.contains(suite) => {}
            Some((suite, _)) => chosen.push(*suite),
            None => left_out.push(word),
        }
    }
    if chosen.is_empty() {
        let have = TLS13.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(":");
        let why = "none of these is among the ones that can be had";
        return Err(Error(format!("invalid {}13_ciphers: {text}: {why}: {have}", files.prefix())));
    }
    if !left_out.is_empty() {
        files.warn_of("13_ciphers", format!("{} can't be had and is left out", left_out.join(", ")));
    }
    Ok(chosen)
}
