//! What must be known of an X.509 certificate and rustls doesn't tell, also for those of version 1, which it refuses
//! to read.

use rustls_pki_types::{
    CertificateDer, IpAddr, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use x509_parser::asn1_rs::{BitString, FromDer, Sequence, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, GeneralName, ParsedExtension};
use x509_parser::x509::X509Version;

/// The common name of a certificate's subject: who a client is, for `auth_type=cert`.
///
/// `None` where it isn't beyond doubt: none or more than one, not text, empty, or with a NUL.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    Certificate::parse(certificate).ok()?.common_name().map(str::to_owned)
}

/// A certificate that can't be read.
#[derive(Debug)]
pub(super) struct Malformed;

/// Why a certificate doesn't hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutOfDate {
    Expired,
    NotYet,
}

impl OutOfDate {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            OutOfDate::Expired => "has expired",
            OutOfDate::NotYet => "isn't valid yet",
        }
    }
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// A certificate in parts.
pub(super) struct Certificate<'a> {
    parsed: X509Certificate<'a>,
    key: PublicKey<'a>,
    /// The signature's algorithm as it is encoded.
    signature_algorithm: &'a [u8],
}

/// A subject's key, its algorithm as it is encoded.
struct PublicKey<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Out of a `SubjectPublicKeyInfo` (RFC 5280, section 4.1).
    fn parse(der: &'a [u8]) -> Option<PublicKey<'a>> {
        let (_, info) = raw_sequence(der)?;
        let (rest, algorithm) = raw_sequence(info)?;
        let (_, bits) = BitString::from_der(rest).ok()?;
        // Both borrow from `der`: the string's bytes are what ends it.
        let start = rest.len().checked_sub(bits.as_ref().len())?;
        Some(PublicKey { algorithm, bits: &rest[start..] })
    }

    fn verifies(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        signature_algorithm: Option<&[u8]>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        algorithms
            .iter()
            .filter(|a| a.public_key_alg_id().as_ref() == self.algorithm)
            .filter(|a| signature_algorithm.is_none_or(|asked| a.signature_alg_id().as_ref() == asked))
            .any(|a| a.verify_signature(self.bits, message, signature).is_ok())
    }
}

