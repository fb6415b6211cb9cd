//! The policy file: which namespace may claim what, as TOML (docs/policy.md). What cannot be used is an [`Error`] that
//! names line and column.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use toml::Spanned;

use super::{Error, Position};
use crate::reconcile::rules::{Glob, MAX_WEIGHT, Rules, Section};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    namespace: BTreeMap<Spanned<String>, Written>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    hosts: Option<Vec<Spanned<String>>>,
    backends: Option<Vec<Spanned<String>>>,
    profiles: Option<Vec<Spanned<String>>>,
    server_profiles: Option<Vec<Spanned<String>>>,
    max_weight: Option<Spanned<u16>>,
    regex: Option<bool>,
}

/// Reads the policy file at `path`.
pub(super) fn read(path: &Path, own_namespace: &str) -> Result<Rules, Error> {
    let content = fs::read_to_string(path).map_err(|source| Error::UnreadablePolicy {
        path: path.to_owned(),
        source,
    })?;
    let refuse = |offset, problem| Error::File {
        position: Position::new(path, &content, offset),
        problem,
    };
    let refuse_toml = |error: &toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        refuse(offset, error.message().to_owned())
    };
    let parsed = toml::Deserializer::parse(&content).map_err(|error| refuse_toml(&error))?;
    let file = File::deserialize(parsed).map_err(|error| refuse_toml(&error))?;
    let sections = file.namespace.iter().map(|(name, written)| {
        let globs = |written: &Option<Vec<Spanned<String>>>, grammar| {
            let list = written.as_ref().map(|list| {
                let globs = list.iter().map(|text| glob(text, grammar));
                globs.collect::<Result<Vec<_>, _>>()
            });
            list.transpose()
        };
        Ok(Section {
            namespaces: glob(name, NAMESPACES)?,
            hosts: globs(&written.hosts, HOSTS)?,
            backends: globs(&written.backends, NAMES)?,
            profiles: globs(&written.profiles, NAMES)?,
            server_profiles: globs(&written.server_profiles, NAMES)?,
            max_weight: match &written.max_weight {
                Some(weight) if *weight.get_ref() > MAX_WEIGHT => {
                    let problem = format!("HAProxy's weights go from 0 to {MAX_WEIGHT}");
                    return Err((weight.span().start, problem));
                }
                weight => weight.as_ref().map(|weight| *weight.get_ref()),
            },
            regex: written.regex,
        })
    });
    let sections: Result<Vec<_>, _> = sections.collect();
    let sections = sections.map_err(|(offset, problem)| refuse(offset, problem))?;
    Ok(Rules::new(
        own_namespace,
        &path.display().to_string(),
        sections,
    ))
}

/// Which characters a glob can have beside `*`, and what it is.
type Grammar = (fn(char) -> bool, &'static str);

const NAMESPACES: Grammar = (
    |c| c.is_ascii_alphanumeric() || c == '-',
    "namespaces have letters, digits and -",
);
const HOSTS: Grammar = (
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_:[]".contains(c),
    "hosts are compared in lower case, as ASCII, without a port",
);
const NAMES: Grammar = (
    |c| c.is_ascii_alphanumeric() || "_.:-".contains(c),
    "names have letters, digits and _ . : -",
);

fn glob(text: &Spanned<String>, (allowed, words): Grammar) -> Result<Glob, (usize, String)> {
    let glob = text.get_ref();
    let bad = glob.chars().find(|&c| c != '*' && !allowed(c));
    let problem = match bad {
        Some(bad) => {
            format!("{glob:?} has the character {bad:?}; {words}, and * stands for any text")
        }
        None if glob.is_empty() => {
            format!("a pattern is empty; {words}, and * stands for any text")
        }
        None => return Ok(Glob::new(glob)),
    };
    Err((text.span().start, problem))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, Options, Sources},
        *,
    };
    use crate::model::ServiceKey;

    #[test]
    fn a_reload_reads_the_policy_again_and_a_bad_one_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let text = path.display().to_string();
        let sources = Sources {
            options: Options {
                policy_file: Some(text.clone().into()),
                ..Options::default()
            },
            ..Sources::default()
        };
        assert_eq!(
            Config::load(sources.clone()).unwrap_err().to_string(),
            format!("read the policy file {text}")
        );
        fs::write(&path, "").unwrap();
        let config = Config::load(sources).unwrap();
        let web = ServiceKey::new("shop", "web");
        assert!(config.rules.host(&web, "shop.example").is_err());
        fs::write(&path, "[namespace.shop]\nhosts = [\"shop.example\"]").unwrap();
        let config = config.reload().unwrap();
        assert!(config.rules.host(&web, "shop.example").is_ok());
        fs::write(&path, "[namespace.shop]\nhosts = [\"a b\"]").unwrap();
        let error = config.reload().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "{text}, line 2, column 10: \"a b\" has the character ' '"
            )),
            "{error}"
        );
    }
}
