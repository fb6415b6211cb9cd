//! Backends that are made at runtime, from 3.4 on, from the section `defaults nomad` that every configuration here has.

use super::{Backend, Line, Model, show::FIRST_ID};

/// What a backend that was made at runtime has, and one of the file has not.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// `be_id`
    pub(crate) iid: usize,
    /// `use_backend` finds it.
    pub(crate) is_published: bool,
    guid: String,
}

/// The only section that backends can be made from.
pub(crate) const PROFILE: &str = "nomad";
/// Its text.
pub(crate) const SECTION: &str = "defaults nomad\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  \
    timeout server 60s\n  balance roundrobin\n  option httpchk GET /health\n";

const NO_BACKEND: &str = "No such backend.\n";

impl Model {
    pub(super) fn can_make_backends(&self) -> bool {
        self.line >= Line(3, 4)
    }

    pub(super) fn add_backend(&mut self, words: &[&str]) -> String {
        let [name, "from", profile, "guid", guid] = words else {
            panic!("the model knows no `add backend` with {words:?}");
        };
        if *profile != PROFILE {
            return format!("Cannot find default proxy '{profile}'.\n");
        }
        let taken = |by: &str| {
            format!(
                "Error during backend creation : name is already used by other proxy '{by} {name}'.\n"
            )
        };
        if *name == PROFILE {
            return taken("defaults");
        }
        if self
            .backends
            .iter()
            .any(|(backend, _)| backend.name == *name)
        {
            return taken("backend");
        }
        let mut backend = Backend::new(name);
        let ids = || {
            self.backends
                .iter()
                .enumerate()
                .map(|(at, (one, _))| one.iid(at))
        };
        let iid = (FIRST_ID..usize::MAX).find(|id| ids().all(|other| other != *id));
        backend.made = Some(Made {
            iid: iid.expect("there are more numbers than backends"),
            is_published: false,
            guid: (*guid).to_owned(),
        });
        self.backends.push((backend, Vec::new()));
        "New backend registered.\n".to_owned()
    }

    pub(super) fn publish_backend(&mut self, name: &str, is_published: bool) -> String {
        let mut backends = self.backends.iter_mut();
        let Some((backend, _)) = backends.find(|(backend, _)| backend.name == name) else {
            return NO_BACKEND.to_owned();
        };
        let Some(made) = &mut backend.made else {
            panic!("{name} is of the file, and nobody here publishes it");
        };
        made.is_published = is_published;
        let word = if is_published {
            "published"
        } else {
            "unpublished"
        };
        format!("Backend {word}.\n")
    }

    pub(super) fn del_backend(&mut self, name: &str) -> String {
        let mut backends = self.backends.iter();
        let Some(at) = backends.position(|(backend, _)| backend.name == name) else {
            return NO_BACKEND.to_owned();
        };
        let (backend, servers) = &self.backends[at];
        let Some(made) = &backend.made else {
            panic!("{name} is of the file, and nobody here deletes it");
        };
        if made.is_published {
            return "Backend must be unpublished prior to its deletion.\n".to_owned();
        }
        if !servers.is_empty() {
            return "Only a backend without server can be deleted.\n".to_owned();
        }
        self.backends.remove(at);
        "Backend deleted.\n".to_owned()
    }

    /// Only of the backends something is of interest, and there only the guids.
    pub(super) fn dump_stats_file(&self) -> String {
        let made = self
            .backends
            .iter()
            .filter_map(|(backend, _)| backend.made.as_ref());
        let rows = made.fold(String::new(), |rows, made| rows + &made.guid + ",\n");
        format!("#fe guid,\n\n#be guid,\n{rows}\n")
    }
}

impl Backend {
    /// `be_id` of the backend at this place.
    pub(super) fn iid(&self, at: usize) -> usize {
        self.made.as_ref().map_or(at + FIRST_ID, |made| made.iid)
    }

    /// `use_backend` passes it over.
    pub(crate) fn is_unpublished(&self) -> bool {
        self.made.as_ref().is_some_and(|made| !made.is_published)
    }
}
