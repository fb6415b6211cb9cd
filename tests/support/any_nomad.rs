//! The fake or a real agent, for tests that hold for both.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::ListedService,
    model::{Registration, ServiceKey},
    nomad::{
        client::{Answer, Client},
        settings::{Settings, TokenSource},
        stream::EventStream,
    },
    redacted::Redacted,
};
use tokio::time::{sleep, timeout};

use super::{
    fake_nomad::{Deletion, FakeNomad, Key, ServiceRegistration, Token},
    raw_http::{self, Reply, ask_with},
    real_nomad::RealNomad,
};

/// For what a real agent has to schedule.
pub(crate) const SCHEDULED: Duration = Duration::from_mins(1);

/// A Nomad in which services can be run.
pub(crate) enum Nomad {
    Fake(FakeNomad),
    Real(RealNomad),
}

impl Nomad {
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Fake(fake) => fake.addr(),
            Self::Real(real) => real.addr(),
        }
    }

    /// A client with all rights.
    pub(crate) fn client(&self) -> Client {
        self.client_as(self.management())
    }

    pub(crate) fn client_as(&self, token: &str) -> Client {
        let endpoints = format!("http://{}", self.addr());
        let mut settings = Settings::new(endpoints.parse().expect("an address"));
        if !token.is_empty() {
            settings.token = TokenSource::Value(Redacted::new(token.to_owned()));
        }
        Client::new(Arc::new(settings))
    }

    pub(crate) async fn list(&self, namespace: &str) -> Answer<Vec<ListedService>> {
        self.client()
            .list(namespace, None)
            .await
            .expect("management may")
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
        raw_http::EventStream::open(self.addr(), &query).await
    }

    pub(crate) async fn ask(&self, method: &str, target: &str) -> Reply {
        let headers = format!("X-Nomad-Token: {}\r\n", self.management());
        ask_with(self.addr(), method, target, "", &headers).await
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target).await
    }

    fn management(&self) -> &str {
        match self {
            Self::Fake(_) => "management",
            Self::Real(real) => real.token().unwrap_or_default(),
        }
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
        match self {
            Self::Fake(fake) => {
                for alloc in 0..u32::try_from(count).expect("a few") {
                    let row = ServiceRegistration::new(service, alloc, 20_000 + i64::from(alloc));
                    fake.register(row.namespace(namespace).tags(tags));
                }
            }
            Self::Real(real) => real.run(namespace, service, tags, count).await,
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
        match self {
            Self::Fake(fake) => {
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
            Self::Real(real) => real.stop("default", service).await,
        }
    }

    pub(crate) async fn create_namespace(&self, name: &str) {
        match self {
            Self::Fake(fake) => fake.create_namespace(name),
            Self::Real(real) => real.create_namespace(name).await,
        }
    }

    /// A token with `read-job` in these namespaces.
    pub(crate) async fn issue(&self, name: &str, namespaces: &[&str]) -> String {
        match self {
            Self::Fake(fake) => {
                let rules = namespaces.iter().map(ToString::to_string).collect();
                fake.issue(name, Token::Client(rules));
                name.to_owned()
            }
            Self::Real(real) => real.issue(name, namespaces).await,
        }
    }
}
