//! The fake or a real agent, through any of its doors, for tests that hold for all of them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::ListedService,
    model::{Registration, ServiceKey},
    nomad::{
        client::{Answer, Client},
        settings::{Endpoint, Settings, TokenSource},
        stream::EventStream,
        transport::{Dial as _, Dialler, Io},
    },
    redacted::Redacted,
};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{
    fake_nomad::{Deletion, FakeNomad, Key, ServiceRegistration, Token, Version},
    raw_http::{self, Reply, ask_on},
    real_nomad::{RealNomad, say},
    tls::Certificates,
};

/// For what a real agent has to schedule.
pub(crate) const SCHEDULED: Duration = Duration::from_mins(1);
/// A token that the fake has issued has its name.
const MANAGEMENT: &str = "management";
const IDENTITY: &str = "identity";

/// Through what Nomad is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Http,
    /// With certificates on both sides.
    Https,
    /// The socket in a task's secrets directory, which always wants a token.
    TaskApi,
}

impl Door {
    pub(crate) const ALL: [Self; 3] = [Self::Http, Self::Https, Self::TaskApi];
}

/// A Nomad in which services can be run, and its door.
pub(crate) struct Nomad {
    who: Who,
    pub(crate) door: Door,
    pub(crate) acl: bool,
    endpoint: Endpoint,
    /// Where the token, and the socket, of a task are.
    secrets: PathBuf,
    /// Of the fake, as long as it runs.
    _directory: Option<TempDir>,
}

enum Who {
    Fake(FakeNomad),
    Real(RealNomad),
}

impl Nomad {
    /// The fake, with the stream of `version`.
    pub(crate) async fn fake(version: Version, door: Door, acl: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let secrets = directory.path().to_owned();
        let mut fake = FakeNomad::start_as(version, Duration::from_secs(30)).await;
        let endpoint = match door {
            Door::Http => fake.url().parse().expect("an address"),
            Door::Https => {
                let config = Certificates::write(&secrets).server();
                let addr = fake.listen_tls(config).await;
                Endpoint::Https {
                    host: addr.ip().to_string(),
                    port: addr.port(),
                    tls: Certificates::client(&secrets),
                }
            }
            Door::TaskApi => {
                fake.listen_task_api(&secrets.join("api.sock")).await;
                Endpoint::Unix(secrets.join("api.sock"))
            }
        };
        if acl {
            fake.issue(MANAGEMENT, Token::Management);
            fake.issue(IDENTITY, Token::Workload(Vec::new()));
        }
        std::fs::write(secrets.join("nomad_token"), IDENTITY).expect("the directory is ours");
        Self {
            who: Who::Fake(fake),
            door,
            endpoint,
            acl,
            secrets,
            _directory: Some(directory),
        }
    }

    /// An agent of the `nomad` on PATH; without one says so and gives none.
    pub(crate) async fn real(door: Door, acl: bool) -> Option<Self> {
        let real = RealNomad::start(acl, door == Door::Https).await?;
        let version = real.version().map(|number| number.to_string()).join(".");
        let acls = if acl { "on" } else { "off" };
        say(&format!("a real Nomad {version}, ACLs {acls}, {door:?}"));
        let secrets = real.secrets();
        let endpoint = match door {
            Door::Http | Door::Https => real.endpoint().clone(),
            Door::TaskApi => Endpoint::Unix(secrets.join("api.sock")),
        };
        Some(Self {
            who: Who::Real(real),
            door,
            endpoint,
            acl,
            secrets,
            _directory: None,
        })
    }

    pub(crate) fn is_real(&self) -> bool {
        matches!(self.who, Who::Real(_))
    }

