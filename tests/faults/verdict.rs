//! What a cell of the matrix has shown, against what physics allows.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    crew::Crew,
    physics::{self, Physics, Served},
    story::{self, Event, since},
    support::{
        app::App,
        load::{Kind, Outcome, Record, Report},
    },
    watch::Seen,
};

/// The loads on each backend.
pub(crate) const LOADS: [Kind; 2] = [Kind::KeepAlive, Kind::Close];

/// What came of the loads, and what was seen meanwhile.
pub(crate) struct Loaded {
    /// [`LOADS`] of the first service, of the second, and so on.
    pub(crate) reports: Vec<Report>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) events: Vec<(Instant, Event)>,
    pub(crate) begins: Instant,
    /// When HAProxy equalled the catalog.
    pub(crate) converged: Instant,
}

#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) failed: usize,
    pub(crate) put_back: Vec<String>,
    pub(crate) problems: Vec<String>,
}

impl Loaded {
    /// The worst delay of the generator.
    pub(crate) fn late(&self) -> Duration {
        let reports = self.reports.iter();
        let late = reports.map(|report| report.percentiles(|record| record.late)[2]);
        late.max().unwrap_or_default()
    }

    pub(crate) fn judge(&self, crews: &[Crew]) -> Verdict {
        let mut verdict = Verdict::default();
        for (crew, reports) in crews.iter().zip(self.reports.chunks(LOADS.len())) {
            let name = crew.kind.name;
            let stays = crew.stays.iter();
            let served = Served {
                kind: crew.kind,
                stays: stays.map(|one| one.app.address().to_string()).collect(),
                leaves: crew.leaves.app.address().to_string(),
            };
            let physics = physics::of(&served, &self.events, &self.seen, self.late());
            let put_back = physics.put_back;
            verdict
                .put_back
                .extend(put_back.map(|took| format!("{name} {took:.2?}")));
            let mut problems = Vec::new();
            for (kind, report) in LOADS.into_iter().zip(reports) {
                verdict.failed += report.failed().count();
                let found = judge(report, &physics, self.begins);
                problems.extend(found.map(|found| format!("{kind:?}: {found}")));
            }
            problems.extend(who_answers(crew, reports, self.converged));
            problems.extend(physics.problems);
            let sick = crew.sick.app.requests();
            if sick > 0 {
                problems.push(format!(
                    "{sick} requests reached an instance that never passed its check"
                ));
            }
            let of_service = problems
                .into_iter()
                .map(|problem| format!("{name}: {problem}"));
            verdict.problems.extend(of_service);
        }
        verdict
    }

    /// What happened and what was seen, by seconds since the first fault began.
    pub(crate) fn told(&self) -> String {
        format!(
            "what happened:\n{}what was seen:\n{}",
            story::printed(&self.events, self.begins),
            printed(&self.seen, self.begins)
        )
    }
}

/// What is wrong with what came of a load.
fn judge(report: &Report, physics: &Physics, begins: Instant) -> Option<String> {
    if let Some(fault) = report.fault() {
        return Some(fault);
    }
    let failed: Vec<_> = report
        .failed()
        .filter(|record| !physics.windows.iter().any(|window| window.allows(record)))
        .map(|record| told(record, begins))
        .collect();
    (!failed.is_empty()).then(|| {
        let windows: Vec<_> = physics
            .windows
            .iter()
            .map(|window| {
                let (from, until) = (since(begins, window.from), since(begins, window.until));
                format!("{:?} from {from:.3} to {until:.3}", window.lack)
            })
            .collect();
        format!(
            "{} failed that need not have; lacking: [{}]\n{}",
            failed.len(),
            windows.join(", "),
            failed[..failed.len().min(20)].join("\n")
        )
    })
}

/// Who has to answer once all is over, and did not, or the other way round.
fn who_answers(crew: &Crew, reports: &[Report], converged: Instant) -> Option<String> {
    let records = reports.iter().flat_map(|report| &report.records);
    let answered: BTreeSet<_> = records
        .filter(|record| record.due > converged)
        .filter_map(|record| match &record.outcome {
            Outcome::Answered { by, .. } => Some(by.as_str()),
            Outcome::HaproxyAnswered { .. }
            | Outcome::NotConnected(_)
            | Outcome::Reset
            | Outcome::ClosedWithoutAnswer
            | Outcome::Cut
            | Outcome::TimedOut
            | Outcome::Garbled => None,
        })
        .collect();
    let expected: BTreeSet<_> = crew.healthy().map(App::name).collect();
    (answered != expected)
        .then(|| format!("in the end {answered:?} answered, and not {expected:?}"))
}

fn told(record: &Record, begins: Instant) -> String {
    format!(
        "  {:7.3} {} after {:?}, asked to last {:?}",
        since(begins, record.due),
        record.outcome,
        record.took,
        record.lasts
    )
}

fn printed(seen: &[Seen], begins: Instant) -> String {
    let line = |seen: &Seen| {
        let at = since(begins, seen.answered);
        match &seen.look {
            None => format!("  {at:7.3} no answer"),
            Some(look) => format!("  {at:7.3} pid {} {:?}", look.pid, look.in_rotation),
        }
    };
    seen.iter().map(line).collect::<Vec<_>>().join("\n")
}
