//! Every setting, once: the same struct is filled from flags and environment (by clap) and from the file (by serde).
//!
//! Nothing is interpreted here. A setting is text with its origin, so that whoever cannot use it can say where it was
//! written; the parent module decides what the text means.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::Error;
use crate::redacted::Redacted;

/// The settings that flags, environment and file have in common. In the file a name is that of the flag without `--`.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    clippy::doc_markdown,
    reason = "the comments are also the text of --help"
)]
pub struct Options {
    /// HAProxy's stats socket, with `level admin` [default: ${NOMAD_ALLOC_DIR}/haproxy.sock in a Nomad task, otherwise
    /// /run/haproxy/admin.sock]
    #[arg(long, global = true, env = "HAPROXY_SOCKET", value_name = "PATH")]
    pub(super) haproxy_socket: Option<Given>,

    /// Nomad's address: http://…, https://… or unix:///path; several with commas between them are tried in turn [default:
    /// the Task API in a Nomad task, otherwise http://127.0.0.1:4646]
    #[arg(long, global = true, env = "NOMAD_ADDR", value_name = "URL")]
    pub(super) nomad_addr: Option<Given>,

    /// The Task API's socket, for when no address is set [default: ${NOMAD_SECRETS_DIR}/api.sock in a Nomad task]
    #[arg(long, global = true, env = "NOMAD_UNIX_ADDR", value_name = "PATH")]
    pub(super) nomad_unix_addr: Option<Given>,

    /// The ACL token or workload identity
    #[arg(
        long,
        global = true,
        env = "NOMAD_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(super) nomad_token: Option<Given>,

    /// A file with the token, read again when Nomad refuses it [default: ${NOMAD_SECRETS_DIR}/nomad_token on the Task
    /// API, if it is there]
    #[arg(long, global = true, env = "NOMAD_TOKEN_FILE", value_name = "PATH")]
    pub(super) nomad_token_file: Option<Given>,

    /// The sidecar's own namespace [default: default]
    #[arg(long, global = true, env = "NOMAD_NAMESPACE", value_name = "NAME")]
    pub(super) nomad_namespace: Option<Given>,

    /// The region to ask [default: the agent's]
    #[arg(long, global = true, env = "NOMAD_REGION", value_name = "NAME")]
    pub(super) nomad_region: Option<Given>,

    /// Certificate authorities that Nomad's certificate is checked against, as a PEM file [default: the system's]
    #[arg(long, global = true, env = "NOMAD_CACERT", value_name = "PATH")]
    pub(super) nomad_cacert: Option<Given>,

    /// The same, as a directory of PEM files
    #[arg(long, global = true, env = "NOMAD_CAPATH", value_name = "PATH")]
    pub(super) nomad_capath: Option<Given>,

    /// The client certificate for mutual TLS, as a PEM file
    #[arg(long, global = true, env = "NOMAD_CLIENT_CERT", value_name = "PATH")]
    pub(super) nomad_client_cert: Option<Given>,

    /// The key of the client certificate, as a PEM file
    #[arg(long, global = true, env = "NOMAD_CLIENT_KEY", value_name = "PATH")]
    pub(super) nomad_client_key: Option<Given>,

    /// The name that Nomad's certificate must have [default: the host of the address]
    #[arg(
        long,
        global = true,
        env = "NOMAD_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub(super) nomad_tls_server_name: Option<Given>,

    /// Do not check Nomad's certificate
    #[arg(long, global = true, env = "NOMAD_SKIP_VERIFY", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(deserialize_with = "switch")]
    pub(super) nomad_skip_verify: Option<Given>,

