//! What we ask of the server.