/// What follows a sequence, and what is in it.
fn raw_sequence(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, sequence) = Sequence::from_der(der).ok()?;
    let whole = der.len() - rest.len();
    let content = sequence.content.len();
    Some((rest, &der[whole - content..whole]))
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Certificate<'a>, Malformed> {
        let (rest, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| Malformed)?;
        if !rest.is_empty() || parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(Malformed);
        }
        let key = PublicKey::parse(parsed.tbs_certificate.subject_pki.raw).ok_or(Malformed)?;
        let (_, whole) = raw_sequence(der).ok_or(Malformed)?;
        let (rest, _) = raw_sequence(whole).ok_or(Malformed)?;
        let (_, signature_algorithm) = raw_sequence(rest).ok_or(Malformed)?;
        Ok(Certificate { parsed, key, signature_algorithm })
    }

    /// The only common name, if it is text that can be trusted to be what it looks like.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self.parsed.subject().iter_common_name();
        let only = names.next().filter(|_| names.next().is_none())?.attr_value();
        let readable = matches!(only.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::T61String);
        let text = std::str::from_utf8(only.data).ok().filter(|_| readable)?;
        (!text.is_empty() && !text.contains('\0') && (only.tag() == Tag::Utf8String || text.is_ascii())).then_some(text)
    }

    /// Whether rustls can't judge it as the other side's own: it is of version 1, or an authority's, as self-signed
    /// ones are wont to be.
    pub(super) fn is_unusual(&self) -> bool {
        self.parsed.version() != X509Version::V3 || self.authority().is_some_and(|constraints| constraints.ca)
    }

    /// Whether it is of a version that rustls can't read at all.
    pub(super) fn is_old(&self) -> bool {
        self.parsed.version() != X509Version::V3
    }

    pub(super) fn has_key(&self, key: &SubjectPublicKeyInfoDer<'_>) -> bool {
        PublicKey::parse(key.as_ref()).is_some_and(|key| key.bits == self.key.bits)
    }

    pub(super) fn valid_at(&self, now: UnixTime) -> Result<(), OutOfDate> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = self.parsed.validity();
        if seconds < validity.not_before.timestamp() {
            return Err(OutOfDate::NotYet);
        }
        if seconds > validity.not_after.timestamp() { Err(OutOfDate::Expired) } else { Ok(()) }
    }

    /// Whether the subject's key made `signature`, a TLS handshake's, over `message` by one of `algorithms`.
    pub(super) fn signed_message(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.key.verifies(algorithms, None, message, signature)
    }

    /// Whether it says that `issuer` issued it.
    pub(super) fn names_as_issuer(&self, issuer: &Certificate<'_>) -> bool {
        self.parsed.issuer().as_raw() == issuer.parsed.subject().as_raw()
    }

    /// Whether the key of `issuer` signed it.
    pub(super) fn is_signed_by(
        &self,
        issuer: &Certificate<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let (signed, signature) = (self.parsed.tbs_certificate.as_ref(), &self.parsed.signature_value.data);
        issuer.key.verifies(algorithms, Some(self.signature_algorithm), signed, signature)
    }

    /// The subject's key as it is encoded.
    pub(super) fn key_info(&self) -> SubjectPublicKeyInfoDer<'a> {
        SubjectPublicKeyInfoDer::from(self.parsed.tbs_certificate.subject_pki.raw)
    }

    fn authority(&self) -> Option<BasicConstraints> {
        let found = self.parsed.basic_constraints().ok().flatten()?;
        Some(found.value.clone())
    }

    /// Whether it may stand between an authority and a certificate with `below` further ones between: it says that it
    /// is an authority, may sign, and bears no condition that isn't looked at here (RFC 5280, section 6.1.4).
    pub(super) fn may_issue(&self, below: usize) -> bool {
        let Some(constraints) = self.authority().filter(|constraints| constraints.ca) else { return false };
        let long_enough = constraints.path_len_constraint.is_none_or(|limit| below <= limit as usize);
        let may_sign = match self.parsed.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        let free = matches!(self.parsed.name_constraints(), Ok(None)) && self.all_understood();
        long_enough && may_sign && free
    }

    /// Whether it may be shown for `purpose`.
    pub(super) fn serves(&self, purpose: Purpose) -> bool {
        let extended = match self.parsed.extended_key_usage() {
            Ok(None) => true,
            Ok(Some(usage)) if purpose == Purpose::Server => usage.value.any || usage.value.server_auth,
            Ok(Some(usage)) => usage.value.any || usage.value.client_auth,
            Err(_) => false,
        };
        let usage = match self.parsed.key_usage() {
            Ok(None) => true,
            Ok(Some(usage)) => {
                usage.value.digital_signature() || usage.value.key_encipherment() || usage.value.key_agreement()
            }
            Err(_) => false,
        };
        extended && usage && self.all_understood()
    }

    fn all_understood(&self) -> bool {
        self.parsed.extensions().iter().filter(|extension| extension.critical).all(|extension| {
            matches!(
                extension.parsed_extension(),
                ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::KeyUsage(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
        })
    }

    /// Whether it says by extension which hosts it is for; the common name counts only where it doesn't.
    pub(super) fn names_hosts(&self) -> bool {
        match self.parsed.subject_alternative_name() {
            Ok(None) => false,
            Ok(Some(names)) => names.value.general_names.iter().any(|name| {
                matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_) | GeneralName::Invalid(..))
            }),
            Err(_) => true,
        }
    }

    /// Whether the common name is `host`, the first label being allowed to be `*`.
    pub(super) fn is_named(&self, host: &ServerName<'_>) -> bool {
        let Some(name) = self.common_name() else { return false };
        match host {
            ServerName::DnsName(host) => covers(name, host.as_ref()),
            ServerName::IpAddress(address) => {
                name.parse::<std::net::IpAddr>().is_ok_and(|named| IpAddr::from(named) == *address)
            }
            _ => false,
        }
    }
}

/// Whether the pattern of a certificate covers a host: equal in any case, or `*.` before at least two more labels in
/// place of exactly one.
fn covers(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(domain) => {
            let rest = host.split_once('.').filter(|(first, _)| !first.is_empty()).map(|(_, rest)| rest);
            domain.contains('.') && rest.is_some_and(|rest| rest.eq_ignore_ascii_case(domain))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_star_stands_for_exactly_one_label() {
        assert!(covers("db.example.com", "DB.example.com."));
        assert!(covers("*.example.com", "db.example.com"));
        for (pattern, host) in [
            ("*.example.com", "example.com"),
            ("*.example.com", "a.db.example.com"),
            ("*.example.com", ".example.com"),
            ("*.com", "example.com"),
            ("*", "localhost"),
            ("d*.example.com", "db.example.com"),
            ("db.example.com", "db.example.org"),
            ("", ""),
        ] {
            assert!(!covers(pattern, host) || pattern == host, "{pattern} {host}");
        }
    }
}
