//! The hosts of a PostgreSQL database: which of them takes writes now.
//!
//! `DATABASE_URL` may name several hosts, as libpq's does. sqlx connects to one, so this finds the one that takes
//! writes and gives it to the pools. With several hosts it keeps a connection of its own and looks at it once a
//! second; when that is lost or turns read only, it tries the hosts in turn.

use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Postgres};
use tokio::time::timeout;

use super::session::ANSWER_MAX;
use super::split::Pools;
use crate::store::error::PlainError;
use crate::store::{Result, error};

/// Time between two looks at the host in use.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The parameter of the URL that says what sessions must be.
const TARGET: &str = "target_session_attrs";

/// The hosts that a URL names.
#[derive(Debug)]
pub(super) struct DatabaseHosts {
    candidates: Vec<PgConnectOptions>,
    /// Whether a host that takes no writes is none.
    must_write: bool,
    current: AtomicUsize,
}

impl DatabaseHosts {
    /// Reads a URL such as `postgres://user@one:5432,two:5433/database?target_session_attrs=read-write`. `settings`
    /// adds what every connection has.
    pub(super) fn parse(
        url: &str,
        settings: impl Fn(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<Self, sqlx::Error> {
        let (urls, target) = split(url)?;
        let must_write = match target.as_deref() {
            None => urls.len() > 1,
            Some("any") => false,
            Some("read-write" | "primary") => true,
            Some(_) => {
                let text = "target_session_attrs must be read-write, primary or any";
                return Err(sqlx::Error::Configuration(text.into()));
            }
        };
        let parse = |url: &String| PgConnectOptions::from_str(url).map(&settings);
        let candidates = urls.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { candidates, must_write, current: AtomicUsize::new(0) })
    }

    /// Whether a connection that takes no writes is refused.
    pub(super) const fn must_write(&self) -> bool {
        self.must_write
    }

    /// The options of the host in use.
    pub(super) fn current(&self) -> PgConnectOptions {
        let current = self.current.load(Ordering::Relaxed);
        self.candidates.get(current).cloned().unwrap_or_default()
    }

    pub(super) const fn are_several(&self) -> bool {
        self.candidates.len() > 1
    }

    /// The options of the host that takes writes now. Looks for it where there are several.
    pub(super) async fn found(&self) -> PgConnectOptions {
        if self.are_several() {
            drop(self.find().await);
        }
        self.current()
    }

    /// Finds a host that takes writes, from the one in use on, and a connection to it.
    pub(super) async fn find(&self) -> Option<PgConnection> {
        let count = self.candidates.len();
        let current = self.current.load(Ordering::Relaxed);
        for number in (0..count).map(|step| (current + step) % count) {
            let Some(options) = self.candidates.get(number) else { continue };
            let connecting = async {
                let mut connection = options.connect().await?;
                let fits = !self.must_write || takes_writes(&mut connection).await?;
                Ok::<_, sqlx::Error>(fits.then_some(connection))
            };
            match timeout(ANSWER_MAX, connecting).await {
                Ok(Ok(Some(connection))) => {
                    if number != current {
                        self.current.store(number, Ordering::Relaxed);
                        tracing::warn!(
                            host = options.get_host(),
                            "the database is at another host now"
                        );
                        // Sessions with the host before are looked at before they are used.
                        error::suspect_sessions();
                    }
                    return Some(connection);
                }
                Ok(Ok(None)) => tracing::debug!(host = options.get_host(), "takes no writes"),
                Ok(Err(error)) => {
                    let error = PlainError(&error);
                    tracing::debug!(host = options.get_host(), %error, "no database");
                }
                Err(_) => tracing::debug!(host = options.get_host(), "does not answer"),
            }
        }
        None
    }

    /// Keeps the pools at the host that takes writes, until they are dropped.
    pub(super) async fn follow(self: Arc<Self>, pools: Weak<Pools<Postgres>>) {
        let mut looking: Option<PgConnection> = None;
        loop {
            let fits = match &mut looking {
                None => false,
                Some(connection) => {
                    matches!(timeout(ANSWER_MAX, takes_writes(connection)).await, Ok(Ok(true)))
                }
            };
            if !fits {
                looking = self.find().await;
                let Some(pools) = pools.upgrade() else { return };
                pools.connect_to(&self.current());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            if pools.upgrade().is_none_or(|pools| pools.general.is_closed()) {
                break;
            }
        }
        if let Some(connection) = looking {
            // The other side notices it anyway.
            let _ = connection.close().await;
        }
    }
}

/// Whether a session takes writes: neither on a standby, nor made read only.
pub(super) async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only: String = sqlx::query_scalar("SELECT current_setting('transaction_read_only')")
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(read_only == "off")
}

/// A URL for each host, and what the sessions are to be.
fn split(url: &str) -> Result<(Vec<String>, Option<String>), sqlx::Error> {
    let malformed = || sqlx::Error::Configuration("it is not a URL".into());
    let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (mut target, mut kept) = (None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some((TARGET, value)) => target = Some(value.to_owned()),
            _ => kept.push(parameter),
        }
    }
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let one = |host: &str| format!("{scheme}://{user}{host}{path}{query}");
    Ok((hosts.split(',').map(one).collect(), target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_with_several_hosts_is_one_for_each() {
        let url = "postgres://u:p%40@one:1,[::1]:2/db?sslmode=require&target_session_attrs=any";
        let (urls, target) = split(url).unwrap();
        let expected = [
            "postgres://u:p%40@one:1/db?sslmode=require",
            "postgres://u:p%40@[::1]:2/db?sslmode=require",
        ];
        assert_eq!((urls, target.as_deref()), (expected.map(str::to_owned).to_vec(), Some("any")));
        assert_eq!(split("postgres:///db").unwrap().0, ["postgres:///db"]);
        assert!(split("one").is_err());
    }

    #[test]
    fn several_hosts_must_take_writes_unless_told_otherwise() {
        let must_write =
            |url: &str| DatabaseHosts::parse(url, |options| options).map(|of| of.must_write());
        assert!(must_write("postgres://one,two/db").unwrap());
        assert!(!must_write("postgres://one,two/db?target_session_attrs=any").unwrap());
        assert!(!must_write("postgres://one/db").unwrap());
        assert!(must_write("postgres://one/db?target_session_attrs=primary").unwrap());
        assert!(must_write("postgres://one/db?target_session_attrs=standby").is_err());
    }
}
