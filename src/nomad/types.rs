//! What Nomad sends, and how it becomes the model's. Fields that are not needed are not read, unknown ones are ignored.
//!
//! No I/O. Sources: `nomad/structs/service_registration.go` (the same fields from 1.3 to 2.0) and `nomad/structs/event.go`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use crate::{
    catalog::{Line, ListedService},
    model::{Allocation, NomadEvent, Registration, ServiceKey},
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

/// A service in a job, and for how long its task runs on after the service was deregistered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobService {
    /// The task group.
    pub group: String,
    /// The service's name.
    pub service: String,
    /// `shutdown_delay` of the group and the task together, as far as both come after the deregistration.
    pub delay: Duration,
}

/// The services of a job (`/v1/job/:id`). Those of a group are deregistered before the group's delay and its tasks'
/// (`client/allocrunner/group_service_hook.go`), those of a task before the task's.
///
/// # Errors
///
/// When `body` is not a job.
pub fn parse_job(body: &[u8]) -> Result<Vec<JobService>, serde_json::Error> {
    let job: JobWire = serde_json::from_slice(body)?;
    let mut services = Vec::new();
    for group in job.task_groups.unwrap_or_default() {
        let tasks = group.tasks.unwrap_or_default();
        let mains = tasks.iter().filter(|task| task.lifecycle.is_none());
        let shortest = mains.map(|task| task.shutdown_delay).min().unwrap_or(0);
        let of_group = group.shutdown_delay.unwrap_or(0).saturating_add(shortest);
        let group_services = group.services.into_iter().flatten();
        let by_task = tasks.into_iter().flat_map(|task| {
            let services = task.services.into_iter().flatten();
            services.map(move |service| (service, task.shutdown_delay))
        });
        let all = group_services
            .map(|service| (service, of_group))
            .chain(by_task);
        services.extend(all.map(|(service, nanoseconds)| JobService {
            group: group.name.clone(),
            service: service.name,
            delay: Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)),
        }));
    }
    Ok(services)
}

/// The end of a task, or the way there, as its last event (`nomad/structs/structs.go`, `TaskEvent`): an allocation that is
/// to run and does may be restarting a task, which is deregistered meanwhile.
const ENDINGS: [&str; 9] = [
    "Killing",
    "Killed",
    "Leader Task Dead",
    "Main Tasks Dead",
    "Not Restarting",
    "Restart Signaled",
    "Restarting",
    "Terminated",
    "Waiting for shutdown delay",
];

/// What becomes of an allocation.
///
/// # Errors
///
/// When `body` is not an allocation.
pub fn parse_allocation(body: &[u8]) -> Result<Allocation, serde_json::Error> {
    let allocation: AllocationWire = serde_json::from_slice(body)?;
    let tasks = allocation.task_states.unwrap_or_default();
    let is_ending = |task: &TaskStateWire| {
        let last = task.events.iter().flatten().last();
        // A task that is dead has done its work before the others began.
        task.state != "dead" && last.is_some_and(|event| ENDINGS.contains(&event.r#type.as_str()))
    };
    Ok(match allocation.client_status.as_str() {
        status @ ("complete" | "failed" | "lost") => Allocation::Ended(status.into()),
        "running" | "pending" if allocation.desired_status != "run" => Allocation::Stopping,
        "running" if tasks.values().any(is_ending) => Allocation::Stopping,
        "running" => Allocation::Running,
        _ => Allocation::Unknown,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AllocationWire {
    desired_status: String,
    client_status: String,
    /// Nothing before the client has taken it up.
    task_states: Option<BTreeMap<String, TaskStateWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskStateWire {
    state: String,
    events: Option<Vec<TaskEventWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskEventWire {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JobWire {
    task_groups: Option<Vec<GroupWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GroupWire {
    name: String,
    /// Nanoseconds.
    #[serde(default)]
    shutdown_delay: Option<i64>,
    #[serde(default)]
    services: Option<Vec<JobServiceWire>>,
    #[serde(default)]
    tasks: Option<Vec<TaskWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaskWire {
    /// Nanoseconds.
    #[serde(default)]
    shutdown_delay: i64,
    #[serde(default)]
    lifecycle: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    services: Option<Vec<JobServiceWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct JobServiceWire {
    name: String,
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
    fn a_jobs_services_have_the_delays_that_follow_their_deregistration() {
        let job = r#"{"ID": "web", "TaskGroups": [
            {"Name": "a", "ShutdownDelay": 5000000000, "Services": [{"Name": "web", "PortLabel": "http"}], "Tasks": [
                {"Name": "init", "Lifecycle": {"Hook": "prestart"}, "ShutdownDelay": 0, "Services": null},
                {"Name": "web", "ShutdownDelay": 1000000000, "Lifecycle": null, "Services": [{"Name": "admin"}]}]},
            {"Name": "b", "ShutdownDelay": null, "Services": [{"Name": "db"}], "Tasks": null}]}"#;
        let services = parse_job(job.as_bytes()).unwrap();
        let seconds: Vec<_> = services
            .iter()
            .map(|one| (&*one.group, &*one.service, one.delay.as_secs()))
            .collect();
        assert_eq!(
            seconds,
            [("a", "web", 6), ("a", "admin", 1), ("b", "db", 0)]
        );
        assert!(parse_job(b"[]").is_err());
    }

    #[test]
    fn an_allocation_runs_when_it_shall_and_no_task_of_it_is_ending() {
        let allocation = |desired: &str, client: &str, events: &str| {
            let events = events
                .split(',')
                .map(|event| format!(r#"{{"Type": "{event}"}}"#));
            let json = format!(
                r#"{{"ID": "1", "DesiredStatus": "{desired}", "ClientStatus": "{client}", "TaskStates": {{
                    "init": {{"State": "dead", "Events": [{{"Type": "Terminated"}}]}},
                    "web": {{"State": "running", "Events": [{}]}}}}}}"#,
                events.collect::<Vec<_>>().join(",")
            );
            parse_allocation(json.as_bytes()).unwrap()
        };
        let started = "Received,Task Setup,Started";
        for (desired, client, events, expected) in [
            ("run", "running", started, Allocation::Running),
            ("stop", "running", started, Allocation::Stopping),
            (
                "run",
                "running",
                "Started,Restart Signaled",
                Allocation::Stopping,
            ),
            (
                "run",
                "running",
                "Started,Restart Signaled,Started",
                Allocation::Running,
            ),
            (
                "stop",
                "complete",
                started,
                Allocation::Ended("complete".into()),
            ),
            ("run", "failed", started, Allocation::Ended("failed".into())),
            ("stop", "lost", started, Allocation::Ended("lost".into())),
            ("run", "unknown", started, Allocation::Unknown),
            ("run", "pending", "Received", Allocation::Unknown),
        ] {
            assert_eq!(
                allocation(desired, client, events),
                expected,
                "{desired} {client} {events}"
            );
        }
        let new = br#"{"DesiredStatus": "run", "ClientStatus": "pending", "TaskStates": null}"#;
        assert_eq!(parse_allocation(new).unwrap(), Allocation::Unknown);
        assert!(parse_allocation(b"{}").is_err());
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
