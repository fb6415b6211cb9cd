//! Flags, environment and file, made into a [`Config`] that needs no further checking. A flag beats its environment
//! variable, that beats the file, that beats the default.
//!
//! Inside a Nomad task the defaults are the task's own: HAProxy's socket in the allocation's directory, Nomad through the
//! Task API. What cannot be used is an [`Error`] that names the flag, the variable, or the line and column.

mod file;
mod maps;
mod nomad;
mod options;
mod policy;
mod value;

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use tracing_subscriber::filter::Targets;

use self::options::Layers;
pub use self::options::{Options, Origin, Position};
use crate::{
    admin::Listen,
    haproxy::session,
    model::{ProfileName, ServerKeywords, ServerProfileName},
    nomad::settings::Settings,
    reconcile::{BACKEND_LINGER, MAX_REMOVALS_PER_SECOND, Rules, default_profiles, routes::Maps},
};

/// HAProxy's socket outside a Nomad task: Debian's.
const DEFAULT_SOCKET: &str = "/run/haproxy/admin.sock";

/// Where the admin listener listens.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9417);

/// The admin listener's socket in the directory of the allocation.
const ADMIN_SOCKET: &str = "haproxy-nomad-sidecar.sock";

/// The snapshot in the directory of the allocation: `data` is what an `ephemeral_disk` keeps.
const SNAPSHOT: &str = "data/haproxy-nomad-sidecar.snapshot";

/// How long the last server of a service stays in rotation without a registration.
const DEFAULT_HOLD: Duration = Duration::from_secs(30);
/// How long a server that is removed may finish its sessions.
const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// Finds a setting by the field's name, which is also its own.
macro_rules! find {
    ($layers:expr, $field:ident) => {
        $layers.find(stringify!($field), |options| options.$field.as_ref())
    };
}
use find;

/// Everything that the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Read and plan as always, but write nothing to HAProxy.
    pub observe: bool,
    /// HAProxy.
    pub haproxy: session::Settings,
    /// The namespace that the sidecar itself is in.
    pub own_namespace: String,
    /// Nomad, and what is followed there.
    pub nomad: Settings,
    /// What the names of slots begin with; a number follows.
    pub slot_prefix: String,
    /// What each namespace may claim.
    pub rules: Rules,
    /// The keywords of servers that the tag `tls.profile` may ask for.
    pub server_profiles: BTreeMap<ServerProfileName, ServerKeywords>,
    /// The maps for routes.
    pub maps: Maps,
    /// How long the last server of a service stays in rotation after its registration is gone, until a replacement is UP.
    pub hold: Duration,
    /// The `defaults` sections that backends may be made from; the first is taken where no tag names one.
    pub backend_profiles: Vec<ProfileName>,
    /// How long a backend that was made at runtime is kept after its last registration is gone.
    pub backend_linger: Duration,
    /// How long a server that is removed may finish its sessions.
    pub drain_timeout: Duration,
    /// What becomes of HAProxy's servers when the program is told to stop.
    pub on_stop: OnStop,
    /// Where the last good catalog is kept; `None` is nowhere.
    pub snapshot_file: Option<PathBuf>,
    /// The server-state file that is kept for HAProxy.
    pub state_file: Option<PathBuf>,
    /// How many servers that are UP may be taken out of rotation in a second.
    pub max_removals_per_second: NonZeroU32,
    /// Stop all removals.
    pub freeze: bool,
    /// All removals are stopped while this file is there.
    pub freeze_file: Option<PathBuf>,
    /// Where the admin listener listens.
    pub admin_listen: Vec<Listen>,
    /// Where every change of HAProxy is written down; `None` is nowhere.
    pub audit_log: Option<PathBuf>,
    /// The log.
    pub log: Log,
    sources: Sources,
}

/// What becomes of HAProxy's servers when the program is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// They go on serving.
    Leave,
    /// They are drained first.
    Drain,
}

