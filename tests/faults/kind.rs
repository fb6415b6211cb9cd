//! The kinds of backends, and how requests find them.

/// One of them: the name of a backend, and of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) servers: Servers,
    pub(crate) route: Option<Route>,
}

/// Where its servers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// Slots that HAProxy restores from a state file.
    Kept,
    /// Slots that it does not.
    Slots,
    Dynamic,
    /// The whole backend is made at runtime.
    Made,
}

/// How it is found without a frontend of its own. No state file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// What its tag says.
    pub(crate) domain: &'static str,
    /// A host that this is.
    pub(crate) host: &'static str,
}

/// In one HAProxy, on every line.
pub(crate) const DECLARED: [Kind; 4] = [
    kind("kept", Servers::Kept),
    kind("slots", Servers::Slots),
    kind("dynamic", Servers::Dynamic),
    // Its servers are there from the beginning: what is lacking is the way to them alone.
    routed("routed", Servers::Kept, "routed.example", "routed.example"),
];

/// In one whose configuration has no backend at all, from 3.4 on.
pub(crate) const MADE: [Kind; 2] = [
    routed("made", Servers::Made, "made.example", "made.example"),
    routed(
        "made-wild",
        Servers::Made,
        "*.wild.example",
        "some.wild.example",
    ),
];

impl Kind {
    /// Whether it serves from the first moment on of a HAProxy that has read a state file.
    pub(crate) fn survives(&self) -> bool {
        self.servers == Servers::Kept && self.route.is_none()
    }

    /// Whom requests ask for.
    pub(crate) fn host(&self) -> &'static str {
        self.route.map_or("faults.example", |route| route.host)
    }
}

const fn kind(name: &'static str, servers: Servers) -> Kind {
    Kind {
        name,
        servers,
        route: None,
    }
}

const fn routed(
    name: &'static str,
    servers: Servers,
    domain: &'static str,
    host: &'static str,
) -> Kind {
    Kind {
        name,
        servers,
        route: Some(Route { domain, host }),
    }
}
