//! `plan`: reads both sides once, and prints what would be sent and why. Writes nothing to HAProxy.

mod form;

use std::{io::Write, time::Duration};

use form::Changes;

use crate::{
    config::Config,
    haproxy::session::Connection,
    model::{Command, ServiceKey},
    nomad::watch::read_once,
    reconcile::{
        Fact, Guard, Input, Mode, Output, Reconciler, Removals, desired::Rejection,
        routes::RouteFact,
    },
};

use super::{Error, freeze::Freeze, nomad_settings, policy, snapshot::hands};

/// Whether a plan has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanVerdict {
    /// HAProxy is as it should be.
    NothingToDo,
    /// There are changes.
    HasChanges,
}

/// How a plan is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanForm {
    /// As JSON.
    pub json: bool,
    /// With the commands, as they would be sent.
    pub commands: bool,
}

/// A core that writes nothing, and has heard what a daemon would have found on the disk.
pub(super) fn observer(config: &Config) -> Reconciler {
    let mut core = Reconciler::new(policy(config), Mode::Observe, 0);
    if let Some(is_frozen) = Freeze::new(config).changed() {
        core.handle(Duration::ZERO, Input::Freeze(is_frozen));
    }
    if let Some(hands) = hands::look(config) {
        core.handle(Duration::ZERO, Input::Recalled(hands));
    }
    core
}

/// Writes the plan to `out`.
///
/// # Errors
///
/// When one of both sides cannot be read, or `out` cannot be written.
pub async fn plan(
    config: Config,
    form: PlanForm,
    out: &mut impl Write,
) -> Result<PlanVerdict, Error> {
    let services = read_once(&nomad_settings(&config)).await?;
    let (mut connection, info) = Connection::open(&config.haproxy).await?;
    let mut core = observer(&config);
    let unproven = [].into();
    core.handle(Duration::ZERO, Input::Connected(info));
    core.handle(Duration::ZERO, Input::Synced { services, unproven });
    let mut facts = Vec::new();
    while let Some(output) = core.poll() {
        match output {
            Output::Run(batch) => {
                let (responses, error) = connection.run_batch(&batch).await;
                if let Some(error) = error {
                    return Err(Error::HaproxyLost(error));
                }
                core.handle(Duration::ZERO, Input::Answered(batch.id, responses));
            }
            Output::Tell(fact) => facts.push(fact),
            // Without a running daemon nobody waits for the proof, nor for an answer, nor for a file.
            Output::Prove(_) | Output::Ask(_) | Output::StateFile(_) | Output::Hands(_) => {}
        }
    }
    let changes = Changes::of(&facts);
    if form.json {
        let mut lines = Vec::new();
        write_remarks(&facts, &mut lines)?;
        changes.write_json(&String::from_utf8_lossy(&lines), out)?;
    } else {
        write_remarks(&facts, out)?;
        changes.write(form.commands, out)?;
    }
    Ok(if changes.is_empty() {
        PlanVerdict::NothingToDo
    } else {
        PlanVerdict::HasChanges
    })
}

/// What there is to say besides the changes.
fn write_remarks(facts: &[Fact], out: &mut impl Write) -> Result<(), Error> {
    for fact in facts {
        match fact {
            Fact::Found(found) => writeln!(
                out,
                "HAProxy {}: {} servers are the sidecar's, {} are not and stay as they are; {} services are wanted",
                found.process.version_text, found.owned, found.foreign, found.services
            )?,
            Fact::Hindered(backend, hindrance) => {
                writeln!(
                    out,
                    "blocked in {backend}: {}: {}",
                    hindrance.registration, hindrance.obstacle
                )?;
            }
            Fact::ByHand(backend, left) => {
                writeln!(
                    out,
                    "by hand in {backend}: {}: {}",
                    left.registration,
                    left.describe(backend)
                )?;
            }
            Fact::Held(backend, hold) if hold.guard == Some(Guard::Frozen) => {
                writeln!(
                    out,
                    "frozen in {backend}: {}: removals are stopped",
                    hold.registration
                )?;
            }
            Fact::Waits(backend, server, Removals::Frozen) => {
                writeln!(out, "frozen in {backend}: {server}: removals are stopped")?;
            }
            Fact::Held(backend, hold) => {
                writeln!(
                    out,
                    "held in {backend}: {}: it stays in rotation until {} of its service are UP, for {:?} at most",
                    hold.registration, hold.min_ready, hold.at_most
                )?;
            }
            Fact::Routes(RouteFact::Blocked(obstacle)) => {
                writeln!(out, "route blocked: {obstacle}")?;
            }
            Fact::WouldSend { backend, steps, .. } => {
                for step in steps {
                    let Command::AddBackend(_, section) = &step.command else {
                        continue;
                    };
                    writeln!(
                        out,
                        "not known of {backend}: whether haproxy.cfg has a section `defaults {section}` to make it from, which HAProxy \
                         tells when it is made; `explain {backend}` tells what a sidecar that runs has met"
                    )?;
                }
            }
            Fact::Rejected(service, rejection) => write_rejection(service, rejection, out)?,
            Fact::Routes(
                RouteFact::Applied { .. }
                | RouteFact::WouldSend(_)
                | RouteFact::Sent(_)
                | RouteFact::Failed { .. }
                | RouteFact::Unblocked(_),
            )
            | Fact::Restarted { .. }
            | Fact::Applied { .. }
            | Fact::Sent(_)
            | Fact::Noticed(..)
            | Fact::Failed { .. }
            | Fact::Unhindered(..)
            | Fact::NoLongerByHand(..)
            | Fact::HoldEnded(..)
            | Fact::MassBegan(_)
            | Fact::MassEnded { .. }
            | Fact::SecondOpinion(_)
            | Fact::Frozen { .. }
            | Fact::Thawed { .. }
            | Fact::Limited { .. }
            | Fact::Waits(..)
            | Fact::Unrejected(..)
            | Fact::FirstSync { .. }
            | Fact::InSync { .. }
            | Fact::Admitted { .. }
            | Fact::Arrived(..)
            | Fact::Turned(..)
            | Fact::SnapshotApplied { .. }
            | Fact::Restoring(_)
            | Fact::SyncFailed { .. } => {}
        }
    }
    Ok(())
}

fn write_rejection(
    service: &ServiceKey,
    rejection: &Rejection,
    out: &mut impl Write,
) -> Result<(), Error> {
    let word = if rejection.reason.costs_a_route() {
        "not routed"
    } else if rejection.reason.is_note() {
        "note"
    } else {
        "not served"
    };
    writeln!(
        out,
        "{word}: {service}: {}: {}",
        rejection.registration, rejection.reason
    )?;
    Ok(())
}
