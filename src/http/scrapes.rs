//! Scrapes of the metrics that come at once share one rendering.
//!
//! `/metrics` needs no key, so its cost must not grow with its callers: one rendering is in progress at a time, and
//! those who came before it began get its text. None gets values from before it asked.

use axum::body::Bytes;
use tokio::sync::Mutex;

use crate::runtime::Stopwatch;

/// The latest rendering.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<Option<Rendering>>);

#[derive(Debug)]
struct Rendering {
    begun: Stopwatch,
    text: Bytes,
}

impl Scrapes {
    /// The text of a rendering that began after this call, perhaps for somebody else.
    ///
    /// # Errors
    /// Those of `render`; the next caller renders again.
    pub(super) async fn text<E>(
        &self,
        render: impl AsyncFnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Bytes, E> {
        let asked = Stopwatch::start();
        let mut latest = self.0.lock().await;
        if let Some(Rendering { begun, text }) = &*latest
            && begun.elapsed() < asked.elapsed()
        {
            return Ok(text.clone());
        }
        let begun = Stopwatch::start();
        let text = Bytes::from(render().await?);
        *latest = Some(Rendering { begun, text: text.clone() });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU8, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn callers_at_once_share_a_rendering_that_began_after_they_asked() {
        let (scrapes, renderings) = (Scrapes::default(), AtomicU8::new(0));
        let gate = Semaphore::new(0);
        let scrape = async || {
            let render = async || {
                let number = renderings.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(vec![number])
            };
            let Ok(text) = scrapes.text(render).await;
            text[0]
        };
        let open = async || {
            while renderings.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(9);
        };
        // The first begins at once; the others came while it was being rendered.
        let (first, second, third, ()) = tokio::join!(scrape(), scrape(), scrape(), open());
        assert_eq!((first, second, third), (0, 1, 1));
        assert_eq!(scrape().await, 2, "what was rendered before is not shown again");
    }
}
