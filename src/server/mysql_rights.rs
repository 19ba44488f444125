//! The rights of the session that takes a backup, for a session of our own on MySQL 8 and later.

use std::ffi::c_void;

use tokudb_backup_abi::common::Thd;

use super::mysql_command::{Services, Session};
use super::symbols::function;

/// A copy of the rights that a session has at this moment, its active roles among them.
pub struct Rights {
    context: *mut c_void,
    destroy: unsafe extern "C" fn(*mut c_void) -> bool,
}

// SAFETY: the copy is ours alone, tied to no thread, and used by one at a time.
unsafe impl Send for Rights {}

impl Rights {
    /// Those of the calling thread's session; `None` where the server does not tell them.
    pub fn of(thd: Thd) -> Option<Rights> {
        type Copy = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> bool;
        let services = Services::find()?;
        // SAFETY: functions of service_security_context.h; false is success.
        let (copy, destroy): (Copy, _) = unsafe {
            (
                function(&[c"_Z21security_context_copyP16Security_contextPS0_", c"security_context_copy"])?,
                function(&[c"_Z24security_context_destroyP16Security_context", c"security_context_destroy"])?,
            )
        };
        let (mut own, mut context) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `thd` is the calling thread's session; the copy is a new object.
        let failed = unsafe { (services.context)(thd, &mut own) || copy(own, &mut context) };
        (!failed && !context.is_null()).then_some(Rights { context, destroy })
    }

    /// The security context itself.
    pub fn context(&self) -> *mut c_void {
        self.context
    }

    /// Gives them to a session of our own for a while.
    pub fn lend<T>(&self, session: &Session, work: impl FnOnce(&Session) -> T) -> Option<T> {
        let services = &session.services;
        let mut own = std::ptr::null_mut();
        // SAFETY: the session is this thread's and runs nothing at the moment; both contexts outlive the work.
        unsafe {
            let thd = (services.session)(session.handle);
            if (services.context)(thd, &mut own) || (services.set_context)(thd, self.context) {
                return None;
            }
            let result = work(session);
            (services.set_context)(thd, own);
            Some(result)
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        // SAFETY: made by `of`, and no session has it any more.
        unsafe { (self.destroy)(self.context) };
    }
}

/// Calls functions of the server with a session of our own as the thread's, what they raise included; `None` when it
/// cannot be attached.
pub fn attached<T>(session: &Session, work: impl FnOnce(Thd) -> T) -> Option<T> {
    let services = &session.services;
    let mut before = Thd::NONE;
    // SAFETY: the session is this thread's, which has no other.
    unsafe {
        if (services.attach)(session.handle, &mut before) != 0 {
            return None;
        }
        let result = work((services.session)(session.handle));
        (services.detach)(session.handle);
        Some(result)
    }
}
