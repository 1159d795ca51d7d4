//! TLS as pgbouncer's settings describe it, for both sides of the pooler: what they ask for becomes a rustls
//! configuration, reloadable, with pgbouncer's refusals. Sockets are not here but in `stream`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ConfigBuilder, ConfigSide, ServerConfig, WantsVerifier};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};

mod authorities;
mod certificate;
mod ciphers;
mod describe;
mod files;
mod protocols;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verifier;

pub use certificate::common_name;
pub use describe::{Side, describe};

use authorities::Authorities;
use files::Files;

/// The protocol's name in TLS's negotiation (ALPN), as PostgreSQL 17 and its clients use it.
pub const ALPN: &[u8] = b"postgresql";

/// A setting, certificate, key or authority that can't be used. The text names the setting, the file and the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// `client_tls_sslmode` and `server_tls_sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never TLS.
    #[default]
    Disable,
    /// TLS where a client asks for it or a server offers it. Servers are asked, as with `prefer`.
    Allow,
    /// In pgbouncer the same as `allow`.
    Prefer,
    /// TLS only.
    Require,
    /// TLS only, and the other side's certificate must come from a known authority.
    VerifyCa,
    /// As `verify-ca`; a server's certificate must also name the host. With clients there is no further check.
    VerifyFull,
}

impl SslMode {
    /// Reads pgbouncer's word for it, in any case.
    pub fn parse(text: &str) -> Option<SslMode> {
        let all =
            [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull].into_iter();
        all.into_iter().find(|mode| text.eq_ignore_ascii_case(mode.as_str()))
    }

    /// pgbouncer's word.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }

    /// Whether a connection without TLS is refused.
    pub fn is_demanded(self) -> bool {
        self >= SslMode::Require
    }

    /// Whether the other side must show a certificate of a known authority.
    pub fn verifies(self) -> bool {
        self >= SslMode::VerifyCa
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The settings `client_tls_*` or `server_tls_*`, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `sslmode`.
    pub sslmode: SslMode,
    /// `key_file`: our private key.
    pub key_file: Option<PathBuf>,
    /// `cert_file`: our certificate, then its chain.
    pub cert_file: Option<PathBuf>,
    /// `ca_file`: who may have signed the other side's certificate.
    pub ca_file: Option<PathBuf>,
    /// `protocols`.
    pub protocols: String,
    /// `ciphers`: those of TLS 1.2, in OpenSSL's syntax.
    pub ciphers: String,
    /// `tls13_ciphers`; empty means all.
    pub tls13_ciphers: String,
    /// `ecdhcurve`; only clients have it.
    pub ecdhcurve: String,
    /// `dheparams`; only clients have it.
    pub dheparams: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            sslmode: SslMode::Disable,
            key_file: None,
            cert_file: None,
            ca_file: None,
            protocols: "secure".to_owned(),
            ciphers: "default".to_owned(),
            tls13_ciphers: String::new(),
            ecdhcurve: "auto".to_owned(),
            dheparams: "auto".to_owned(),
        }
    }
}

/// What accepts clients' TLS. Clones share it, and a reload is in force for the next connection.
#[derive(Debug, Clone)]
pub struct Server(Arc<RwLock<Arc<Acceptor>>>);

/// The clients' side as one load of the settings made it.
#[derive(Debug)]
pub struct Acceptor {
    /// `client_tls_sslmode`.
    pub sslmode: SslMode,
    /// Absent with `disable`.
    pub config: Option<Arc<ServerConfig>>,
    /// What was asked for and can't be had, a sentence each.
    pub warnings: Vec<String>,
}

impl Server {
    /// Reads the settings `client_tls_*` and their files.
    ///
    /// # Errors
    /// A setting makes no sense, a file can't be used, or nothing is left to negotiate.
    pub fn load(options: &Options) -> Result<Server, Error> {
        Ok(Server(Arc::new(RwLock::new(Arc::new(acceptor(options)?)))))
    }

    /// Reads them again, or others.
    ///
    /// # Errors
    /// As [`Server::load`]; what was in force stays in force.
    pub fn reload(&self, options: &Options) -> Result<(), Error> {
        let fresh = Arc::new(acceptor(options)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Acceptor> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What starts TLS with servers. Clones share it, and a reload is in force for the next connection.
#[derive(Debug, Clone)]
pub struct Client(Arc<RwLock<Arc<Connector>>>);

/// The servers' side as one load of the settings made it.
#[derive(Debug)]
pub struct Connector {
    /// `server_tls_sslmode`.
    pub sslmode: SslMode,
    /// Absent with `disable`.
    pub config: Option<Arc<ClientConfig>>,
    /// What was asked for and can't be had, a sentence each.
    pub warnings: Vec<String>,
    /// Of the settings and of what the files hold.
    fingerprint: Vec<u8>,
}

impl Connector {
    /// What to call a server whose configured host is `host`.
    ///
    /// # Errors
    /// `verify-full`, and no certificate could have such a name.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, Error> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.sslmode == SslMode::VerifyFull => {
                Err(Error(format!("server_tls_sslmode=verify-full can't check the host name \"{host}\"")))
            }
            // Nobody looks at it, and an address is never sent to the server.
            Err(_) => Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))),
        }
    }
}

