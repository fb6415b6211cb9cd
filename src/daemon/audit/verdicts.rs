//! The last turns of HAProxy's verdicts. They have a place of their own beside the changes, and no server has much of it: what
//! goes up and down all night pushes nobody out.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    model::{self, ServerName},
    picture::{Change, Text},
};

/// So many are remembered.
const REMEMBERED: usize = 1_000;
/// Of these, so many of one server.
const OF_ONE: usize = 20;

/// The last ones, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    kept: VecDeque<Change>,
    /// How many of them each server has, by backend and name.
    of_server: BTreeMap<(Text, Text), usize>,
}

impl Verdicts {
    pub(super) fn push(&mut self, change: Change) {
        let server = server(&change);
        if self.kept.len() == REMEMBERED {
            self.forget(0);
        }
        if self.of_server.get(&server) == Some(&OF_ONE)
            && let Some(first) = self.kept.iter().position(|one| self::server(one) == server)
        {
            self.forget(first);
        }
        *self.of_server.entry(server).or_default() += 1;
        self.kept.push_back(change);
    }

    fn forget(&mut self, place: usize) {
        let Some(change) = self.kept.remove(place) else {
            return;
        };
        let server = server(&change);
        if let Some(count) = self.of_server.get_mut(&server) {
            *count -= 1;
            if *count == 0 {
                self.of_server.remove(&server);
            }
        }
    }

    pub(super) fn kept(&mut self) -> &mut VecDeque<Change> {
        &mut self.kept
    }
}

fn server(change: &Change) -> (Text, Text) {
    (change.backend.clone(), change.server.clone())
}

/// HAProxy's words for a verdict, if they are still about it.
pub(super) fn words(
    is_up: bool,
    server: &Text,
    verdicts: Option<&BTreeMap<ServerName, model::Verdict>>,
) -> Option<String> {
    let name = ServerName::new(server).ok()?;
    let verdict = verdicts?.get(&name)?;
    let state = if is_up { "UP" } else { "DOWN" };
    if verdict.check_status.is_empty() || !verdict.state.starts_with(state) {
        return None;
    }
    // While the next check runs, 2.6 says 0.
    let code = verdict.code.filter(|code| *code > 0);
    let code = code.map(|code| format!(", code {code}"));
    let text = Some(&verdict.text).filter(|text| !text.is_empty());
    let text = text.map(|text| format!(": {text}"));
    let parts = [Some(verdict.check_status.clone()), code, text];
    Some(parts.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64, server: &str) -> Change {
        Change {
            number,
            backend: "web".into(),
            server: server.into(),
            ..Change::default()
        }
    }

    #[test]
    fn a_server_that_flaps_pushes_nobody_out() {
        let mut verdicts = Verdicts::default();
        verdicts.push(change(1, "quiet"));
        for number in 2..5_000 {
            verdicts.push(change(number, "flaps"));
        }
        let numbers: Vec<_> = verdicts.kept().iter().map(|one| one.number).collect();
        assert_eq!((numbers[0], numbers[1], numbers.len()), (1, 4_980, 21));
        for number in 5_000..15_000 {
            verdicts.push(change(number, &format!("many{number}")));
        }
        assert_eq!(verdicts.kept().len(), REMEMBERED);
        assert_eq!(verdicts.of_server.len(), REMEMBERED);
        assert_eq!(verdicts.kept()[0].number, 14_000);
    }

    #[test]
    fn words_are_those_of_the_verdict_and_of_no_later_one() {
        let verdict = |state: &str, status: &str, code, text: &str| {
            let verdict = model::Verdict {
                state: state.to_owned(),
                check_status: status.to_owned(),
                code,
                text: text.to_owned(),
                ..model::Verdict::default()
            };
            BTreeMap::from([(ServerName::new("a").unwrap(), verdict)])
        };
        let ill = verdict("DOWN", "L7STS", Some(503), "Service Unavailable");
        let server = "a".into();
        assert_eq!(
            words(false, &server, Some(&ill)).unwrap(),
            "L7STS, code 503: Service Unavailable"
        );
        let rising = verdict("DOWN 1/2", "L4CON", Some(0), "");
        assert_eq!(words(false, &server, Some(&rising)).unwrap(), "L4CON");
        for (is_up, verdicts) in [
            (true, Some(&ill)),
            (false, Some(&verdict("UP", "L7OK", Some(200), ""))),
            (false, Some(&verdict("DOWN", "", None, ""))),
            (false, Some(&BTreeMap::new())),
            (false, None),
        ] {
            assert_eq!(words(is_up, &server, verdicts), None);
        }
    }
}
