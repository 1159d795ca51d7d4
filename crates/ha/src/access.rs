//! Who may give an agent orders: the peer of a connection, credentials, and the list of addresses. HTTP, gRPC and TLS are
//! not here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;

use crate::cluster::Cluster;

/// The other end of a connection as the listener knows it. It travels as an extension of each request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its address; absent where the transport has none.
    pub address: Option<SocketAddr>,
    /// Subject of the verified client certificate.
    pub certificate: Option<String>,
}

impl Peer {
    /// The address for a log line.
    pub fn address_text(&self) -> String {
        self.address.map_or_else(|| "an unknown address".to_owned(), |a| a.to_string())
    }
}

/// A user name and password. Printing it doesn't show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Credentials {
    /// The value of an `authorization` header (RFC 7617).
    pub fn header(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{}:{}", self.user, self.password)))
    }

    /// Whether an `authorization` header carries these credentials. Takes the same time wherever it differs.
    pub fn are_in(&self, header: &str) -> bool {
        let Some((scheme, token)) = header.trim().split_once(' ') else { return false };
        let expected = self.header();
        let expected = expected.trim_start_matches("Basic ");
        scheme.eq_ignore_ascii_case("basic") && bool::from(token.trim().as_bytes().ct_eq(expected.as_bytes()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, ***)", self.user)
    }
}

/// A range of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether the range holds an address. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| (a ^ b).checked_shr(width - self.prefix).unwrap_or(0) == 0;
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// The error is a sentence for people.
    fn from_str(text: &str) -> Result<Network, String> {
        let bad = || format!("{text:?} is neither an IP address nor a range such as 10.0.0.0/8");
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(|_| bad())?)),
            None => (text.trim(), None),
        };
        let base: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width { Err(bad()) } else { Ok(Network { base, prefix }) }
    }
}

/// What an order needs. The default lets everyone give orders, as Patroni's does.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Basic credentials.
    pub credentials: Option<Credentials>,
    /// A verified client certificate (`restapi.verify_client: optional`).
    pub client_certificate: bool,
    /// Addresses that may give orders (`restapi.allowlist`); empty allows all unless `allow_members`.
    pub allowlist: Vec<Network>,
    /// Members of the cluster may give orders too (`restapi.allowlist_include_members`), by the address in their
    /// `api_url`.
    pub allow_members: bool,
}

/// Why an order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The address is not on the list (REST 403).
    Address,
    /// A client certificate is needed (403).
    Certificate,
    /// No credentials came with it (401).
    NoCredentials,
    /// The credentials are wrong (401).
    WrongCredentials,
}

impl Denied {
    /// For the one who asked, in Patroni's words.
    pub fn message(self) -> &'static str {
        match self {
            Denied::Address => "Access is denied",
            Denied::Certificate => "client certificate required",
            Denied::NoCredentials => "no auth header received",
            Denied::WrongCredentials => "not authenticated",
        }
    }
}

impl Access {
    /// Who gives the order: the Basic-auth user, the certificate's subject, or `anonymous`. Checks address, certificate
    /// and credentials in this order, as Patroni does.
    pub fn check(&self, peer: &Peer, authorization: Option<&str>, cluster: Option<&Cluster>) -> Result<String, Denied> {
        if !self.allows_address(peer, cluster) {
            return Err(Denied::Address);
        }
        if self.client_certificate && peer.certificate.is_none() {
            return Err(Denied::Certificate);
        }
        match (&self.credentials, authorization) {
            (None, _) => Ok(peer.certificate.clone().unwrap_or_else(|| "anonymous".to_owned())),
            (Some(_), None) => Err(Denied::NoCredentials),
            (Some(c), Some(header)) if c.are_in(header) => Ok(c.user.clone()),
            (Some(_), Some(_)) => Err(Denied::WrongCredentials),
        }
    }

    fn allows_address(&self, peer: &Peer, cluster: Option<&Cluster>) -> bool {
        if self.allowlist.is_empty() && !self.allow_members {
            return true;
        }
        let Some(address) = peer.address.map(|a| a.ip()) else { return false };
        self.allowlist.iter().any(|n| n.contains(address))
            || self.allow_members
                && cluster.is_some_and(|c| {
                    c.members.values().any(|m| m.api_host().is_some_and(|h| h.parse() == Ok(address.to_canonical())))
                })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Member;

    fn peer(address: &str) -> Peer {
        Peer { address: Some(address.parse().unwrap()), certificate: None }
    }

    #[test]
    fn networks_hold_their_addresses_only() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.168.1.7", "192.168.1.7", true),
            ("192.168.1.7", "192.168.1.6", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("fd00::/8", "fdab::1", true),
            ("::/0", "fdab::1", true),
            ("fd00::/8", "10.0.0.1", false),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "host.example", "10.0.0/8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn checks_come_in_order() {
        let access = Access {
            credentials: Some(Credentials { user: "admin".into(), password: "se:cret".into() }),
            client_certificate: true,
            allowlist: vec!["127.0.0.0/8".parse().unwrap()],
            allow_members: false,
        };
        let good = Credentials { user: "admin".into(), password: "se:cret".into() }.header();
        let wrong = Credentials { user: "admin".into(), password: "secret".into() }.header();
        let certified = Peer { certificate: Some("CN=ops".into()), ..peer("127.0.0.1:5") };
        assert_eq!(access.check(&peer("10.0.0.1:5"), Some(&good), None), Err(Denied::Address));
        assert_eq!(access.check(&peer("127.0.0.1:5"), Some(&good), None), Err(Denied::Certificate));
        assert_eq!(access.check(&certified, None, None), Err(Denied::NoCredentials));
        for bad in [wrong.as_str(), "Basic", "Basic !!!", "Bearer abc", ""] {
            assert_eq!(access.check(&certified, Some(bad), None), Err(Denied::WrongCredentials), "{bad}");
        }
        assert_eq!(access.check(&certified, Some(&good), None), Ok("admin".into()));
        assert_eq!(access.check(&certified, Some(&good.replace("Basic", "basic")), None), Ok("admin".into()));
    }

    #[test]
    fn without_restrictions_everyone_is_named_as_well_as_known() {
        let open = Access::default();
        assert_eq!(open.check(&Peer::default(), None, None), Ok("anonymous".into()));
        let certified = Peer { certificate: Some("CN=ops".into()), address: None };
        assert_eq!(open.check(&certified, None, None), Ok("CN=ops".into()));
    }

    #[test]
    fn members_are_allowed_by_their_rest_address() {
        let access = Access { allow_members: true, ..Access::default() };
        let member = Member { api_url: "http://10.0.0.2:8008/patroni".into(), ..Member::default() };
        let cluster = Cluster { members: [("pg2".to_owned(), member)].into(), ..Cluster::default() };
        assert!(access.check(&peer("10.0.0.2:40000"), None, Some(&cluster)).is_ok());
        assert_eq!(access.check(&peer("10.0.0.3:40000"), None, Some(&cluster)), Err(Denied::Address));
        assert_eq!(access.check(&peer("10.0.0.2:40000"), None, None), Err(Denied::Address));
    }

    #[test]
    fn printing_credentials_hides_the_password() {
        let shown = format!("{:?}", Credentials { user: "admin".into(), password: "secret".into() });
        assert!(shown.contains("admin") && !shown.contains("secret"));
    }
}
