//! How changes are seen: hooks, and attaching them to every loaded object.
