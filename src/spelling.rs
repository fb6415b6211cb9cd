//! Which known word was perhaps meant. **Pure.**

/// Longer words are not compared: nobody misspells so much, and it would take long.
const MAX_LENGTH: usize = 40;

/// The nearest of `known`, if it is near enough: a third of the letters may be wrong. The first of several.
pub(crate) fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_LENGTH {
        return None;
    }
    let word = word.trim().to_lowercase();
    let near = known.filter_map(|other| {
        let limit = (word.len().max(other.len()) / 3).clamp(1, 3);
        let distance = distance(word.as_bytes(), other.as_bytes());
        (distance <= limit).then_some((distance, other))
    });
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// Whether a word is known but for one letter, or but for capitals.
pub(crate) fn is_near(word: &str, known: &str) -> bool {
    let is_short = word.len() <= MAX_LENGTH;
    is_short
        && distance(
            word.to_lowercase().as_bytes(),
            known.to_lowercase().as_bytes(),
        ) <= 1
}

/// How many letters have to be put in, taken out, replaced, or swapped with their neighbour.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut fewest = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                fewest = fewest.min(before[j - 1] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_put_in_taken_out_replaced_and_swapped() {
        for (one, other, expected) in [
            ("", "abc", 3),
            ("weight", "weight", 0),
            ("wieght", "weight", 1),
            ("weigt", "weight", 1),
            ("waight", "weight", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one.as_bytes(), other.as_bytes()), expected);
            assert_eq!(distance(other.as_bytes(), one.as_bytes()), expected);
        }
    }

    #[test]
    fn only_what_is_near_was_meant() {
        let meant = |word: &str| meant(word, ["weight", "hold", "check.path"].into_iter());
        assert_eq!(meant("Wieght"), Some("weight"));
        assert_eq!(meant("check-path"), Some("check.path"));
        assert_eq!(meant("chek.pth"), Some("check.path"));
        assert_eq!(meant("hodl"), Some("hold"));
        assert_eq!(meant("port"), None);
        assert_eq!(meant(&"w".repeat(1_000_000)), None);
    }
}
