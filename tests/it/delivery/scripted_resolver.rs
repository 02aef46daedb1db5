//! A DNS resolver with scripted answers.
//!
//! Lets a test choose what a name resolves to at each look-up, as in DNS rebinding. No answer is cached.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hookgate::delivery::{DnsAnswer, DnsResolver, LookupError};

/// Answers look-ups of any name in order; the last answer repeats.
#[derive(Debug)]
pub(crate) struct ScriptedResolver(Mutex<VecDeque<&'static [&'static str]>>);

impl ScriptedResolver {
    /// Each answer is a list of addresses; an empty one is a failure.
    pub(crate) fn script(answers: impl IntoIterator<Item = &'static [&'static str]>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect())))
    }

    /// Answers every look-up from now on.
    pub(crate) fn answer(&self, answer: &'static [&'static str]) {
        *self.0.lock().unwrap() = [answer].into();
    }
}

#[async_trait]
impl DnsResolver for ScriptedResolver {
    async fn lookup(&self, _name: &str) -> DnsAnswer {
        let mut answers = self.0.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0] };
        let address = |text: &&str| SocketAddr::new(text.parse::<IpAddr>().unwrap(), 0);
        let addresses = match next {
            [] => Err(LookupError::Server("Server Failure".to_owned())),
            addresses => Ok(addresses.iter().map(address).collect()),
        };
        DnsAnswer { addresses, ttl: Duration::ZERO }
    }
}
