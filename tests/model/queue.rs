//! The queue of marked entries alone, so small that every schedule is tried; and the gate alone, with those who
//! wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::DfsScheduler;
use shuttle::{Config, Runner, thread};
use tokudb_backup::tracker::sync::model::deafen;
use tokudb_backup::tracker::{Entry, Key, Kind, Marks, Tracker, tracker};

use crate::run::{holds, notices};
use crate::sabotage::Sabotage;

fn every_schedule(name: &str, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let begin = std::time::Instant::now();
    let schedules = Runner::new(DfsScheduler::new(None, false), config).run(scenario);
    println!("{name}: all {schedules} schedules, {:.1} s", begin.elapsed().as_secs_f64());
    assert!(schedules > 10, "threads must meet");
}

fn entries(tracker: &'static Tracker, count: u64) -> Vec<&'static Entry> {
    tracker.begin();
    let key = |ino| Key { dev: 1, ino };
    (0..count).filter_map(|ino| tracker.register(key(ino), Kind::File, 0)).collect()
}

fn take(tracker: &'static Tracker) -> Vec<Key> {
    let mut taken = Vec::new();
    // First the whole queue, then the marks, as the engine does.
    let mut queue = Vec::new();
    tracker.take_queue(|entry| queue.push(entry));
    for entry in queue {
        if !entry.take_marks().is_empty() {
            taken.push(entry.key);
        }
    }
    taken
}

/// One thread marks an entry that is, or is not, in the queue, while the engine takes the queue twice.
fn mark_and_take(queued: bool) {
    let tracker = tracker();
    let entry = entries(tracker, 1)[0];
    if queued {
        let _ = entry.take_marks();
    } else {
        assert_eq!(take(tracker).len(), 1);
    }
    let marker = thread::spawn(move || tracker.put_back(entry, None, Marks::ATTRIBUTES));
    let mut taken = take(tracker).len() + take(tracker).len();
    marker.join().expect("it ends");
    taken += take(tracker).len();
    assert_eq!((taken, entry.is_marked()), (1, false), "a mark is taken once, whenever it was set");
    assert!(tracker.end(Duration::from_secs(1)));
}

/// Entries are marked again, and so linked again, while the list they were in is being walked.
fn mark_and_walk() {
    let tracker = tracker();
    let both = entries(tracker, 2);
    for entry in &both {
        let _ = entry.take_marks();
    }
    let marker = thread::spawn({
        let both = both.clone();
        move || both.iter().for_each(|entry| tracker.put_back(entry, None, Marks::ATTRIBUTES))
    });
    let mut taken = take(tracker);
    marker.join().expect("it ends");
    taken.extend(take(tracker));
    taken.sort();
    assert_eq!(taken, both.iter().map(|entry| entry.key).collect::<Vec<_>>());
    assert!(tracker.end(Duration::from_secs(1)));
}

#[test]
fn a_mark_is_in_the_queue_until_it_is_taken() {
    every_schedule("not queued", || mark_and_take(false));
    every_schedule("queued", || mark_and_take(true));
}

#[test]
fn a_list_may_be_walked_while_its_entries_are_queued_again() {
    every_schedule("walked", mark_and_walk);
}

/// Callers come and go while the gate is closed, opened and closed again. Time stands still: whoever is not woken
/// sleeps for ever.
fn gate(_: Sabotage) {
    let tracker = tracker();
    tracker.begin();
    let inside = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let inside = inside.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    if let Some(_pass) = tracker.enter(c"call") {
                        inside.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    let gate = tracker.gate();
    for _ in 0..3 {
        let closure = gate.close(Duration::from_millis(100)).expect("it is open");
        while !gate.is_drained() {
            thread::yield_now();
        }
        for _ in 0..thread_rng().gen_range(0..5) {
            assert_eq!(inside.load(Ordering::SeqCst), 0, "nobody is inside");
            thread::yield_now();
        }
        assert!(gate.reopen(closure), "time stands still");
    }
    let closure = gate.close(Duration::from_millis(100)).expect("it is open");
    assert!(gate.turn_off(closure), "time stands still");
    assert!(tracker.end(Duration::from_secs(1)));
    callers.into_iter().for_each(|caller| caller.join().expect("it ends"));
}

fn gate_without_bell(sabotage: Sabotage) {
    deafen();
    gate(sabotage);
}

#[test]
fn whoever_waits_is_woken() {
    holds("gate", gate, 6000);
}

#[test]
fn a_lost_wake_up_would_be_noticed() {
    notices(Sabotage::NoWakeUp, gate_without_bell, 20000);
}
