//! TLS with ring: whom to trust and as whom to come, by Nomad's own settings.
//!
//! Files are read anew at every connection, so that rotated certificates need no restart.

use std::{fs, io, path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider},
    pki_types::{
        CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

use crate::nomad::settings::TlsSettings;

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with certificates or a key cannot be read.
    #[error("cannot read {}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The directory of authorities cannot be read.
    #[error("cannot read the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody is trusted.
    #[error("no certificate authority is known: {0}; set NOMAD_CACERT")]
    NoAuthority(String),
    /// A certificate without its key, or the other way round.
    #[error("NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY go together, and one of them is missing")]
    HalfIdentity,
    /// The name to expect is no name.
    #[error("{name:?} is no name that a certificate can have")]
    ServerName {
        /// The name.
        name: String,
        /// Why.
        source: InvalidDnsNameError,
    },
    /// The library refused what the files have.
    #[error("the certificates cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// The one place that chooses the cryptography. There is no process-wide default.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// The configuration of a connection. Reads files, so not to be called on the thread that serves connections.
///
/// # Errors
///
/// When a file is missing or is not what it should be.
pub fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = crypto_provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if settings.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnybody(provider)))
    } else {
        builder.with_root_certificates(authorities(settings)?)
    };
    match (&settings.client_cert, &settings.client_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
                path: key.clone(),
                source,
            })?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) | (None, Some(_)) => Err(TlsError::HalfIdentity),
    }
}

/// The name that the server's certificate must have. Nomad's own say `server.<region>.nomad`.
///
/// # Errors
///
/// When it is neither a DNS name nor an address.
pub fn server_name(settings: &TlsSettings, host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = settings.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|source| TlsError::ServerName {
        name: name.to_owned(),
        source,
    })
}

fn authorities(settings: &TlsSettings) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    if settings.ca_cert.is_none() && settings.ca_path.is_none() {
        let system = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(system.certs);
        if store.is_empty() {
            let reason = match system.errors.first() {
                Some(error) => error.to_string(),
                None => "this system has none".to_owned(),
            };
            return Err(TlsError::NoAuthority(reason));
        }
        return Ok(store);
    }
    if let Some(file) = &settings.ca_cert {
        for certificate in certificates(file)? {
            store.add(certificate)?;
        }
    }
    if let Some(directory) = &settings.ca_path {
        let unreadable = |source| TlsError::Directory {
            path: directory.clone(),
            source,
        };
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.is_file() {
                store.add_parsable_certificates(certificates(&path)?);
            }
        }
    }
    if store.is_empty() {
        return Err(TlsError::NoAuthority(
            "the files have no certificate".to_owned(),
        ));
    }
    Ok(store)
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Pem {
        path: path.clone(),
        source,
    };
    CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}

/// What `NOMAD_SKIP_VERIFY` asks for: the server may be anybody, but the handshake must be sound.
#[derive(Debug)]
struct TrustAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
