//! Which allocations are asked for, in which order and how fast: what is urgent first, and never so much that Nomad minds. No
//! clock, no I/O; `jobs` asks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    model::AllocationId,
    reconcile::{ASK_AFTER, Question},
};

/// Between two questions, when one is urgent and when none is.
const URGENT_PAUSE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(500);
/// So many wait. More are not asked.
const MOST_URGENT: usize = 200;
const MOST: usize = 100;

/// Questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// When each may be asked.
    urgent: VecDeque<(Duration, AllocationId)>,
    others: VecDeque<AllocationId>,
    denied_until: BTreeMap<Arc<str>, Duration>,
    /// When one was asked last.
    asked_at: Duration,
}

impl Questions {
    /// Takes in a question. One that will not be asked comes back.
    pub(super) fn add(&mut self, now: Duration, question: Question) -> Option<AllocationId> {
        let Question { allocation, urgent } = question;
        let until = self.denied_until.get(&allocation.namespace);
        let is_denied = until.is_some_and(|until| now < *until);
        let is_full = if urgent {
            self.urgent.len() >= MOST_URGENT
        } else {
            self.others.len() >= MOST
        };
        // Nomad wants a UUID in this place of its path.
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if is_denied || is_full || !allocation.id.chars().all(is_id) {
            return Some(allocation);
        }
        if urgent {
            let is_known = self.urgent.iter().any(|(_, other)| *other == allocation);
            if !is_known {
                self.urgent.push_back((now + ASK_AFTER, allocation));
            }
        } else {
            self.others.push_back(allocation);
        }
        None
    }

    /// When [`Self::next`] has one.
    pub(super) fn next_at(&self) -> Option<Duration> {
        let urgent = self.urgent.front();
        let urgent = urgent.map(|(due, _)| (*due).max(self.asked_at + URGENT_PAUSE));
        let other = (!self.others.is_empty()).then_some(self.asked_at + PAUSE);
        urgent.into_iter().chain(other).min()
    }

    /// The one to ask now.
    pub(super) fn next(&mut self, now: Duration) -> Option<AllocationId> {
        self.next_at().filter(|at| *at <= now)?;
        self.asked_at = now;
        match self.urgent.front() {
            Some((due, _)) if *due <= now => {
                self.urgent.pop_front().map(|(_, allocation)| allocation)
            }
            Some(_) | None => self.others.pop_front(),
        }
    }

    /// The token may not ask in this namespace before then. The questions that are dropped for that.
    pub(super) fn deny(&mut self, namespace: &Arc<str>, until: Duration) -> Vec<AllocationId> {
        self.denied_until.insert(Arc::clone(namespace), until);
        let (mut dropped, is_of_it) =
            (Vec::new(), |one: &AllocationId| one.namespace == *namespace);
        self.urgent.retain(|(_, one)| {
            dropped.extend(is_of_it(one).then(|| one.clone()));
            !is_of_it(one)
        });
        self.others.retain(|one| {
            dropped.extend(is_of_it(one).then(|| one.clone()));
            !is_of_it(one)
        });
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn question(id: &str, urgent: bool) -> Question {
        Question {
            allocation: allocation(id),
            urgent,
        }
    }

    fn allocation(id: &str) -> AllocationId {
        AllocationId {
            namespace: "default".into(),
            id: id.into(),
        }
    }

    /// What is asked in so much time, and when.
    fn asked(questions: &mut Questions, until: Duration) -> Vec<(u128, String)> {
        let mut asked = Vec::new();
        while let Some(at) = questions.next_at().filter(|at| *at <= until) {
            let one = questions.next(at).unwrap();
            asked.push((at.as_millis(), one.id.to_string()));
        }
        asked
    }

    #[test]
    fn what_is_urgent_is_asked_a_second_later_and_the_rest_slowly_around_it() {
        let mut questions = Questions::default();
        let start = Duration::from_secs(10);
        questions.asked_at = start;
        for id in ["a", "b", "c"] {
            assert_eq!(questions.add(start, question(id, false)), None);
        }
        for id in ["1", "2", "1"] {
            assert_eq!(questions.add(start, question(id, true)), None);
        }
        let expected = [
            (10_500, "a"),
            (11_000, "1"),
            (11_050, "2"),
            (11_550, "b"),
            (12_050, "c"),
        ];
        let expected = expected.map(|(at, id)| (at, id.to_owned()));
        assert_eq!(asked(&mut questions, 60_000 * MILLI), expected);
    }

    #[test]
    fn ten_thousand_questions_are_not_ten_thousand_reads() {
        let mut questions = Questions::default();
        let dropped = (0..10_000).filter(|number| {
            let question = question(&number.to_string(), number % 2 == 0);
            questions.add(Duration::ZERO, question).is_some()
        });
        assert_eq!(dropped.count(), 10_000 - MOST - MOST_URGENT);
        let asked = asked(&mut questions, Duration::from_secs(10)).len();
        assert!(asked <= 201, "{asked}");
    }

    #[test]
    fn where_the_token_may_not_nothing_is_asked() {
        let mut questions = Questions::default();
        questions.add(Duration::ZERO, question("1", true));
        questions.add(Duration::ZERO, question("2", false));
        let until = Duration::from_hours(1);
        let dropped = questions.deny(&"default".into(), until);
        assert_eq!(dropped, [allocation("1"), allocation("2")]);
        assert_eq!(questions.next_at(), None);
        let third = questions.add(Duration::ZERO, question("3", true));
        assert_eq!(third, Some(allocation("3")));
        assert_eq!(questions.add(until, question("3", true)), None);
    }

    #[test]
    fn what_is_no_id_is_not_asked() {
        let mut questions = Questions::default();
        let id = "../../v1/jobs?x=";
        let answer = questions.add(Duration::ZERO, question(id, true));
        assert_eq!(answer, Some(allocation(id)));
    }
}
