//! What becomes of a service's port in Nomad, as `GetAddress` (`client/serviceregistration/address.go`) and
//! `validateServices` (`nomad/structs/structs.go`) decide: a service of a group needs a port of the group's own `network`
//! block, one of a task may have its task's, too.

use super::{
    job::{Group, Service, Task, Text},
    shown,
};
use crate::spelling;

/// No more labels are named.
const MAX_LABELS: usize = 5;

/// What is to be said of a port.
pub(super) enum Port {
    /// Nothing.
    Fine,
    /// Nobody can be served at it.
    Wrong(String),
    /// It could not be evaluated.
    NotJudged(String),
}

/// Looks at the port of a service of the group, or of this task.
pub(super) fn judge(group: &Group, task: Option<&Task>, service: &Service) -> Port {
    let declared = Declared::new(group, task);
    let Some(port) = &service.port else {
        let advice = declared.advice("http", "{}");
        return Port::Wrong(format!(
            "it has no port, and Nomad registers it with port 0 then: {advice}"
        ));
    };
    let Some(label) = port.whole() else {
        return Port::NotJudged("its port is an expression, and is not judged".to_owned());
    };
    if declared.labels.contains(&label) {
        return Port::Fine;
    }
    let number = label.parse::<i64>().ok();
    if number.is_some_and(|number| has_address(number, task, service)) {
        return Port::Fine;
    }
    let mode = service.address_mode.as_ref();
    let may_have_address = number.is_some_and(is_port) && mode.is_some_and(|mode| !mode.is_whole);
    if declared.may_be_more || may_have_address {
        return Port::NotJudged(format!(
            "what Nomad makes of its port {} is not known, and is not judged",
            shown(label)
        ));
    }
    Port::Wrong(match number {
        Some(number) => declared.number(number),
        None => declared.label(label),
    })
}

/// Whether Nomad registers a number as it is, with an address.
fn has_address(number: i64, task: Option<&Task>, service: &Service) -> bool {
    let mode = service.address_mode.as_ref().and_then(Text::whole);
    let has_address = match mode {
        Some("driver" | "alloc" | "alloc_ipv6") => true,
        _ => task.is_none() && service.address.is_some(),
    };
    has_address && is_port(number)
}

fn is_port(number: i64) -> bool {
    u16::try_from(number).is_ok_and(|port| port > 0)
}

/// The ports that a service may name.
struct Declared<'a> {
    group: &'a Group,
    task: Option<&'a Task>,
    labels: Vec<&'a str>,
    may_be_more: bool,
}

impl<'a> Declared<'a> {
    fn new(group: &'a Group, task: Option<&'a Task>) -> Self {
        let own = task.map(|task| &task.ports);
        let ports = || std::iter::once(&group.ports).chain(own);
        let mut labels: Vec<_> = ports()
            .flat_map(|ports| &ports.labels)
            .map(String::as_str)
            .collect();
        // HCL and JSON have them in different orders.
        labels.sort_unstable();
        Self {
            group,
            task,
            labels,
            may_be_more: ports().any(|ports| ports.may_be_more),
        }
    }

    /// About a number that Nomad cannot register as it is.
    fn number(&self, number: i64) -> String {
        if !is_port(number) {
            let advice = self.advice("http", "{}");
            return format!("its port is {number}, and ports are from 1 to 65535: {advice}");
        }
        let end = match self.task {
            Some(_) => "for which Nomad refuses the job",
            None => "which Nomad registers without an address",
        };
        let advice = self.advice("http", &format!("{{ static = {number} }}"));
        format!("its port is the number {number}, {end}: {advice}")
    }

    /// About a label that is not declared.
    fn label(&self, label: &str) -> String {
        let (blocks, end) = match self.task {
            Some(_) => ("its group or task", "Nomad refuses the job"),
            None => ("its group", "every allocation fails"),
        };
        let is_of = |task: &Task| task.ports.labels.iter().any(|other| other == label);
        let labels = self.labels.iter().copied();
        let advice = if self.task.is_none() && self.group.tasks.iter().any(is_of) {
            "move the network block of the task to the group".to_owned()
        } else if let Some(meant) = spelling::meant(label, labels) {
            format!("did you mean {}?", shown(meant))
        } else {
            let declare = if self.labels.is_empty() {
                String::new()
            } else {
                format!("declare port {} {{}}, or ", shown(label))
            };
            declare + &self.advice(label, "{}")
        };
        format!(
            "its port is {}, which no network block of {blocks} declares, so that {end}: {advice}",
            shown(label)
        )
    }

    /// Where nothing is declared, a port is to be, with this label and block.
    fn advice(&self, label: &str, block: &str) -> String {
        let labels = self.labels.iter().take(MAX_LABELS);
        let labels: Vec<_> = labels.map(|label| shown(label)).collect();
        match &*labels {
            [] => {
                let label = shown(label);
                format!(
                    "declare port {label} {block} in the group's network block, and set port = {label}"
                )
            }
            [only] => format!("set port = {only}"),
            several => format!("set port to one of {}", several.join(", ")),
        }
    }
}
