//! What the log tells at the start: what the server works with, and what of it is unsafe.

use std::fs;
use std::path::Path;

use url::Url;

use crate::config::{Config, days};

/// Bits of a file's mode that let others than its owner in.
const OTHERS: u32 = 0o077;

/// Logs what the server works with.
pub(super) fn log(config: &Config) {
    let Config { store, server, limit, journal, retention, .. } = config;
    tracing::info!(
        store = store.database_url.as_deref().map_or_else(
            || store.sqlite_path().display().to_string(),
            without_password,
        ),
        data_dir = %store.data_dir.display(),
        events_per_minute = limit.rate_limit_per_minute,
        journal_max_mib = journal.journal_max_mib,
        connections_max = server.connections_max,
        "starting"
    );
    let kept = |span: Option<std::time::Duration>| match span {
        Some(span) => format!("{}d", days(span)),
        None => "for ever".to_owned(),
    };
    tracing::info!(
        events = kept(retention.retention),
        payloads = kept(retention.payload_retention.or(retention.retention)),
        dead_letters = kept(retention.dead_letter_retention.or(retention.retention)),
        rollups = kept(retention.rollup_retention),
        replays = kept(retention.replay_retention),
        keys = kept(retention.key_retention),
        audit_log = kept(retention.audit_retention),
        "what is kept; an organisation may have times of its own"
    );
    for text in unsafe_settings(config) {
        tracing::warn!("unsafe: {text}");
    }
}

/// What of the settings is unsafe, and what to do about it.
pub(super) fn unsafe_settings(config: &Config) -> Vec<String> {
    let Config { store, server, .. } = config;
    let mut found = Vec::new();
    if !server.host.to_canonical().is_loopback() && server.tls_cert.is_none() {
        found.push(format!(
            "with HOST={} keys and events cross the network in clear; set TLS_CERT and TLS_KEY, or have a proxy speak TLS",
            server.host
        ));
    }
    if config.delivery.destinations.allow_private_endpoints {
        let text =
            "ALLOW_PRIVATE_ENDPOINTS lets tenants send webhooks to this machine and its network";
        found.push(text.to_owned());
    }
    if store.secrets_key.is_none() {
        found.push("SECRETS_KEY is not set; endpoint secrets are stored in clear".to_owned());
    }
    let paths = [store.data_dir.clone(), store.journal_dir(), store.sqlite_path()];
    found.extend(paths.iter().filter_map(|path| open_to_others(path)));
    found
}

/// Tells if others than the owner can read or write a path.
fn open_to_others(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode() & 0o777;
    let wanted = if metadata.is_dir() { "700" } else { "600" };
    let text = || {
        let path = path.display();
        format!("other users of this machine get into {path} (mode {mode:o}); chmod it to {wanted}")
    };
    (mode & OTHERS != 0).then(text)
}

/// Hosts, ports and database of a URL, which may hold a password in several places.
fn without_password(url: &str) -> String {
    // A socket, or nothing that is understood.
    shown(url).unwrap_or_else(|| "the database in DATABASE_URL".to_owned())
}

fn shown(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let mut named = Vec::new();
    let mut path = String::new();
    // One URL for each host: several are no URL.
    for host in hosts.split(',') {
        let url = Url::parse(&format!("{scheme}://{host}{rest}")).ok()?;
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        named.push(format!("{}{port}", url.host_str().filter(|host| !host.is_empty())?));
        url.path().clone_into(&mut path);
    }
    Some(format!("{scheme}://{}{path}", named.join(",")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn database_is_named_without_password() {
        let shown = without_password("postgres://me:secret@db.example:5433/hooks?password=secret");
        assert_eq!(shown, "postgres://db.example:5433/hooks");
        let several = "postgres://me:a,b%40@one:5432,two,[::1]:7/hooks?target_session_attrs=any";
        assert_eq!(without_password(several), "postgres://one:5432,two,[::1]:7/hooks");
        for unclear in ["postgres:secret", "postgres://me:secret", "postgres:///secret", "secret"] {
            assert_eq!(without_password(unclear), "the database in DATABASE_URL", "{unclear}");
        }
    }

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn clear_text_is_unsafe_on_every_address_that_others_reach() {
        let warns = |flags: &[&str]| {
            let Flags { config } = Flags::parse_from([&["hookgate"], flags].concat());
            unsafe_settings(&config).iter().any(|text| text.contains("in clear; set TLS_CERT"))
        };
        for host in ["0.0.0.0", "::", "203.0.113.5", "10.0.0.1", "2001:db8::5", "fe80::1"] {
            assert!(warns(&["--host", host]), "{host}");
            let tls = ["--host", host, "--tls-cert", "cert.pem", "--tls-key", "key.pem"];
            assert!(!warns(&tls), "{host} with TLS");
        }
        for host in ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "localhost"] {
            assert!(!warns(&["--host", host]), "{host}");
        }
    }
}
