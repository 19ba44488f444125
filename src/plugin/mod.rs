//! What the server sees of us.
