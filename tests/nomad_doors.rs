//! The same catalog through every door: HTTP, HTTPS with certificates on both sides, and the Task API; and what an
//! operator reads at a door that does not open. The fake always, and a real agent where `nomad` is on PATH.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::path::Path;

use haproxy_nomad_sidecar::{
    model::ServiceKey,
    nomad::{
        settings::{Endpoint, Settings, TlsSettings, TokenSource},
        watch::read_once,
    },
    redacted::Redacted,
};
use support::{
    fake_nomad::{FakeNomad, Mode, Recorded, ServiceRegistration, Token, Which},
    real_nomad::RealNomad,
    tls::{Authority, Certificates},
};

#[tokio::test]
async fn plain_http_opens() {
    let nomad = a_nomad().await;
    assert_eq!(read(&settings(&nomad.url())).await.unwrap(), "web");
}

#[tokio::test]
async fn https_opens_to_the_right_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let mut nomad = a_nomad().await;
    let config = Certificates::write(directory.path()).server();
    let url = format!("https://{}", nomad.listen_tls(config).await);
    let tls = Certificates::client(directory.path());
    https_opens_to(&tls, &url, "web").await;
}

#[tokio::test]
async fn https_of_a_real_agent_opens_to_the_right_certificates() {
    let Some(nomad) = RealNomad::start(false, true).await else {
        return;
    };
    let Endpoint::Https { tls, .. } = nomad.endpoint() else {
        panic!("it was asked for TLS");
    };
    https_opens_to(tls, &nomad.endpoint().to_string(), "").await;
}

async fn https_opens_to(tls: &TlsSettings, url: &str, services: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let stranger = directory.path().join("stranger.pem");
    Authority::new("strangers").write(&stranger);
    let read_with = async |tls: TlsSettings| {
        let mut settings = settings(url);
        settings.endpoints = settings.endpoints.with_tls(&tls);
        read(&settings).await
    };
    let refused = async |tls: TlsSettings| read_with(tls).await.expect_err("it is refused");

    assert_eq!(read_with(tls.clone()).await.as_deref(), Ok(services));
    let named = TlsSettings {
        server_name: Some("server.global.nomad".to_owned()),
        ..tls.clone()
    };
    assert_eq!(read_with(named).await.as_deref(), Ok(services));
    let misnamed = TlsSettings {
        server_name: Some("client.global.nomad".to_owned()),
        ..tls.clone()
    };
    let text = refused(misnamed).await;
    assert!(text.contains("NOMAD_TLS_SERVER_NAME"), "{text}");
    let stranger = TlsSettings {
        ca_cert: Some(stranger),
        ..tls.clone()
    };
    let text = refused(stranger).await;
    assert!(text.contains("NOMAD_CACERT"), "{text}");
    let anonymous = TlsSettings {
        client_cert: None,
        client_key: None,
        ..tls.clone()
    };
    let text = refused(anonymous).await;
    assert!(text.contains("CertificateRequired"), "{text}");
}

#[tokio::test]
async fn the_task_api_opens_to_an_identity() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut nomad = a_nomad().await;
    nomad.listen_task_api(&path("api.sock")).await;
    nomad.issue("identity", Token::Workload(Vec::new()));
    std::fs::write(path("nomad_token"), "identity").unwrap();
    let settings = the_task_api_opens_to_the_identity_in(directory.path(), "web").await;
    nomad.stop().await;
    let said = read(&settings).await.unwrap_err();
    assert!(said.contains("NOMAD_SECRETS_DIR"), "{said}");
}

#[tokio::test]
async fn the_task_api_of_a_real_agent_opens_to_an_identity() {
    let Some(nomad) = RealNomad::start(true, false).await else {
        return;
    };
    the_task_api_opens_to_the_identity_in(&nomad.secrets(), "").await;
}

/// Gives the settings that opened it.
async fn the_task_api_opens_to_the_identity_in(secrets: &Path, services: &str) -> Settings {
    let url = format!("unix://{}", secrets.join("api.sock").display());
    let with = |token: TokenSource| {
        let mut settings = settings(&url);
        settings.token = token;
        settings
    };
    let value = |token: &str| TokenSource::Value(Redacted::new(token.to_owned()));

    let by_identity = with(TokenSource::File(secrets.join("nomad_token")));
    assert_eq!(read(&by_identity).await.as_deref(), Ok(services));
    for (token, text) in [
        (TokenSource::None, "no token was sent"),
        (value("11111111-2222-3333-4444-555555555555"), "read-job"),
        (value("nonsense"), "the token is not valid"),
    ] {
        let said = read(&with(token)).await.expect_err("it is refused");
        assert!(said.contains(text), "{said}");
        assert!(
            !said.contains("nonsense") && !said.contains("11111111"),
            "{said}"
        );
    }
    by_identity
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
    let read = read_once(settings)
        .await
        .map_err(|error| error.to_string())?;
    let names: Vec<&ServiceKey> = read.services.keys().collect();
    Ok(names
        .iter()
        .map(|key| &*key.name)
        .collect::<Vec<_>>()
        .join(","))
}