    /// Whether a stream is denied, and ended, by silence: from 1.11.2 on. Older ones say so.
    pub(crate) fn ends_streams_by_silence(&self) -> bool {
        match &self.who {
            Who::Fake(fake) => fake.version() != Version::V1_10_5,
            Who::Real(real) => real.version() >= [1, 11, 2],
        }
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> Client {
        self.client_as(self.management())
    }

    pub(crate) fn client_as(&self, token: &str) -> Client {
        Client::new(Arc::new(self.settings_as(token)))
    }

    /// What is followed by default, as whoever has this token.
    pub(crate) fn settings_as(&self, token: &str) -> Settings {
        let mut settings = Settings::new(self.endpoint.clone().into());
        if !token.is_empty() {
            settings.token = TokenSource::Value(Redacted::new(token.to_owned()));
        }
        settings
    }

    /// The identity of a task: without a policy, until one is granted.
    pub(crate) fn identity(&self) -> String {
        let token = std::fs::read_to_string(self.secrets.join("nomad_token"));
        token.expect("the task has an identity")
    }

    /// Gives the identity `read-job` in this namespace.
    pub(crate) async fn grant(&self, namespace: &str) {
        match &self.who {
            Who::Fake(fake) => fake.issue(IDENTITY, Token::Workload(vec![namespace.to_owned()])),
            Who::Real(real) => real.grant(namespace).await,
        }
    }

    pub(crate) async fn list(&self, namespace: &str) -> Answer<Vec<ListedService>> {
        self.client()
            .list(namespace, None)
            .await
            .expect("management may")
    }

    /// The index of the whole table of registrations.
    pub(crate) async fn index(&self) -> u64 {
        self.list("default").await.index
    }

    pub(crate) async fn read(&self, key: &ServiceKey) -> Answer<Vec<Registration>> {
        self.client().read(key, None).await.expect("management may")
    }

    pub(crate) async fn stream(&self, namespace: &str) -> EventStream {
        self.client()
            .open_stream(namespace)
            .await
            .expect("the stream opens")
    }

    pub(crate) async fn raw_stream(&self, index: u64) -> raw_http::EventStream {
        let query = format!("topic=Service&namespace=*&index={index}");
        let headers = token_header(self.management());
        raw_http::EventStream::open_on(self.dial().await, &query, &headers).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str) -> Reply {
        self.ask_as(self.management(), method, target).await
    }

    pub(crate) async fn ask_as(&self, token: &str, method: &str, target: &str) -> Reply {
        let headers = token_header(token);
        ask_on(self.dial().await, method, target, "", &headers).await
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target).await
    }

    /// The management token; without ACLs anything, as the Task API asks for some token all the same.
    pub(crate) fn management(&self) -> &str {
        match &self.who {
            Who::Real(real) if self.acl => real.token().expect("ACLs are on"),
            Who::Fake(_) | Who::Real(_) => MANAGEMENT,
        }
    }

    async fn dial(&self) -> Box<dyn Io> {
        let socket = Dialler.dial(&self.endpoint).await;
        socket.expect("the door is open")
    }

    /// Has `count` instances of a service, and gives their rows when they are there with these tags.
    pub(crate) async fn run(
        &self,
        service: &str,
        tags: &[&str],
        count: usize,
    ) -> Vec<Registration> {
        self.run_in("default", service, tags, count).await
    }

    pub(crate) async fn run_in(
        &self,
        namespace: &str,
        service: &str,
        tags: &[&str],
        count: usize,
    ) -> Vec<Registration> {
        match &self.who {
            Who::Fake(fake) => {
                for alloc in 0..u32::try_from(count).expect("a few") {
                    let row = ServiceRegistration::new(service, alloc, 20_000 + i64::from(alloc));
                    fake.register(row.namespace(namespace).tags(tags));
                }
            }
            Who::Real(real) => real.run(namespace, service, tags, count).await,
        }
        let key = ServiceKey::new(namespace, service);
        let mut client = self.client();
        let there = async {
            loop {
                let rows = client.read(&key, None).await.expect("management may").value;
                if rows.len() == count && rows.iter().all(|row| row.tags == tags) {
                    return rows;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let rows = timeout(SCHEDULED, there).await;
        rows.unwrap_or_else(|_| panic!("{service} is not registered"))
    }

    pub(crate) async fn stop(&self, service: &str) {
        match &self.who {
            Who::Fake(fake) => {
                let rows = fake.rows();
                let keys: Vec<Key> = rows
                    .into_values()
                    .filter(|row| row.service_name == service)
                    .map(|row| row.key())
                    .collect();
                for key in keys {
                    fake.deregister(&[key], Deletion::ServiceDeregistration);
                }
            }
            Who::Real(real) => real.stop("default", service).await,
        }
    }

    pub(crate) async fn create_namespace(&self, name: &str) {
        match &self.who {
            Who::Fake(fake) => fake.create_namespace(name),
            Who::Real(real) => real.create_namespace(name).await,
        }
    }

    /// A token with `read-job` in these namespaces.
    pub(crate) async fn issue(&self, name: &str, namespaces: &[&str]) -> String {
        match &self.who {
            Who::Fake(fake) => {
                let rules = namespaces.iter().map(ToString::to_string).collect();
                fake.issue(name, Token::Client(rules));
                name.to_owned()
            }
            Who::Real(real) => real.issue(name, namespaces).await,
        }
    }
}

fn token_header(token: &str) -> String {
    if token.is_empty() {
        return String::new();
    }
    format!("X-Nomad-Token: {token}\r\n")
}
