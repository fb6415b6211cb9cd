//! How each namespace is followed, and which of that is worth a line of the log: a state when it has lasted for a second,
//! with how long the one before it lasted; an end of a trouble that was said; the cuts of a stream once a minute.
//!
//! It takes the time as an input and logs nothing itself.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admin::{Followed, Missing, Namespace, Trouble, WentBack},
    catalog::{FailureKind, How, Scope},
    nomad::watch::Event,
};

/// What passes sooner is not said.
const LASTING: Duration = Duration::from_secs(1);
/// Between two lines about the cuts of one stream.
const BETWEEN_CUTS: Duration = Duration::from_mins(1);

/// Everything that is followed.
pub(super) struct Following {
    /// By the name of the namespace.
    states: BTreeMap<Arc<str>, State>,
    troubles: BTreeMap<Scope, Lasting>,
    over: Vec<Said>,
}

/// A namespace.
struct State {
    shown: Namespace,
    /// How it is followed, for an operator.
    text: String,
    /// How it was followed when that was said last, and since when.
    said: Option<(Followed, Instant)>,
    /// Cuts that were not said.
    cuts: u32,
    /// Why the last one was.
    cut_by: String,
    cut_said_at: Option<Instant>,
}

/// A trouble that is not over.
struct Lasting {
    kind: FailureKind,
    text: String,
    /// Since when there is any.
    began: Instant,
    /// Since when it is this one.
    since: Instant,
    is_said: bool,
    /// Whether this or one before it was said.
    was_said: bool,
}

/// What is worth a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// How a namespace is followed from now on.
    Followed {
        by: Followed,
        text: String,
        /// How long it was followed otherwise.
        after: Option<Duration>,
    },
    /// A stream was cut.
    Cut {
        namespace: Arc<str>,
        /// How many times since it was said last.
        times: u32,
        reason: String,
    },
    /// Something cannot be read.
    Trouble {
        scope: Scope,
        kind: FailureKind,
        text: String,
    },
    /// It can be again.
    Recovered { scope: Scope, after: Duration },
}

impl Following {
    pub(super) fn new(namespaces: &[String], now: Instant) -> Self {
        let state = |name: &String| {
            let state = State {
                shown: Namespace::new(name, now),
                text: String::new(),
                said: None,
                cuts: 0,
                cut_by: String::new(),
                cut_said_at: None,
            };
            (name.as_str().into(), state)
        };
        Self {
            states: namespaces.iter().map(state).collect(),
            troubles: BTreeMap::new(),
            over: Vec::new(),
        }
    }

