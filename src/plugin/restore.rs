//! SET STATEMENT of MariaDB: after its statement it puts each variable back by setting it to its old value, with
//! check and update. That must not run a second backup.
//!
//! All of it happens in one statement, of one number, on one thread. A check that sets the value from before the
//! statement's first SET, after an update (or a refusal) of the same statement, is the putting back; a plain SET
//! that names the variable twice does all its checks before its first update.

use std::cell::Cell;
use std::ffi::c_char;

#[derive(Clone, Copy)]
struct Record {
    statement: u64,
    before: *const c_char,
    over: bool,
    restoring: bool,
}

thread_local! {
    // Without a destructor: it lives in threads of the server.
    static RECORD: Cell<Option<Record>> = const { Cell::new(None) };
}

fn of(statement: u64) -> Option<Record> {
    RECORD.get().filter(|record| record.statement == statement)
}

/// The value before `statement`, when a check that sets `same(value)` now is the putting back.
pub fn value_put_back(statement: u64, same: impl FnOnce(*const c_char) -> bool) -> Option<*const c_char> {
    let record = of(statement).filter(|record| record.over && same(record.before))?;
    RECORD.set(Some(Record { restoring: true, ..record }));
    Some(record.before)
}

/// A check of `statement` begins, the variable being `before`.
pub fn begin(statement: u64, before: *const c_char) {
    if of(statement).is_none() {
        RECORD.set(Some(Record { statement, before, over: false, restoring: false }));
    }
}

/// A check of `statement` has refused, or an update has run.
pub fn over(statement: u64) {
    if let Some(record) = of(statement) {
        RECORD.set(Some(Record { over: true, ..record }));
    }
}

/// Whether the update that runs now is the putting back, told once.
pub fn take_restoring(statement: u64) -> bool {
    let Some(record) = of(statement) else { return false };
    RECORD.set(Some(Record { restoring: false, ..record }));
    record.restoring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_follows_an_update_of_the_same_statement_is_put_back() {
        let (old, new) = (c"/old".as_ptr(), c"/new".as_ptr());
        // SET dir = '/new', dir = '/old': both run.
        begin(1, old);
        assert_eq!(value_put_back(1, |before| before == old), None);
        begin(1, old);
        assert!(!take_restoring(1));
        over(1);
        assert!(!take_restoring(1));
        over(1);
        // SET STATEMENT dir = '/new' FOR ...: the second does not.
        assert_eq!(value_put_back(2, |before| before == new), None);
        begin(2, old);
        assert!(!take_restoring(2));
        over(2);
        assert_eq!(value_put_back(2, |before| before == new), None);
        assert_eq!(value_put_back(2, |before| before == old), Some(old));
        assert!(take_restoring(2));
        assert!(!take_restoring(2));
        // Another statement knows nothing of it.
        assert_eq!(value_put_back(3, |before| before == old), None);
    }
}
