//! Typed calls to Nomad. Each tries the endpoints in turn ([`Route`]), with a deadline for every one of them.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT},
};
use tokio::time::timeout;

use crate::{
    catalog::ListedService,
    model::{Allocation, AllocationId, Registration, ServiceKey},
    nomad::{
        answer::{self, ANSWER, shortened},
        route::{Failed, Route},
        settings::Settings,
        stream::{EventStream, StreamError},
        traffic::{Kind, Outcome, Traffic},
        transport::Connection,
        types::{self, JobService},
    },
};

pub use answer::{Answer, Doubt, Error};

/// So long Nomad holds a blocking query; it adds up to a sixteenth.
const WAIT: Duration = Duration::from_mins(1);
/// For a whole answer to a blocking query. Nomad may forget the wait that was asked for.
const HELD_ANSWER: Duration =
    Duration::from_millis(WAIT.as_secs() * 1_000 * 17 / 16 + ANSWER.as_secs() * 1_000);
const TOKEN_HEADER: &str = "x-nomad-token";

/// Asks one Nomad, over one connection that is kept.
pub struct Client {
    route: Arc<Route>,
    kept: Option<Kept>,
}

/// A connection to the endpoint at `place`.
struct Kept {
    place: usize,
    connection: Connection,
    token: Option<HeaderValue>,
}

/// What is asked for.
struct Query<T> {
    kind: Kind,
    path: String,
    /// What is sent; with it the answer is computed, and has no index.
    body: Bytes,
    deadline: Duration,
    parse: fn(&[u8]) -> Result<T, serde_json::Error>,
}

