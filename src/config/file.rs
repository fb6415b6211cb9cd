//! The configuration file: TOML with any of the settings. What is no setting is named with its line, and with the one that
//! was perhaps meant.

use std::path::Path;

use clap::Args as _;
use serde::Deserialize as _;
use toml::de::{DeTable, Deserializer};

use super::{Error, Options, Position};
use crate::spelling;

/// Reads the content of the file at `path`.
pub(super) fn read(path: &Path, content: &str) -> Result<Options, Error> {
    let refuse = |offset, problem| Error::File {
        position: Position::new(path, content, offset),
        problem,
    };
    let offset = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let refuse_text = |error: toml::de::Error| {
        let problem = format!(
            "this is not TOML ({}); write name = \"text\", name = true or name = [\"text\", \"text\"]",
            error.message()
        );
        refuse(offset(&error), problem)
    };
    let table = DeTable::parse(content).map_err(refuse_text)?;
    if let Some((offset, problem)) = unknown(table.get_ref()) {
        return Err(refuse(offset, problem));
    }
    Options::deserialize(Deserializer::from(table))
        .map_err(|error| refuse(offset(&error), error.message().to_owned()))
}

/// The first name that is none of a setting.
fn unknown(table: &DeTable<'_>) -> Option<(usize, String)> {
    let settings = Options::augment_args(clap::Command::new("settings"));
    let settings = || settings.get_arguments().filter_map(clap::Arg::get_long);
    let names = table.keys();
    let unknown = names.filter(|name| !settings().any(|known| known == name.get_ref().as_ref()));
    let name = unknown.min_by_key(|name| name.span().start)?;
    let what = match spelling::meant(name.get_ref(), settings()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "settings have the names of the flags in --help, without --".to_owned(),
    };
    let problem = format!("there is no setting {:?}: {what}", name.get_ref());
    Some((name.span().start, problem))
}