    /// As `/status` and the metrics show them.
    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        let shown = self.states.values().map(|state| state.shown.clone());
        shown.collect()
    }

    /// What was never read since the start: a new version of a job must not look healthy without it.
    pub(super) fn unread(&self) -> impl Iterator<Item = Missing> {
        let unread = self.states.values().map(|state| &state.shown);
        unread
            .filter(|shown| shown.known_at.is_none())
            .map(|shown| Missing::Namespace {
                name: shown.name.clone(),
                reason: match &shown.trouble {
                    Some(trouble) => trouble.text.clone(),
                    None => "it is being read".to_owned(),
                },
            })
    }

    pub(super) fn heard(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Following {
                namespace,
                how,
                text,
            } => {
                let by = match how {
                    How::Stream => Followed::Stream,
                    How::Blocking { .. } => Followed::Blocking,
                };
                if let Some(state) = self.states.get_mut(namespace) {
                    state.follow(now, by);
                    state.text.clone_from(text);
                }
            }
            Event::StreamLost { namespace, text } => {
                if let Some(state) = self.states.get_mut(namespace) {
                    state.follow(now, Followed::Nothing);
                    state.cuts += 1;
                    state.cut_by.clone_from(text);
                }
            }
            Event::Synced(synced) => {
                for (name, state) in &mut self.states {
                    let scope = Scope::Namespace(Arc::clone(name));
                    if !synced.unproven.contains(&scope) {
                        state.shown.known_at = Some(now);
                        state.shown.index = state.shown.index.max(Some(synced.index));
                    }
                }
            }
            Event::Current {
                namespace,
                index,
                at,
            } => {
                if let Some(state) = self.states.get_mut(namespace) {
                    state.shown.known_at = Some(*at);
                    state.shown.index = state.shown.index.max(Some(*index));
                }
            }
            Event::Rereads { .. } => {}
            Event::Changed { key, index, .. } => {
                if let Some(state) = self.state_of(&key.namespace) {
                    state.shown.index = state.shown.index.max(Some(*index));
                }
            }
            Event::IndexWentBack { namespace, to, .. } => {
                if let Some(state) = self.states.get_mut(namespace) {
                    state.shown.index = Some(*to);
                    let before = state.shown.went_back.map_or(0, |before| before.times);
                    state.shown.went_back = Some(WentBack {
                        times: before + 1,
                        last: now,
                    });
                }
            }
            Event::Trouble { scope, kind, text } => self.trouble(now, scope, *kind, text),
            Event::Recovered { scope } => self.recovered(now, scope),
        }
    }

    fn trouble(&mut self, now: Instant, scope: &Scope, kind: FailureKind, text: &str) {
        let before = self.troubles.get(scope);
        let lasting = Lasting {
            kind,
            text: text.to_owned(),
            began: before.map_or(now, |before| before.began),
            since: now,
            is_said: false,
            was_said: before.is_some_and(|before| before.was_said),
        };
        let trouble = Trouble {
            text: text.to_owned(),
            began: lasting.began,
            ended: None,
        };
        self.troubles.insert(scope.clone(), lasting);
        if let Some(state) = self.state_of(namespace_of(scope)) {
            state.shown.trouble = Some(trouble);
        }
    }

    fn recovered(&mut self, now: Instant, scope: &Scope) {
        let Some(lasting) = self.troubles.remove(scope) else {
            return;
        };
        if lasting.was_said {
            self.over.push(Said::Recovered {
                scope: scope.clone(),
                after: now.saturating_duration_since(lasting.began),
            });
        }
        // Another trouble of the same namespace may go on.
        let namespace = namespace_of(scope);
        let other = self
            .troubles
            .iter()
            .find(|(scope, _)| namespace_of(scope) == namespace)
            .map(|(_, lasting)| Trouble {
                text: lasting.text.clone(),
                began: lasting.began,
                ended: None,
            });
        if let Some(state) = self.state_of(namespace) {
            state.shown.trouble = Some(other.unwrap_or(Trouble {
                text: lasting.text,
                began: lasting.began,
                ended: Some(now),
            }));
        }
    }

    /// The state of a namespace, which `*` has for all.
    fn state_of(&mut self, namespace: &str) -> Option<&mut State> {
        let name = if self.states.contains_key(namespace) {
            namespace
        } else {
            "*"
        };
        self.states.get_mut(name)
    }

    /// What is to be said at `now`.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Said> {
        let lasts = |since| now.saturating_duration_since(since) >= LASTING;
        let mut said = mem::take(&mut self.over);
        for (scope, lasting) in &mut self.troubles {
            if lasting.is_said || !lasts(lasting.since) {
                continue;
            }
            lasting.is_said = true;
            lasting.was_said = true;
            said.push(Said::Trouble {
                scope: scope.clone(),
                kind: lasting.kind,
                text: lasting.text.clone(),
            });
        }
        for (namespace, state) in &mut self.states {
            said.extend(state.cuts(now, namespace));
            let Namespace {
                followed, since, ..
            } = state.shown;
            if state.said.is_some_and(|(said, _)| said == followed) || !lasts(since) {
                continue;
            }
            let before = state.said.replace((followed, since));
            // That nothing is followed was said as a cut, or is a trouble.
            if followed != Followed::Nothing {
                let after = before.map(|(_, before)| since.saturating_duration_since(before));
                said.push(Said::Followed {
                    by: followed,
                    text: state.text.clone(),
                    after,
                });
            }
        }
        said
    }
}

impl State {
    fn follow(&mut self, now: Instant, by: Followed) {
        if self.shown.followed != by {
            self.shown.followed = by;
            self.shown.since = now;
        }
    }

    fn cuts(&mut self, now: Instant, namespace: &Arc<str>) -> Option<Said> {
        let is_soon = |at| now.saturating_duration_since(at) < BETWEEN_CUTS;
        if self.cuts == 0 || self.cut_said_at.is_some_and(is_soon) {
            return None;
        }
        self.cut_said_at = Some(now);
        Some(Said::Cut {
            namespace: Arc::clone(namespace),
            times: mem::take(&mut self.cuts),
            reason: self.cut_by.clone(),
        })
    }
}

