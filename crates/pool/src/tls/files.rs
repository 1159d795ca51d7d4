//! Reads PEM files for one side's settings, and collects what is worth a warning on the way.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ring::digest;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::certificate::Certificate;
use super::{Error, Options};

/// One load of the settings that begin with `prefix`.
pub(super) struct Files {
    prefix: &'static str,
    warnings: Vec<String>,
    contents: digest::Context,
}

impl Files {
    pub(super) fn new(prefix: &'static str) -> Files {
        Files { prefix, warnings: Vec::new(), contents: digest::Context::new(&digest::SHA256) }
    }

    /// `client_tls` or `server_tls`.
    pub(super) fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// Notes that setting `prefix_NAME` isn't honoured in full.
    pub(super) fn warn(&mut self, name: &str, what: String) {
        self.warn_of(&format!("_{name}"), what);
    }

    /// As [`Files::warn`], with all that follows the prefix.
    pub(super) fn warn_of(&mut self, rest: &str, what: String) {
        self.warnings.push(format!("{}{rest}: {what}", self.prefix));
    }

    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings
    }

    /// Of the settings and of every file read so far.
    pub(super) fn fingerprint(&self, options: &Options) -> Vec<u8> {
        let mut contents = self.contents.clone();
        contents.update(format!("{options:?}").as_bytes());
        contents.finish().as_ref().to_vec()
    }

    /// The refusal of setting `prefix_NAME`.
    pub(super) fn refusal(&self, name: &str, why: impl std::fmt::Display) -> Error {
        Error(format!("TLS setup failed: {}_{name} can't be used: {why}", self.prefix))
    }

    fn unusable(&self, name: &str, kind: &str, file: &Path, why: impl std::fmt::Display) -> Error {
        let prefix = self.prefix;
        Error(format!("TLS setup failed: failed to load {kind} file \"{}\" ({prefix}_{name}): {why}", file.display()))
    }

    fn read(&mut self, file: &Path) -> std::io::Result<Vec<u8>> {
        let text = fs::read(file)?;
        self.contents.update(&(text.len() as u64).to_be_bytes());
        self.contents.update(&text);
        Ok(text)
    }

    fn certificates(&mut self, name: &str, kind: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        let text = self.read(file).map_err(|e| self.unusable(name, kind, file, e))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|e| self.unusable(name, kind, file, format!("it isn't PEM: {e}")))?;
        if chain.is_empty() {
            return Err(self.unusable(name, kind, file, "it has no CERTIFICATE section"));
        }
        Ok(chain)
    }

    /// The certificates of an authorities' file, at least one.
    pub(super) fn authorities(&mut self, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
        self.certificates("ca_file", "CA", file)
    }

    /// Our own certificate with its chain and key, which must belong together. One that is out of date is only warned
    /// of: the other side decides.
    pub(super) fn certified_key(
        &mut self,
        cert: &Path,
        key: &Path,
        provider: &Arc<CryptoProvider>,
    ) -> Result<CertifiedKey, Error> {
        let chain = self.certificates("cert_file", "certificate", cert)?;
        let leaf = Certificate::parse(&chain[0])
            .map_err(|_| self.unusable("cert_file", "certificate", cert, "its certificate can't be read"))?;
        let signing = provider.key_provider.load_private_key(self.private_key(key)?).map_err(|_| {
            let why = "its key is of a kind that can't be used: it must be RSA of 2048 bits or more, ECDSA over P-256 \
                       or P-384, or Ed25519";
            self.unusable("key_file", "private key", key, why)
        })?;
        if signing.public_key().is_some_and(|public| !leaf.has_key(&public)) {
            let why = format!("key values mismatch: it doesn't belong to certificate \"{}\"", cert.display());
            return Err(self.unusable("key_file", "private key", key, why));
        }
        if let Err(fault) = leaf.valid_at(UnixTime::now()) {
            self.warn("cert_file", format!("the certificate in \"{}\" {}", cert.display(), fault.as_str()));
        }
        // Not `from_der`, which refuses certificates of version 1, such as `openssl x509 -req` made for many years.
        Ok(CertifiedKey::new(chain, signing))
    }

    fn private_key(&mut self, file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
        let refuse = |files: &Files, why: String| files.unusable("key_file", "private key", file, why);
        let text = self.read(file).map_err(|e| refuse(self, e.to_string()))?;
        let has = |needle: &str| text.windows(needle.len()).any(|window| window == needle.as_bytes());
        if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
            let hint = "its key is encrypted: decrypt it with \"openssl pkey -in OLD -out NEW\" (mode 0600)";
            return Err(refuse(self, hint.to_owned()));
        }
        PrivateKeyDer::from_pem_slice(&text).map_err(|_| refuse(self, "it has no PRIVATE KEY section".to_owned()))
    }
}
