//! Findings as people and machines read them.

use std::io::{self, Write};

use serde::Serialize;

use super::{Finding, Report, connector::Reading, shown};

/// One finding a line, as compilers print theirs; and at last how many there are.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn print(
    file: &str,
    report: &Report,
    remark: Option<&str>,
    readings: Option<&[Reading]>,
    out: &mut impl Write,
) -> io::Result<()> {
    if let Some(remark) = remark {
        writeln!(out, "{file}: note: {remark}")?;
    }
    for reading in readings.into_iter().flatten() {
        reading.print(file, out)?;
    }
    for finding in &report.findings {
        let line = finding.line.map(|line| format!("{line}:"));
        writeln!(
            out,
            "{file}:{} {}: job {}{}: {}",
            line.unwrap_or_default(),
            kind(finding),
            shown(&report.job),
            finding.place,
            finding.text
        )?;
    }
    if report.is_cut {
        writeln!(
            out,
            "{file}: note: that is enough; what follows was not looked at"
        )?;
    }
    let count = match report.count() {
        0 => "nothing to report".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let not_judged = match report.findings.len() - report.count() {
        0 => String::new(),
        notes => format!(", {notes} not judged"),
    };
    let perhaps = match report.perhaps {
        0 => String::new(),
        perhaps => format!(", {perhaps} perhaps"),
    };
    let Report {
        wanted, services, ..
    } = report;
    writeln!(
        out,
        "{count}{not_judged}; {wanted} of {services} services are for the sidecar{perhaps}"
    )
}

fn kind(finding: &Finding) -> &'static str {
    if finding.rule.is_note() {
        "note"
    } else {
        "finding"
    }
}

#[derive(Serialize)]
struct ReportWire<'a> {
    file: &'a str,
    job: &'a str,
    services: usize,
    wanted: usize,
    perhaps: usize,
    count: usize,
    is_cut: bool,
    remark: Option<&'a str>,
    findings: Vec<FindingWire<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<&'a [Reading]>,
}

#[derive(Serialize)]
struct FindingWire<'a> {
    rule: &'static str,
    kind: &'static str,
    line: Option<usize>,
    group: Option<&'a str>,
    task: Option<&'a str>,
    service: Option<&'a str>,
    text: &'a str,
}

/// The same as one JSON object.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn print_json(
    file: &str,
    report: &Report,
    remark: Option<&str>,
    readings: Option<&[Reading]>,
    out: &mut impl Write,
) -> io::Result<()> {
    let findings = report.findings.iter().map(|finding| FindingWire {
        rule: finding.rule.name(),
        kind: kind(finding),
        line: finding.line,
        group: finding.place.group.as_deref(),
        task: finding.place.task.as_deref(),
        service: finding.place.service.as_deref(),
        text: &finding.text,
    });
    let wire = ReportWire {
        file,
        job: &report.job,
        services: report.services,
        wanted: report.wanted,
        perhaps: report.perhaps,
        count: report.count(),
        is_cut: report.is_cut,
        remark,
        findings: findings.collect(),
        connector: readings,
    };
    serde_json::to_writer_pretty(&mut *out, &wire)?;
    writeln!(out)
}
