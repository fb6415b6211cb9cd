//! What Nomad says of a job that it does not evaluate (`/v1/jobs/parse`, status 400): mistakes in the job, or what only
//! the caller of `nomad job run` has, the values of variables and the files beside the job.

use std::fmt;

/// How Nomad begins.
const BEGINNING: &str = "Failed to parse job: ";
/// What Nomad calls the job (`command/agent/job_endpoint.go`).
const FILE: &str = "input.hcl:";
/// How it begins what is in no place.
const NOWHERE: &str = "<nil>: ";
/// What follows from something else that is wrong, behind it.
const CONSEQUENCE: &str = "Unsuitable value type; Unsuitable value: value must be known";

/// A mistake in a job, in Nomad's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line and the column, from one.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What Nomad calls a mistake. There is none where all that it misses are the caller's variables and files.
#[must_use]
pub fn mistakes(words: &str) -> Vec<Mistake> {
    let Some(words) = words.strip_prefix(BEGINNING) else {
        return Vec::new();
    };
    let said = split(words);
    let (excused, mut mistakes): (Vec<_>, Vec<_>) = said
        .into_iter()
        .partition(|said| is_the_callers(&said.text));
    let is_consequence = |said: &Mistake| said.text.starts_with(CONSEQUENCE);
    if !excused.is_empty() || !mistakes.iter().all(is_consequence) {
        mistakes.retain(|said| !is_consequence(said));
    }
    mistakes.sort_by_key(|said| said.place);
    mistakes
}

/// Whether it is of what `nomad job run` has and a parse has not. A default that does not pass its variable's own
/// validation is how a job asks for a value.
fn is_the_callers(text: &str) -> bool {
    text.starts_with("Unset variable ")
        || text.starts_with("Invalid value for default variable")
        || text.starts_with("Error in function call")
            && text.contains("filesystem function disabled")
}

/// One by one: each begins with its place. Their ends of lines are lost on the way.
fn split(words: &str) -> Vec<Mistake> {
    let mut said: Vec<Mistake> = Vec::new();
    for word in words.split_inclusive(' ') {
        let place = place(word.trim_end());
        match said.last_mut() {
            Some(last) if place.is_none() && word != NOWHERE => last.text.push_str(word),
            _ => said.push(Mistake {
                text: if place.is_none() && word != NOWHERE {
                    word.to_owned()
                } else {
                    String::new()
                },
                place,
            }),
        }
    }
    for said in &mut said {
        said.text = said.text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    said
}

/// The beginning of `input.hcl:8,15-9,1:`.
fn place(word: &str) -> Option<(usize, usize)> {
    let range = word.strip_prefix(FILE)?.strip_suffix(':')?;
    let (start, _) = range.split_once('-')?;
    let (line, column) = start.split_once(',')?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &str) -> Vec<String> {
        // As the words come: without ends of lines.
        let words = format!("Failed to parse job: {words}").replace('\n', " ");
        mistakes(&words).iter().map(ToString::to_string).collect()
    }

    /// The answers of Nomad 2.0.5.
    #[test]
    fn what_nomad_calls_a_mistake_is_told_in_its_words() {
        for (words, expected) in [
            (
                "input.hcl:3,3-9: Unsupported block type; Blocks of type \"servce\" are not expected here. Did you mean \"service\"?",
                &[
                    "line 3, column 3: Unsupported block type; Blocks of type \"servce\" are not expected here. Did you mean \"service\"?",
                ][..],
            ),
            (
                "input.hcl:8,9-14: Call to unknown function; There is no function named \"upcse\".\n\
                 input.hcl:8,8-9: Unsuitable value type; Unsuitable value: value must be known",
                &[
                    "line 8, column 9: Call to unknown function; There is no function named \"upcse\".",
                ],
            ),
            (
                "input.hcl:3,1-8: Duplicate job block; Only one block of type \"job\" is allowed. Previous definition was at input.hcl:1,1-8.",
                &[
                    "line 3, column 1: Duplicate job block; Only one block of type \"job\" is allowed. Previous definition was at input.hcl:1,1-8.",
                ],
            ),
            (
                "input.hcl:8,15-9,1: Invalid multi-line string; Quoted strings may not be split over multiple lines., and 7 other diagnostic(s)",
                &[
                    "line 8, column 15: Invalid multi-line string; Quoted strings may not be split over multiple lines., and 7 other diagnostic(s)",
                ],
            ),
            // Files excuse nothing else.
            (
                "input.hcl:4,3-9: Unsupported block type; Blocks of type \"servce\" are not expected here. Did you mean \"service\"?\n\
                 input.hcl:9,9-14: Error in function call; Call to function \"file\" failed: filesystem function disabled.\n\
                 input.hcl:9,8-9: Unsuitable value type; Unsuitable value: value must be known",
                &[
                    "line 4, column 3: Unsupported block type; Blocks of type \"servce\" are not expected here. Did you mean \"service\"?",
                ],
            ),
            (
                "input.hcl:8,8-9: Unsuitable value type; Unsuitable value: value must be known",
                &["line 8, column 8: Unsuitable value type; Unsuitable value: value must be known"],
            ),
            ("something new", &["something new"]),
        ] {
            assert_eq!(said(words), expected, "{words}");
        }
    }

    #[test]
    fn the_callers_variables_and_files_are_no_mistake() {
        for words in [
            "<nil>: Unset variable \"w\"; A used variable must be set or have a default value; see https://developer.hashicorp.com  for details.\n\
             <nil>: Unset variable \"v\"; A used variable must be set or have a default value; see https://developer.hashicorp.com  for details.",
            "input.hcl:8,9-14: Error in function call; Call to function \"file\" failed: filesystem function disabled.\n\
             input.hcl:8,8-9: Unsuitable value type; Unsuitable value: value must be known",
            "input.hcl:3,10-12: Invalid value for default variable; The w must be given.\n\n\
             This was checked by the validation rule at input.hcl:4,2-12.",
        ] {
            assert_eq!(said(words), [""; 0], "{words}");
        }
        assert_eq!(mistakes("Job spec is empty"), []);
    }
}
