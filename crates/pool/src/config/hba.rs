//! Host-based rules (`auth_hba_file`; PostgreSQL documentation, "The pg_hba.conf File"): who may come from where, and
//! how they prove who they are.

mod read;

use std::net::IpAddr;

pub use read::Reading;

/// Rules in the order of the file; the first that fits decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hba(Vec<Rule>);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Line in the file.
    pub line: usize,
    /// Connections it is about.
    pub kind: Kind,
    /// Databases it is about.
    pub databases: Names,
    /// Users it is about.
    pub users: Names,
    /// Addresses it is about; `None`: all. Always `None` for [`Kind::Local`].
    pub address: Option<Network>,
    /// What is asked of the client.
    pub method: Method,
    /// Name of the ident map (`map=`).
    pub map: Option<String>,
}

/// Kinds of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Unix sockets.
    Local,
    /// TCP.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// A list of databases or users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Every one (`all`). A physical replication connection isn't to a database.
    pub all: bool,
    /// A database of the user's own name (`sameuser`).
    pub same_user: bool,
    /// Physical replication connections (`replication`).
    pub replication: bool,
    /// These.
    pub names: Vec<String>,
}

/// A block of addresses. One whose address has bits outside the mask has nothing in it, as in pgbouncer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// First address.
    pub address: IpAddr,
    /// Bits that have to agree.
    pub mask: IpAddr,
}

/// What is asked of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Nothing.
    Trust,
    /// It may not come in.
    Reject,
    /// An MD5 challenge, or SCRAM where the secret is a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// The password in clear text.
    Plain,
    /// A certificate for its name.
    Cert,
    /// The system user of the same name, at the other end of a Unix socket.
    Peer,
}

/// An attempt to log in.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Where the client is; `None`: at a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Database it asks for.
    pub database: &'a str,
    /// User it says to be.
    pub user: &'a str,
    /// Whether it asks for physical replication (`replication=true`). Logical replication (`replication=database`) is
    /// a connection to a database as any other.
    pub replication: bool,
}

impl Hba {
    /// The first rule that fits; `None`: there is none, the client may not come in.
    #[must_use]
    pub fn matches(&self, attempt: &Attempt<'_>) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.fits(attempt))
    }
}

impl Rule {
    fn fits(&self, attempt: &Attempt<'_>) -> bool {
        self.kind.fits(attempt)
            && self.address.is_none_or(|network| attempt.address.is_some_and(|a| network.contains(a)))
            && self.databases.has_database(attempt)
            && self.users.has_user(attempt.user)
    }
}

impl Kind {
    fn fits(self, attempt: &Attempt<'_>) -> bool {
        match self {
            Self::Local => attempt.address.is_none(),
            Self::Host => attempt.address.is_some(),
            Self::HostSsl => attempt.address.is_some() && attempt.tls,
            Self::HostNoSsl => attempt.address.is_some() && !attempt.tls,
        }
    }
}

impl Names {
    fn has_database(&self, attempt: &Attempt<'_>) -> bool {
        if attempt.replication {
            return self.replication;
        }
        self.all || (self.same_user && attempt.database == attempt.user) || self.has(attempt.database)
    }

    fn has_user(&self, user: &str) -> bool {
        self.all || self.has(user)
    }

    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }
}

impl Network {
    /// Whether an address is in the block. An IPv4 address that came to an IPv6 socket counts as what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.mask) == Some(self.address)
    }

    /// Whether there can be an address in the block.
    fn can_fit(&self) -> bool {
        masked(self.address, self.mask) == Some(self.address)
    }
}

fn masked(address: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (address, mask) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => Some((address & mask).into()),
        (IpAddr::V6(address), IpAddr::V6(mask)) => Some((address & mask).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
