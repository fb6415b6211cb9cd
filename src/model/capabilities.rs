//! What a HAProxy version can do, and what is broken in it, as two tables. Nothing else in the code compares versions.
//! Source: runs of 2.6.12, 2.8.25, 3.0.11, 3.2.26 and 3.4.7, and the changelogs for where a defect ends.

use super::Version;

/// Something that only some versions can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// `add server` and `del server` without experimental mode, with checks.
    DynamicServers,
    /// `init-state` of `add server`: down until its own checks passed.
    InitState,
    /// `add backend`, `publish backend`, `del backend`.
    DynamicBackends,
    /// `cookie` of `add server`.
    ServerCookie,
    /// `healthcheck` of `add server`: a check of its own, by a section of that name.
    HealthcheckSections,
}

impl Capability {
    /// The first version that can do it.
    #[must_use]
    pub fn since(self) -> Version {
        let mut rows = CAPABILITIES.iter();
        let row = rows.find(|(what, _)| *what == self);
        row.map_or(EVER, |(_, from)| *from)
    }
}

/// Something that is broken in some versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// Dynamic servers open a connection for each request unless told how to pool.
    NoReuseByDynamicServers,
    /// A request in flight when its server enters maintenance leaves an idle connection that blocks `del server`.
    IdleConnectionBlocksDelete,
    /// `set server … addr` is acknowledged before it is in force.
    AddressAnsweredEarly,
    /// `add server` into a backend that is `disabled` and has no `balance` line kills the process (SIGFPE).
    CrashInDisabledBackend,
    /// `add server` and by-name lookups are linear in the servers of the backend, holding up traffic.
    SlowInBigBackends,
}

/// Every capability, and from which version on it is there.
pub const CAPABILITIES: &[(Capability, Version)] = &[
    (Capability::DynamicServers, Version::new(2, 6, 0)),
    (Capability::InitState, Version::new(3, 2, 0)),
    (Capability::DynamicBackends, Version::new(3, 4, 0)),
    (Capability::ServerCookie, Version::new(2, 8, 0)),
    (Capability::HealthcheckSections, Version::new(3, 4, 0)),
];

/// A known defect: in which versions, and what is done instead.
#[derive(Clone, Copy, Debug)]
pub struct DefectRow {
    /// The defect.
    pub defect: Defect,
    /// The first version that has it.
    pub from: Version,
    /// The first version that no longer has it.
    pub until: Version,
    /// What the sidecar does instead.
    pub instead: &'static str,
}

const EVER: Version = Version::new(u16::MAX, 0, 0);

/// Every known defect that changes what the sidecar does.
pub const DEFECTS: &[DefectRow] = &[
    DefectRow {
        defect: Defect::NoReuseByDynamicServers,
        from: Version::new(2, 6, 0),
        until: Version::new(2, 8, 0),
        instead: "add pool-purge-delay 5s pool-max-conn -1",
    },
    DefectRow {
        defect: Defect::IdleConnectionBlocksDelete,
        from: Version::new(2, 6, 0),
        until: Version::new(3, 0, 0),
        instead: "re-address the idle server to 127.0.0.1:1 before it is deleted: that closes the connection",
    },
    DefectRow {
        defect: Defect::AddressAnsweredEarly,
        from: Version::new(2, 9, 0),
        until: EVER,
        instead: "read the address back until it is there, then make the server ready",
    },
    DefectRow {
        defect: Defect::CrashInDisabledBackend,
        from: Version::new(3, 3, 0),
        until: EVER,
        instead: "add only to backends that show stat has a row for: disabled ones have none",
    },
    DefectRow {
        defect: Defect::SlowInBigBackends,
        from: Version::new(2, 6, 0),
        until: EVER,
        instead: "one command in flight in backends of more than 1,000 servers",
    },
];

impl Version {
    /// Whether this version can do it.
    #[must_use]
    pub fn can(self, capability: Capability) -> bool {
        self >= capability.since()
    }

    /// Whether this version has the defect.
    #[must_use]
    pub fn has(self, defect: Defect) -> bool {
        DEFECTS
            .iter()
            .any(|row| row.defect == defect && row.from <= self && self < row.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_know_the_five_lines() {
        let (v26, v28, v30, v32) = (
            Version::new(2, 6, 12),
            Version::new(2, 8, 25),
            Version::new(3, 0, 11),
            Version::new(3, 2, 26),
        );
        assert!(!Version::new(2, 4, 0).can(Capability::DynamicServers));
        assert!(v26.can(Capability::DynamicServers));
        assert!(!v26.can(Capability::ServerCookie) && v28.can(Capability::ServerCookie));
        assert!(!v32.can(Capability::HealthcheckSections));
        assert!(Version::new(3, 4, 7).can(Capability::HealthcheckSections));
        assert!(!v30.can(Capability::InitState) && v32.can(Capability::InitState));
        assert!(!v32.can(Capability::DynamicBackends));
        assert!(Version::new(3, 4, 7).can(Capability::DynamicBackends));
        assert!(
            v26.has(Defect::NoReuseByDynamicServers) && !v28.has(Defect::NoReuseByDynamicServers)
        );
        assert!(
            v28.has(Defect::IdleConnectionBlocksDelete)
                && !v30.has(Defect::IdleConnectionBlocksDelete)
        );
        assert!(!v28.has(Defect::AddressAnsweredEarly) && v32.has(Defect::AddressAnsweredEarly));
    }
}
