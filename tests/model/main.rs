//! The protocol under a model checker (shuttle): the real tracker, its atomics instrumented, between modelled
//! programs and a modelled engine. Whatever the interleaving, the image is the source as it was at T, and nobody
//! hangs. See docs/protocol.md; what this can notice is in docs/controls.md.
//!
//! `cargo test --features model --test model`. `MODEL_SEED=n` begins elsewhere, `MODEL_SCHEDULES=n` tries n times as
//! many schedules. A failure prints its schedule for `shuttle::replay`.

mod controls;
mod engine;
mod hooks;
mod image;
mod queue;
mod ring;
mod run;
mod sabotage;
mod scenarios;
mod world;

use run::holds;

#[test]
fn writes_are_in_the_image() {
    holds("blocks", scenarios::blocks, 4000);
}

#[test]
fn sizes_and_attributes_are_in_the_image() {
    holds("sizes", scenarios::sizes, 4000);
}

#[test]
fn names_are_in_the_image() {
    holds("names", scenarios::names, 6000);
}

#[test]
fn files_that_move_are_in_the_image() {
    holds("moves", scenarios::moves, 4000);
}

#[test]
fn a_busy_file_is_in_the_image() {
    holds("busy", scenarios::busy, 4000);
}

#[test]
fn changes_that_cannot_be_told_are_in_the_image() {
    holds("blind", scenarios::blind, 2000);
}

#[test]
fn files_that_outgrow_their_bitmap_are_in_the_image() {
    holds("growth", scenarios::growth, 20000);
}

#[test]
fn visits_may_fail() {
    holds("failures", scenarios::failures, 3000);
}

#[test]
fn there_may_be_more_threads_than_slots() {
    holds("crowd", scenarios::crowd, 1000);
}

#[test]
fn asynchronous_writes_are_in_the_image() {
    holds("asynchronous", scenarios::asynchronous, 4000);
}

#[test]
fn requests_may_share_a_tag() {
    holds("shared tags", scenarios::shared_tags, 4000);
}

#[test]
fn those_who_wait_may_open_the_gate() {
    holds("deadline", scenarios::deadline, 4000);
}

#[test]
fn all_of_it_at_once_is_in_the_image() {
    holds("together", scenarios::together, 6000);
}

#[test]
fn capture_may_begin_beside_running_threads() {
    holds("grace", scenarios::grace, 3000);
}
