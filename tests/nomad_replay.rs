//! Streams that real agents have sent, sent again to the product's mirror: after every line it has what Nomad has.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    model::{Registration, ServiceKey},
    nomad::{
        route::Route,
        settings::Settings,
        watch::{self, Control, Event},
    },
};
use support::fake_nomad::{FakeNomad, Kind, ServiceRegistration, Version};
use tokio::{sync::mpsc, time::timeout};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_mirror_follows_every_line_of_nomad_2_0_5() {
    follows_every_line("nomad-2.0.5", Version::V2_0_5).await;
}

#[tokio::test]
async fn the_mirror_follows_every_line_of_nomad_1_11_3() {
    follows_every_line("nomad-1.11.3", Version::V2_0_5).await;
}

#[tokio::test]
async fn the_mirror_follows_every_line_of_nomad_1_10_5() {
    follows_every_line("nomad-1.10.5", Version::V1_10_5).await;
}

#[tokio::test]
async fn a_past_that_is_told_again_changes_nothing() {
    for recording in recordings("nomad-2.0.5") {
        let nomad = FakeNomad::start().await;
        for line in lines(&recording) {
            nomad.replay(&line);
        }
        let mut mirror = Followed::start(&nomad).await;
        mirror.has_what(&nomad, &recording).await;
        let streams = nomad.count(Kind::Stream);
        nomad.begin_restart();
        nomad
            .until("the stream is open again", |nomad| {
                nomad.count(Kind::Stream) > streams && nomad.open_streams() == 1
            })
            .await;
        nomad.finish_restart();
        let before = mirror.services.clone();
        while mirror.hear(&recording).await != Said::Lost {}
        while mirror.hear(&recording).await != Said::Everything {
            assert_eq!(mirror.services, before, "{}", recording.display());
        }
        // Whatever the past has caused is said before this is.
        nomad.register(ServiceRegistration::new("present", 1, 8080));
        let present = ServiceKey::new("default", "present");
        while !mirror.services.contains_key(&present) {
            assert_eq!(mirror.services, before, "{}", recording.display());
            mirror.hear(&recording).await;
        }
        assert_eq!(mirror.services, catalog(&nomad), "{}", recording.display());
    }
}

async fn follows_every_line(version: &str, framing: Version) {
    for recording in recordings(version) {
        let lines = lines(&recording);
        // It starts in the middle of the story: the first lines are the past then.
        let (past, future) = lines.split_at(lines.len() / 3);
        let nomad = FakeNomad::start_as(framing, Duration::from_secs(30)).await;
        for line in past {
            nomad.replay(line);
        }
        let mut mirror = Followed::start(&nomad).await;
        mirror.has_what(&nomad, &recording).await;
        let asked = nomad.count(Kind::Read);
        for line in future {
            nomad.replay(line);
            mirror.has_what(&nomad, &recording).await;
        }
        assert_eq!(
            nomad.count(Kind::Read),
            asked,
            "events need no reads: {}",
            recording.display()
        );
    }
}

fn recordings(version: &str) -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let streams = fs::read_dir(fixtures.join(version).join("streams")).expect("a directory");
    let mut paths: Vec<PathBuf> = streams.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() > 15, "the recordings are there");
    paths
}

/// The batches of a recording: no heartbeats, and no text with which a stream ended.
fn lines(recording: &Path) -> Vec<String> {
    let text = fs::read_to_string(recording).expect("a recording is readable");
    text.lines()
        .filter(|line| line.starts_with("{\"Events\""))
        .map(str::to_owned)
        .collect()
}

/// What the mirror has said.
#[derive(PartialEq, Eq)]
enum Said {
    /// That its stream is lost.
    Lost,
    /// That it has the whole catalog.
    Everything,
    Something,
}

type Services = BTreeMap<ServiceKey, Vec<Registration>>;

/// The product's mirror at work, and what it has said so far.
struct Followed {
    services: Services,
    events: mpsc::Receiver<Event>,
    _control: mpsc::Sender<Control>,
}

impl Followed {
    /// Follows every service of every namespace.
    async fn start(nomad: &FakeNomad) -> Self {
        let mut settings = Settings::new(nomad.url().parse().expect("an address"));
        settings.namespaces = vec!["*".to_owned()];
        settings.expose_by_default = true;
        let (control, commands) = mpsc::channel(1);
        let (sender, events) = mpsc::channel(64);
        let route = Route::new(Arc::new(settings), Arc::default());
        tokio::spawn(watch::run(route, commands, sender));
        let mut followed = Self {
            services: Services::new(),
            events,
            _control: control,
        };
        while followed.hear(Path::new("the beginning")).await != Said::Everything {}
        followed
    }

    /// Waits until what was said is what Nomad has.
    async fn has_what(&mut self, nomad: &FakeNomad, recording: &Path) {
        let expected = catalog(nomad);
        let wait = async {
            while self.services != expected {
                self.hear(recording).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            assert_eq!(self.services, expected, "{}", recording.display());
        }
    }

    /// Takes the next thing that is said.
    async fn hear(&mut self, recording: &Path) -> Said {
        let event = timeout(SOON, self.events.recv()).await;
        match event.unwrap_or_else(|_| panic!("nothing more is said of {}", recording.display())) {
            Some(Event::Synced(synced)) => {
                assert_eq!(synced.unproven.len(), 0, "{}", recording.display());
                self.services = synced.services;
                Said::Everything
            }
            Some(Event::Changed {
                key, registrations, ..
            }) => {
                self.services.insert(key, registrations);
                self.services
                    .retain(|_, registrations| !registrations.is_empty());
                Said::Something
            }
            Some(Event::Current { .. }) => Said::Everything,
            Some(Event::StreamLost { .. }) => Said::Lost,
            Some(
                Event::Following { .. }
                | Event::IndexWentBack { .. }
                | Event::Trouble { .. }
                | Event::Recovered { .. }
                | Event::Rereads { .. },
            ) => Said::Something,
            None => panic!("the mirror ended"),
        }
    }
}

/// What the fake has, as the product has it.
fn catalog(nomad: &FakeNomad) -> Services {
    let mut services = Services::new();
    for row in nomad.rows().into_values() {
        let registration = Registration::from(row);
        services
            .entry(registration.service.clone())
            .or_default()
            .push(registration);
    }
    services
}
