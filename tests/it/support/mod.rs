//! What the tests stand on.

pub(crate) mod binary;
pub(crate) mod postgres;
pub(crate) mod receiver;
pub(crate) mod server;
