//! The half of a follower that is about its stream.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Follower, GRACE, HEAD_START, Outbox};
use crate::{
    catalog::{Ask, Cause, How, Line, Listing, StreamEnd, Tell, Ticket},
    model::ServiceKey,
};

/// Between two attempts to open a stream that was refused.
const STREAM_RETRY: Duration = Duration::from_mins(1);
/// A stream that lived as long was not a failure.
const STREAM_HELD: Duration = Duration::from_secs(30);

/// The stream.
#[derive(Clone, Debug)]
pub(super) enum Stream {
    /// Not there. To `Opening` when due.
    Down {
        retry_at: Duration,
        /// Why it could not be opened; none if it was lost or never tried.
        refusal: Option<String>,
    },
    /// Asked for. To `Open` by its first line, to `Down` when it fails.
    Opening(Ticket),
    /// To `Down` when it ends, or is closed to be opened anew.
    Open { ticket: Ticket, since: Duration },
}

impl Follower {
    pub(in crate::catalog) fn stream_opened(
        &mut self,
        now: Duration,
        ticket: Ticket,
        out: &mut Outbox,
    ) {
        if !matches!(self.stream, Stream::Opening(asked) if asked == ticket) {
            return;
        }
        self.stream = Stream::Open { ticket, since: now };
        self.streamless_since = None;
        self.delivered = None;
        self.lines_may_be_missing();
        self.again = true;
        self.let_go(now, out);
        self.round_no_later_than(now);
        out.tells.extend(self.follow(How::Stream));
    }

    pub(in crate::catalog) fn stream_line(&mut self, ticket: Ticket, line: Line, out: &mut Outbox) {
        if !matches!(self.stream, Stream::Open { ticket: open, .. } if open == ticket) {
            return;
        }
        let index = line.index;
        let waiting = |key: &ServiceKey| self.round.read_at(key);
        let (changed, without_room) = self.view.take(line, waiting);
        for key in changed {
            self.tell_changed(key, index, Some(index), out);
        }
        self.read_soon(Cause::Retry, without_room, out);
        self.tell_current(out);
    }

    pub(in crate::catalog) fn stream_ended(
        &mut self,
        now: Duration,
        ticket: Ticket,
        end: StreamEnd,
        out: &mut Outbox,
    ) {
        match self.stream {
            Stream::Open {
                ticket: open,
                since,
            } if open == ticket => {
                if now >= since.saturating_add(STREAM_HELD) {
                    self.stream_backoff.reset();
                }
            }
            Stream::Opening(asked) if asked == ticket => {}
            Stream::Down { .. } | Stream::Opening(_) | Stream::Open { .. } => return,
        }
        self.view.stream_broke();
        self.streamless_since.get_or_insert(now);
        let soon = now.saturating_add(self.stream_backoff.next_delay(&mut out.random));
        let (retry_at, refusal) = match end {
            StreamEnd::Refused(reason) => {
                self.round_no_later_than(now);
                (now.saturating_add(STREAM_RETRY), Some(reason))
            }
            StreamEnd::Unreachable(reason) => (soon, Some(reason)),
            StreamEnd::Lost(reason) => {
                self.lines_may_be_missing();
                self.round_no_later_than(now.saturating_add(GRACE));
                self.streaming = None;
                out.tells.push_back(Tell::StreamLost {
                    namespace: Arc::clone(&self.namespace),
                    reason,
                });
                (soon, None)
            }
        };
        self.stream = Stream::Down { retry_at, refusal };
    }

    pub(super) fn open_stream(&mut self, now: Duration, out: &mut Outbox) {
        let ticket = out.ticket();
        self.stream = Stream::Opening(ticket);
        out.asks.push_back(Ask::OpenStream {
            ticket,
            namespace: Arc::clone(&self.namespace),
        });
        if self.resync.is_some() {
            self.round_no_later_than(now.saturating_add(HEAD_START));
        }
    }

    pub(super) fn reopen_stream(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Opening(ticket) | Stream::Open { ticket, .. } = self.stream {
            out.asks.push_back(Ask::Cancel { ticket });
        }
        self.view.stream_broke();
        self.streamless_since.get_or_insert(now);
        self.stream = Stream::Down {
            retry_at: now,
            refusal: None,
        };
    }

    fn lines_may_be_missing(&mut self) {
        self.resync.get_or_insert(Cause::StreamBroke);
    }

    pub(super) fn reopen_for_new_namespaces(
        &mut self,
        now: Duration,
        listing: &Listing,
        out: &mut Outbox,
    ) {
        if !self.follows_all() || !self.is_streaming() {
            return;
        }
        let listed: BTreeSet<Arc<str>> = listing
            .services
            .iter()
            .map(|service| Arc::clone(&service.key.namespace))
            .collect();
        match &self.delivered {
            None => self.delivered = Some(listed),
            Some(delivered) if listed.is_subset(delivered) => {}
            Some(_) => self.reopen_stream(now, out),
        }
    }

    pub(super) fn follow(&mut self, how: How) -> Option<Tell> {
        let streaming = matches!(how, How::Stream);
        if self.streaming.replace(streaming) == Some(streaming) {
            return None;
        }
        Some(Tell::Following {
            namespace: Arc::clone(&self.namespace),
            how,
        })
    }
}
