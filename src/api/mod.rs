//! What the product does for its callers, whichever way they come: HTTP, command line, console.
//!
//! # Purpose
//! One function per use case, one file per resource. Callers parse, call and answer: HTTP routes from
//! requests to status codes, commands from arguments to text. Rules that hold for both live here.
//!
//! # Operation
//! A use case takes the [`Subsystems`], the organisation or a [`CallerReach`] within it, what is asked, and the [`Actor`] for the
//! audit log. It calls the store, tells the running server what changed, and returns domain types;
//! [`views`] are what callers show of them.
//!
//! # Failure
//! A [`Refusal`] says why nothing was done. The command line prints it; HTTP maps it to a problem.
//!
//! **Invariant:** nothing here knows of HTTP, arguments or output formats.
//!
//! [`Actor`]: crate::domain::Actor

pub mod accounts;
pub mod analytics;
pub mod audit;
pub mod changes;
pub mod dead_letters;
pub mod deliveries;
pub mod endpoints;
pub mod erasures;
pub mod events;
pub mod inbox;
pub mod keys;
pub mod orgs;
pub mod portal;
mod reach;
mod refusal;
pub mod replays;
pub mod seeding;
pub mod servers;
mod subsystems;
pub mod views;

pub use reach::CallerReach;
pub use refusal::{Missing, Refusal};
pub use subsystems::{RunningServer, Subsystems};
