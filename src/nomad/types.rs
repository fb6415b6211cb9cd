//! What Nomad sends, and how it becomes the model's. Fields that are not needed are not read, unknown ones are ignored.
//!
//! No I/O. Sources: `nomad/structs/service_registration.go` (the same fields from 1.3 to 2.0) and `nomad/structs/event.go`.

use serde::Deserialize;

use crate::{
    catalog::{Line, ListedService},
    model::{NomadEvent, Registration, ServiceKey},
};

/// The topic of registrations.
const TOPIC: &str = "Service";
/// The only type of that topic that is not a deletion: the type names the Raft message that caused the event.
const UPSERT: &str = "ServiceRegistration";

/// A service list.
///
/// # Errors
///
/// When `body` is not a list of Nomad's.
pub fn parse_list(body: &[u8]) -> Result<Vec<ListedService>, serde_json::Error> {
    let namespaces: Vec<NamespaceWire> = serde_json::from_slice(body)?;
    let services = namespaces.into_iter().flat_map(|namespace| {
        let name = namespace.namespace;
        namespace
            .services
            .into_iter()
            .map(move |service| ListedService {
                key: ServiceKey::new(&name, &service.service_name),
                tags: service.tags.unwrap_or_default(),
            })
    });
    Ok(services.collect())
}

/// The registrations of one service.
///
/// # Errors
///
/// When `body` is not a list of registrations.
pub fn parse_registrations(body: &[u8]) -> Result<Vec<Registration>, serde_json::Error> {
    let registrations: Vec<RegistrationWire> = serde_json::from_slice(body)?;
    Ok(registrations.into_iter().map(Registration::from).collect())
}

/// A line of the event stream. Events of other topics are left out; a heartbeat is a line without events and index.
///
/// # Errors
///
/// When `line` is not one of Nomad's, such as the plain text with which versions before 1.11.2 end a stream.
pub fn parse_line(line: &str) -> Result<Line, serde_json::Error> {
    let wire: LineWire = serde_json::from_str(line)?;
    let mut events = Vec::with_capacity(wire.events.len());
    for event in wire.events {
        if event.topic != TOPIC {
            continue;
        }
        let Some(registration) = event.payload.and_then(|payload| payload.service) else {
            return Err(serde::de::Error::custom(
                "an event of topic Service without a service",
            ));
        };
        let registration = Registration::from(registration);
        events.push(if event.kind == UPSERT {
            NomadEvent::Registered(registration)
        } else {
            NomadEvent::Deregistered(registration)
        });
    }
    Ok(Line {
        index: wire.index,
        events,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NamespaceWire {
    namespace: String,
    services: Vec<ServiceWire>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceWire {
    service_name: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RegistrationWire {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "ServiceName")]
    service_name: String,
    #[serde(rename = "Namespace")]
    namespace: String,
    #[serde(rename = "AllocID", default)]
    alloc_id: String,
    #[serde(rename = "JobID", default)]
    job_id: String,
    /// `null` if a registration was written so by RPC.
    #[serde(rename = "Tags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: i64,
    #[serde(rename = "CreateIndex", default)]
    create_index: u64,
    #[serde(rename = "ModifyIndex", default)]
    modify_index: u64,
}

impl From<RegistrationWire> for Registration {
    fn from(wire: RegistrationWire) -> Self {
        Self {
            id: wire.id.into(),
            service: ServiceKey::new(&wire.namespace, &wire.service_name),
            alloc_id: wire.alloc_id.into(),
            job_id: wire.job_id.into(),
            tags: wire.tags.unwrap_or_default(),
            address: wire.address,
            port: wire.port,
            create_index: wire.create_index,
            modify_index: wire.modify_index,
        }
    }
}

#[derive(Deserialize)]
struct LineWire {
    #[serde(rename = "Index", default)]
    index: u64,
    #[serde(rename = "Events", default)]
    events: Vec<EventWire>,
}

#[derive(Deserialize)]
struct EventWire {
    #[serde(rename = "Topic")]
    topic: String,
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Payload", default)]
    payload: Option<PayloadWire>,
}

#[derive(Deserialize)]
struct PayloadWire {
    #[serde(rename = "Service", default)]
    service: Option<RegistrationWire>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_a_line_without_events() {
        assert_eq!(parse_line("{}").unwrap(), Line::default());
    }

    #[test]
    fn whatever_is_no_registration_is_a_deletion_and_other_topics_are_left_out() {
        let event = |topic: &str, kind: &str| {
            format!(
                r#"{{"Topic":"{topic}","Type":"{kind}","Payload":{{"Service":{{"ID":"i","ServiceName":"web","Namespace":"default","Tags":null}}}}}}"#
            )
        };
        let line = format!(
            r#"{{"Index":7,"Events":[{},{},{},{}],"New":1}}"#,
            event(TOPIC, "ServiceRegistration"),
            event(TOPIC, "PlanResult"),
            event(TOPIC, "ServiceDeregistration"),
            event("Allocation", "ServiceRegistration"),
        );
        let line = parse_line(&line).unwrap();
        assert_eq!(line.index, 7);
        assert!(matches!(
            line.events.as_slice(),
            [
                NomadEvent::Registered(one),
                NomadEvent::Deregistered(_),
                NomadEvent::Deregistered(_)
            ] if one.tags.is_empty() && one.service == ServiceKey::new("default", "web")
        ));
    }

    #[test]
    fn what_is_not_nomads_is_refused() {
        for line in [
            "subscription closed by server, client should resubscribe",
            r#"{"Index":1,"Events":[{"Topic":"Service","Type":"PlanResult","Payload":{}}]}"#,
        ] {
            assert!(parse_line(line).is_err(), "{line}");
        }
        assert!(parse_list(b"{}").is_err());
        assert!(parse_list(b"null").is_err());
        assert!(parse_registrations(b"<html>").is_err());
    }
}