fn namespace_of(scope: &Scope) -> &str {
    match scope {
        Scope::Namespace(namespace) => namespace,
        Scope::Service(key) => &key.namespace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A following of `default`, on a clock in milliseconds.
    struct Rig {
        following: Following,
        start: Instant,
        now: Instant,
    }

    impl Rig {
        #[expect(clippy::disallowed_methods, reason = "only a starting point")]
        fn new() -> Self {
            let start = Instant::now();
            Self {
                following: Following::new(&["default".to_owned()], start),
                start,
                now: start,
            }
        }

        /// What happens, and then so many milliseconds.
        fn then(&mut self, event: &Event, millis: u64) -> Vec<Said> {
            self.following.heard(self.now, event);
            self.pass(millis)
        }

        /// What is said when so much time has passed, each second and at its end.
        fn pass(&mut self, millis: u64) -> Vec<Said> {
            let end = self.now + Duration::from_millis(millis);
            let mut said = Vec::new();
            while self.now < end {
                self.now = end.min(self.now + Duration::from_secs(1));
                said.extend(self.following.poll(self.now));
            }
            said
        }
    }

    fn by_stream() -> Event {
        Event::Following {
            namespace: "default".into(),
            how: How::Stream,
            text: "by stream".to_owned(),
        }
    }

    fn by_queries() -> Event {
        Event::Following {
            namespace: "default".into(),
            how: How::Blocking {
                reason: String::new(),
            },
            text: "by queries".to_owned(),
        }
    }

    fn cut() -> Event {
        Event::StreamLost {
            namespace: "default".into(),
            text: "it ended".to_owned(),
        }
    }

    fn scope() -> Scope {
        Scope::Namespace("default".into())
    }

    fn trouble(kind: FailureKind) -> Event {
        Event::Trouble {
            scope: scope(),
            kind,
            text: kind.to_string(),
        }
    }

    fn followed(by: Followed, text: &str, after: Option<u64>) -> Said {
        Said::Followed {
            by,
            text: text.to_owned(),
            after: after.map(Duration::from_secs),
        }
    }

    fn said_cut(times: u32) -> Said {
        Said::Cut {
            namespace: "default".into(),
            times,
            reason: "it ended".to_owned(),
        }
    }

    #[test]
    fn how_a_namespace_is_followed_is_said_when_it_lasts_and_how_long_the_former_state_did() {
        let mut rig = Rig::new();
        assert_eq!(rig.then(&by_queries(), 900), []);
        let stream = followed(Followed::Stream, "by stream", None);
        assert_eq!(rig.then(&by_stream(), 60_000), [stream]);
        let queries = followed(Followed::Blocking, "by queries", Some(60));
        assert_eq!(rig.then(&by_queries(), 12_000), [queries]);
        // A stream that opens for a moment is no news.
        assert_eq!(rig.then(&by_stream(), 500), []);
        assert_eq!(rig.then(&by_queries(), 5_500), []);
        let stream = followed(Followed::Stream, "by stream", Some(18));
        assert_eq!(rig.then(&by_stream(), 60_000), [stream]);
    }

    #[test]
    fn the_cuts_of_a_stream_are_said_once_a_minute() {
        let mut rig = Rig::new();
        rig.then(&by_stream(), 2_000);
        assert_eq!(rig.then(&cut(), 500), [said_cut(1)]);
        assert_eq!(rig.then(&by_stream(), 500), []);
        for _ in 0..50 {
            assert_eq!(rig.then(&cut(), 500), []);
            assert_eq!(rig.then(&by_stream(), 500), []);
        }
        let stream = rig.pass(30_000);
        assert_eq!(stream, [said_cut(50)]);
    }

    #[test]
    fn the_end_of_a_long_time_without_a_stream_is_said() {
        let mut rig = Rig::new();
        rig.then(&by_stream(), 2_000);
        assert_eq!(rig.then(&cut(), 7_000), [said_cut(1)]);
        let stream = followed(Followed::Stream, "by stream", Some(7));
        assert_eq!(rig.then(&by_stream(), 60_000), [stream]);
    }

    #[test]
    fn a_trouble_is_said_at_its_begin_at_its_change_and_at_its_end() {
        let mut rig = Rig::new();
        let recovered = Event::Recovered { scope: scope() };
        assert_eq!(rig.then(&trouble(FailureKind::Timeout), 900), []);
        assert_eq!(rig.then(&recovered, 5_000), []);

        let says = |kind: FailureKind| Said::Trouble {
            scope: scope(),
            kind,
            text: kind.to_string(),
        };
        for kind in [FailureKind::Unreachable, FailureKind::ServerError] {
            assert_eq!(rig.then(&trouble(kind), 6_000), [says(kind)]);
        }
        let after = Duration::from_secs(12);
        assert_eq!(
            rig.then(&recovered, 60_000),
            [Said::Recovered {
                scope: scope(),
                after
            }]
        );
    }

    #[test]
    fn what_is_shown_is_what_was_heard_last() {
        let mut rig = Rig::new();
        rig.then(&by_stream(), 1_000);
        rig.then(&trouble(FailureKind::Timeout), 1_000);
        let service = Scope::Service(crate::model::ServiceKey::new("default", "web"));
        let also = Event::Trouble {
            scope: service.clone(),
            kind: FailureKind::ServerError,
            text: "web".to_owned(),
        };
        rig.then(&also, 1_000);
        rig.then(&Event::Recovered { scope: scope() }, 1_000);
        let at = |seconds| rig.start + Duration::from_secs(seconds);
        let shown = &rig.following.namespaces()[0];
        assert_eq!((shown.followed, shown.since), (Followed::Stream, at(0)));
        let web = |ended| Trouble {
            text: "web".to_owned(),
            began: at(2),
            ended,
        };
        assert_eq!(shown.trouble, Some(web(None)));
        let (ended, now) = (web(Some(at(4))), rig.now);
        let over = Event::Recovered { scope: service };
        rig.following.heard(now, &over);
        let shown = &rig.following.namespaces()[0];
        assert_eq!(shown.trouble, Some(ended));

        assert_eq!(shown.went_back, None);
        for (times, to) in [(1, 825), (2, 17)] {
            let last = rig.now;
            let restored = Event::IndexWentBack {
                namespace: "default".into(),
                from: 874,
                to,
            };
            rig.then(&restored, 1_000);
            let shown = &rig.following.namespaces()[0];
            let went_back = Some(WentBack { times, last });
            assert_eq!((shown.index, shown.went_back), (Some(to), went_back));
        }
    }
}
