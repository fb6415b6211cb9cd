//! The product's watch over a whole Nomad: every kind of change becomes known, by the stream and without it.

use std::{sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::How,
    model::{Registration, ServiceKey},
    nomad::{
        route::Route,
        traffic::Traffic,
        watch::{self, Control, Event},
    },
};
use tokio::{sync::mpsc, time::timeout};

use crate::{blocking, key, support::any_nomad::Nomad};

/// What is followed by default.
const ENABLED: &str = "haproxy.enable=true";
/// A stream that was denied is tried again each minute.
const SOON: Duration = Duration::from_secs(150);

pub(crate) async fn by_the_stream(nomad: &Nomad) {
    let mut follower = Follower::start(nomad, nomad.management(), "streamed");
    follower.until("it streams", Follower::is_streaming).await;
    sees_every_change(nomad, &mut follower).await;
    assert!(follower.is_streaming());
}

pub(crate) async fn without_a_policy_until_it_is_granted(nomad: &Nomad) {
    let mut follower = Follower::start(nomad, &nomad.identity(), "polled");
    follower
        .until("it is told", |it| it.streams.is_some())
        .await;
    sees_every_change(nomad, &mut follower).await;
    assert!(!follower.is_streaming(), "nothing allows it");

    nomad.grant("default").await;
    if !nomad.is_real() {
        // Which spares every run of the tests a minute.
        let resync = follower.control.send(Control::Resync).await;
        resync.expect("the watch runs");
    }
    follower.until("it streams", Follower::is_streaming).await;
    sees_every_change(nomad, &mut follower).await;
}

async fn sees_every_change(nomad: &Nomad, follower: &mut Follower) {
    let service = follower.key.name.to_string();
    let rows = nomad.run(&service, &[ENABLED, "v1"], 2).await;
    follower.until_is("registered", &rows).await;
    let rows = nomad.run(&service, &[ENABLED, "v2"], 2).await;
    follower.until_is("changed", &rows).await;
    blocking::delete_one(nomad, &service).await;
    follower.until_is("deleted", &rows[1..]).await;
    nomad.stop(&service).await;
    follower.until_is("stopped", &[]).await;
}

/// A running watch, and what it has told of one service.
struct Follower {
    key: ServiceKey,
    control: mpsc::Sender<Control>,
    events: mpsc::Receiver<Event>,
    rows: Vec<Registration>,
    /// Whether it follows by the stream, once that was told.
    streams: Option<bool>,
}

impl Follower {
    fn start(nomad: &Nomad, token: &str, service: &str) -> Self {
        let (control, commands) = mpsc::channel(1);
        let (sender, events) = mpsc::channel(64);
        let settings = Arc::new(nomad.settings_as(token));
        let route = Route::new(settings, Arc::new(Traffic::default()));
        tokio::spawn(watch::run(route, commands, sender));
        Self {
            key: key(service),
            control,
            events,
            rows: Vec::new(),
            streams: None,
        }
    }

    fn is_streaming(&self) -> bool {
        self.streams == Some(true)
    }

    async fn until_is(&mut self, what: &str, rows: &[Registration]) {
        self.until(what, |it| it.rows == rows).await;
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                let event = self.events.recv().await;
                self.hear(event.expect("the watch never ends"));
            }
        };
        let came = timeout(SOON, wait).await.is_ok();
        assert!(came, "{} is not {what}: {:?}", self.key, self.rows);
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Synced(mut synced) => {
                self.rows = synced.services.remove(&self.key).unwrap_or_default();
            }
            Event::Changed {
                key, registrations, ..
            } if key == self.key => self.rows = registrations,
            Event::Following { how, .. } => self.streams = Some(how == How::Stream),
            Event::Changed { .. }
            | Event::StreamLost { .. }
            | Event::IndexWentBack { .. }
            | Event::Trouble { .. }
            | Event::Rereads { .. }
            | Event::Recovered { .. }
            | Event::Current { .. } => {}
        }
    }
}