    /// HTTP basic authentication in front of Nomad
    #[arg(
        long,
        global = true,
        env = "NOMAD_HTTP_AUTH",
        hide_env_values = true,
        value_name = "USER:PASSWORD"
    )]
    pub(super) nomad_http_auth: Option<Given>,

    /// The namespaces whose services are followed, with commas between them, or * for all [default: the sidecar's own]
    #[arg(long, global = true, env = "SIDECAR_NAMESPACES", value_name = "NAMES")]
    #[serde(deserialize_with = "list")]
    pub(super) namespaces: Option<Given>,

    /// Follow every service that is not switched off by a tag, instead of those that are switched on
    #[arg(long, global = true, env = "SIDECAR_EXPOSE_BY_DEFAULT", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(deserialize_with = "switch")]
    pub(super) expose_by_default: Option<Given>,

    /// What the tags that are meant for the sidecar begin with [default: haproxy]
    #[arg(long, global = true, env = "SIDECAR_TAG_PREFIX", value_name = "PREFIX")]
    pub(super) tag_prefix: Option<Given>,

    /// What the names of the slots begin with, as in `server-template nomad 1-32 …` [default: nomad]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_SLOT_PREFIX",
        value_name = "PREFIX"
    )]
    pub(super) slot_prefix: Option<Given>,

    /// A TOML file that says which namespace may claim which hosts, backends, profiles and weights [default: none: the
    /// sidecar's own namespace may use any backend, others only the one named namespace.service]
    #[arg(long, global = true, env = "SIDECAR_POLICY_FILE", value_name = "PATH")]
    pub(super) policy_file: Option<Given>,

    /// Keywords of servers that the tag tls.profile may ask for by this name, such as tls=ssl verify required ca-file
    /// /etc/ssl/ca.pem; several with ; between them [default: none]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_SERVER_PROFILES",
        value_name = "NAME=KEYWORDS"
    )]
    #[serde(deserialize_with = "profiles")]
    pub(super) server_profile: Option<Given>,

    /// The map that leads from a whole host to its backend, by map_str: virt@name, the path of a file as haproxy.cfg has it, or
    /// off (default: virt@hosts)
    #[arg(long, global = true, env = "SIDECAR_HOST_MAP", value_name = "MAP")]
    pub(super) host_map: Option<Given>,

    /// The same for ends of hosts, by map_end (default: virt@suffixes)
    #[arg(long, global = true, env = "SIDECAR_SUFFIX_MAP", value_name = "MAP")]
    pub(super) suffix_map: Option<Given>,

    /// The same for beginnings of hosts, by map_beg (default: virt@prefixes)
    #[arg(long, global = true, env = "SIDECAR_PREFIX_MAP", value_name = "MAP")]
    pub(super) prefix_map: Option<Given>,

    /// The same for regular expressions of hosts, by map_reg [default: off]
    #[arg(long, global = true, env = "SIDECAR_REGEX_MAP", value_name = "MAP")]
    pub(super) regex_map: Option<Given>,

    /// The same for beginnings of host and path, and of the path alone, by map_beg (default: virt@paths)
    #[arg(long, global = true, env = "SIDECAR_PATH_MAP", value_name = "MAP")]
    pub(super) path_map: Option<Given>,

    /// The same for server names of TLS, by map_str (default: virt@sni)
    #[arg(long, global = true, env = "SIDECAR_SNI_MAP", value_name = "MAP")]
    pub(super) sni_map: Option<Given>,

    /// The same for ports of frontends, by map_str (default: virt@ports)
    #[arg(long, global = true, env = "SIDECAR_PORT_MAP", value_name = "MAP")]
    pub(super) port_map: Option<Given>,

    /// How long the last server of a service stays in rotation after its registration is gone, until a replacement is UP
    /// [default: 30s]
    #[arg(long, global = true, env = "SIDECAR_HOLD", value_name = "DURATION")]
    pub(super) hold: Option<Given>,

    /// The `defaults` sections that backends may be made from at runtime (HAProxy 3.4), with commas between them; the first
    /// is taken where the tag backend.profile names none [default: nomad]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_BACKEND_PROFILES",
        value_name = "NAMES"
    )]
    #[serde(deserialize_with = "list")]
    pub(super) backend_profiles: Option<Given>,

    /// How long a backend that was made at runtime is kept, answering 503, after its last registration is gone [default:
    /// 10m]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_BACKEND_LINGER",
        value_name = "DURATION"
    )]
    pub(super) backend_linger: Option<Given>,

    /// How long a server that is removed may finish its sessions [default: 10s]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_DRAIN_TIMEOUT",
        value_name = "DURATION"
    )]
    pub(super) drain_timeout: Option<Given>,

    /// At SIGTERM, leave the servers serving, or drain them first, for a HAProxy that is about to be stopped too: leave or
    /// drain [default: leave]
    #[arg(long, global = true, env = "SIDECAR_ON_STOP", value_name = "WHAT")]
    pub(super) on_stop: Option<Given>,
    /// Where the last good catalog is kept for a start without Nomad, or off [default:
    /// ${NOMAD_ALLOC_DIR}/data/haproxy-nomad-sidecar.snapshot in a Nomad task, otherwise off]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_SNAPSHOT_FILE",
        value_name = "PATH"
    )]
    pub(super) snapshot_file: Option<Given>,
    /// A file by which HAProxy comes back from a reload with its slots filled: its `server-state-file` [default: none]
    #[arg(long, global = true, env = "SIDECAR_STATE_FILE", value_name = "PATH")]
    pub(super) state_file: Option<Given>,

    /// How many servers that are UP may be taken out of rotation in a second; those of one backend may go together
    /// [default: 20]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_MAX_REMOVALS_PER_SECOND",
        value_name = "NUMBER"
    )]
    #[serde(deserialize_with = "number")]
    pub(super) max_removals_per_second: Option<Given>,

    /// Stop all removals: no server is drained or deleted and no slot is freed; everything else goes on
    #[arg(long, global = true, env = "SIDECAR_FREEZE", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(deserialize_with = "switch")]
    pub(super) freeze: Option<Given>,

    /// A file that does the same for as long as it is there [default: ${NOMAD_ALLOC_DIR}/sidecar.freeze in a Nomad task,
    /// otherwise none]
    #[arg(long, global = true, env = "SIDECAR_FREEZE_FILE", value_name = "PATH")]
    pub(super) freeze_file: Option<Given>,

    /// Do everything but write to HAProxy
    #[arg(long, global = true, env = "SIDECAR_OBSERVE", value_name = "BOOL",
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(deserialize_with = "switch")]
    pub(super) observe: Option<Given>,

    /// Where /live, /ready, /status and /metrics are answered: IP:PORT, unix:///path, both with a comma between them, or off
    /// [default: 127.0.0.1:9417; in a Nomad task, unless it is off, also ${NOMAD_ALLOC_DIR}/haproxy-nomad-sidecar.sock]
    #[arg(
        long,
        global = true,
        env = "SIDECAR_ADMIN_LISTEN",
        value_name = "WHERE"
    )]
    pub(super) admin_listen: Option<Given>,

    /// A file that every change of HAProxy is appended to, as a line of JSON with its cause and HAProxy's reply [default:
    /// none]
    #[arg(long, global = true, env = "SIDECAR_AUDIT_LOG", value_name = "PATH")]
    pub(super) audit_log: Option<Given>,

    /// plain or json [default: plain]
    #[arg(long, global = true, env = "SIDECAR_LOG_FORMAT", value_name = "FORMAT")]
    pub(super) log_format: Option<Given>,

    /// A level (error, warn, info, debug, trace, off), or levels by module: info,haproxy_nomad_sidecar::nomad=debug
    /// [default: info]
    #[arg(long, global = true, env = "SIDECAR_LOG_LEVEL", value_name = "FILTER")]
    pub(super) log_level: Option<Given>,
}

