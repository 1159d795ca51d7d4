//! TLS out of PEM files: the server's side with optional client certificates, reloadable, and the client's side.
//! Sockets are not here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Ctl, RestApi, VerifyClient};

mod anyone;

/// Files that may hold the system's certificate authorities: Debian's, Red Hat's, SUSE's, Alpine's.
const SYSTEM_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A certificate, key or authority that can't be used. The text names the file and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Files of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFiles {
    /// Certificate chain, the server's own first.
    pub cert: PathBuf,
    /// Private key; absent means that it is in `cert`.
    pub key: Option<PathBuf>,
    /// Authority of the clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients must show one.
    pub verify: VerifyClient,
}

impl ServerFiles {
    /// Those of section `restapi`; `None` when it has no certificate.
    pub fn of(api: &RestApi) -> Option<ServerFiles> {
        Some(ServerFiles {
            cert: api.certfile.clone()?,
            key: api.keyfile.clone(),
            client_ca: api.cafile.clone(),
            verify: api.verify_client,
        })
    }
}

/// A server's TLS. Clones share it, and a reload is in force for the next connection.
#[derive(Clone)]
pub struct Server {
    files: Arc<RwLock<ServerFiles>>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing, isn't PEM, or certificate and key don't belong together.
    pub fn load(files: ServerFiles) -> Result<Server, Error> {
        let config = server_config(&files)?;
        Ok(Server { files: Arc::new(RwLock::new(files)), config: Arc::new(RwLock::new(Arc::new(config))) })
    }

    /// Reads the files again, or others.
    ///
    /// # Errors
    /// As [`Server::load`]; what was in force stays in force.
    pub fn reload(&self, files: ServerFiles) -> Result<(), Error> {
        let config = server_config(&files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = files;
        Ok(())
    }

    /// The files in force.
    pub fn files(&self) -> ServerFiles {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For one connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Files of a client.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientFiles {
    /// Authority of the servers' certificates; absent means the system's.
    pub ca: Option<PathBuf>,
    /// Accept every server certificate.
    pub insecure: bool,
    /// Client certificate chain.
    pub cert: Option<PathBuf>,
    /// Its private key; absent means that it is in `cert`.
    pub key: Option<PathBuf>,
}

impl ClientFiles {
    /// Those of section `ctl`, where it has none those of `restapi` (members of one cluster share an authority).
    pub fn of(ctl: &Ctl, api: &RestApi) -> ClientFiles {
        let own = ctl.certfile.is_some();
        ClientFiles {
            ca: ctl.cacert.clone().or_else(|| api.cafile.clone()),
            insecure: ctl.insecure,
            cert: if own { ctl.certfile.clone() } else { api.certfile.clone() },
            key: if own { ctl.keyfile.clone() } else { api.keyfile.clone() },
        }
    }
}

/// A client's TLS. The protocols (ALPN) are left to the caller.
///
/// # Errors
/// A file is missing or isn't PEM, or no authority can be found at all.
pub fn client(files: &ClientFiles) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error(format!("can't set TLS up: {e}")))?;
    let builder = if files.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(anyone::Anyone(provider())))
    } else {
        builder.with_root_certificates(match &files.ca {
            Some(file) => authorities(file)?,
            None => system_authorities()?,
        })
    };
    match &files.cert {
        None => Ok(builder.with_no_client_auth()),
        Some(cert) => {
            let (chain, key) = pair(cert, files.key.as_deref())?;
            builder.with_client_auth_cert(chain, key).map_err(|e| mismatch(cert, files.key.as_deref(), &e))
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(files: &ServerFiles) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error(format!("can't set TLS up: {e}")))?;
    let builder = match (files.verify, &files.client_ca) {
        (VerifyClient::None, _) => builder.with_no_client_auth(),
        (_, None) => {
            return Err(Error("verify_client needs a cafile, the authority of the clients' certificates".into()));
        }
        (verify, Some(ca)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(ca)?), provider());
            let verifier = if verify == VerifyClient::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unusable(ca, &e.to_string()))?)
        }
    };
    let (chain, key) = pair(&files.cert, files.key.as_deref())?;
    let mut config =
        builder.with_single_cert(chain, key).map_err(|e| mismatch(&files.cert, files.key.as_deref(), &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn pair(cert: &Path, key: Option<&Path>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    Ok((certificates(cert)?, private_key(key.unwrap_or(cert))?))
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    fs::read(file).map_err(|e| Error(format!("can't read {}: {e}", file.display())))
}

fn unusable(file: &Path, why: &str) -> Error {
    Error(format!("{} can't be used: {why}", file.display()))
}

fn mismatch(cert: &Path, key: Option<&Path>, error: &rustls::Error) -> Error {
    let key = key.unwrap_or(cert);
    Error(format!("certificate {} and key {} can't be used together: {error}", cert.display(), key.display()))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|e| unusable(file, &format!("not PEM: {e}")))?;
    if chain.is_empty() { Err(unusable(file, "it has no CERTIFICATE section")) } else { Ok(chain) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(file)?;
    let has = |needle: &str| text.windows(needle.len()).any(|window| window == needle.as_bytes());
    if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
        let hint = "its key is encrypted, which is not supported yet: decrypt it with \"openssl pkey -in OLD -out NEW\" \
                    (mode 0600) and remove keyfile_password";
        return Err(unusable(file, hint));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| unusable(file, "it has no PRIVATE KEY section"))
}

fn authorities(file: &Path) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).map_err(|e| unusable(file, &e.to_string()))?;
    }
    Ok(store)
}

/// The system's authorities. Single ones that rustls can't use are left out.
fn system_authorities() -> Result<RootCertStore, Error> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = SYSTEM_AUTHORITIES.iter().map(PathBuf::from);
    let Some(file) = named.into_iter().chain(usual).find(|file| file.is_file()) else {
        return Err(Error("no certificate authorities are known here: set ctl.cacert, or ctl.insecure".to_owned()));
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(certificates(&file)?);
    Ok(store)
}

/// The subject of a certificate, as `CN=ops, O=Example`.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.subject().to_string())
}