impl Client {
    /// Reads the settings `server_tls_*` and their files.
    ///
    /// # Errors
    /// A setting makes no sense, a file can't be used, or nothing is left to negotiate.
    pub fn load(options: &Options) -> Result<Client, Error> {
        Ok(Client(Arc::new(RwLock::new(Arc::new(connector(options)?)))))
    }

    /// Reads them again, or others, and says whether anything changed, so that connections made before must go.
    ///
    /// # Errors
    /// As [`Client::load`]; what was in force stays in force.
    pub fn reload(&self, options: &Options) -> Result<bool, Error> {
        let fresh = Arc::new(connector(options)?);
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.fingerprint != fresh.fingerprint;
        *current = fresh;
        Ok(changed)
    }

    /// What is in force.
    pub fn current(&self) -> Arc<Connector> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn acceptor(options: &Options) -> Result<Acceptor, Error> {
    let sslmode = options.sslmode;
    let mut files = Files::new("client_tls");
    if sslmode == SslMode::Disable {
        return Ok(Acceptor { sslmode, config: None, warnings: Vec::new() });
    }
    let (Some(cert), Some(key)) = (&options.cert_file, &options.key_file) else {
        return Err(Error(
            "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set.".into(),
        ));
    };
    if sslmode == SslMode::VerifyFull && options.ca_file.is_none() {
        return Err(Error("client_tls_sslmode requires client_tls_ca_file".into()));
    }
    let groups = protocols::groups(&options.ecdhcurve, &mut files)?;
    protocols::warn_of_dheparams(&options.dheparams, &mut files)?;
    let (provider, builder) = start(options, groups, &mut files, ServerConfig::builder_with_provider)?;
    let authorities = match &options.ca_file {
        Some(file) => Some(Authorities::load(&mut files, file)?),
        None if sslmode.verifies() => Some(Authorities::of_the_system(&mut files)?),
        None => None,
    };
    let builder = match authorities {
        Some(authorities) => builder.with_client_cert_verifier(Arc::new(
            verifier::Clients::new(authorities, sslmode.verifies(), &provider)
                .map_err(|e| files.refusal("ca_file", e))?,
        )),
        None => builder.with_no_client_auth(),
    };
    let ours = files.certified_key(cert, key, &provider)?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(ours)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ignore_client_order = true;
    // PostgreSQL's clients don't resume sessions, so what resumption needs would be sent and kept for nobody.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Acceptor { sslmode, config: Some(Arc::new(config)), warnings: files.into_warnings() })
}

fn connector(options: &Options) -> Result<Connector, Error> {
    let sslmode = options.sslmode;
    let mut files = Files::new("server_tls");
    if sslmode == SslMode::Disable {
        return Ok(Connector { sslmode, config: None, warnings: Vec::new(), fingerprint: Vec::new() });
    }
    let groups = protocols::groups_for_servers();
    let (provider, builder) = start(options, groups, &mut files, ClientConfig::builder_with_provider)?;
    let trust = match (&options.ca_file, sslmode) {
        (_, SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require) => verifier::Trust::Anyone,
        (file, _) => {
            let authorities = match file {
                Some(file) => Authorities::load(&mut files, file)?,
                None => Authorities::of_the_system(&mut files)?,
            };
            verifier::Trust::Authorities { authorities, names: sslmode == SslMode::VerifyFull }
        }
    };
    let verifier = verifier::Servers::new(trust, &provider);
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (&options.cert_file, &options.key_file) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let ours = files.certified_key(cert, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(ours)))
        }
        (None, Some(_)) => return Err(Error("server_tls_key_file needs server_tls_cert_file".into())),
        (Some(_), None) => return Err(Error("server_tls_cert_file needs server_tls_key_file".into())),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL resumes no sessions.
    config.resumption = rustls::client::Resumption::disabled();
    let fingerprint = files.fingerprint(options);
    Ok(Connector { sslmode, config: Some(Arc::new(config)), warnings: files.into_warnings(), fingerprint })
}

/// The part that both sides share: versions and cipher suites.
fn start<S: ConfigSide>(
    options: &Options,
    groups: Vec<&'static dyn SupportedKxGroup>,
    files: &mut Files,
    builder: impl FnOnce(Arc<CryptoProvider>) -> ConfigBuilder<S, rustls::WantsVersions>,
) -> Result<(Arc<CryptoProvider>, ConfigBuilder<S, WantsVerifier>), Error> {
    let versions = protocols::versions(&options.protocols, files)?;
    let mut suites = Vec::new();
    if versions.tls13 {
        suites.extend(ciphers::tls13(&options.tls13_ciphers, files)?);
    }
    if versions.tls12 {
        suites.extend(ciphers::tls12(&options.ciphers, files)?);
    }
    let base = rustls::crypto::ring::default_provider();
    let provider = Arc::new(CryptoProvider { cipher_suites: suites, kx_groups: groups, ..base });
    let builder = builder(Arc::clone(&provider))
        .with_protocol_versions(&versions.list())
        .map_err(|e| Error(format!("TLS can't be set up: {e}")))?;
    Ok((provider, builder))
}
