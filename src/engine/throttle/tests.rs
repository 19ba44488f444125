//! On a virtual clock the tests are exact; on the real one only what cannot depend on the machine's load is checked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;

use super::*;

const MB: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Time passes only when every thread that takes part waits, and then goes straight to the first deadline.
struct Virtual {
    state: Mutex<State>,
    turn: Condvar,
    /// A wait on a word ends up to so many nanoseconds after its time.
    late: u64,
}

struct State {
    now: u64,
    /// Threads that take part and do not wait.
    running: usize,
    /// Of those that wait: until when, and whether they sit on the throttle's word.
    waiting: BTreeMap<usize, (u64, bool)>,
    next: usize,
}

impl Virtual {
    fn new(threads: usize) -> Self {
        let state = State { now: SECOND, running: threads, waiting: BTreeMap::new(), next: 0 };
        Virtual { state: Mutex::new(state), turn: Condvar::new(), late: 0 }
    }

    fn advance(&self, state: &mut State) {
        if state.running > 0 {
            return;
        }
        let Some(first) = state.waiting.values().map(|&(until, _)| until).min() else { return };
        state.now = state.now.max(first);
        let before = state.waiting.len();
        state.waiting.retain(|_, &mut (until, _)| until > first);
        state.running += before - state.waiting.len();
        self.turn.notify_all();
    }

    fn sleep(&self, until: u64, word: Option<(&AtomicU32, u32)>) {
        let mut state = self.state.lock().unwrap();
        if state.now >= until || word.is_some_and(|(word, seen)| word.load(Ordering::Acquire) != seen) {
            return;
        }
        let me = state.next;
        state.next += 1;
        state.running -= 1;
        let late = if word.is_some() && self.late > 0 { me as u64 * 7_654_321 % self.late } else { 0 };
        state.waiting.insert(me, (until + late, word.is_some()));
        self.advance(&mut state);
        while state.waiting.contains_key(&me) {
            state = self.turn.wait(state).unwrap();
        }
    }

    /// This thread takes part no more.
    fn leave(&self) {
        let mut state = self.state.lock().unwrap();
        state.running -= 1;
        self.advance(&mut state);
    }
}

impl Clock for Virtual {
    fn now(&self) -> u64 {
        self.state.lock().unwrap().now
    }
    fn wait(&self, word: &AtomicU32, expected: u32, until: u64) {
        self.sleep(until, Some((word, expected)));
    }
    fn wake(&self, _: &AtomicU32) {
        let mut state = self.state.lock().unwrap();
        let before = state.waiting.len();
        state.waiting.retain(|_, &mut (_, on_word)| !on_word);
        state.running += before - state.waiting.len();
        self.turn.notify_all();
    }
}

/// What was taken, and when: (time, bytes) in the order of time.
type Log = Vec<(u64, u64)>;

/// `threads` copiers take `blocks` until `nanos` have passed; `at` lists (time, rate): rates set meanwhile.
fn run(rate: u64, threads: usize, blocks: &[u64], nanos: u64, at: &[(u64, u64)]) -> Log {
    run_late(0, rate, threads, blocks, nanos, at)
}

/// The same on a clock on which every wait for bytes ends up to `late` nanoseconds after its time.
fn run_late(late: u64, rate: u64, threads: usize, blocks: &[u64], nanos: u64, at: &[(u64, u64)]) -> Log {
    let throttle = Throttle::new(Virtual { late, ..Virtual::new(threads + 1) });
    let clock = &throttle.clock;
    throttle.set_rate(rate);
    let log = Mutex::new(Vec::new());
    let end = SECOND + nanos;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let over = || throttle.clock.now() >= end;
                for &block in blocks.iter().cycle() {
                    if !throttle.take(block, &over) {
                        break;
                    }
                    log.lock().unwrap().push((throttle.clock.now() - SECOND, block));
                }
                clock.leave();
            });
        }
        scope.spawn(|| {
            for &(time, rate) in at {
                clock.sleep(SECOND + time, None);
                throttle.set_rate(rate);
            }
            clock.leave();
        });
    });
    let mut log = log.into_inner().unwrap();
    log.sort_unstable();
    log
}

