//! The C interface: what it promises, what it refuses, and all that its predecessor crashed on or got silently
//! wrong.
//!
//! Most tests write inside `before_stop_capt_fun`: everything has been copied then, so whatever they change must be
//! seen by capture, or it is missing in the image.

mod arguments;
mod attributes;
mod callbacks;
mod data;
mod descriptors;
mod excluding;
mod extremes;
mod failures;
mod hostile;
mod loading;
mod names;
mod rules;
mod scene;
mod throttling;
mod unseen;
