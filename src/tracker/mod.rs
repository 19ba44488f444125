//! The meeting point of capture and engine: dirty ranges by inode, dirty directories, the gate.
