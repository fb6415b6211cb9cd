//! A job in JSON: as `nomad job run -output` prints it, with or without `Job` around it, and as `/v1/jobs/parse` answers.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{
    Unreadable,
    job::{Delay, Group, Job, List, Ports, Service, Task, Text},
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a job")]
struct OuterWire {
    #[serde(default)]
    job: Option<JobWire>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a job")]
struct JobWire {
    #[serde(rename = "ID", default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    task_groups: Option<Vec<GroupWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a task group")]
struct GroupWire {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    shutdown_delay: Value,
    #[serde(default)]
    networks: Option<Vec<NetworkWire>>,
    #[serde(default)]
    services: Option<Vec<ServiceWire>>,
    #[serde(default)]
    tasks: Option<Vec<TaskWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a task")]
struct TaskWire {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    shutdown_delay: Value,
    #[serde(default)]
    lifecycle: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    resources: Option<ResourcesWire>,
    #[serde(default)]
    services: Option<Vec<ServiceWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a service")]
struct ServiceWire {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    port_label: Option<String>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    address_mode: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    canary_tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a task's resources")]
struct ResourcesWire {
    #[serde(default)]
    networks: Option<Vec<NetworkWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a network")]
struct NetworkWire {
    #[serde(default)]
    reserved_ports: Option<Vec<PortWire>>,
    #[serde(default)]
    dynamic_ports: Option<Vec<PortWire>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", expecting = "a port")]
struct PortWire {
    #[serde(default)]
    label: Option<String>,
}

/// Reads a job.
///
/// # Errors
///
/// When `json` is no JSON, or no job.
pub(super) fn read(json: &[u8]) -> Result<Job, Unreadable> {
    let refuse = |error: serde_json::Error| Unreadable::Json(error.to_string());
    if let Some(kind) = other_kind(json) {
        return Err(Unreadable::OtherJson(kind));
    }
    let outer: OuterWire = serde_json::from_slice(json).map_err(refuse)?;
    let job = match outer.job {
        Some(job) => job,
        None => serde_json::from_slice(json).map_err(refuse)?,
    };
    let name = job.id.or(job.name);
    if name.is_none() && job.task_groups.is_none() {
        return Err(Unreadable::NoJob);
    }
    let groups = job.task_groups.unwrap_or_default();
    Ok(Job {
        name: name.unwrap_or_default(),
        namespace: text(job.namespace),
        groups: groups.into_iter().map(group).collect(),
        unread: Vec::new(),
        misfits: Vec::new(),
    })
}

/// What it is, by how it begins, if no object.
fn other_kind(json: &[u8]) -> Option<&'static str> {
    match json.trim_ascii_start().first()? {
        b'[' => Some("a list"),
        b'"' => Some("a text"),
        b'-' | b'0'..=b'9' => Some("a number"),
        b'n' | b't' | b'f' => Some("a single word"),
        _ => None,
    }
}

fn group(wire: GroupWire) -> Group {
    let tasks = wire.tasks.unwrap_or_default().into_iter().map(|task| Task {
        name: task.name.unwrap_or_default(),
        shutdown_delay: delay(&task.shutdown_delay),
        has_lifecycle: task.lifecycle.is_some(),
        ports: ports(task.resources.and_then(|resources| resources.networks)),
        services: services(task.services),
        misfits: Vec::new(),
    });
    Group {
        name: wire.name.unwrap_or_default(),
        shutdown_delay: delay(&wire.shutdown_delay),
        ports: ports(wire.networks),
        services: services(wire.services),
        tasks: tasks.collect(),
        misfits: Vec::new(),
    }
}

fn ports(wire: Option<Vec<NetworkWire>>) -> Ports {
    let networks = wire.into_iter().flatten();
    let ports = networks.flat_map(|network| [network.reserved_ports, network.dynamic_ports]);
    let labels = ports.flatten().flatten().filter_map(|port| port.label);
    Ports::of(labels, false)
}

fn services(wire: Option<Vec<ServiceWire>>) -> Vec<Service> {
    let services = wire.unwrap_or_default().into_iter();
    let services = services.map(|service| Service {
        line: None,
        name: text(service.name),
        provider: text(service.provider),
        port: text(service.port_label),
        address: text(service.address),
        address_mode: text(service.address_mode),
        tags: list(service.tags),
        canary_tags: list(service.canary_tags),
        misfits: Vec::new(),
    });
    services.collect()
}

/// Nomad writes what is not there as `null` or as an empty text.
fn text(text: Option<String>) -> Option<Text> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| Text::new(text, None))
}

fn list(texts: Option<Vec<String>>) -> List {
    let texts = texts.unwrap_or_default().into_iter();
    List::of(texts.map(|text| Text::new(text, None)).collect(), None)
}

/// Nanoseconds; Nomad takes a text, too.
fn delay(value: &Value) -> Delay {
    match value {
        Value::Null => Delay::default(),
        Value::Number(number) => match number.as_i64() {
            Some(nanoseconds) => Delay::Known(Duration::from_nanos(
                u64::try_from(nanoseconds).unwrap_or_default(),
            )),
            None => Delay::Unknown,
        },
        Value::String(text) => Delay::parse(text),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Delay::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_with_and_without_what_nomad_puts_around_it() {
        let inner = r#"{"ID": "web", "TaskGroups": [{"Name": "app", "ShutdownDelay": 8000000000,
            "Services": [{"Name": "web", "PortLabel": "http", "Tags": ["haproxy.enable=true"], "CanaryTags": null}],
            "Tasks": [{"Name": "server", "ShutdownDelay": "1m30s", "Services": null, "Lifecycle": null}]}]}"#;
        let job = read(inner.as_bytes()).unwrap();
        assert_eq!(
            job,
            read(format!("{{\"Job\": {inner}}}").as_bytes()).unwrap()
        );
        let group = &job.groups[0];
        assert_eq!(
            group.runs_on_for(None),
            Delay::Known(Duration::from_secs(98))
        );
        assert_eq!(
            group.services[0].tags.texts()[0].whole(),
            Some("haproxy.enable=true")
        );
        assert!(group.services[0].canary_tags.is_empty() && group.services[0].provider.is_none());
    }

    #[test]
    fn what_is_no_job_is_named() {
        let refusal = |json: &str| read(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            refusal("{}"),
            "there is no job in it: give a job file in HCL, or what `nomad job run -output` prints"
        );
        assert!(refusal("{\"TaskGroups\": [1]}").starts_with("it is no job in JSON: invalid type"));
        // As deep as it may be.
        let deep = "[".repeat(1_000_000);
        let read = format!("{{\"Job\": {{\"TaskGroups\": [{{\"ShutdownDelay\": {deep}");
        assert!(refusal(&read).contains("recursion limit exceeded"));
        let passed_over = format!("{{\"Meta\": {deep}");
        assert!(refusal(&passed_over).contains("EOF while parsing"));
    }
}
