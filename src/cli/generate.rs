//! What is made from the command line's own description: completions for shells, and the man page.

use std::io;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, NAME, takes_settings};

/// What a shell reads to complete commands, flags and files.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut text);
    text
}

/// The man page, in troff.
pub(super) fn man() -> io::Result<Vec<u8>> {
    // A page of its own for each command would have all settings in it again.
    let mut whole = Cli::command();
    let usages = whole.get_subcommands().map(usage);
    let usages = usages.collect::<Vec<_>>().join("\n");
    whole = whole.override_usage(usages).version(None::<&str>);
    let commands: Vec<Command> = whole.get_subcommands().cloned().collect();
    let page = Man::new(whole)
        .manual("User Commands")
        .source(concat!("haproxy-nomad-sidecar ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(&mut text)?;
    for command in commands {
        let mut roff = Roff::new();
        roff.control("SS", [command.get_name()]);
        let about = command.get_about().map(ToString::to_string);
        roff.text([roman(about.unwrap_or_default())]);
        roff.to_writer(&mut text)?;
        let has_options = command.get_arguments().next().is_some();
        if has_options {
            let mut options = Vec::new();
            Man::new(command.disable_help_flag(true)).render_options_section(&mut options)?;
            // They belong to the command's own section.
            let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
            text.extend(options.into_bytes());
        }
    }
    page.render_options_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// What the program ends with, and what that says.
pub(super) const EXIT_CODES: [(&str, &str); 5] = [
    ("0", "fine"),
    ("1", "it failed, for the reason on the standard error"),
    (
        "2",
        "plan has changes, lint has findings, or what explain was asked for gets no traffic",
    ),
    (
        "64",
        "the command line, the environment or the configuration file is wrong",
    ),
    ("141", "nobody reads the output any more, as after head"),
];

/// A command with what only it takes.
fn usage(command: &Command) -> String {
    let mut words = vec![NAME.to_owned(), command.get_name().to_owned()];
    for argument in command.get_arguments() {
        let value = argument.get_value_names().and_then(<[_]>::first);
        words.push(match (argument.get_long(), value) {
            (Some(long), Some(value)) if argument.get_action().takes_values() => {
                format!("[--{long} <{value}>]")
            }
            (Some(long), _) => format!("[--{long}]"),
            (None, Some(value)) => format!("<{value}>"),
            (None, None) => continue,
        });
    }
    if takes_settings(command) {
        words.push("[OPTIONS]".to_owned());
    }
    words.join(" ")
}
