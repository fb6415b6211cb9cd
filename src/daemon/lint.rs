//! `lint`: reads a job file, lets Nomad evaluate it where it can be asked, and prints what is wrong with it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    config::Config,
    lint::{self, Options, Unreadable, job::Job},
    nomad::evaluate::evaluate,
};

use super::{nomad_settings, policy};

/// Whether there is something to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LintVerdict {
    /// Everything that could be judged is right.
    NothingToReport,
    /// There are findings.
    HasFindings,
}

/// Why a job file is not judged.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It cannot be read.
    #[error("read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no job.
    #[error("{file}{}", remark.as_ref().map(|remark| format!(" ({remark})")).unwrap_or_default())]
    NoJob {
        /// The file, as it is shown.
        file: String,
        /// Why Nomad was of no help.
        remark: Option<String>,
        /// What is wrong.
        source: Unreadable,
    },
    /// Nobody reads what is written.
    #[error("write the findings")]
    Output(#[from] io::Error),
}

/// Writes the findings to `out`.
///
/// # Errors
///
/// When there is no job to judge, or `out` cannot be written.
pub async fn lint(
    config: Config,
    options: &Options,
    out: &mut impl Write,
) -> Result<LintVerdict, LintError> {
    let is_stdin = options.file == Path::new("-");
    let name = if is_stdin {
        "<stdin>".to_owned()
    } else {
        options.file.display().to_string()
    };
    let read = if is_stdin {
        read(io::stdin())
    } else {
        File::open(&options.file).and_then(read)
    };
    let content = read.map_err(|source| LintError::Read {
        file: options.file.clone(),
        source,
    })?;
    let (job, remark) = job(&config, options, &content).await;
    let job = job.map_err(|source| LintError::NoJob {
        file: name.clone(),
        remark: remark.clone(),
        source,
    })?;
    let policy = policy(&config);
    let report = lint::check(&job, &policy, &config.own_namespace);
    let readings = options.from.map(|lint::From::Connector| {
        lint::connector::readings(&job, &policy, &config.own_namespace)
    });
    let print = if options.json {
        lint::print_json
    } else {
        lint::print
    };
    print(&name, &report, remark.as_deref(), readings.as_deref(), out)?;
    Ok(if report.count() == 0 {
        LintVerdict::NothingToReport
    } else {
        LintVerdict::HasFindings
    })
}

/// All of it, and a byte more than is read on.
fn read(file: impl Read) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(lint::MAX_FILE).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    Ok(content)
}

/// The job, and why Nomad was of no help if it was asked in vain.
async fn job(
    config: &Config,
    options: &Options,
    content: &[u8],
) -> (Result<Job, Unreadable>, Option<String>) {
    if content.len() > lint::MAX_FILE {
        return (Err(Unreadable::TooLong), None);
    }
    if lint::is_json(content) {
        return (lint::read_json(content), None);
    }
    let Ok(text) = str::from_utf8(content) else {
        return (Err(Unreadable::NoText), None);
    };
    if options.offline {
        return (lint::read_hcl(text), None);
    }
    match evaluate(nomad_settings(config), &config.own_namespace, text).await {
        Ok(json) => (lint::read_evaluated(&json, text), None),
        Err(why) => {
            let remark = format!("read without Nomad, so that no expression is judged: {why}");
            (lint::read_hcl(text), Some(remark))
        }
    }
}
