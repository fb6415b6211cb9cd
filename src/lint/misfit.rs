//! What Nomad refuses a job for, as far as that is certain without asking it: what a `service` block cannot have, and
//! misspelt blocks that hide services. The words are those of Nomad 2.0 (`api/services.go`, `api/tasks.go`).

use hcl_edit::{
    Span as _,
    expr::Expression,
    structure::{Block, Body},
};

use super::{
    hcl::{Reader, is_literal, unwrapped},
    job::Misfit,
    shown,
};
use crate::spelling;

/// What is written with an equals sign in a `service` block.
const ATTRIBUTES: &[&str] = &[
    "address",
    "address_mode",
    "canary_tags",
    "cluster",
    "enable_tag_override",
    "kind",
    "name",
    "on_update",
    "port",
    "provider",
    "tags",
    "task",
];
/// What is written as a block in it.
const BLOCKS: &[&str] = &[
    "canary_meta",
    "check",
    "check_restart",
    "connect",
    "identity",
    "meta",
    "tagged_addresses",
    "weights",
];
/// Blocks of a job, a group or a task in which there are services, or their ports.
const WITH_SERVICES: &[&str] = &["group", "network", "resources", "service", "task"];
/// Other blocks there that are spelt somewhat like these.
const OTHERS: &[&str] = &["secret", "restart"];

/// What a `service` block cannot have.
pub(super) fn of_service(reader: &Reader<'_>, body: &Body) -> Vec<Misfit> {
    let attributes = body.attributes().filter_map(|attribute| {
        let name = attribute.key.as_str();
        let text = if BLOCKS.contains(&name) {
            format!("{name} is a block: write {name} {{ … }}")
        } else if ATTRIBUTES.contains(&name) {
            let is_list = name == "tags" || name == "canary_tags";
            no_list(name, &attribute.value).filter(|_| is_list)?
        } else {
            unknown(name)
        };
        Some(reader.misfit(attribute.key.span(), text))
    });
    let blocks = body.blocks().filter_map(|block| {
        let name = block.ident.as_str();
        let text = if ATTRIBUTES.contains(&name) {
            format!("{name} is no block: write {name} = …")
        } else if BLOCKS.contains(&name) || name == "dynamic" {
            return None;
        } else {
            unknown(name)
        };
        Some(reader.misfit(block.ident.span(), text))
    });
    attributes.chain(blocks).collect()
}

fn unknown(name: &str) -> String {
    let known = ATTRIBUTES.iter().chain(BLOCKS).copied();
    let advice = match spelling::meant(name, known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "take it away".to_owned(),
    };
    format!("a service has no {}: {advice}", shown(name))
}

/// Misspelt blocks of a job, a group or a task.
pub(super) fn of_owner(reader: &Reader<'_>, body: &Body) -> Vec<Misfit> {
    let misfit = |block: &Block| {
        let name = block.ident.as_str();
        if WITH_SERVICES.contains(&name) || OTHERS.contains(&name) {
            return None;
        }
        let meant = spelling::meant(name, WITH_SERVICES.iter().copied())?;
        let text = format!("there are no blocks {}: did you mean {meant}?", shown(name));
        Some(reader.misfit(block.ident.span(), text))
    };
    body.blocks().filter_map(misfit).collect()
}

/// What is wrong with tags that are no list, wherever the job runs.
fn no_list(name: &str, value: &Expression) -> Option<String> {
    let value = unwrapped(value);
    let text = match value.as_str() {
        Some(text) => shown(text),
        None if is_literal(value) && !value.is_null() => "\"…\"".to_owned(),
        None => return None,
    };
    Some(format!("{name} has to be a list: write {name} = [{text}]"))
}

#[cfg(test)]
mod tests {
    use crate::lint;

    /// What is in a job, a group or a task of Nomad 2.0.5.
    const KNOWN: &[&str] = &[
        "action",
        "affinity",
        "artifact",
        "config",
        "constraint",
        "consul",
        "csi_plugin",
        "disconnect",
        "dispatch_payload",
        "dynamic",
        "env",
        "ephemeral_disk",
        "group",
        "identity",
        "lifecycle",
        "logs",
        "meta",
        "migrate",
        "multiregion",
        "network",
        "parameterized",
        "periodic",
        "reschedule",
        "resources",
        "restart",
        "scaling",
        "schedule",
        "secret",
        "service",
        "spread",
        "task",
        "template",
        "ui",
        "update",
        "vault",
        "volume",
        "volume_mount",
    ];

    #[test]
    fn no_block_that_nomad_has_is_called_misspelt() {
        let blocks = KNOWN.join(" \"x\" {}\n");
        let job = lint::read_hcl(&format!("job \"x\" {{\n{blocks} \"x\" {{}}\n}}\n")).unwrap();
        assert_eq!(job.misfits, []);
    }
}
