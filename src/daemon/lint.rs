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
    #[error("read {}{}", file.display(), advice(source))]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no job.
    #[error("{file}: {problem}{}", why.as_ref().map(|why| format!(" (Nomad was asked, too: {why})")).unwrap_or_default())]
    NoJob {
        /// The file, as it is shown.
        file: String,
        /// What is wrong.
        problem: Unreadable,
        /// Why Nomad was of no help.
        why: Option<String>,
    },
    /// Nobody reads what is written.
    #[error("write the findings")]
    Output(#[from] io::Error),
}

/// Editors of Windows begin a file with it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::IsADirectory {
        " (give one job file at a time)"
    } else {
        ""
    }
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
    let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&content);
    let (job, why) = job(&config, options, content).await;
    let remark = why
        .as_ref()
        .map(|why| format!("read without Nomad, so that no expression is judged: {why}"));
    let job = job.map_err(|problem| LintError::NoJob {
        file: name.clone(),
        problem,
        why,
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
    let by_itself = lint::read_hcl(text);
    if options.offline || by_itself == Err(Unreadable::NoJob) {
        return (by_itself, None);
    }
    match evaluate(nomad_settings(config), &config.own_namespace, text).await {
        Ok(json) => (lint::read_evaluated(&json, text), None),
        Err(why) => (by_itself, Some(why)),
    }
}
