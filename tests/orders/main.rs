//! The gate and its slots under loom, which tries every value that a load may see under the memory orders that they ask
//! for; tests/model takes all orders as sequentially consistent. See "Memory order" in docs/protocol.md.
//!
//! The sources are those of the library, beside a [`sync`] of their own. Each check is also run with weaker orders (or
//! with a swap in two steps, or a bell that nobody hears), and must fail then.

#[allow(dead_code)]
#[path = "../../src/tracker/gate.rs"]
mod gate;
#[allow(dead_code)]
#[path = "../../src/tracker/slots.rs"]
mod slots;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use gate::Gate;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread::{JoinHandle, spawn};
use slots::Slots;
use sync::{Orders, thread};

/// The clock stands still: a deadline that never comes, and one that is past at once.
const LONG: Duration = Duration::from_millis(100);
const PAST: Duration = Duration::ZERO;

/// What hooks mark, as weakly as can be: only the slot tells the closer of it.
type Marks = Arc<AtomicUsize>;

fn every_execution(orders: Orders, preemptions: usize, scenario: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let begin = std::time::Instant::now();
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = executions.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        sync::set(orders);
        scenario();
    });
    println!("{executions:?} executions, {orders:?}, {:.1} s", begin.elapsed().as_secs_f64());
}

fn new_gate() -> Arc<Gate> {
    let gate = Arc::new(Gate::new(Slots::new()));
    sync::make(&*gate);
    gate
}

/// A thread that makes one call; whether that was let in.
fn caller(number: usize, gate: &Arc<Gate>, marks: &Marks) -> JoinHandle<bool> {
    let (gate, marks) = (gate.clone(), marks.clone());
    spawn(move || {
        thread::call_me(number);
        let pass = gate.enter(c"call");
        if pass.is_some() {
            marks.fetch_add(1, Relaxed);
        }
        pass.is_some()
    })
}

/// Closes the gate once beside so many callers, and ends capture if nobody is inside then.
fn close_once(callers: usize, bound: Duration) {
    close_once_beside(callers, bound, |_| ());
}

/// `before`: what has been done before the others come.
fn close_once_beside(callers: usize, bound: Duration, before: fn(&Gate)) {
    let (gate, marks) = (new_gate(), Marks::default());
    gate.turn_on();
    before(&gate);
    let callers: Vec<_> = (1..=callers).map(|number| caller(number, &gate, &marks)).collect();
    let closure = gate.close(bound).expect("it is open");
    let seen = gate.is_drained().then(|| marks.load(Relaxed));
    let ended = match seen {
        Some(_) => gate.turn_off(closure),
        None => {
            let _ = gate.reopen(closure);
            false
        }
    };
    let let_in = callers.into_iter().map(|caller| caller.join().expect("it ends"));
    let let_in = let_in.filter(|let_in| *let_in).count();
    if ended {
        assert_eq!(seen, Some(let_in), "the image lacks a change");
    }
    assert!(ended || seen.is_none() || bound == PAST, "a closure ended before its deadline");
}

/// One caller with a slot of its own.
fn one_caller() {
    close_once(1, LONG);
}

/// One who finds no slot and takes the counter that is shared.
fn one_caller_without_slot() {
    thread::call_me(usize::MAX);
    close_once_beside(1, LONG, |gate| drop(gate.enter(c"earlier")));
}

fn one_caller_past_the_deadline() {
    close_once(1, PAST);
}

/// The other one finds no slot.
fn two_callers_past_the_deadline() {
    close_once(2, PAST);
}

/// Who was inside and is not any more has left its marks where they can be read.
fn leaving() {
    let (gate, marks) = (new_gate(), Marks::default());
    gate.turn_on();
    let caller = caller(1, &gate, &marks);
    if let Some(inside) = gate.slots().inside().first()
        && !gate.slots().is_still_inside(inside)
    {
        assert_eq!(marks.load(Relaxed), 1, "a mark is not seen");
    }
    assert!(caller.join().expect("it ends"), "the gate is open");
}

/// Whom the engine has seen in this backup is seen in all that it does from then on.
fn beginning() {
    let (gate, marks) = (new_gate(), Marks::default());
    let caller = caller(1, &gate, &marks);
    gate.turn_on();
    let seen = gate.slots().seen().count();
    let let_in = caller.join().expect("it ends");
    assert!(seen == 0 || let_in, "somebody counts as seen whose call was not");
}

/// P1, P20: whoever is let in before T is waited for, or has left and has marked; whoever waits is woken.
#[test]
fn the_closer_sees_who_is_inside_and_what_was_marked() {
    every_execution(Orders::AsWritten, 5, one_caller);
    every_execution(Orders::AsWritten, 5, one_caller_without_slot);
}

/// The store of the slot and the load of the word, and the closer's two, need their one order.
#[test]
#[should_panic(expected = "the image lacks a change")]
fn it_would_not_without_sequential_consistency() {
    every_execution(Orders::AcquireRelease, 5, one_caller);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_lost_wake_up_would_be_noticed() {
    every_execution(Orders::Deaf, 5, one_caller);
}

/// P18: of the closer and a waiter one ends the closure.
#[test]
fn who_waits_past_the_deadline_opens_or_the_closer_ends() {
    every_execution(Orders::AsWritten, 5, one_caller_past_the_deadline);
    every_execution(Orders::AsWritten, 2, two_callers_past_the_deadline);
}

#[test]
#[should_panic(expected = "the image lacks a change")]
fn both_would_with_a_swap_in_two_steps() {
    every_execution(Orders::TornSwap, 5, one_caller_past_the_deadline);
}

/// P1: marks are published by leaving alone.
#[test]
fn who_has_left_has_marked() {
    every_execution(Orders::AcquireRelease, 5, leaving);
}

#[test]
#[should_panic(expected = "a mark is not seen")]
fn it_would_not_be_seen_with_relaxed_stores() {
    every_execution(Orders::RelaxedStores, 5, leaving);
}

/// P15: a slot has noted the new epoch only if the gate was on.
#[test]
fn whoever_counts_as_seen_was_let_in() {
    every_execution(Orders::AsWritten, 5, beginning);
}

#[test]
#[should_panic(expected = "somebody counts as seen whose call was not")]
fn some_would_not_with_relaxed_orders() {
    every_execution(Orders::Relaxed, 5, beginning);
}
