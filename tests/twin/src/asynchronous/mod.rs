//! libaio and liburing, as far as they are used here.

pub mod libaio;
pub mod uring;
