//! Services that cannot be read: how often that was tried, and what was told of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::Outbox;
use crate::{
    catalog::{Failure, FailureKind, Scope, Tell},
    model::ServiceKey,
};

/// A service that could not be read so many times in a row is left out, and that is told.
const STRIKES: u32 = 3;
/// Between two tries of one service, at first and at most.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Strikes(BTreeMap<ServiceKey, Strike>);

#[derive(Clone, Debug, Default)]
struct Strike {
    count: u32,
    /// What was told to be in trouble for it.
    told: Option<Scope>,
}

impl Strikes {
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.keys()
    }

    pub(super) fn has(&self, key: &ServiceKey) -> bool {
        self.0.contains_key(key)
    }

    /// Whether so many tries failed that the service is left out.
    pub(super) fn is_out(&self, key: &ServiceKey) -> bool {
        self.0.get(key).is_some_and(|strike| strike.told.is_some())
    }

    /// One more try failed. With `all_namespaces`, a denial is that of the service's namespace: it is told once for all of
    /// its services.
    pub(super) fn add(
        &mut self,
        key: &ServiceKey,
        failure: &Failure,
        all_namespaces: bool,
        out: &mut Outbox,
    ) {
        let strike = self.0.entry(key.clone()).or_default();
        strike.count = match failure.kind {
            FailureKind::Unreadable => STRIKES.max(strike.count + 1),
            FailureKind::Denied
            | FailureKind::BadToken
            | FailureKind::Unreachable
            | FailureKind::Timeout
            | FailureKind::ServerError
            | FailureKind::TooLong
            | FailureKind::NotBelievable
            | FailureKind::Limited => strike.count.saturating_add(1),
        };
        if strike.count < STRIKES || strike.told.is_some() {
            return;
        }
        let (scope, text) = if all_namespaces && failure.kind == FailureKind::Denied {
            let namespace = &key.namespace;
            let text = format!(
                "namespace {namespace} can no longer be read, and its servers stay as they are: {}",
                failure.text
            );
            (Scope::Namespace(Arc::clone(namespace)), text)
        } else {
            (Scope::Service(key.clone()), failure.text.clone())
        };
        strike.told = Some(scope.clone());
        if self.told(&scope) == 1 {
            out.tells.push_back(Tell::Trouble {
                scope,
                failure: Failure {
                    kind: failure.kind,
                    text,
                },
            });
        }
    }

    /// It was read. True if it was left out before.
    pub(super) fn clear(&mut self, key: &ServiceKey, out: &mut Outbox) -> bool {
        let Some(scope) = self.0.remove(key).and_then(|strike| strike.told) else {
            return false;
        };
        if self.told(&scope) == 0 {
            out.tells.push_back(Tell::Recovered { scope });
        }
        true
    }

    /// When a service that failed is tried again.
    pub(super) fn delay(&self, key: &ServiceKey) -> Duration {
        let count = self.0.get(key).map_or(0, |strike| strike.count);
        let doublings = count.saturating_sub(1).min(10);
        FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
    }

    fn told(&self, scope: &Scope) -> usize {
        let told = self
            .0
            .values()
            .filter(|strike| strike.told.as_ref() == Some(scope));
        told.count()
    }
}
