//! `hookgate health`: whether a server takes events, for the health checks of containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Url};
use serde_json::{Value, json};

use super::CliError;
use super::output::Output;
use crate::config::{parse_host, parse_wait};
use crate::runtime::Stopwatch;

/// How long nothing may have been accepted for a server to count as drained: load balancers need as long to leave it.
const QUIET: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What the command takes. Without `--url` it asks the server that the same settings start.
#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// Base URL of the server, such as https://events.example.com; by default the server on this machine that HOST,
    /// PORT and TLS_CERT describe
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// Address that the server listens on
    #[arg(long, env = "HOST", value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = parse_host)]
    host: IpAddr,
    /// Port that the server listens on
    #[arg(long, env = "PORT", default_value_t = 3000)]
    port: u16,
    /// Set if the server has a certificate; then it is asked by HTTPS
    #[arg(long, env = "TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Fail, too, while events are taken and not stored or delivered
    #[arg(long)]
    strict: bool,
    /// Wait, at most this long, until no event is accepted any more and none waits in the journal to be stored: before
    /// a server is removed together with its journal
    #[arg(long, value_name = "DURATION", conflicts_with = "strict", value_parser = parse_wait)]
    drained: Option<Duration>,
    /// Time for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    timeout: Duration,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Prints what the server answers. Fails when it is not ready, or does not answer.
pub(super) async fn run(args: HealthArgs) -> Result<(), CliError> {
    let base = base_url(&args)?;
    let client = client(&args)?;
    if let Some(most) = args.drained {
        return wait_until_drained(&client, &base.join("/api/health")?, most, args.output).await;
    }
    let mut url = base.join("/health/ready")?;
    url.set_query(args.strict.then_some("strict"));
    let (is_ready, report) = ask(&client, &url).await?;
    if is_ready {
        args.output.write(&report, text)?;
        return Ok(());
    }
    if args.output == Output::Json {
        args.output.write(&report, text)?;
    }
    Err(text(&report).into())
}

fn client(args: &HealthArgs) -> reqwest::Result<Client> {
    // Fails when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .timeout(args.timeout)
        // The certificate is for the server's name, not for this address; nothing secret is sent or believed.
        .tls_danger_accept_invalid_certs(args.url.is_none())
        .build()
}

/// Whether the status is a success, and the answer.
async fn ask(client: &Client, url: &Url) -> Result<(bool, Value), CliError> {
    let report = async {
        let answer = client.get(url.clone()).send().await?;
        let is_ready = answer.status().is_success();
        Ok::<_, reqwest::Error>((is_ready, answer.bytes().await?))
    };
    let (is_ready, body) = report.await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        format!("no answer from {url}: {}", cause.unwrap_or_else(|| error.to_string()))
    })?;
    let report = serde_json::from_slice(&body)
        .map_err(|_| format!("{url} is not Hookgate's: its answer is not JSON"))?;
    Ok((is_ready, report))
}

/// Waits until the journal is empty and nothing was accepted for [`QUIET`].
async fn wait_until_drained(
    client: &Client,
    url: &Url,
    most: Duration,
    output: Output,
) -> Result<(), CliError> {
    let (began, mut quiet_since, mut accepted) = (Stopwatch::start(), Stopwatch::start(), None);
    loop {
        let (_, report) = ask(client, url).await?;
        let waiting = report["queue"]["events"].as_u64().ok_or("the report has no queue")?;
        let total = report["totals"]["ingested"].as_u64();
        if accepted != total || waiting > 0 {
            (quiet_since, accepted) = (Stopwatch::start(), total);
        }
        if quiet_since.elapsed() >= QUIET {
            output.write(&json!({ "status": "drained" }), |_| "drained".to_owned())?;
            return Ok(());
        }
        if began.elapsed() >= most {
            return Err(format!(
                "not drained: {waiting} events wait to be stored, and events are accepted or were less than {} s ago",
                QUIET.as_secs()
            )
            .into());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Where the server of these settings is reached from its own machine.
fn base_url(args: &HealthArgs) -> Result<Url, CliError> {
    if let Some(url) = &args.url {
        return Ok(url.clone());
    }
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let host = match args.host {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.to_string(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => format!("[{}]", Ipv6Addr::LOCALHOST),
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Ok(Url::parse(&format!("{scheme}://{host}:{}", args.port))?)
}

/// `ready`, or `unready: journal poisoned, disk storage_low`.
fn text(report: &Value) -> String {
    let status = report["status"].as_str().unwrap_or("unready");
    let checks = report["checks"].as_object().into_iter().flatten();
    let failing: Vec<String> = checks
        .filter_map(|(check, code)| Some((check, code.as_str()?)))
        .filter(|(_, code)| *code != "ok")
        .map(|(check, code)| format!("{check} {code}"))
        .collect();
    if failing.is_empty() { status.to_owned() } else { format!("{status}: {}", failing.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_checks_are_named() {
        let report = serde_json::json!({
            "status": "unready",
            "checks": {"journal": "full", "disk": "ok", "process": "shutting_down"},
        });
        assert_eq!(text(&report), "unready: journal full, process shutting_down");
        let ready = serde_json::json!({"status": "ready", "checks": {"journal": "ok"}});
        assert_eq!(text(&ready), "ready");
    }

    #[test]
    fn server_is_asked_where_its_settings_have_it_listen() {
        let url = |host: &str, tls: bool| {
            let args = HealthArgs {
                url: None,
                host: host.parse().unwrap(),
                port: 3000,
                tls_cert: tls.then(|| "cert.pem".into()),
                strict: false,
                drained: None,
                timeout: Duration::from_secs(5),
                output: Output::Text,
            };
            base_url(&args).unwrap().to_string()
        };
        assert_eq!(url("0.0.0.0", false), "http://127.0.0.1:3000/");
        assert_eq!(url("::", true), "https://[::1]:3000/");
        assert_eq!(url("10.1.2.3", false), "http://10.1.2.3:3000/");
    }
}
