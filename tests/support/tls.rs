//! Certificates for tests, made when they are needed.

use std::{path::Path, sync::Arc};

use haproxy_nomad_sidecar::nomad::settings::TlsSettings;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair,
};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// An authority that signs for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// What an agent and its clients need to trust each other, in one directory by the names that an operator would use.
pub(crate) struct Certificates {
    authority: Authority,
    agent: Identity,
}

/// A certificate with its key.
pub(crate) struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("the parameters are good");
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// A certificate for a server or a client with these names; IP addresses become addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("the names are good");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the parameters are good");
        Identity { certificate, key }
    }

    /// What a server with `identity` does; clients must have a certificate of `clients` if that is given.
    pub(crate) fn server(identity: &Identity, clients: Option<&Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder();
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(authority.certificate.der().clone())
                    .expect("it is a certificate");
                let verifier = WebPkiClientVerifier::builder(roots.into()).build();
                builder.with_client_cert_verifier(verifier.expect("there is a root"))
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.serialize_der()));
        let config = builder.with_single_cert(vec![identity.certificate.der().clone()], key);
        Arc::new(config.expect("the key belongs to the certificate"))
    }

    /// Writes the authority's certificate, as `NOMAD_CACERT` wants it.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.certificate.pem()).expect("the test's directory is writable");
    }
}

impl Identity {
    /// Writes certificate and key, as `NOMAD_CLIENT_CERT` and `NOMAD_CLIENT_KEY` want them.
    pub(crate) fn write(&self, certificate: &Path, key: &Path) {
        let pem = self.certificate.pem();
        std::fs::write(certificate, pem).expect("the test's directory is writable");
        std::fs::write(key, self.key.serialize_pem()).expect("the test's directory is writable");
    }
}

impl Certificates {
    /// Writes `ca.pem`, `agent.pem`, `client.pem` and the keys `agent-key.pem` and `client-key.pem`.
    pub(crate) fn write(directory: &Path) -> Self {
        let authority = Authority::new("nomad");
        authority.write(&directory.join("ca.pem"));
        let agent = authority.issue(&["server.global.nomad", "localhost", "127.0.0.1"]);
        agent.write(
            &directory.join("agent.pem"),
            &directory.join("agent-key.pem"),
        );
        authority.issue(&["client.global.nomad"]).write(
            &directory.join("client.pem"),
            &directory.join("client-key.pem"),
        );
        Self { authority, agent }
    }

    /// What an agent does that wants a certificate of its clients.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Authority::server(&self.agent, Some(&self.authority))
    }

    /// What a client is told of them.
    pub(crate) fn client(directory: &Path) -> TlsSettings {
        TlsSettings {
            ca_cert: Some(directory.join("ca.pem")),
            client_cert: Some(directory.join("client.pem")),
            client_key: Some(directory.join("client-key.pem")),
            ..TlsSettings::default()
        }
    }
}
