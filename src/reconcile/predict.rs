//! What HAProxy will report once commands were carried out, checks aside. The `plan` command shows with it what follows
//! on the next step, and the laws of the planner are tested with it; nothing that runs depends on it.

use std::collections::BTreeMap;

use crate::model::{
    AdminState, BackendStat, CheckState, Command, Keyword, OperState, ServerRef, ServerState,
    StatRow,
};

use super::{
    desired::DesiredServer,
    made::Origin,
    plan::{Memory, ObservedBackend, Situation, Step, plan},
};

/// All steps until nothing is left to do, provided that HAProxy does what it is told, checks pass and sessions end in
/// time.
#[must_use]
pub fn until_settled(desired: &[&DesiredServer], situation: &Situation<'_>) -> Vec<Step> {
    // A tenth of a backend at a time, a few rounds each.
    const ENOUGH: usize = 100;
    let mut observed = situation.observed.clone();
    let mut memory = situation.memory.clone();
    let mut steps = Vec::new();
    for round in 0..ENOUGH {
        let next = plan(
            desired,
            &Situation {
                observed: &observed,
                memory: &memory,
                ..*situation
            },
        );
        if next.steps.is_empty() && round > 0 {
            break;
        }
        for step in &next.steps {
            memory.send(situation.now, &step.command);
            apply(&mut observed, &step.command);
        }
        steps.extend(next.steps);
        for server in observed
            .servers
            .iter_mut()
            .filter(|server| server.admin.is_ready())
        {
            server.oper = OperState::Running;
        }
        observed.stat = Some(all_quiet(&observed));
        memory = Memory {
            sent: BTreeMap::new(),
            ..memory
        };
        memory.observe(situation.now, &observed);
    }
    steps
}

/// The counters of a running backend with nothing on any of its servers.
#[must_use]
pub fn all_quiet(observed: &ObservedBackend) -> BackendStat {
    let names = observed
        .servers
        .iter()
        .filter_map(|server| server.name.clone());
    BackendStat {
        servers: names.map(|name| (name, StatRow::default())).collect(),
        is_running: true,
        is_unpublished: false,
    }
}

/// Carries `command` out on `observed`, as HAProxy does.
pub fn apply(observed: &mut ObservedBackend, command: &Command) {
    apply_to_backend(observed, command);
    let Some(ServerRef { server: name, .. }) = command.server() else {
        return;
    };
    let position = observed
        .servers
        .iter()
        .position(|server| server.name.as_ref() == Some(name));
    if let Command::AddServer(_, address, keywords) = command {
        if position.is_none() {
            let weight = keywords.iter().find_map(|keyword| {
                if let Keyword::Weight(weight) = keyword {
                    Some(*weight)
                } else {
                    None
                }
            });
            let is_agent = |keyword: &Keyword| matches!(keyword, Keyword::AgentCheck(_));
            observed.servers.push(ServerState {
                name: Some(name.clone()),
                ip: Some(address.ip),
                port: address.port.get(),
                oper: OperState::Stopped,
                admin: AdminState(1),
                weight: weight.unwrap_or(1),
                initial_weight: weight.unwrap_or(1),
                since_change: 0,
                check_health: 0,
                check: CheckState(if keywords.contains(&Keyword::Check) {
                    2
                } else {
                    0
                }),
                agent: CheckState(if keywords.iter().any(is_agent) { 2 } else { 0 }),
                line: None,
            });
        }
        return;
    }
    let Some(position) = position else { return };
    let server = &mut observed.servers[position];
    match command {
        Command::SetAddress(_, address) => {
            server.ip = Some(address.ip);
            server.port = address.port.get();
        }
        Command::Ready(_) => {
            if server.admin.in_maintenance() {
                server.oper = OperState::Running;
            }
            server.admin.0 &= !(1 | 8);
        }
        Command::Drain(_) => {
            if server.admin.in_maintenance() {
                server.oper = OperState::Running;
            }
            server.admin.0 = server.admin.0 & !1 | 8;
        }
        Command::Maintenance(_) => {
            server.oper = OperState::Stopped;
            server.admin.0 = server.admin.0 & !8 | 1;
        }
        Command::HealthDown(_) => {
            server.oper = OperState::Stopped;
            server.check_health = 0;
        }
        Command::EnableHealth(_) => server.check.0 |= 4,
        Command::EnableAgent(_) => server.agent.0 |= 4,
        Command::DisableAgent(_) => server.agent.0 &= !4,
        Command::SetWeight(_, weight) => server.weight = *weight,
        Command::DeleteServer(_) => {
            if server.admin.in_maintenance() {
                observed.servers.remove(position);
            }
        }
        Command::SetMaxconn(_, maxconn) => {
            if let Some(row) = observed
                .stat
                .as_mut()
                .and_then(|stat| stat.servers.get_mut(name))
            {
                row.maxconn = (*maxconn > 0).then_some((*maxconn).into());
            }
        }
        Command::AddServer(..)
        | Command::ShutdownSessions(_)
        | Command::AddBackend(..)
        | Command::PublishBackend(_)
        | Command::UnpublishBackend(_)
        | Command::DeleteBackend(_) => {}
    }
}

fn apply_to_backend(observed: &mut ObservedBackend, command: &Command) {
    match command {
        Command::AddBackend(..) | Command::UnpublishBackend(_) => {
            observed.origin = Origin::Made {
                is_published: false,
            };
        }
        Command::PublishBackend(_) => observed.origin = Origin::Made { is_published: true },
        Command::DeleteBackend(_) => observed.origin = Origin::Missing,
        Command::SetAddress(..)
        | Command::Ready(_)
        | Command::Drain(_)
        | Command::Maintenance(_)
        | Command::HealthDown(_)
        | Command::EnableHealth(_)
        | Command::EnableAgent(_)
        | Command::DisableAgent(_)
        | Command::SetWeight(..)
        | Command::SetMaxconn(..)
        | Command::AddServer(..)
        | Command::DeleteServer(_)
        | Command::ShutdownSessions(_) => {}
    }
}
