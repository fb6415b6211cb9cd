//! A running watch over a fake Nomad without sockets, on a paused clock: what its listener knows, and what an operator reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{FailureKind, How},
    model::{Registration, ServiceKey},
    nomad::{
        route::Route,
        settings::{Endpoint, Settings, TokenSource},
        watch::{self, Control, Event},
    },
    redacted::Redacted,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use crate::support::fake_nomad::{Deletion, FakeNomad, ServiceRegistration, Token, Version, Via};

/// No test waits longer for anything: the longest promise is ten minutes.
const PATIENCE: Duration = Duration::from_mins(20);

/// The fake, the watch over it, and what is known by it.
pub(crate) struct Weather {
    pub(crate) nomad: FakeNomad,
    pub(crate) known: BTreeMap<ServiceKey, Vec<Registration>>,
    pub(crate) started: Instant,
    /// How each namespace was followed at last.
    pub(crate) how: BTreeMap<Arc<str>, How>,
    /// The namespaces whose stream was lost, and that are followed in no way since, as far as was said.
    lost: BTreeSet<Arc<str>>,
    /// The index of the event, or none, for each change of a service that was told.
    pub(crate) told: Vec<Option<u64>>,
    said: Vec<String>,
    control: mpsc::Sender<Control>,
    events: mpsc::Receiver<Event>,
}

/// A registration of `web` that everybody wants.
pub(crate) fn web(alloc: u32) -> ServiceRegistration {
    ServiceRegistration::new("web", alloc, 20_000 + i64::from(alloc))
}

/// What a token is called here. No text may ever have it.
pub(crate) const SECRET: &str = "5ecre7-t0ken";

impl Weather {
    /// Watches `namespaces` of `nomad` with the token [`SECRET`], whether it was issued or not.
    pub(crate) fn over(nomad: FakeNomad, via: Via, namespaces: &[&str]) -> Self {
        let endpoint = match via {
            Via::Agent => Endpoint::Http {
                host: "127.0.0.1".to_owned(),
                port: 4646,
            },
            Via::TaskApi => Endpoint::Unix("/secrets/api.sock".into()),
        };
        let mut settings = Settings::new(endpoint.into());
        settings.expose_by_default = true;
        settings.namespaces = namespaces.iter().map(ToString::to_string).collect();
        settings.token = TokenSource::Value(Redacted::new(SECRET.to_owned()));
        let (control, commands) = mpsc::channel(1);
        let (sender, events) = mpsc::channel(16);
        let door = Arc::new(nomad.door(via));
        let route = Route::with_dial(Arc::new(settings), door, Arc::default());
        tokio::spawn(watch::run(route, commands, sender));
        Self {
            nomad,
            known: BTreeMap::new(),
            started: Instant::now(),
            how: BTreeMap::new(),
            lost: BTreeSet::new(),
            told: Vec::new(),
            said: Vec::new(),
            control,
            events,
        }
    }

    /// Watches `default` of a Nomad in which [`SECRET`] may do what is needed, and knows its two instances of `web`.
    pub(crate) async fn fair(version: Version) -> Self {
        let nomad = FakeNomad::in_memory(version);
        nomad.issue(SECRET, Token::Client(vec!["default".into()]));
        nomad.register_all([web(1), web(2)]);
        let mut weather = Self::over(nomad, Via::Agent, &["default"]);
        weather.settled().await;
        assert_eq!(weather.said(), [STREAMING]);
        weather
    }

    /// Listens to what comes until what is known is the catalog.
    pub(crate) async fn settled(&mut self) {
        self.hear_until("everything is known", |weather| {
            weather.known == weather.catalog()
        })
        .await;
    }