/// A setting as it was written. Any of them can be a secret, so none is ever shown by accident.
#[derive(Clone, Debug)]
pub(super) struct Given {
    text: Redacted<String>,
    /// Where in the file it is, in bytes.
    span: Option<Range<usize>>,
}

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self {
            text: Redacted::new(text),
            span: None,
        }
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A type error of serde's would repeat the value, and it can be a secret without its quotes.
        let value = Spanned::<toml::Value>::deserialize(deserializer)?;
        let span = Some(value.span());
        let toml::Value::String(text) = value.into_inner() else {
            return Err(D::Error::custom("a text belongs here, in quotes"));
        };
        Ok(Self {
            text: Redacted::new(text),
            span,
        })
    }
}

/// A boolean of the file, as the text that a flag would have.
fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    spanned(deserializer, |on: bool| on.to_string()).map(Some)
}

/// A number of the file, as the text that a flag would have.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    spanned(deserializer, |number: u32| number.to_string()).map(Some)
}

/// A table of the file, as the text that a flag would have.
fn profiles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    let text = |profiles: BTreeMap<String, String>| {
        let profiles = profiles.iter();
        let profiles: Vec<_> = profiles
            .map(|(name, keywords)| format!("{name}={keywords}"))
            .collect();
        profiles.join(";")
    };
    spanned(deserializer, text).map(Some)
}

