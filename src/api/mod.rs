//! What the product does for its callers, whichever way they come: HTTP, command line, console.
//!
//! [`views`] are the answers: what a caller reads of each resource.

pub mod views;
