//! The same catalog through every door: HTTP, HTTPS with certificates on both sides, and the Task API; and what an
//! operator reads at a door that does not open.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use haproxy_nomad_sidecar::{
    model::ServiceKey,
    nomad::{
        settings::{Settings, TlsSettings, TokenSource},
        watch::read_once,
    },
    redacted::Redacted,
};
use support::{
    fake_nomad::{FakeNomad, Mode, Recorded, ServiceRegistration, Token, Which},
    tls::Authority,
};

#[tokio::test]
async fn plain_http_opens() {
    let nomad = a_nomad().await;
    assert_eq!(read(&settings(&nomad.url())).await.unwrap(), "web");
}

#[tokio::test]
async fn https_opens_to_the_right_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    servers.write(&path("ca.pem"));
    Authority::new("strangers").write(&path("stranger.pem"));
    let client = clients.issue(&["client.global.nomad"]);
    client.write(&path("client.pem"), &path("client-key.pem"));
    let identity = servers.issue(&["server.global.nomad", "127.0.0.1"]);
    let mut nomad = a_nomad().await;
    let config = Authority::server(&identity, Some(&clients));
    let url = format!("https://{}", nomad.listen_tls(config).await);
    let tls = TlsSettings {
        ca_cert: Some(path("ca.pem")),
        client_cert: Some(path("client.pem")),
        client_key: Some(path("client-key.pem")),
        ..TlsSettings::default()
    };
    let read_with = async |tls: TlsSettings| {
        let mut settings = settings(&url);
        settings.endpoints = settings.endpoints.with_tls(&tls);
        read(&settings).await
    };

    assert_eq!(read_with(tls.clone()).await.unwrap(), "web");
    let named = TlsSettings {
        server_name: Some("server.global.nomad".to_owned()),
        ..tls.clone()
    };
    assert_eq!(read_with(named).await.unwrap(), "web");
    let misnamed = TlsSettings {
        server_name: Some("client.global.nomad".to_owned()),
        ..tls.clone()
    };
    let text = read_with(misnamed).await.unwrap_err();
    assert!(text.contains("NOMAD_TLS_SERVER_NAME"), "{text}");
    let stranger = TlsSettings {
        ca_cert: Some(path("stranger.pem")),
        ..tls.clone()
    };
    let text = read_with(stranger).await.unwrap_err();
    assert!(text.contains("NOMAD_CACERT"), "{text}");
    let anonymous = TlsSettings {
        client_cert: None,
        client_key: None,
        ..tls
    };
    let text = read_with(anonymous).await.unwrap_err();
    assert!(text.contains("CertificateRequired"), "{text}");
}

#[tokio::test]
async fn the_task_api_opens_to_an_identity() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut nomad = a_nomad().await;
    nomad.listen_task_api(&path("api.sock")).await;
    nomad.issue("identity", Token::Workload(Vec::new()));
    let url = format!("unix://{}", path("api.sock").display());
    let token_file = path("nomad_token");
    std::fs::write(&token_file, "identity").unwrap();
    let read_as = async |token: TokenSource| {
        let mut settings = settings(&url);
        settings.token = token;
        read(&settings).await
    };
    let value = |token: &str| TokenSource::Value(Redacted::new(token.to_owned()));

    assert_eq!(
        read_as(TokenSource::File(token_file.clone()))
            .await
            .unwrap(),
        "web"
    );
    for (token, text) in [
        (TokenSource::None, "no token was sent"),
        (value("11111111-2222-3333-4444-555555555555"), "read-job"),
        (value("nonsense"), "the token is not valid"),
    ] {
        let said = read_as(token).await.unwrap_err();
        assert!(said.contains(text), "{said}");
        assert!(
            !said.contains("nonsense") && !said.contains("11111111"),
            "{said}"
        );
    }
    nomad.stop().await;
    let said = read_as(TokenSource::File(token_file)).await.unwrap_err();
    assert!(said.contains("NOMAD_SECRETS_DIR"), "{said}");
}

#[tokio::test]
async fn a_nomad_in_trouble_is_named_as_what_it_is() {
    let nomad = a_nomad().await;
    let settings = settings(&nomad.url());
    for (answer, text) in [
        (Recorded::ShuttingDown, "shutting down"),
        (Recorded::NoRightAnywhere, "read-job"),
        (Recorded::PermissionDenied, "Permission denied"),
        (Recorded::NotReady, "Not ready to serve consistent reads"),
        (Recorded::ConnectionRefused, "connection refused"),
    ] {
        nomad.mode(Which::Every, Mode::Answer(answer));
        let said = read(&settings).await.unwrap_err();
        assert!(said.contains(text), "{answer:?}: {said}");
    }
    nomad.mode(Which::Every, Mode::Normal);
    nomad.mode(
        Which::Connections,
        Mode::Answer(Recorded::TooManyConnections),
    );
    let said = read(&settings).await.unwrap_err();
    assert!(said.contains("http_max_conns_per_client"), "{said}");
    nomad.stop().await;
    let said = read(&settings).await.unwrap_err();
    assert!(said.contains("set NOMAD_ADDR"), "{said}");
}

async fn a_nomad() -> FakeNomad {
    let nomad = FakeNomad::start().await;
    nomad.register(ServiceRegistration::new("web", 1, 8080).tags(&["haproxy.enable=true"]));
    nomad.register(ServiceRegistration::new("other", 2, 8081));
    nomad
}

fn settings(url: &str) -> Settings {
    Settings::new(url.parse().expect("an address"))
}

/// The names of what is wanted, or what an operator reads.
async fn read(settings: &Settings) -> Result<String, String> {
    let services = read_once(settings)
        .await
        .map_err(|error| error.to_string())?;
    let names: Vec<&ServiceKey> = services.keys().collect();
    Ok(names
        .iter()
        .map(|key| &*key.name)
        .collect::<Vec<_>>()
        .join(","))
}
