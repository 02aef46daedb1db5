//! Gates: tasks that wait until something they need is there.

use tokio_util::sync::CancellationToken;

/// A gate that is opened once. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(CancellationToken);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it.
    pub fn open(&self) {
        self.0.cancel();
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once it is open.
    pub async fn opened(&self) {
        self.0.cancelled().await;
    }
}
