//! What every background part needs and none should own: the time, the way to stop, the way to
//! be woken.

mod background;
mod clock;
mod lifecycle;
mod load;
mod pulse;
mod wake;

pub use background::Background;
pub use clock::{Clock, Stopwatch};
pub use lifecycle::{Lifecycle, Shutdown};
pub use load::Load;
pub use pulse::Pulse;
pub use wake::Wake;
