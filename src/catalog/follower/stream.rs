//! The half of a follower that is about its stream.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Follower, HEAD_START, Outbox, POLL};
use crate::catalog::{Ask, How, Line, Listing, StreamEnd, Tell, Ticket};

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
    ) -> Option<Tell> {
        if !matches!(self.stream, Stream::Opening(asked) if asked == ticket) {
            return None;
        }
        self.stream = Stream::Open { ticket, since: now };
        self.delivered = None;
        self.resync = true;
        self.again = true;
        self.round_no_later_than(now);
        self.follow(How::Stream)
    }

    pub(in crate::catalog) fn stream_line(&mut self, ticket: Ticket, line: Line, out: &mut Outbox) {
        if !matches!(self.stream, Stream::Open { ticket: open, .. } if open == ticket) {
            return;
        }
        let index = line.index;
        for key in self.view.take(line) {
            self.tell_changed(key, index, Some(index), out);
        }
        if self.view.is_live() && !self.resync {
            self.tell_current(out);
        }
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
        let soon = now.saturating_add(self.stream_backoff.next_delay(&mut out.random));
        let (retry_at, refusal) = match end {
            StreamEnd::Refused(reason) => {
                self.round_no_later_than(now);
                out.tells.extend(self.follow(How::Poll {
                    reason: reason.clone(),
                }));
                (now.saturating_add(STREAM_RETRY), Some(reason))
            }
            StreamEnd::Unreachable(reason) => (soon, Some(reason)),
            StreamEnd::Lost(reason) => {
                self.resync = true;
                self.round_no_later_than(now.saturating_add(POLL));
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
        if self.resync {
            self.round_no_later_than(now.saturating_add(HEAD_START));
        }
    }

    pub(super) fn reopen_stream(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Opening(ticket) | Stream::Open { ticket, .. } = self.stream {
            out.asks.push_back(Ask::CloseStream { ticket });
        }
        self.view.stream_broke();
        self.stream = Stream::Down {
            retry_at: now,
            refusal: None,
        };
    }

    pub(super) fn reopen_for_new_namespaces(
        &mut self,
        now: Duration,
        listing: &Listing,
        out: &mut Outbox,
    ) {
        if &*self.namespace != "*" || !matches!(self.stream, Stream::Open { .. }) {
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
