//! Names that a test makes up.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hookgate::delivery::NameLookup;

/// Answers look-ups of any name one after the other; the last answer stays.
#[derive(Debug)]
pub(crate) struct Names(Mutex<VecDeque<&'static [&'static str]>>);

impl Names {
    /// Each answer is a list of addresses; an empty one is a failure.
    pub(crate) fn script(
        answers: impl IntoIterator<Item = &'static [&'static str]>,
    ) -> Arc<dyn NameLookup> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect())))
    }
}

impl NameLookup for Names {
    fn addresses(&self, _name: &str) -> io::Result<Vec<SocketAddr>> {
        let mut answers = self.0.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] };
        if next.is_empty() {
            return Err(io::Error::other("name server failure"));
        }
        let address = |text: &&str| SocketAddr::new(text.parse::<IpAddr>().unwrap(), 0);
        Ok(next.iter().map(address).collect())
    }
}
