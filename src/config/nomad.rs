//! Which Nomad is asked, and as whom.
//!
//! An address that somebody set is used. Otherwise the Task API is, where there is one, and otherwise the agent of this
//! machine. Nomad sets `NOMAD_UNIX_ADDR`, `NOMAD_NAMESPACE` and `NOMAD_REGION` in its tasks, and never `NOMAD_ADDR`
//! (`client/taskenv/env.go`).

use std::path::{Path, PathBuf};

use super::{
    Error, Task, find,
    options::{Found, Layers, Origin},
    value,
};
use crate::{
    nomad::settings::{Endpoint, Endpoints, Settings, TlsSettings, TokenSource},
    redacted::Redacted,
};

/// Nomad's namespace when nothing else is said.
const DEFAULT_NAMESPACE: &str = "default";

/// Nomad's settings as the layers have them.
pub(super) fn settings(layers: &Layers<'_>, task: &Task) -> Result<Settings, Error> {
    let (endpoints, is_task_api) = endpoints(layers, task)?;
    let secrets = task.secrets_dir.as_deref().filter(|_| is_task_api);
    let mut settings = Settings::new(endpoints.with_tls(&tls(layers)?));
    settings.token = token(layers, secrets);
    settings.region = find!(layers, nomad_region).map(|found| found.text.to_owned());
    settings.http_auth =
        find!(layers, nomad_http_auth).map(|found| Redacted::new(found.text.to_owned()));
    settings.namespaces = match find!(layers, namespaces) {
        Some(found) => found.parse(value::namespaces)?,
        None => vec![own_namespace(layers)?],
    };
    if let Some(found) = find!(layers, tag_prefix) {
        settings.tag_prefix = found.parse(value::tag_prefix)?;
    }
    settings.expose_by_default = value::switch(find!(layers, expose_by_default))?;
    Ok(settings)
}

/// The namespace that the sidecar itself is in.
pub(super) fn own_namespace(layers: &Layers<'_>) -> Result<String, Error> {
    match find!(layers, nomad_namespace) {
        Some(found) => found.parse(value::namespace),
        None => Ok(DEFAULT_NAMESPACE.to_owned()),
    }
}

/// Where Nomad answers, and whether that is the Task API.
fn endpoints(layers: &Layers<'_>, task: &Task) -> Result<(Endpoints, bool), Error> {
    if let Some(found) = find!(layers, nomad_addr) {
        return Ok((found.parse(value::nomad_addresses)?, false));
    }
    let socket = find!(layers, nomad_unix_addr).map(|found| {
        let text = found.text;
        PathBuf::from(text.strip_prefix("unix://").unwrap_or(text))
    });
    let in_task = || task.secrets_dir.as_deref().map(|dir| dir.join("api.sock"));
    let (endpoint, is_task_api) = match socket.or_else(in_task) {
        Some(socket) => (Endpoint::Unix(socket), true),
        None => (
            Endpoint::Http {
                host: "127.0.0.1".to_owned(),
                port: 4646,
            },
            false,
        ),
    };
    Ok((endpoint.into(), is_task_api))
}

/// As whom Nomad is asked. The file that Nomad keeps for the task beats the `NOMAD_TOKEN` that Nomad also sets, since
/// it can be read again; it does not beat a token that somebody wrote elsewhere.
fn token(layers: &Layers<'_>, secrets_of_task_api: Option<&Path>) -> TokenSource {
    if let Some(found) = find!(layers, nomad_token_file) {
        return TokenSource::File(found.text.into());
    }
    let identity = secrets_of_task_api
        .map(|secrets| secrets.join("nomad_token"))
        .filter(|file| file.exists());
    match (find!(layers, nomad_token), identity) {
        (
            None
            | Some(Found {
                origin: Origin::Environment(_),
                ..
            }),
            Some(file),
        ) => TokenSource::File(file),
        (Some(found), _) => TokenSource::Value(Redacted::new(found.text.to_owned())),
        (None, None) => TokenSource::None,
    }
}

fn tls(layers: &Layers<'_>) -> Result<TlsSettings, Error> {
    let path = |found: Found<'_>| PathBuf::from(found.text);
    let (cert, key) = match (
        find!(layers, nomad_client_cert),
        find!(layers, nomad_client_key),
    ) {
        (Some(cert), None) => return Err(cert.refuse("set the key too: --nomad-client-key")),
        (None, Some(key)) => return Err(key.refuse("set the certificate too: --nomad-client-cert")),
        (cert, key) => (cert.map(path), key.map(path)),
    };
    Ok(TlsSettings {
        ca_cert: find!(layers, nomad_cacert).map(path),
        ca_path: find!(layers, nomad_capath).map(path),
        client_cert: cert,
        client_key: key,
        server_name: find!(layers, nomad_tls_server_name).map(|found| found.text.to_owned()),
        skip_verify: value::switch(find!(layers, nomad_skip_verify))?,
    })
}
