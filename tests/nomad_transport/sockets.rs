//! Real sockets: Unix, TCP and TLS, as an operator would configure them.

use std::{path::PathBuf, sync::Arc};

use haproxy_nomad_sidecar::{
    catalog::FailureKind,
    nomad::{
        client::Client,
        settings::{Endpoint, Settings, TlsSettings},
        watch,
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier},
};

use crate::script::recorded;

/// Answers one request with a list.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = io.read_u8().await else {
            return;
        };
        head.push(byte);
    }
    io.write_all(&recorded("2.0.5/http/list.http"))
        .await
        .unwrap();
    io.shutdown().await.unwrap();
}

async fn list(endpoint: Endpoint) -> Result<u64, String> {
    let mut client = Client::new(Arc::new(Settings::new(endpoint.into())));
    let list = client.list("default", None).await;
    list.map(|list| list.index)
        .map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn a_unix_socket_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { answer(listener.accept().await.unwrap().0).await });
    assert_eq!(list(Endpoint::Unix(path)).await, Ok(17));
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_told_with_where_to_look() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let address = format!("http://127.0.0.1:{port}");
    let settings = Settings::new(address.parse().unwrap());
    let error = watch::read_once(&settings).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Unreachable);
    assert_eq!(
        error.to_string(),
        format!(
            "nomad at {address}: cannot connect: Connection refused (os error 111): is the agent running? set NOMAD_ADDR to where \
             it answers"
        )
    );
}

/// An authority, and an agent whose certificate has the name that Nomad's own have.
struct Agent {
    dir: tempfile::TempDir,
    port: u16,
}

impl Agent {
    /// Listens for ever. The files `ca.pem`, `client.pem` and `client.key` are in its directory.
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            (params.signed_by(&key, &authority).unwrap(), key)
        };
        let (client, client_key) = issue("client.global.nomad");
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        write("ca.pem", authority.pem());
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());

        let provider = haproxy_nomad_sidecar::nomad::tls::crypto_provider();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let (server, server_key) = issue("server.global.nomad");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(builder.build().unwrap())
            .with_single_cert(
                vec![server.der().clone()],
                PrivateKeyDer::try_from(server_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(tls) = acceptor.accept(tcp).await {
                    answer(tls).await;
                }
            }
        });
        Self { dir, port }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn good(&self) -> TlsSettings {
        TlsSettings {
            ca_cert: Some(self.file("ca.pem")),
            client_cert: Some(self.file("client.pem")),
            client_key: Some(self.file("client.key")),
            server_name: Some("server.global.nomad".to_owned()),
            ..TlsSettings::default()
        }
    }

    async fn ask(&self, tls: TlsSettings) -> Result<u64, String> {
        let host = "127.0.0.1".to_owned();
        let port = self.port;
        list(Endpoint::Https { host, port, tls }).await
    }
}

#[tokio::test]
async fn nomads_own_tls_settings_are_enough() {
    let agent = Agent::start().await;
    assert_eq!(agent.ask(agent.good()).await, Ok(17));
    let by_directory = TlsSettings {
        ca_cert: None,
        ca_path: Some(agent.file("")),
        ..agent.good()
    };
    // The directory has a key too, which is no certificate and no harm.
    assert_eq!(agent.ask(by_directory).await, Ok(17));
    let anybody = TlsSettings {
        ca_cert: None,
        server_name: None,
        skip_verify: true,
        ..agent.good()
    };
    assert_eq!(agent.ask(anybody).await, Ok(17));
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_told() {
    let agent = Agent::start().await;
    let other = Agent::start().await;
    let table = [
        (
            TlsSettings {
                server_name: None,
                ..agent.good()
            },
            "NotValidForName",
        ),
        (
            TlsSettings {
                ca_cert: Some(other.file("ca.pem")),
                ..agent.good()
            },
            "BadSignature",
        ),
        (
            TlsSettings {
                client_key: None,
                ..agent.good()
            },
            "HalfIdentity",
        ),
        (
            TlsSettings {
                ca_cert: Some(agent.file("missing.pem")),
                ..agent.good()
            },
            "missing.pem",
        ),
        (
            TlsSettings {
                client_cert: None,
                client_key: None,
                ..agent.good()
            },
            "CertificateRequired",
        ),
    ];
    for (tls, text) in table {
        let error = agent.ask(tls).await.unwrap_err();
        assert!(error.contains(text), "{text}: {error}");
    }
}

#[tokio::test]
async fn the_operator_is_told_which_tls_setting_to_look_at() {
    let agent = Agent::start().await;
    let tls = TlsSettings {
        server_name: None,
        ..agent.good()
    };
    let endpoint = Endpoint::Https {
        host: "127.0.0.1".to_owned(),
        port: agent.port,
        tls,
    };
    let settings = Settings::new(endpoint.into());
    let text = watch::read_once(&settings).await.unwrap_err().to_string();
    assert!(text.contains("the TLS handshake failed: invalid peer certificate: certificate not valid for name \"127.0.0.1\""), "{text}");
    assert!(text.contains("NOMAD_TLS_SERVER_NAME"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_file_that_hangs_is_given_up_after_five_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let endpoint = Endpoint::Https {
        host: "127.0.0.1".to_owned(),
        port: 1,
        tls: TlsSettings {
            ca_cert: Some(path.clone()),
            ..TlsSettings::default()
        },
    };
    let passing = tokio::time::advance(std::time::Duration::from_secs(5));
    let (failed, ()) = tokio::join!(list(endpoint), passing);
    let error = failed.unwrap_err();
    assert!(error.contains("FilesTimeout"), "{error}");
    // Lets the thread go that reads.
    drop(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
}
