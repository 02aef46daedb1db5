//! A webhook receiver in Rust, with axum and the Standard Webhooks library.
//!
//!     WEBHOOK_SECRET=whsec_… cargo run --example receiver-axum
//!
//! It verifies the signature, handles each `webhook-id` once, and answers 204.

#![allow(clippy::print_stdout, reason = "shows what it receives")]

use std::collections::HashSet;
use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;

/// What requests share.
struct Receiver {
    webhook: Webhook,
    /// Ids of handled webhooks. A real receiver keeps them in its database for a week or longer: it
    /// inserts the id, under a unique index, in the transaction that does the work.
    handled: Mutex<HashSet<String>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let webhook = Webhook::new(&env::var("WEBHOOK_SECRET")?)?;
    let port = env::var("PORT").unwrap_or_else(|_| "9000".to_owned());
    let receiver = Arc::new(Receiver { webhook, handled: Mutex::default() });
    let app = Router::new().route("/", post(receive)).with_state(receiver);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

/// The signature covers the body byte for byte, so it is verified before anything parses the body.
async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    if receiver.webhook.verify(&body, &headers).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    let mut handled = receiver.handled.lock().unwrap_or_else(PoisonError::into_inner);
    if handled.contains(id) {
        println!("duplicate {id}");
    } else {
        // The work comes here. If it fails, answer 500 and keep no id: Hookgate sends the webhook again.
        println!("received {id} {} {}", event["type"], event["data"]);
        handled.insert(id.to_owned());
    }
    StatusCode::NO_CONTENT
}
