//! `plan`: reads both sides once, and prints what would be sent and why. Writes nothing to HAProxy.

mod form;
mod remarks;

use std::io::Write;

use self::{form::Changes, remarks::Remarks};

use crate::{
    config::Config, haproxy::session::Connection, model::Scope, nomad::watch::read_once,
    reconcile::Input,
};

use super::{Error, nomad_settings, observer::Observer};

/// Whether a plan has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanVerdict {
    /// HAProxy is as it should be, but for what the sidecar leaves as it is.
    NothingToDo,
    /// There are changes, now or when what holds a server for a time is over.
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

/// Writes the plan to `out`.
///
/// # Errors
///
/// When HAProxy, or the list of a namespace, cannot be read, or `out` cannot be written.
pub async fn plan(
    config: Config,
    form: PlanForm,
    out: &mut impl Write,
) -> Result<PlanVerdict, Error> {
    let read = read_once(&nomad_settings(&config)).await?;
    let unread = read.unread.clone();
    let mut unlisted = unread.iter();
    if let Some((_, why)) = unlisted.find(|(scope, _)| matches!(scope, Scope::Namespace(_))) {
        return Err(why.clone().into());
    }
    let (mut connection, info) = Connection::open(&config.haproxy).await?;
    let mut observer = Observer::new(&config);
    observer.handle(Input::Connected(info));
    observer.read(read);
    let (facts, lost) = observer.look(&mut connection).await;
    if let Some(error) = lost {
        return Err(Error::HaproxyLost(error));
    }
    let changes = Changes::of(&facts);
    let remarks = Remarks::of(&unread, &facts, &observer.core.overview());
    if form.json {
        changes.write_json(&remarks, out)?;
    } else {
        for line in &remarks.lines {
            writeln!(out, "{line}")?;
        }
        changes.write(form.commands, &remarks.summary(), out)?;
    }
    Ok(if changes.is_empty() {
        PlanVerdict::NothingToDo
    } else {
        PlanVerdict::HasChanges
    })
}