fn total(log: &Log, from: u64, to: u64) -> u64 {
    log.iter().filter(|(time, _)| (from..to).contains(time)).map(|(_, bytes)| bytes).sum()
}

#[track_caller]
fn assert_within(percent: f64, bytes: u64, expected: u64) {
    let off = (bytes as f64 / expected as f64 - 1.0) * 100.0;
    assert!(off.abs() <= percent, "{bytes} bytes are {off:.2} % off {expected}");
}

/// Over any stretch of time no more than its share, a burst of 50 ms and a block of each thread.
#[track_caller]
fn assert_bound(log: &Log, rate: u64, threads: u64, block: u64) {
    let mut sum = 0u64;
    // The lowest of (bytes before - rate * time) so far: what a window that begins there has for free.
    let mut lowest = 0i128;
    for &(time, bytes) in log {
        let due = i128::from(rate) * i128::from(time) / i128::from(SECOND);
        lowest = lowest.min(i128::from(sum) - due);
        sum += bytes;
        let above = i128::from(sum) - due - lowest;
        let allowed = i128::from(rate / 20 + threads * block);
        assert!(above <= allowed, "{above} bytes above the rate at {time} ns, {allowed} are allowed");
    }
}

#[test]
fn the_rate_is_kept() {
    for rate in [MB, 10 * MB, 100 * MB, 1000 * MB] {
        for threads in 1..=4 {
            for block in [4096, 256 << 10, 1 << 20] {
                if rate / block > 100_000 {
                    continue;
                }
                let nanos = 2 * SECOND;
                let log = run(rate, threads, &[block], nanos, &[]);
                assert_bound(&log, rate, threads as u64, block);
                // A block is complete some time after its first slice: each thread may hold one unfinished.
                let bytes = total(&log, 0, nanos) + threads as u64 * block / 2;
                let slack = 2.0 + threads as f64 * block as f64 * 50.0 / (rate as f64 * 2.0);
                assert_within(slack, bytes, rate * 2);
            }
        }
    }
}

#[test]
fn sleepers_that_wake_late_catch_up() {
    for rate in [MB, 30 * MB, 1000 * MB] {
        for threads in [1, 3] {
            let log = run_late(9_000_000, rate, threads, &[16 << 10], 2 * SECOND, &[]);
            assert_bound(&log, rate, threads as u64, 16 << 10);
            assert_within(4.0, total(&log, 0, 2 * SECOND), rate * 2);
        }
    }
}

#[test]
fn many_small_files_keep_the_rate() {
    // 1-byte to 4 KiB files at 50 MB/s: no rounding in anybody's favour, no clock that starts anew with a file.
    let log = run(50 * MB, 2, &[1, 13, 700, 4096, 200], 2 * SECOND, &[]);
    assert_bound(&log, 50 * MB, 2, 4096);
    assert_within(2.0, total(&log, 0, 2 * SECOND), 100 * MB);
    // The peer took 4.01 s where its bound of 1 MB/s meant nothing: 20 files of 200 kB.
    let log = run(MB, 1, &[200_000], 4 * SECOND, &[]);
    assert_within(2.0, total(&log, 0, 4 * SECOND + 1), 4 * MB);
}

#[test]
fn idle_time_is_not_saved_up() {
    let throttle = Throttle::new(Virtual::new(1));
    throttle.set_rate(100 * MB);
    for _ in 0..3 {
        let start = throttle.clock.now();
        assert!(throttle.take(100 * MB, &|| false));
        let took = throttle.clock.now() - start;
        assert!((SECOND * 96 / 100..=SECOND).contains(&took), "100 MB took {took} ns");
        throttle.clock.sleep(throttle.clock.now() + 10 * SECOND, None);
    }
}

#[test]
fn a_new_rate_acts_at_once() {
    let changes = [(SECOND, 100 * MB), (2 * SECOND, 5 * MB), (4 * SECOND, 1000 * MB)];
    let log = run(10 * MB, 3, &[64 << 10], 5 * SECOND, &changes);
    assert_within(5.0, total(&log, 0, SECOND), 10 * MB);
    assert_within(3.0, total(&log, SECOND, 2 * SECOND), 100 * MB);
    assert_within(5.0, total(&log, 2 * SECOND + SECOND / 20, 4 * SECOND), 5 * MB * 195 / 100);
    assert_within(3.0, total(&log, 4 * SECOND, 5 * SECOND), 1000 * MB);
}