/// How the log is written.
#[derive(Clone, Debug)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// Which events are shown.
    pub filter: Targets,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, module, message, fields.
    Plain,
    /// One JSON object.
    Json,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Flags and environment.
    pub options: Options,
    /// Which of the options came from the environment: the flag's name without `--`, and the variable's.
    pub from_environment: BTreeMap<String, String>,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// The Nomad task that the program is.
    pub task: Task,
}

/// What Nomad tells each task of its surroundings.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// `NOMAD_ALLOC_DIR`: the directory that the tasks of the allocation share.
    pub alloc_dir: Option<PathBuf>,
    /// `NOMAD_SECRETS_DIR`: the task's own directory, with the socket of the Task API.
    pub secrets_dir: Option<PathBuf>,
}

/// Why there is no configuration. The program ends with exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The policy file cannot be read.
    #[error("read the policy file {}", path.display())]
    UnreadablePolicy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or has something that is not a setting.
    #[error("{position}: {problem}")]
    File {
        /// Where.
        position: Position,
        /// What is wrong, and what could be there.
        problem: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{origin}: {problem}")]
    Value {
        /// Where it was written.
        origin: Origin,
        /// What is wrong, and what could be there.
        problem: String,
    },
}

impl Task {
    /// The task that this process is, if it is one.
    #[must_use]
    pub fn from_env() -> Self {
        let directory = |name| {
            let value = env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        Self {
            alloc_dir: directory("NOMAD_ALLOC_DIR"),
            secrets_dir: directory("NOMAD_SECRETS_DIR"),
        }
    }
}

impl Config {
    /// Reads the file, if there is one, and puts the layers together.
    pub fn load(sources: Sources) -> Result<Self, Error> {
        let path = sources.file.clone().unwrap_or_default();
        let content = match &sources.file {
            Some(path) => fs::read_to_string(path).map_err(|source| Error::Unreadable {
                path: path.clone(),
                source,
            })?,
            None => String::new(),
        };
        let layers = Layers {
            given: &sources.options,
            from_environment: &sources.from_environment,
            file: &file::read(&path, &content)?,
            path: &path,
            content: &content,
        };
        let own_namespace = nomad::own_namespace(&layers)?;
        Ok(Self {
            rules: match find!(layers, policy_file) {
                Some(found) => policy::read(Path::new(found.text), &own_namespace)?,
                None => Rules::without_file(&own_namespace),
            },
            server_profiles: match find!(layers, server_profile) {
                Some(found) => found.parse(value::server_profiles)?,
                None => BTreeMap::new(),
            },
            observe: value::switch(find!(layers, observe))?,
            haproxy: session::Settings::new(haproxy_socket(&layers, &sources.task)),
            own_namespace,
            nomad: nomad::settings(&layers, &sources.task)?,
            slot_prefix: match find!(layers, slot_prefix) {
                Some(found) => found.parse(value::slot_prefix)?,
                None => "nomad".to_owned(),
            },
            maps: maps::maps(&layers)?,
            hold: match find!(layers, hold) {
                Some(found) => found.parse(value::duration)?,
                None => DEFAULT_HOLD,
            },
            backend_profiles: match find!(layers, backend_profiles) {
                Some(found) => found.parse(value::profiles)?,
                None => default_profiles(),
            },
            backend_linger: match find!(layers, backend_linger) {
                Some(found) => found.parse(value::duration)?,
                None => BACKEND_LINGER,
            },
            drain_timeout: match find!(layers, drain_timeout) {
                Some(found) => found.parse(value::duration)?,
                None => DEFAULT_DRAIN,
            },
            on_stop: match find!(layers, on_stop) {
                Some(found) => found.parse(value::on_stop)?,
                None => OnStop::Leave,
            },
            snapshot_file: snapshot_file(&layers, &sources.task),
            state_file: find!(layers, state_file).map(|found| found.text.into()),
            max_removals_per_second: match find!(layers, max_removals_per_second) {
                Some(found) => found.parse(value::removals)?,
                None => MAX_REMOVALS_PER_SECOND,
            },
            freeze: value::switch(find!(layers, freeze))?,
            freeze_file: match (find!(layers, freeze_file), &sources.task.alloc_dir) {
                (Some(found), _) => Some(found.text.into()),
                (None, Some(alloc_dir)) => Some(alloc_dir.join("sidecar.freeze")),
                (None, None) => None,
            },
            admin_listen: admin_listen(&layers, &sources.task)?,
            audit_log: find!(layers, audit_log).map(|found| found.text.into()),
            log: log(&layers)?,
            sources,
        })
    }