/// A list of the file, as the text that a flag would have.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    spanned(deserializer, |names: Vec<String>| names.join(",")).map(Some)
}

fn spanned<'de, D, T>(deserializer: D, text: impl FnOnce(T) -> String) -> Result<Given, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let value = Spanned::<T>::deserialize(deserializer)?;
    Ok(Given {
        span: Some(value.span()),
        text: Redacted::new(text(value.into_inner())),
    })
}

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line, under this name.
    Flag(String),
    /// In this environment variable.
    Environment(String),
    /// In the file, under this name.
    File(Position, String),
}

/// A place in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    path: PathBuf,
    line: usize,
    column: usize,
}

impl Position {
    /// The place of byte `offset` of `text`. Lines and columns (of characters) count from one.
    pub(super) fn new(path: &Path, text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column } = self;
        write!(f, "{}, line {line}, column {column}", path.display())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Environment(name) => write!(f, "{name} in the environment"),
            Self::File(position, name) => write!(f, "{position}: {name}"),
        }
    }
}

/// The two layers of settings, the upper one first: flags and environment, then the file.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    pub(super) given: &'a Options,
    /// Those of the given settings that came from the environment: the flag's name, and the variable's.
    pub(super) from_environment: &'a BTreeMap<String, String>,
    pub(super) file: &'a Options,
    pub(super) path: &'a Path,
    /// The content of the file.
    pub(super) content: &'a str,
}

/// A setting that is set, and where.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) text: &'a str,
    pub(super) origin: Origin,
}

impl<'a> Layers<'a> {
    /// The setting called `field` in [`Options`], from the highest layer that has it. Empty text counts as not set: Nomad
    /// and its templates leave such variables behind.
    pub(super) fn find(
        &self,
        field: &str,
        of: impl Fn(&'a Options) -> Option<&'a Given>,
    ) -> Option<Found<'a>> {
        let name = field.replace('_', "-");
        let set = |options| of(options).filter(|given| !given.text.reveal().is_empty());
        let given = set(self.given).or_else(|| set(self.file))?;
        let origin = match (&given.span, self.from_environment.get(&name)) {
            (Some(span), _) => {
                Origin::File(Position::new(self.path, self.content, span.start), name)
            }
            (None, Some(variable)) => Origin::Environment(variable.clone()),
            (None, None) => Origin::Flag(name),
        };
        Some(Found {
            text: given.text.reveal(),
            origin,
        })
    }
}

impl<'a> Found<'a> {
    /// What `parse` makes of the text. Its complaint must not repeat a secret.
    pub(super) fn parse<T, E: fmt::Display>(
        self,
        parse: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Result<T, Error> {
        parse(self.text).map_err(|problem| self.refuse(problem))
    }

    /// The complaint about this setting. It must not repeat a secret.
    pub(super) fn refuse(self, problem: impl fmt::Display) -> Error {
        Error::Value {
            origin: self.origin,
            problem: problem.to_string(),
        }
    }
}
