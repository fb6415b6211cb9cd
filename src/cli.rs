//! The command line: which command, and which settings came with it or from the environment.
//!
//! What a setting means is decided by [`config`](crate::config). Flags may stand before or after the command.

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, parser::ValueSource};

use crate::{
    config::{Options, Sources, Task},
    lint,
};

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Keep HAProxy's servers equal to the catalog, until a signal ends it (the default)
    Run,
    /// Show what `run` would do now, and why; exit with 2 if that is something
    Plan {
        /// As JSON, with every command
        #[arg(long)]
        json: bool,
        /// As the commands that would be sent, in their order
        #[arg(long)]
        commands: bool,
    },
    /// Show how everything stands: what is in rotation, and what is not, and why
    Status {
        /// As JSON: the document that docs/status.md describes
        #[arg(long)]
        json: bool,
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Tell why something gets traffic or does not, from Nomad to HAProxy; exit with 2 if it does not
    Explain {
        /// A service, with or without its namespace (shop/web), the beginning of an allocation's ID, an address with its port,
        /// a registration's ID, a backend or a server
        what: String,
    },
    /// Show what is wrong with the tags and services of a job file; exit with 2 if that is something
    Lint(lint::Options),
}

/// Keeps HAProxy's servers equal to the Nomad service catalog, through the runtime API alone.
///
/// Nothing must be set in a Nomad task that shares its allocation with HAProxy. A flag beats its environment variable,
/// that beats the configuration file, that beats the default. An empty value counts as not set.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// A TOML file with any of the settings below, under the flag's name without --
    #[arg(long, global = true, env = "SIDECAR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: Options,
}

/// Reads `arguments`, the program's name first, and the environment.
///
/// An error is also a request for the help or the version: [`clap::Error::use_stderr`] tells.
pub fn parse<A>(arguments: A) -> Result<(Command, Sources), clap::Error>
where
    A: IntoIterator,
    A::Item: Into<OsString> + Clone,
{
    let matches = Cli::command().try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let from_environment = flags()
        .into_iter()
        .filter(|flag| matches.value_source(&flag.id) == Some(ValueSource::EnvVariable))
        .map(|flag| (flag.name, flag.variable))
        .collect();
    let sources = Sources {
        options: cli.options,
        from_environment,
        file: cli.config.filter(|path| !path.as_os_str().is_empty()),
        task: Task::from_env(),
    };
    Ok((cli.command.unwrap_or(Command::Run), sources))
}

/// A flag and its environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    id: String,
    /// Without `--`.
    pub name: String,
    /// The environment variable.
    pub variable: String,
}

/// Every flag that takes a setting, in the order of the help.
#[must_use]
pub fn flags() -> Vec<Flag> {
    Cli::command()
        .get_arguments()
        .filter_map(|argument| {
            Some(Flag {
                id: argument.get_id().to_string(),
                name: argument.get_long()?.to_owned(),
                variable: argument.get_env()?.to_str()?.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable() {
        let flags = Cli::command().get_arguments().count();
        assert_eq!(flags, super::flags().len());
    }

    #[test]
    fn run_is_the_default() {
        assert_eq!(parse(["sidecar"]).unwrap().0, Command::Run);
        assert_eq!(parse(["sidecar", "--observe"]).unwrap().0, Command::Run);
        let plan = |json, commands| Command::Plan { json, commands };
        assert_eq!(parse(["sidecar", "plan"]).unwrap().0, plan(false, false));
        let parsed = parse(["sidecar", "plan", "--commands"]).unwrap().0;
        assert_eq!(parsed, plan(false, true));
    }
}
