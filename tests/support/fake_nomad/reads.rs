//! What a healthy Nomad answers to `/v1/services` and `/v1/service/:name`.

use super::{
    Deletion, Via,
    acl::{Bearer, Token},
    answers::{self, Recorded},
    catalog::Scope,
    request::{self, Kind, Request},
    server::State,
};

/// Which look at the state it is that a query takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At once: any index above the asked one is an answer, whatever has moved it.
    First,
    /// Something has moved: only what the query is about counts.
    Again,
    /// The wait is over.
    Last,
}

/// The index that a blocking query waits beyond; 0 in any other.
pub(crate) fn after(request: &Request) -> Result<u64, Recorded> {
    let after = match request.parameter("index") {
        Some(text) => text.parse().map_err(|_| Recorded::InvalidIndex)?,
        None => 0,
    };
    let wait = request.parameter("wait");
    if wait.is_some_and(|text| request::duration(&text).is_none()) {
        return Err(Recorded::InvalidWait);
    }
    Ok(after)
}

impl State {
    /// The bytes of the answer; none while a blocking query is held.
    pub(crate) fn read(
        &mut self,
        request: &Request,
        via: Via,
        bearer: &Bearer,
        look: Look,
    ) -> Result<Option<Vec<u8>>, Recorded> {
        let kind = request.kind();
        if kind == Kind::Other {
            return self.job(request, via, bearer).map(Some);
        }
        if request.method == "DELETE" && kind == Kind::Read {
            return self.delete(request, via).map(Some);
        }
        let service = request.service();
        let splits = service.as_ref().is_some_and(|name| name.contains('/'));
        if request.method != "GET" || splits {
            return Err(Recorded::InvalidMethod);
        }
        if service.as_deref() == Some("") {
            return Err(Recorded::NameMissing);
        }
        let after = after(request)?;
        let namespace = request.namespace();
        let everywhere = kind == Kind::List && namespace == "*";
        if *bearer == Bearer::Unknown || (!everywhere && !bearer.reads(&namespace)) {
            return Err(Recorded::PermissionDenied);
        }
        let mut existing = self.catalog.namespaces().iter();
        if everywhere && !existing.any(|namespace| bearer.rules_read(namespace)) {
            // Its index is below every other, so it is held for as long as it may be.
            return match look {
                Look::First | Look::Again if after > 0 => Ok(None),
                Look::First | Look::Again | Look::Last => Err(Recorded::NoRightAnywhere),
            };
        }
        if self.restarting {
            let stale = request.parameter("stale");
            return match stale {
                Some(_) => Ok(Some(answers::catalog(1, "[]", via))),
                None => Err(Recorded::NotReady),
            };
        }

        let scope = match &service {
            Some(name) => Scope::Service(namespace.clone(), name.clone()),
            None if everywhere => Scope::All,
            None => Scope::Namespace(namespace.clone()),
        };
        let index = self.catalog.index();
        let news = match look {
            Look::First => index > after,
            Look::Again => self.catalog.changed(&scope) > after,
            Look::Last => true,
        };
        if !news {
            return Ok(None);
        }
        if let Some(name) = &service {
            let body = self.catalog.read(&namespace, name);
            return Ok(Some(answers::catalog(index, &body, via)));
        }
        let readable = |name: &str| {
            if everywhere {
                bearer.rules_read(name)
            } else {
                name == namespace
            }
        };
        let body = self.catalog.list(readable, &mut self.shuffle);
        Ok(Some(answers::catalog(index, &body, via)))
    }

    /// `GET /v1/job/:id` and `GET /v1/allocation/:id`: no implicit right of an identity lets it read them
    /// (`nomad/job_endpoint.go`, `GetJob`; `nomad/alloc_endpoint.go`, `GetAlloc`).
    fn job(&self, request: &Request, via: Via, bearer: &Bearer) -> Result<Vec<u8>, Recorded> {
        let namespace = request.namespace();
        if let Some(id) = request.path().strip_prefix("/v1/allocation/") {
            let may_read = bearer.rules_read(&namespace);
            let allocation = self.allocations.get(&(namespace, id.to_owned()));
            let allocation = allocation.ok_or(Recorded::NoSuchAllocation)?;
            if !may_read {
                return Ok(answers::allocation_denied(id, via));
            }
            return Ok(answers::catalog(self.catalog.index(), allocation, via));
        }
        let id = request.path().strip_prefix("/v1/job/");
        match id {
            None => Err(Recorded::NotFound),
            Some(_) if !bearer.rules_read(&namespace) => Err(Recorded::PermissionDenied),
            Some(id) => {
                let job = self.jobs.get(&(namespace, id.to_owned()));
                let job = job.ok_or(Recorded::NotFound)?;
                Ok(answers::catalog(self.catalog.index(), job, via))
            }
        }
    }

    /// `DELETE /v1/service/:name/:id`
    fn delete(&mut self, request: &Request, via: Via) -> Result<Vec<u8>, Recorded> {
        match self.acl.bearer(request.token()) {
            Bearer::Anybody | Bearer::Known(Token::Management) => {}
            Bearer::Anonymous | Bearer::Unknown | Bearer::Known(_) => {
                return Err(Recorded::PermissionDenied);
            }
        }
        let path = request.service().unwrap_or_default();
        let (_, id) = path.split_once('/').ok_or(Recorded::InvalidMethod)?;
        let key = (request.namespace(), id.to_owned());
        let batch = self
            .catalog
            .deregister(&[key], Deletion::ServiceDeregistration);
        self.publish(&[batch.ok_or(Recorded::DeleteMissing)?]);
        Ok(answers::deleted(self.catalog.index(), via))
    }
}
