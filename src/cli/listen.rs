//! `hookgate listen`: a receiver for trials.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use clap::Args;
use tokio::net::TcpListener;

use super::CliError;
use super::output::print_line;
use crate::delivery::Verifier;
use crate::domain::Timestamp;
use crate::runtime::Clock;

/// A webhook's timestamp may be this far from now: the tolerance of the Standard Webhooks libraries.
const TOLERANCE_SECONDS: u64 = 5 * 60;

#[derive(Args, Debug)]
pub(super) struct ListenArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The endpoint's secret, or its public key (whpk_…); signatures are not checked if unset
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_name = "whsec_…")]
    secret: Option<Verifier>,
    /// Status that answers every webhook, for example 500 to try retries
    #[arg(long, default_value_t = 204, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
}

#[derive(Clone)]
struct Receiver {
    secret: Option<Verifier>,
    status: StatusCode,
    clock: Clock,
}

/// Receives webhooks until it is interrupted.
pub(super) async fn run(args: ListenArgs) -> Result<(), CliError> {
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    print_line(&format!("listening on http://{}/", listener.local_addr()?))?;
    let status = StatusCode::from_u16(args.status)?;
    let receiver = Receiver { secret: args.secret, status, clock: Clock::system() };
    let router = Router::new().fallback(receive).with_state(receiver);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let verdict = receiver.verdict(&headers, &body);
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or("no webhook-id");
    let line = format!("{id}  {verdict}\n{}", String::from_utf8_lossy(&body));
    match print_line(&line) {
        Ok(()) => receiver.status,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Receiver {
    fn verdict(&self, headers: &HeaderMap, body: &[u8]) -> String {
        let Some(secret) = &self.secret else {
            return "signature not checked; set --secret".to_owned();
        };
        match verify(secret, headers, body, self.clock.now()) {
            Ok(()) => "signature valid".to_owned(),
            Err(why) => format!("SIGNATURE INVALID: {why}"),
        }
    }
}

/// Checks a webhook as a receiver must: the signature, and that it is recent.
fn verify(
    secret: &Verifier,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), String> {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| format!("no {name}"))
    };
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let signatures = header("webhook-signature")?;
    let sent: i64 = timestamp.parse().map_err(|_| "webhook-timestamp is not a number")?;
    if sent.abs_diff(now.seconds()) > TOLERANCE_SECONDS {
        return Err("webhook-timestamp differs from the clock by more than five minutes".to_owned());
    }
    if secret.holds(signatures, id, timestamp, body) {
        Ok(())
    } else {
        Err("it was made with another secret, or the body was changed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::sign;
    use crate::domain::SigningSecret;

    fn signed(secret: &SigningSecret, at: i64, body: &[u8]) -> HeaderMap {
        let at = at.to_string();
        let signature = format!("v1,bm9uZQ== {}", sign(secret, "msg", &at, body));
        let headers =
            [("webhook-id", "msg"), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
        headers
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    #[test]
    fn only_recent_webhook_with_the_right_secret_is_valid() {
        let secret = SigningSecret::generate().unwrap();
        let other = SigningSecret::generate().unwrap();
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let headers = signed(&secret, 1_700_000_299, b"body");
        let late = signed(&secret, 1_700_000_301, b"body");
        let (secret, other) = (Verifier::Secret(secret), Verifier::Secret(other));
        assert_eq!(verify(&secret, &headers, b"body", now), Ok(()));
        assert!(verify(&other, &headers, b"body", now).is_err());
        assert!(verify(&secret, &headers, b"bode", now).is_err());
        assert!(verify(&secret, &late, b"body", now).is_err());
        assert!(
            verify(&secret, &HeaderMap::new(), b"body", now).unwrap_err().contains("webhook-id")
        );
    }
}
