//! The journal: the durable queue between a `202` and the store. [`local`] keeps it in files.

pub mod local;

pub use local::*;