    /// Listens to what comes until `condition` holds.
    pub(crate) async fn hear_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let listening = async {
            while !condition(self) {
                let event = self.events.recv().await.expect("the watch never ends");
                self.hear(event);
            }
        };
        let heard = timeout(PATIENCE, listening).await;
        assert!(
            heard.is_ok(),
            "waited in vain until {what}; said so far: {:#?}; known: {:#?}",
            self.said,
            self.known
        );
    }

    /// Listens to what comes until somebody says `text`, and gives what was said from the last look until then.
    pub(crate) async fn hears(&mut self, text: &str) -> Vec<String> {
        self.hear_until(text, |weather| weather.said.iter().any(|said| said == text))
            .await;
        self.said()
    }

    /// Listens to what comes for this long.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(event) = timeout_at(end, self.events.recv()).await {
            self.hear(event.expect("the watch never ends"));
        }
    }

    /// What an operator could read since the last look.
    pub(crate) fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// The catalog has got another instance and lost one since, by events that perhaps nobody hears.
    pub(crate) fn change(&self, comes: u32, goes: u32) {
        self.nomad.register(web(comes));
        self.nomad
            .deregister(&[web(goes).key()], Deletion::ServiceDeregistration);
    }

    /// Has everything read again, as SIGHUP does.
    pub(crate) async fn resync(&self) {
        self.control
            .send(Control::Resync)
            .await
            .expect("the watch never ends");
    }

    /// The catalog of the fake.
    pub(crate) fn catalog(&self) -> BTreeMap<ServiceKey, Vec<Registration>> {
        let mut catalog: BTreeMap<ServiceKey, Vec<Registration>> = BTreeMap::new();
        for row in self.nomad.rows().into_values() {
            let registration = Registration::from(row);
            let key = registration.service.clone();
            catalog.entry(key).or_default().push(registration);
        }
        catalog
    }

    /// The allocations of `web` that are known.
    pub(crate) fn webs(&self) -> Vec<u32> {
        let web = self.known.get(&ServiceKey::new("default", "web"));
        let alloc = |one: &Registration| u32::from_str_radix(&one.alloc_id[..8], 16);
        web.into_iter()
            .flatten()
            .map(|one| alloc(one).expect("a number"))
            .collect()
    }

    /// Whether the stream is what is followed by, as far as was said.
    pub(crate) fn streams(&self) -> bool {
        self.lost.is_empty()
            && !self.how.is_empty()
            && self.how.values().all(|how| *how == How::Stream)
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Synced(synced) => self.now_known(synced.services),
            Event::Changed {
                key,
                registrations,
                event_index,
                ..
            } => {
                self.told.push(event_index);
                let mut services = self.known.clone();
                services.insert(key, registrations);
                services.retain(|_, registrations| !registrations.is_empty());
                self.now_known(services);
            }
            Event::Following {
                namespace,
                how,
                text,
            } => {
                // That the stream is there again after it was lost goes without saying here: see [`Self::streams`].
                if how != How::Stream || !self.lost.remove(&namespace) {
                    self.say(text);
                }
                self.lost.remove(&namespace);
                self.how.insert(namespace, how);
            }
            Event::StreamLost { namespace, text } => {
                self.how.remove(&namespace);
                self.lost.insert(namespace);
                self.say(format!("stream lost: {text}"));
            }
            Event::IndexWentBack {
                namespace,
                from,
                to,
            } => self.say(format!(
                "the index of namespace {namespace} went back from {from} to {to}"
            )),
            Event::Trouble { scope, kind, text } => self.say(format!("{kind}, {scope}: {text}")),
            Event::Recovered { scope } => self.say(format!("recovered, {scope}")),
            Event::Current { .. } | Event::Rereads { .. } => {}
        }
    }

    fn say(&mut self, text: String) {
        assert!(!text.contains(SECRET), "{text}");
        self.said.push(text);
    }

    /// The law of all weather: what leaves is not in the catalog.
    fn now_known(&mut self, services: BTreeMap<ServiceKey, Vec<Registration>>) {
        let alive = self.catalog();
        let has = |services: &BTreeMap<_, Vec<Registration>>, one: &Registration| {
            let rows = services.get(&one.service).into_iter().flatten();
            rows.into_iter()
                .any(|row| (&row.id, row.create_index) == (&one.id, one.create_index))
        };
        for before in self.known.values().flatten() {
            assert!(
                has(&services, before) || !has(&alive, before),
                "{before:?} was removed and lives; said: {:#?}",
                self.said
            );
        }
        self.known = services;
    }
}

// === the texts ===

/// How the events say that a namespace is followed by its stream.
pub(crate) const STREAMING: &str = "following namespace default by its event stream";
/// What every text about this Nomad begins with.
pub(crate) const AGENT: &str = "nomad at http://127.0.0.1:4646: ";
/// What a 403 is told as.
pub(crate) const DENIED: &str = "denied (403: Permission denied): the token may not read services in namespace default, or nomad does not know it: it needs the policy `namespace \"default\" { capabilities = [\"read-job\"] }`";
/// What a stream of 1.11.2 and later is told as that is denied.
pub(crate) const SILENT: &str = "the event stream stayed silent for 5 s: denied, or the event broker is disabled; to follow by events, give the token the policy `namespace \"default\" { capabilities = [\"read-job\"] }`";
/// What a stream is told as that has fallen silent.
pub(crate) const DEAD: &str = "the event stream was silent for 40 s";
/// What the false empty is told as.
pub(crate) const INDEX_0: &str = "the answer cannot be believed: its index is 0: it answered with index 0, which is no answer, so nothing of it is believed: the token lacks read-job in namespace default (policy `namespace \"default\" { capabilities = [\"read-job\"] }`), or the agent is shutting down";
/// The same of a list of all namespaces.
pub(crate) const INDEX_0_OF_STAR: &str = "the answer cannot be believed: its index is 0: it answered with index 0, which is no answer, so nothing of it is believed: the token may read no namespace by *; name them instead (--namespaces), for a task's identity may read each by its name, or give it the policy `namespace \"*\" { capabilities = [\"read-job\"] }`; or the agent is shutting down";
/// What a failure is told as that is over.
pub(crate) const RECOVERED: &str = "recovered, namespace default";

/// What is said when a stream ends.
pub(crate) fn lost(reason: &str) -> String {
    format!("stream lost: {AGENT}{reason}")
}

/// What is said when there is no stream.
pub(crate) fn without_stream(reason: &str) -> String {
    format!(
        "following namespace default by blocking queries, because there is no event stream: {AGENT}{reason}"
    )
}

/// What is said of a failure in the namespace `default`.
pub(crate) fn trouble(kind: FailureKind, reason: &str) -> String {
    format!("{kind}, namespace default: {AGENT}{reason}")
}
