//! A DNS resolver with scripted answers.
//!
//! Lets a test choose what a name resolves to at each look-up, as in DNS rebinding.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hookgate::delivery::DnsResolver;

/// Answers look-ups of any name in order; the last answer repeats.
#[derive(Debug)]
pub(crate) struct ScriptedResolver(Mutex<VecDeque<&'static [&'static str]>>);

impl ScriptedResolver {
    /// Each answer is a list of addresses; an empty one is a failure.
    pub(crate) fn script(
        answers: impl IntoIterator<Item = &'static [&'static str]>,
    ) -> Arc<dyn DnsResolver> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect())))
    }
}

impl DnsResolver for ScriptedResolver {
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
