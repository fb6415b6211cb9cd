//! Nomad in all weather, through the product's real transport and mirror: every row of `docs/nomad-weather.md` is a test
//! here, with what is known afterwards and the very text that an operator reads.

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

mod facts_that_bite;
mod the_page;
mod weather;
mod what_answers_come;
mod what_ends_a_stream;
mod which_changes_produce_service_events;
mod without_a_stream;