#[test]
fn from_a_crawl_to_full_speed() {
    // At one byte a second a byte costs a second; the debt does not outlive the rate.
    let log = run(1, 2, &[1000], 2 * SECOND, &[(SECOND / 2, 10 * MB)]);
    assert_eq!(total(&log, 0, SECOND / 2), 0);
    assert_within(5.0, total(&log, SECOND / 2, 2 * SECOND), 15 * MB);
}

#[test]
fn paused_and_resumed() {
    let changes = [(SECOND, 0), (3 * SECOND, 20 * MB), (4 * SECOND, 0)];
    let log = run(20 * MB, 4, &[100_000], 5 * SECOND, &changes);
    assert_within(5.0, total(&log, 0, SECOND), 20 * MB);
    assert_eq!(total(&log, SECOND + SECOND / 20, 3 * SECOND), 0, "copied while paused");
    assert_within(5.0, total(&log, 3 * SECOND, 4 * SECOND), 20 * MB);
    assert_eq!(total(&log, 4 * SECOND + SECOND / 20, 5 * SECOND), 0, "copied while paused");
}

#[test]
fn stops_within_fifty_milliseconds() {
    for rate in [0, 1, 1000, MB] {
        let throttle = Throttle::new(Virtual::new(1));
        throttle.set_rate(rate);
        let stop_at = SECOND + 777_777_777;
        assert!(!throttle.take(1 << 40, &|| throttle.clock.now() >= stop_at));
        let late = throttle.clock.now() - stop_at;
        assert!(late <= 50_000_000, "stopped {late} ns late at rate {rate}");
    }
}

#[test]
fn no_bound_does_not_wait() {
    let throttle = Throttle::new(Virtual::new(1));
    assert_eq!(throttle.rate(), UNBOUNDED);
    assert!(throttle.take(u64::MAX, &|| false));
    assert_eq!(throttle.clock.now(), SECOND);
    throttle.set_rate(UNBOUNDED - 1);
    assert!(throttle.take(u64::MAX / 64, &|| false));
    assert!(throttle.clock.now() < SECOND + SECOND / 16);
    throttle.set_rate(0);
    assert!(throttle.is_paused());
    assert!(throttle.take(0, &|| false), "nothing to take is never held up");
}

#[test]
fn the_real_clock_keeps_the_bound() {
    let throttle = Throttle::new(Monotonic);
    let rate = 200 * MB;
    throttle.set_rate(rate);
    let start = Monotonic.now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    assert!(throttle.take(50_000, &|| false));
                }
            });
        }
    });
    let took = Monotonic.now() - start;
    // 100 MB: half a second, less a burst of 30 ms. How much more it may take depends on the machine's load.
    assert!(took >= SECOND * 47 / 100, "100 MB at 200 MB/s took {took} ns only");
    println!("100 MB at 200 MB/s by two threads, 50 kB each time: {took} ns");
}

#[test]
fn the_real_clock_wakes_sleepers() {
    let throttle = Throttle::new(Monotonic);
    throttle.set_rate(0);
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        let copier = scope.spawn(|| {
            throttle.take(1 << 30, &|| {
                begun.store(true, Ordering::Release);
                false
            })
        });
        while !begun.load(Ordering::Acquire) {
            thread::yield_now();
        }
        throttle.set_rate(UNBOUNDED);
        assert!(copier.join().unwrap());
    });

    // A wait on a word that is not what is expected does not wait, nor does one for a time that has passed.
    let word = AtomicU32::new(1);
    Monotonic.wait(&word, 0, u64::MAX);
    Monotonic.wait(&word, 1, Monotonic.now());
    // A woken sleeper comes back long before its time.
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while word.load(Ordering::Acquire) == 1 {
                Monotonic.wait(&word, 1, Monotonic.now() + 3600 * SECOND);
            }
        });
        word.store(2, Ordering::Release);
        Monotonic.wake(&word);
        sleeper.join().unwrap();
    });
}
