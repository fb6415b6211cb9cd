//! `lint`: reads a job file, lets Nomad evaluate it where it can be asked, and prints what is wrong with it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    config::Config,
    lint::{
        self, Options, Unreadable,
        job::Job,
        refused::{self, Mistake},
    },
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
    /// Nomad does not take it.
    #[error(
        "{file}: Nomad refuses this job, and nothing else of it was looked at: mend it; if it is right with variables of yours, give \
         what `nomad job run -output -var … <job file>` prints\n  {}",
        mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Refused {
        /// The file, as it is shown.
        file: String,
        /// What is wrong, as Nomad says it.
        mistakes: Vec<Mistake>,
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
    let read = read_job(&config, options, content).await;
    let (job, remark) = read.map_err(|not_read| not_read.of(&name))?;
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

/// Why there is no job.
enum NotRead {
    /// It cannot be read here; and why Nomad was of no help, if it was asked.
    Unreadable(Unreadable, Option<String>),
    /// Nomad refuses it.
    Refused(Vec<Mistake>),
}

impl NotRead {
    fn of(self, file: &str) -> LintError {
        let file = file.to_owned();
        match self {
            Self::Unreadable(problem, why) => LintError::NoJob { file, problem, why },
            Self::Refused(mistakes) => LintError::Refused { file, mistakes },
        }
    }
}

/// The job, and a remark on how it was read.
async fn read_job(
    config: &Config,
    options: &Options,
    content: &[u8],
) -> Result<(Job, Option<String>), NotRead> {
    let unreadable = |problem| NotRead::Unreadable(problem, None);
    if content.len() > lint::MAX_FILE {
        return Err(unreadable(Unreadable::TooLong));
    }
    if lint::is_json(content) {
        let job = lint::read_json(content).map_err(unreadable)?;
        return Ok((job, None));
    }
    let text = str::from_utf8(content).map_err(|_| unreadable(Unreadable::NoText))?;
    let by_itself = lint::read_hcl(text);
    // Nomad would say no more of these.
    let is_settled = matches!(by_itself, Err(Unreadable::NoJob | Unreadable::ManyJobs(_)));
    if options.offline || is_settled {
        return Ok((by_itself.map_err(unreadable)?, None));
    }
    let not_evaluated = match evaluate(nomad_settings(config), &config.own_namespace, text).await {
        Ok(json) => {
            let job = lint::read_evaluated(&json, text).map_err(unreadable)?;
            return Ok((job, None));
        }
        Err(not_evaluated) => not_evaluated,
    };
    let why = not_evaluated.why;
    let advice = match not_evaluated.words {
        Some(words) => {
            let mistakes = refused::mistakes(&words);
            if !mistakes.is_empty() {
                return Err(NotRead::Refused(mistakes));
            }
            "; to have them judged, give what `nomad job run -output -var … <job file>` prints"
        }
        None => "",
    };
    let remark = format!(
        "read without Nomad, so that no expression is judged: {}{advice}",
        why.trim_end_matches('.')
    );
    match by_itself {
        Ok(job) => Ok((job, Some(remark))),
        Err(problem) => Err(NotRead::Unreadable(problem, Some(why))),
    }
}
