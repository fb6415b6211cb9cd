//! The command line: which command, and which settings came with it or from the environment.
//!
//! What a setting means is decided by [`config`](crate::config). Flags may stand before or after the command.

mod generate;

use std::{ffi::OsString, iter, path::PathBuf};

use clap::{
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use clap_complete::Shell;

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
        /// A service, with or without its namespace (shop/web), the beginning of an allocation's ID, an address with its port or
        /// without, a registration's or a job's ID, a backend, a server or the key of a route
        #[arg(value_parser = named)]
        what: String,
    },
    /// Show what is wrong with the tags and services of a job file; exit with 2 if that is something
    Lint(lint::Options),
}

/// Everything that may be written for a command.
#[derive(Debug, Subcommand)]
enum Typed {
    #[command(flatten)]
    Command(Command),
    /// Print what a shell reads to complete commands and flags
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// Only this text.
    Text(Vec<u8>),
    /// A command with its settings.
    Command(Command, Box<Sources>),
}

const NAME: &str = "haproxy-nomad-sidecar";

/// Stands below the help of each command.
const SETTINGS: &str = "The settings of `haproxy-nomad-sidecar --help` apply here too, as flags, variables and in the file.";

const COMPLETIONS: &str = "\
For this bash: source <(haproxy-nomad-sidecar completions bash)
For every bash: haproxy-nomad-sidecar completions bash > /etc/bash_completion.d/haproxy-nomad-sidecar";

const MAN: &str = "To read it: haproxy-nomad-sidecar man | man -l -";

/// Keeps HAProxy's servers equal to the Nomad service catalog, through the runtime API alone.
///
/// Nothing must be set in a Nomad task that shares its allocation with HAProxy. A flag beats its environment variable,
/// that beats the configuration file, that beats the default. An empty value counts as not set.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Typed>,

    /// A TOML file with any of the settings below, under the flag's name without --
    #[arg(long, global = true, env = "SIDECAR_CONFIG", value_name = "FILE",
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    config: Option<PathBuf>,

    #[command(flatten)]
    options: Options,
}

/// Reads `arguments`, the program's name first, and the environment.
///
/// An error is also a request for the help or the version: [`clap::Error::use_stderr`] tells.
pub fn parse<A>(arguments: A) -> Result<Asked, clap::Error>
where
    A: IntoIterator,
    A::Item: Into<OsString> + Clone,
{
    let matches = command()
        .try_get_matches_from(arguments)
        .map_err(with_advice)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let command = match cli.command {
        None => Command::Run,
        Some(Typed::Command(command)) => command,
        Some(Typed::Completions { shell }) => return Ok(Asked::Text(generate::completions(shell))),
        Some(Typed::Man) => return Ok(Asked::Text(generate::man()?)),
    };
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
    Ok(Asked::Command(command, Box::new(sources)))
}

/// The command line, with a help of each command that has only what is its own.
fn command() -> clap::Command {
    let mut command = Cli::command();
    // Settings become the commands' arguments by this.
    command.build();
    let command = command
        .override_usage(format!("{NAME} [OPTIONS] [COMMAND]"))
        .after_help(exit_codes())
        .mut_args(with_minus);
    command.mut_subcommands(|command| {
        let command = command.mut_args(|argument| {
            let hides = argument.is_global_set();
            with_minus(argument.hide(hides))
        });
        if takes_settings(&command) {
            // Its hidden settings are options, too.
            let usage = usage(&command);
            return command.after_help(SETTINGS).override_usage(usage);
        }
        match command.get_name() {
            "completions" => command.after_help(COMPLETIONS),
            "man" => command.after_help(MAN),
            _ => command,
        }
    })
}

fn exit_codes() -> String {
    let codes = generate::EXIT_CODES.iter();
    let lines = codes.map(|(code, meaning)| format!("  {code:<3}  {meaning}"));
    let lines: Vec<_> = iter::once("Exit codes:".to_owned()).chain(lines).collect();
    lines.join("\n")
}

fn named(what: &str) -> Result<String, &'static str> {
    if what.trim().is_empty() {
        return Err(
            "it is empty; name a service, an allocation, an address, a backend or a server",
        );
    }
    Ok(what.to_owned())
}

/// Whoever writes -5s for a duration is told what is wrong with it, and not that there is no flag -5.
fn with_minus(argument: clap::Arg) -> clap::Arg {
    let value = argument.get_value_names().and_then(<[_]>::first);
    let is_quantity = value.is_some_and(|name| matches!(name.as_str(), "DURATION" | "NUMBER"));
    argument.allow_hyphen_values(is_quantity)
}

fn usage(command: &clap::Command) -> String {
    let mut words = vec![format!("{NAME} {} [OPTIONS]", command.get_name())];
    let values = command.get_positionals();
    let names = values.flat_map(|value| value.get_value_names().unwrap_or_default());
    words.extend(names.map(|name| format!("<{name}>")));
    words.join(" ")
}

/// What stands behind a switch without = is taken for a command.
fn with_advice(mut error: clap::Error) -> clap::Error {
    let kinds = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let is_of_switch = kinds.iter().any(|kind| {
        matches!(error.get(*kind), Some(ContextValue::String(word)) if matches!(&**word, "true" | "false"))
    });
    if is_of_switch {
        let tip = "a switch takes its value behind =, as in --freeze=true".into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn takes_settings(command: &clap::Command) -> bool {
    !["completions", "man", "help"].contains(&command.get_name())
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
        command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable() {
        let flags = Cli::command().get_arguments().count();
        assert_eq!(flags, super::flags().len());
    }

    #[test]
    fn run_is_the_default() {
        let command = |arguments: &[&str]| match parse(arguments).unwrap() {
            Asked::Command(command, _) => command,
            Asked::Text(text) => panic!("{text:?}"),
        };
        assert_eq!(command(&["sidecar"]), Command::Run);
        assert_eq!(command(&["sidecar", "--observe"]), Command::Run);
        let plan = |json, commands| Command::Plan { json, commands };
        assert_eq!(command(&["sidecar", "plan"]), plan(false, false));
        assert_eq!(
            command(&["sidecar", "plan", "--commands"]),
            plan(false, true)
        );
    }
}
