//! What an operator reads when something is wrong with Nomad: what happened, and what to do. Never a token.

use std::io;

use crate::nomad::{
    answer::{Doubt, Error},
    chain::chain,
    route::Failed,
    settings::{Endpoint, Settings, TokenSource},
    stream::{DENIED_BY_500, NO_BROKER, StreamError},
    transport::DialError,
};

/// A failed list or read of something in `namespace`.
pub(super) fn on_failure(failed: &Failed<Error>, settings: &Settings, namespace: &str) -> String {
    let each = failed
        .each()
        .map(|(endpoint, error)| on_error(endpoint, error, settings, namespace));
    each.collect::<Vec<_>>().join("; ")
}

/// A job that Nomad does not evaluate.
pub(super) fn on_no_evaluation(
    failed: &Failed<Error>,
    settings: &Settings,
    namespace: &str,
) -> String {
    let each = failed.each().map(|(endpoint, error)| {
        let what = format!("nomad at {endpoint}: {}", chain(error));
        if let Error::Denied { status: 403, .. } = error {
            let policy = format!("`namespace {namespace:?} {{ capabilities = [\"parse-job\"] }}`");
            format!("{what}: the token needs the policy {policy}")
        } else if let Error::ServerError { status: 400, body } = error {
            // Nomad's words on the job.
            format!("nomad at {endpoint}: {}", body.trim())
        } else {
            on_error(endpoint, error, settings, namespace)
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

/// A stream that cannot be had.
pub(super) fn on_no_stream(
    failed: &Failed<StreamError>,
    settings: &Settings,
    namespace: &str,
) -> String {
    let each = failed
        .each()
        .map(|(endpoint, error)| on_stream(endpoint, error, settings, namespace));
    each.collect::<Vec<_>>().join("; ")
}

/// A stream from `endpoint` that cannot be had or is lost.
pub(super) fn on_stream(
    endpoint: &Endpoint,
    error: &StreamError,
    settings: &Settings,
    namespace: &str,
) -> String {
    let what = || format!("nomad at {endpoint}: {}", chain(error));
    let with_policy = || {
        let policy = policy(namespace);
        format!(
            "{}; to follow by events, give the token the policy {policy}",
            what()
        )
    };
    match error {
        StreamError::Refused(Error::ServerError { body, .. })
            if body.starts_with(DENIED_BY_500) =>
        {
            with_policy()
        }
        StreamError::Refused(Error::ServerError { body, .. }) if body.starts_with(NO_BROKER) => {
            format!(
                "{}; the servers publish no events: see enable_event_broker in their configuration",
                what()
            )
        }
        StreamError::Refused(error) => on_error(endpoint, error, settings, namespace),
        StreamError::Silent | StreamError::Empty => with_policy(),
        StreamError::NotHttp(_)
        | StreamError::Dead
        | StreamError::Ended
        | StreamError::EndedBy(_)
        | StreamError::EndedWithin
        | StreamError::LineTooLong
        | StreamError::Malformed(_)
        | StreamError::Broken(_)
        | StreamError::Left => what(),
    }
}

fn on_error(endpoint: &Endpoint, error: &Error, settings: &Settings, namespace: &str) -> String {
    let what = format!("nomad at {endpoint}: {}", chain(error));
    match advice(endpoint, error, settings, namespace) {
        Some(advice) => format!("{what}: {advice}"),
        None => what,
    }
}

/// What is done without a stream.
pub(super) fn on_blocking(namespace: &str, reason: &str) -> String {
    format!(
        "following namespace {namespace} by blocking queries, because there is no event stream: {reason}"
    )
}

fn advice(
    endpoint: &Endpoint,
    error: &Error,
    settings: &Settings,
    namespace: &str,
) -> Option<String> {
    let task_api = matches!(endpoint, Endpoint::Unix(_));
    match error {
        Error::Denied { status: 401, .. } if settings.token == TokenSource::None => Some(
            "no token was sent: set NOMAD_TOKEN or, in a job, identity { env = true }".to_owned(),
        ),
        Error::Denied { status: 401, .. } => {
            Some("nomad knows no such token: replace NOMAD_TOKEN".to_owned())
        }
        Error::Denied { .. } => Some(format!(
            "the token may not read services in namespace {namespace}, or nomad does not know it: it needs the policy {}",
            policy(namespace)
        )),
        Error::BadToken { .. } => Some(
            "the token is not valid, or the agent has no server to ask; the token is read again and everything stays as it is"
                .to_owned(),
        ),
        Error::NotBelievable(Doubt::IndexZero) if namespace == "*" => Some(format!(
            "it answered with index 0, which is no answer, so nothing of it is believed: the token may read no namespace by *; \
             name them instead (--namespaces), for a task's identity may read each by its name, or give it the policy {}; or the \
             agent is shutting down",
            policy(namespace)
        )),
        Error::NotBelievable(Doubt::IndexZero) => Some(format!(
            "it answered with index 0, which is no answer, so nothing of it is believed: the token lacks read-job in namespace \
             {namespace} (policy {}), or the agent is shutting down",
            policy(namespace)
        )),
        Error::NotBelievable(Doubt::NoLeader) => Some(
            "nothing of it is believed: the agent is shutting down, or the servers have no leader"
                .to_owned(),
        ),
        Error::NotBelievable(
            Doubt::NoIndex | Doubt::Compressed(_) | Doubt::ContentType(_) | Doubt::Content(_),
        ) => Some(
            "nothing of it is believed: is this a Nomad agent, and no proxy between changes its answers? see NOMAD_ADDR"
                .to_owned(),
        ),
        Error::Timeout(_) => Some("the agent or its servers hang, or are overloaded".to_owned()),
        Error::Connect(DialError::Connect(error)) => Some(unreachable(error, task_api).to_owned()),
        Error::Connect(DialError::ConnectTimeout | DialError::HandshakeTimeout) => {
            Some("is NOMAD_ADDR right, and does no firewall stand between?".to_owned())
        }
        Error::Connect(DialError::Handshake(_)) => Some(
            "see NOMAD_CACERT for whom to trust, NOMAD_TLS_SERVER_NAME for the name in the certificate (Nomad's own say \
             server.<region>.nomad), NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY"
                .to_owned(),
        ),
        Error::Limited { .. } => {
            Some("see limits.http_max_conns_per_client of the agent".to_owned())
        }
        Error::Token(_) => {
            Some("in a job, identity { file = true } writes secrets/nomad_token".to_owned())
        }
        Error::TooLong if namespace == "*" => Some(
            "name the namespaces (--namespaces a,b), so that each is listed by itself, or give services fewer and shorter tags"
                .to_owned(),
        ),
        Error::TooLong => Some(
            "give its services fewer and shorter tags, or spread them over several namespaces (--namespaces a,b)"
                .to_owned(),
        ),
        Error::Protocol(_) => Some("is this a Nomad agent? https:// is not http://".to_owned()),
        Error::Broken(_) if matches!(endpoint, Endpoint::Https { .. }) => Some(
            "if the agent wants to know its clients, set NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY"
                .to_owned(),
        ),
        Error::ServerError { .. }
        | Error::Connect(DialError::Settings(_) | DialError::FilesTimeout)
        | Error::Broken(_)
        | Error::UnreadableName(_) => None,
    }
}

fn unreachable(error: &io::Error, task_api: bool) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "the user of this process may not use the socket: see its mode and group"
    } else if task_api {
        "is the agent running, and is this its socket? in a job it is ${NOMAD_SECRETS_DIR}/api.sock"
    } else {
        "is the agent running? set NOMAD_ADDR to where it answers"
    }
}

/// The smallest right that lets a token follow the stream.
fn policy(namespace: &str) -> String {
    format!("`namespace {namespace:?} {{ capabilities = [\"read-job\"] }}`")
}