impl Client {
    /// A client with a route of its own to the endpoints that the settings name. Nothing is connected yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self::on(Route::new(settings, Arc::new(Traffic::default())))
    }

    /// A client that goes where all others on this route go.
    #[must_use]
    pub const fn on(route: Arc<Route>) -> Self {
        Self { route, kept: None }
    }

    /// The services of `namespace`, or of all namespaces that the token may read, for `*`.
    ///
    /// With `after` it is a blocking query: Nomad holds it until the namespace has changed after that index, or for some 60 s.
    /// The answer may be the same as before, and of any index.
    pub async fn list(
        &mut self,
        namespace: &str,
        after: Option<u64>,
    ) -> Result<Answer<Vec<ListedService>>, Failed<Error>> {
        let path = format!("/v1/services?namespace={}", percent_encoded(namespace));
        let kinds = (Kind::List, Kind::BlockingList);
        self.get(Query::new(kinds, path, after, types::parse_list))
            .await
    }

    /// The registrations of one service; with `after` as a blocking query, as in [`Self::list`].
    pub async fn read(
        &mut self,
        key: &ServiceKey,
        after: Option<u64>,
    ) -> Result<Answer<Vec<Registration>>, Failed<Error>> {
        // The agent decodes the path before it splits and cleans it.
        if key.name.contains('/') || matches!(&*key.name, "" | "." | "..") {
            return Err(Failed {
                before: Vec::new(),
                endpoint: self.route.endpoint().0,
                error: Error::UnreadableName(shortened(&key.name)),
            });
        }
        let path = format!(
            "/v1/service/{}?namespace={}",
            percent_encoded(&key.name),
            percent_encoded(&key.namespace)
        );
        let kinds = (Kind::Read, Kind::BlockingRead);
        self.get(Query::new(kinds, path, after, types::parse_registrations))
            .await
    }

    /// How long the services of a job go on being served after their deregistration. Needs the capability `read-job`.
    pub async fn job(
        &mut self,
        namespace: &str,
        job: &str,
    ) -> Result<Answer<Vec<JobService>>, Failed<Error>> {
        let path = format!(
            "/v1/job/{}?namespace={}",
            percent_encoded(job),
            percent_encoded(namespace)
        );
        let kinds = (Kind::Job, Kind::Job);
        self.get(Query::new(kinds, path, None, types::parse_job))
            .await
    }

    /// What becomes of an allocation. Needs the capability `read-job`.
    pub async fn allocation(
        &mut self,
        allocation: &AllocationId,
    ) -> Result<Answer<Allocation>, Failed<Error>> {
        let path = format!(
            "/v1/allocation/{}?namespace={}",
            percent_encoded(&allocation.id),
            percent_encoded(&allocation.namespace)
        );
        let kinds = (Kind::Allocation, Kind::Allocation);
        self.get(Query::new(kinds, path, None, types::parse_allocation))
            .await
    }

    /// A job in HCL as Nomad evaluates it, in JSON. Nomad keeps nothing of it. Needs the capability `parse-job` in `namespace`.
    pub async fn evaluate(&mut self, namespace: &str, hcl: &str) -> Result<Vec<u8>, Failed<Error>> {
        let path = format!("/v1/jobs/parse?namespace={}", percent_encoded(namespace));
        let body = serde_json::json!({"JobHCL": hcl, "Canonicalize": false});
        let query = Query {
            body: body.to_string().into(),
            ..Query::new((Kind::Job, Kind::Job), path, None, |json| Ok(json.to_vec()))
        };
        Ok(self.get(query).await?.value)
    }

    /// Opens the event stream of `namespace` (or `*`) on a connection of its own: topic `Service`, all that is buffered.
    /// Open means that the first line has come.
    pub async fn open_stream(&self, namespace: &str) -> Result<EventStream, Failed<StreamError>> {
        let path = format!(
            "/v1/event/stream?topic=Service&namespace={}&index=0",
            percent_encoded(namespace)
        );
        let mut turn = self.route.turn();
        loop {
            let asked = self.route.traffic.asked(Kind::Stream);
            let error = match self.open_stream_at(turn.place, &path).await {
                Ok(stream) => {
                    asked.ended(Outcome::Ok);
                    return Ok(stream);
                }
                Err(error) => error,
            };
            asked.ended(error.outcome());
            let others_may_do_better = error.is_of_the_endpoint();
            turn = turn.failed(error, others_may_do_better)?;
        }
    }

    async fn open_stream_at(&self, place: usize, path: &str) -> Result<EventStream, StreamError> {
        let left = self.route.until_left(place);
        let opened = async {
            let token = self.route.settings.token.load().await?;
            let mut kept = self.connect(place, token).await?;
            let request = self.request(path, &kept);
            let head = kept.connection.send(request).await;
            head.map_err(Error::from_hyper)
        };
        let head = timeout(ANSWER, opened)
            .await
            .map_err(|_| StreamError::Refused(Error::Timeout(ANSWER)))?;
        let head = match head {
            Ok(head) if head.status() == StatusCode::OK => head,
            Ok(head) => return Err(StreamError::Refused(answer::refusal(head).await)),
            Err(Error::Protocol(source)) => return Err(StreamError::NotHttp(source)),
            Err(error) => return Err(StreamError::Refused(error)),
        };
        answer::compressed(head.headers())
            .map_err(|doubt| StreamError::Refused(Error::NotBelievable(doubt)))?;
        let endpoint = self.route.at(place).clone();
        let traffic = Arc::clone(&self.route.traffic);
        EventStream::open(head.into_body(), endpoint, left, traffic).await
    }

    /// Asks the endpoint that is the first, and the others in turn while one fails to answer.
    async fn get<T>(&mut self, query: Query<T>) -> Result<Answer<T>, Failed<Error>> {
        let route = Arc::clone(&self.route);
        let mut turn = route.turn();
        loop {
            let result = self.get_at(turn.place, &query).await;
            if matches!(result, Ok(_) | Err(Error::Denied { .. })) {
                turn.answered();
            }
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let others_may_do_better = error.is_of_the_endpoint();
            turn = turn.failed(error, others_may_do_better)?;
        }
    }

    /// Asks on the kept connection or on a new one. A kept connection may have been closed at any time, and a token may
    /// have been replaced: both are tried once more with a new one.
    async fn get_at<T>(&mut self, place: usize, query: &Query<T>) -> Result<Answer<T>, Error> {
        let usable = |kept: &Kept| kept.place == place && !kept.connection.is_closed();
        let mut refused = None;
        if let Some(mut kept) = self.kept.take().filter(usable) {
            let asking = self.exchange(&mut kept, query);
            match self.counted(query.kind, asking).await {
                Err(Error::Broken(_)) => {}
                Err(error) if error.is_about_the_token() => refused = Some((kept.token, error)),
                result => return self.keep(kept, result),
            }
        }
        let token = self.route.settings.token.load().await?;
        match refused {
            Some((used, error)) if used == token => return Err(error),
            Some(_) | None => {}
        }
        let mut new = None;
        let asking = async {
            let kept = new.insert(self.connect(place, token).await?);
            self.exchange(kept, query).await
        };
        let result = self.counted(query.kind, asking).await;
        match new {
            Some(kept) => self.keep(kept, result),
            None => result,
        }
    }

    /// Keeps the connection when the whole answer was read.
    fn keep<T>(
        &mut self,
        kept: Kept,
        result: Result<Answer<T>, Error>,
    ) -> Result<Answer<T>, Error> {
        if matches!(result, Ok(_) | Err(Error::NotBelievable(_))) {
            self.kept = Some(kept);
        }
        result
    }

    async fn counted<T>(
        &self,
        kind: Kind,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let asked = self.route.traffic.asked(kind);
        let result = asking.await;
        asked.ended(match &result {
            Ok(_) => Outcome::Ok,
            Err(error) => error.outcome(),
        });
        result
    }

    async fn exchange<T>(&self, kept: &mut Kept, query: &Query<T>) -> Result<Answer<T>, Error> {
        let mut request = self.request(&query.path, kept);
        if !query.body.is_empty() {
            *request.method_mut() = Method::POST;
            *request.body_mut() = Full::new(query.body.clone());
        }
        let exchange = async {
            let head = kept.connection.send(request).await;
            let head = head.map_err(Error::from_hyper)?;
            if head.status() != StatusCode::OK {
                return Err(if query.body.is_empty() {
                    answer::refusal(head).await
                } else {
                    answer::judgement(head).await
                });
            }
            let believed = if query.body.is_empty() {
                answer::believed_index(head.headers())
            } else {
                answer::json(head.headers()).map(|()| 0)
            };
            // The body is read in any case, so that the connection can be kept.
            let body = answer::whole(head.into_body(), &self.route, query.kind).await?;
            Ok((believed, body))
        };
        let (believed, (body, _right)) = timeout(query.deadline, exchange)
            .await
            .map_err(|_| Error::Timeout(query.deadline))??;
        let index = believed.map_err(Error::NotBelievable)?;
        let value = (query.parse)(&body)
            .map_err(|error| Error::NotBelievable(Doubt::Content(shortened(&error.to_string()))))?;
        Ok(Answer { index, value })
    }

    async fn connect(&self, place: usize, token: Option<HeaderValue>) -> Result<Kept, Error> {
        let io = self.route.dial.dial(self.route.at(place)).await?;
        let connection = Connection::new(io).await.map_err(Error::from_hyper)?;
        Ok(Kept {
            place,
            connection,
            token,
        })
    }

    fn request(&self, path: &str, kept: &Kept) -> Request<Full<Bytes>> {
        let mut uri = path.to_owned();
        if let Some(region) = &self.route.settings.region {
            uri.push_str("&region=");
            uri.push_str(&percent_encoded(region));
        }
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri
            .parse()
            .expect("every part of the path is percent-encoded");
        let host = HeaderValue::try_from(self.route.at(kept.place).authority())
            .expect("the host of an endpoint has only characters of a host");
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(env!("CARGO_PKG_NAME")));
        if let Some(token) = &kept.token {
            headers.insert(TOKEN_HEADER, token.clone());
        }
        if let Some(user) = &self.route.settings.http_auth {
            let basic = format!("Basic {}", BASE64_STANDARD.encode(user.reveal()));
            let mut basic = HeaderValue::try_from(basic).expect("base64 is ASCII");
            basic.set_sensitive(true);
            headers.insert(AUTHORIZATION, basic);
        }
        request
    }
}

impl<T> Query<T> {
    /// A query of the first kind, or with `after` a blocking one of the second.
    fn new(
        kinds: (Kind, Kind),
        mut path: String,
        after: Option<u64>,
        parse: fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Self {
        let (kind, deadline) = match after {
            None => (kinds.0, ANSWER),
            Some(index) => {
                path = format!("{path}&index={index}&wait={}s", WAIT.as_secs());
                (kinds.1, HELD_ANSWER)
            }
        };
        Self {
            kind,
            path,
            body: Bytes::new(),
            deadline,
            parse,
        }
    }
}

/// Everything but the unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                encoded.extend(['%', digit(byte >> 4), digit(byte & 0xF)]);
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_percent_encoded() {
        assert_eq!(percent_encoded("a-b_c.~1"), "a-b_c.~1");
        assert_eq!(percent_encoded("a b/?&é\n"), "a%20b%2F%3F%26%C3%A9%0A");
    }
}