    /// The same flags and environment, with the file read again.
    pub fn reload(&self) -> Result<Self, Error> {
        Self::load(self.sources.clone())
    }
}

fn haproxy_socket(layers: &Layers<'_>, task: &Task) -> PathBuf {
    match (find!(layers, haproxy_socket), &task.alloc_dir) {
        // As other settings have sockets.
        (Some(found), _) => found
            .text
            .strip_prefix("unix://")
            .unwrap_or(found.text)
            .into(),
        (None, Some(alloc_dir)) => alloc_dir.join("haproxy.sock"),
        (None, None) => DEFAULT_SOCKET.into(),
    }
}

fn snapshot_file(layers: &Layers<'_>, task: &Task) -> Option<PathBuf> {
    match find!(layers, snapshot_file) {
        Some(found) => (found.text != "off").then(|| found.text.into()),
        None => task.alloc_dir.as_ref().map(|dir| dir.join(SNAPSHOT)),
    }
}

/// In a Nomad task there is a socket besides, for the commands of the same allocation.
fn admin_listen(layers: &Layers<'_>, task: &Task) -> Result<Vec<Listen>, Error> {
    let mut all = match find!(layers, admin_listen) {
        Some(found) => found.parse(value::listen)?,
        None => vec![Listen::Tcp(DEFAULT_ADMIN)],
    };
    let has_socket = all.iter().any(|one| matches!(one, Listen::Unix(_)));
    if let Some(alloc_dir) = task
        .alloc_dir
        .as_ref()
        .filter(|_| !all.is_empty() && !has_socket)
    {
        all.push(Listen::Unix(alloc_dir.join(ADMIN_SOCKET)));
    }
    Ok(all)
}

fn log(layers: &Layers<'_>) -> Result<Log, Error> {
    Ok(Log {
        format: match find!(layers, log_format) {
            Some(found) => found.parse(value::log_format)?,
            None => LogFormat::Plain,
        },
        filter: match find!(layers, log_level) {
            Some(found) => found.parse(value::log_filter)?,
            None => Targets::new().with_default(tracing::Level::INFO),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::nomad::settings::{Endpoint, Endpoints, TokenSource};

    /// A setting as a flag or a variable has it.
    macro_rules! options {
        ($($field:ident: $text:expr),*) => {
            Options { $($field: Some($text.to_owned().into()),)* ..Options::default() }
        };
    }

    fn flags(options: Options) -> Sources {
        Sources {
            options,
            ..Sources::default()
        }
    }

    fn environment(options: Options, names: &[(&str, &str)]) -> Sources {
        let own = |&(flag, variable): &(&str, &str)| (flag.to_owned(), variable.to_owned());
        Sources {
            from_environment: names.iter().map(own).collect(),
            ..flags(options)
        }
    }

    fn task(secrets_dir: &Path) -> Task {
        Task {
            alloc_dir: Some("/alloc".into()),
            secrets_dir: Some(secrets_dir.to_owned()),
        }
    }

    fn refusal(sources: Sources) -> String {
        Config::load(sources).unwrap_err().to_string()
    }

    #[test]
    fn outside_of_nomad_the_defaults_are_those_of_the_machine() {
        let config = Config::load(Sources::default()).unwrap();
        assert_eq!(config.haproxy.socket, Path::new("/run/haproxy/admin.sock"));
        assert_eq!(config.nomad.endpoints.to_string(), "http://127.0.0.1:4646");
        assert_eq!(config.nomad.token, TokenSource::None);
        assert_eq!(config.nomad.namespaces, ["default"]);
        assert_eq!(config.nomad.tag_prefix, "haproxy");
        assert_eq!(config.own_namespace, "default");
        assert_eq!(config.slot_prefix, "nomad");
        assert_eq!(config.drain_timeout, Duration::from_secs(10));
        assert_eq!(config.on_stop, OnStop::Leave);
        assert_eq!(config.admin_listen, [Listen::Tcp(DEFAULT_ADMIN)]);
        assert_eq!(config.audit_log, None);
        assert_eq!(config.snapshot_file, None);
        assert_eq!(config.log.format, LogFormat::Plain);
        assert_eq!(config.log.filter.to_string(), "info");
        assert!(!config.observe && !config.nomad.expose_by_default);
    }

    #[test]
    fn in_a_task_the_defaults_are_those_of_the_task() {
        let secrets = tempfile::tempdir().unwrap();
        let token = secrets.path().join("nomad_token");
        let sources = Sources {
            task: task(secrets.path()),
            ..environment(
                options! { nomad_namespace: "shop", nomad_token: "t0ken" },
                &[("nomad-token", "NOMAD_TOKEN")],
            )
        };
        let config = Config::load(sources.clone()).unwrap();
        assert_eq!(config.haproxy.socket, Path::new("/alloc/haproxy.sock"));
        let socket = Listen::Unix("/alloc/haproxy-nomad-sidecar.sock".into());
        assert_eq!(config.admin_listen, [Listen::Tcp(DEFAULT_ADMIN), socket]);
        let snapshot = Path::new("/alloc/data/haproxy-nomad-sidecar.snapshot");
        assert_eq!(config.snapshot_file.as_deref(), Some(snapshot));
        assert_eq!(
            config.nomad.endpoints,
            Endpoints::from(Endpoint::Unix(secrets.path().join("api.sock")))
        );
        assert!(matches!(config.nomad.token, TokenSource::Value(_)));
        assert_eq!(config.own_namespace, "shop");
        assert_eq!(config.nomad.namespaces, ["shop"]);

        fs::write(&token, "t0ken").unwrap();
        let config = Config::load(sources.clone()).unwrap();
        assert_eq!(config.nomad.token, TokenSource::File(token));

        let task = sources.task;
        let sources = flags(options! { snapshot_file: "off", admin_listen: "off" });
        let config = Config::load(Sources { task, ..sources }).unwrap();
        assert_eq!(config.snapshot_file, None);
        assert_eq!(config.admin_listen, []);
    }

    #[test]
    fn an_address_that_is_set_beats_the_task_api_and_its_token() {
        let secrets = tempfile::tempdir().unwrap();
        fs::write(secrets.path().join("nomad_token"), "t0ken").unwrap();
        let in_task = |options| {
            let task = task(secrets.path());
            let sources = Sources {
                task,
                ..flags(options)
            };
            Config::load(sources).unwrap().nomad
        };
        let nomad = in_task(options! { nomad_addr: "http://10.0.0.1:4646" });
        assert_eq!(nomad.endpoints.to_string(), "http://10.0.0.1:4646");
        assert_eq!(nomad.token, TokenSource::None);

        let nomad = in_task(options! { nomad_unix_addr: "unix:///elsewhere/api.sock" });
        assert_eq!(nomad.endpoints.to_string(), "unix:///elsewhere/api.sock");

        let both = "https://a:1, unix:///elsewhere/api.sock";
        let nomad = in_task(options! { nomad_addr: both });
        assert_eq!(nomad.endpoints.to_string(), both);
    }

    #[test]
    fn a_token_that_somebody_wrote_beats_that_of_the_task() {
        let secrets = tempfile::tempdir().unwrap();
        fs::write(secrets.path().join("nomad_token"), "t0ken").unwrap();
        let token = |options| {
            let task = task(secrets.path());
            let sources = Sources {
                task,
                ..flags(options)
            };
            Config::load(sources).unwrap().nomad.token
        };
        assert!(matches!(
            token(options! { nomad_token: "other" }),
            TokenSource::Value(_)
        ));
        assert_eq!(
            token(options! { nomad_token: "other", nomad_token_file: "/run/token" }),
            TokenSource::File("/run/token".into())
        );
    }

    #[test]
    fn flag_beats_variable_beats_file_beats_default_and_the_complaint_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sidecar.toml");
        fs::write(&path, "tag-prefix = \"lb\"\ndrain-timeout = \"1 week\"\n").unwrap();
        let with_file = |sources| Sources {
            file: Some(path.clone()),
            ..sources
        };
        let text = "\"1 week\" is more than a day";
        assert_eq!(
            refusal(with_file(Sources::default())),
            format!(
                "{}, line 2, column 17: drain-timeout: {text}",
                path.display()
            )
        );

        let text = "\"x\" is not a duration; write for example 10s or 1m30s";
        let variable = [("drain-timeout", "SIDECAR_DRAIN_TIMEOUT")];
        assert_eq!(
            refusal(with_file(environment(
                options! { drain_timeout: "x" },
                &variable
            ))),
            format!("SIDECAR_DRAIN_TIMEOUT in the environment: {text}")
        );
        assert_eq!(
            refusal(with_file(flags(options! { drain_timeout: "x" }))),
            format!("--drain-timeout: {text}")
        );

        let config = Config::load(with_file(flags(options! { drain_timeout: "1m30s" }))).unwrap();
        assert_eq!(config.drain_timeout, Duration::from_secs(90));
        assert_eq!(config.nomad.tag_prefix, "lb");
    }

    #[test]
    fn an_empty_value_counts_as_not_set() {
        let options = options! { nomad_addr: "", drain_timeout: "", nomad_skip_verify: "" };
        let config = Config::load(flags(options)).unwrap();
        assert_eq!(config.nomad.endpoints.to_string(), "http://127.0.0.1:4646");
        assert_eq!(config.drain_timeout, Duration::from_secs(10));
    }

    #[test]
    fn no_secret_is_shown() {
        let config = Config::load(flags(
            options! { nomad_token: "s3cret", nomad_http_auth: "user:s3cret" },
        ))
        .unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(
            refusal(flags(
                options! { nomad_addr: "http://user:s3cret@nomad:4646" }
            )),
            "--nomad-addr: user and password do not belong into the address: set NOMAD_HTTP_AUTH"
        );
    }

    #[test]
    fn of_several_addresses_the_bad_one_is_named() {
        assert_eq!(
            refusal(flags(
                options! { nomad_addr: "http://a:4646,b:4646,https://c:4646" }
            )),
            "--nomad-addr: \"b:4646\" is no address of Nomad: it has no scheme; write http://host:4646, https://host:4646 or \
             unix:///path/api.sock"
        );
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        assert_eq!(
            refusal(flags(options! { nomad_client_cert: "/cert.pem" })),
            "--nomad-client-cert: set the key too: --nomad-client-key"
        );
        assert_eq!(
            refusal(flags(options! { nomad_client_key: "/key.pem" })),
            "--nomad-client-key: set the certificate too: --nomad-client-cert"
        );
    }

    #[test]
    fn a_reload_reads_the_file_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sidecar.toml");
        fs::write(&path, "").unwrap();
        let sources = Sources {
            file: Some(path.clone()),
            ..flags(options! { drain_timeout: "3s" })
        };
        let config = Config::load(sources).unwrap();
        fs::write(&path, "tag-prefix = \"lb\"").unwrap();
        let config = config.reload().unwrap();
        assert_eq!(config.nomad.tag_prefix, "lb");
        assert_eq!(config.drain_timeout, Duration::from_secs(3));

        fs::remove_file(&path).unwrap();
        assert_eq!(
            config.reload().unwrap_err().to_string(),
            format!("read the configuration file {}", path.display())
        );
    }
}
