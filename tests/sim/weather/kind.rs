//! What goes wrong with Nomad, kind by kind, each with where it was seen (versions; runs of real agents unless another
//! source is named), and when it can strike.

use crate::weather::plan::Way;

/// When a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moment {
    /// At its time.
    Now,
    /// At the next answer to a list or a read.
    Answer,
    /// The same, but not to a blocking query.
    Fresh,
    /// At the next answer to a list.
    List,
    /// At the next answer to a read.
    Read,
    /// At the next blocking query that is held.
    Held,
    /// When the next stream is opened.
    Opening,
    /// At the next line of a stream.
    Line,
}

macro_rules! kinds {
    ($($moment:ident $kind:ident $weight:literal $seen:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Kind {
            $(#[doc = $seen] $kind,)*
        }

        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)*];

            pub(crate) const fn moment(self) -> Moment {
                match self {
                    $(Self::$kind => Moment::$moment,)*
                }
            }

            pub(crate) fn can_strike(self, way: &Way) -> bool {
                match self {
                    Self::NewNamespace => way.streams && way.namespaces.contains(&"*"),
                    Self::DeniedBySilence | Self::HttpZero => way.streams && !way.old,
                    Self::DeniedAtOnce | Self::EndedByText => way.streams && way.old,
                    Self::StreamCut | Self::SilentStream => way.streams,
                    _ => match self.moment() {
                        Moment::Opening | Moment::Line => way.streams,
                        Moment::Now
                        | Moment::Answer
                        | Moment::Fresh
                        | Moment::List
                        | Moment::Read
                        | Moment::Held => true,
                    },
                }
            }

            /// How often it is drawn; of no meaning but to have enough of each.
            pub(crate) const fn weight(self) -> usize {
                match self {
                    $(Self::$kind => $weight,)*
                }
            }

            /// Where it was seen.
            pub(crate) const fn seen(self) -> &'static str {
                match self {
                    $(Self::$kind => $seen,)*
                }
            }
        }
    };
}

kinds! {
    List FalseEmptyList 8 "200, [], index 0, no leader: an agent that shuts down; index 0 with a leader: `*` without rights (2.0.5)"
    Read FalseEmptyRead 8 "the same for one service (2.0.5)"
    List PartialList 12 "a list without what the token may not read, with a good index (1.10.5 to 2.0.5)"
    Answer Denied 8 "403: a follower has not applied the allocation of the token yet (source, auth.go)"
    Answer ServerError 8 "500 `rpc error: failed to get conn`: the server is away, asked through a client agent (2.0.5)"
    Answer TooMany 8 "429, raw, before any request: 100 connections (since 1.3.4)"
    Answer NoAnswer 8 "a frozen server, a half-dead path: no answer for 15 s"
    Answer ConnectionBroken 8 "the connection breaks before the answer"
    Fresh LateAnswer 8 "an answer of seconds ago, overtaken by lines and by other answers"
    Read EventBeforeRead 12 "the event is published before the state is committed (source, `state_changes.go`)"
    Held HeldEarly 45 "a blocking query comes back with what is known: another service moved the index (2.0.5)"
    Held HeldCut 60 "a held query fails at once when its server dies (2.0.5)"
    Held HeldFalseEmpty 60 "an agent that shuts down answers held queries with `[]` and index 0 (TCP, 2.0.5)"
    Held HeldForEver 55 "a held query misses changes until the client's deadline (#18266; client/rpc.go forgets the wait)"
    Opening DeniedBySilence 14 "200 and no line: denied (since 1.11.2)"
    Opening DeniedAtOnce 20 "403 `Permission denied` (up to 1.11.1)"
    Opening HttpZero 20 "`HTTP/0.0 200 OK` (1.11.2)"
    Opening NotReached 10 "the connection is refused; 500 `no servers`, `EventBroker not configured`, or `EOF` beyond 80 streams"
    Opening RingOverflow 10 "100 batches of other topics pushed the lines out of the ring (1.10.5 to 2.0.5)"
    Opening Replay 10 "a restarted server publishes its logs since the last snapshot again (1.10.5 to 2.0.5)"
    Now StreamCut 20 "end of the agent (2.0.5), a proxy, the network"
    Line CutInMidLine 10 "the connection ends within a line"
    Line EndedByText 28 "`event dropped from buffer`, `subscription closed by server, ...` in place of a line (up to 1.11.1)"
    Now SilentStream 48 "the stream falls silent and stays open (since 1.11.2)"
    Line TokenExpired 10 "the token expires: found at the next event, which is lost, then silence (2.0.5)"
    Line Stall 10 "the stream's server lags behind the leader; the path stalls"
    Now SilentDeletion 12 "garbage collection deletes without an event (since 1.8.0)"
    Now NodeLost 8 "Type `PlanResult`, many in one line (since 1.10.4)"
    Now NodeDown 8 "Type `NodeStreamEvent` (1.8.0 to 1.10.3; source)"
    Now AllocTerminal 6 "Type `AllocationUpdated` (since 1.8.0)"
    Now Ghost 7 "a lost node returns: registered again, deregistered 20 to 300 ms later (1.10.5, 2.0.5)"
    Now Restore 5 "a snapshot is restored: older state, lower index, streams die (1.11.3, 2.0.5)"
    Now Rebuild 4 "the cluster is made anew: indexes from 1"
    Now ServerRestart 7 "held calls fail, 500 for 2 to 3 s, the stream ends 5 to 14 s later (2.0.5)"
    Now AgentRestart 5 "the client agent restarts: its socket is gone, answers are cut (2.0.5)"
    Now Frozen 6 "SIGSTOP of the server: everything hangs, no error (2.0.5)"
    Now NoLeader 10 "500 `No cluster leader` after 5 s; streams go on"
    Now NewNamespace 90 "a namespace younger than a stream of `*` is not delivered (since 1.9.6)"
    Now NamespaceForbidden 8 "a policy is changed: 403 in one namespace; streams that need it die"
    Now TokenRevoked 6 "the token is deleted and given back: 403, the stream dies"
    Now OneUnreadable 14 "one service cannot be read"
}
