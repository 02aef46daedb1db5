//! `hookgate listen`: a receiver for those who develop one.
//!
//! It receives webhooks, checks and shows each, and answers it: with a status of its own, or with the answer of the
//! receiver that it passes the webhook on to. With an API key it subscribes by itself, for as long as it runs: by an
//! endpoint, or by an inbox where the server cannot reach this machine.

mod display;
mod forward;
mod subscription;
mod webhook;

use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use clap::Args;
use moka::sync::Cache;
use reqwest::Url;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

use self::display::Shown;
use self::forward::Forwarder;
use self::subscription::{Reach, TemporaryEndpoint};
use self::webhook::{IncomingWebhook, Signature};
use super::CliError;
use super::output::{Output, note, print_line};
use super::printable::printable;
use super::server::ServerError;
use super::signals::Signals;
use super::target::{TargetArgs, missing_key};
use crate::config::parse_wait;
use crate::delivery::Verifier;
use crate::domain::EventTypeFilter;
use crate::runtime::{Clock, Stopwatch};

/// Bytes of a webhook's body: more than any server sends.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Events whose attempts are counted.
const COUNTED_EVENTS_MAX: u64 = 10_000;

#[derive(Args, Debug)]
pub(super) struct ListenArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The endpoint's secret, or its public key (whpk_…); signatures are not checked if unset
    #[arg(
        long,
        env = "WEBHOOK_SECRET",
        hide_env_values = true,
        value_name = "whsec_…",
        conflicts_with_all = ["api_key", "profile"]
    )]
    secret: Option<Verifier>,
    /// With a key, an endpoint is made, and removed at the end; its secret checks the signatures. Where the server cannot
    /// reach this machine, events come through an inbox
    #[command(flatten)]
    target: TargetArgs,
    /// Make no endpoint, whether the environment or a profile has a key or not
    #[arg(long, conflicts_with_all = ["api_key", "profile", "public_url", "events"])]
    no_endpoint: bool,
    /// Where that server reaches this listener, if not at --host and --port: a tunnel's address, say
    #[arg(long, value_name = "URL")]
    public_url: Option<Url>,
    /// Receive these types only, separated by commas, such as user.login,invoice.*
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<EventTypeFilter>,
    /// Pass each webhook on to this URL, and answer as it answers
    #[arg(long, value_name = "URL", conflicts_with = "status")]
    forward_to: Option<Url>,
    /// Status that answers every webhook with a valid signature, for example 500 to try retries
    #[arg(long, default_value_t = 204, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Wait this long before each answer
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    delay: Option<Duration>,
    /// Show the header fields, too
    #[arg(long)]
    headers: bool,
    /// How webhooks are shown; json is one object in a line for each
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What handles webhooks, however they come.
struct Receiver {
    verifier: Option<Verifier>,
    forwarder: Option<Forwarder>,
    status: StatusCode,
    delay: Duration,
    headers: bool,
    output: Output,
    clock: Clock,
    /// Attempts so far, by event.
    attempts: Cache<String, u64>,
    /// The webhook that `r` repeats.
    last: Mutex<Option<IncomingWebhook>>,
    /// Notified when nobody reads what is shown any more.
    unread: Notify,
}

/// Receives webhooks until it is interrupted.
pub(super) async fn run(args: ListenArgs) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let mut bound = listener.local_addr()?;
    if bound.ip().is_unspecified() {
        bound.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let here = Url::parse(&format!("http://{bound}/"))?;
    let subscription = subscribe(&args, &here).await?;
    let receiver = Arc::new(Receiver::new(&args, subscription.as_ref())?);
    let listening = serve(listener, Arc::clone(&receiver));
    let lines = lines();
    let working = async {
        receiver.say(&start_line(&here, subscription.as_ref()))?;
        let pulled = pull(&receiver, subscription.as_ref());
        let repeated = repeat(&receiver, subscription.as_ref(), lines);
        tokio::select! {
            ended = listening => ended,
            ended = pulled => ended,
            ended = repeated => ended,
            () = receiver.unread.notified() => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = working => ended,
        _ = signals.next() => Ok(()),
    };
    let removed = match subscription {
        Some(subscription) => subscription.end().await,
        None => Ok(()),
    };
    ended.and(removed)
}

async fn subscribe(args: &ListenArgs, here: &Url) -> Result<Option<TemporaryEndpoint>, CliError> {
    if args.no_endpoint || args.secret.is_some() {
        return Ok(None);
    }
    // The profile in use may be of production: it gets no endpoint that nobody has asked for.
    let is_asked = args.target.is_chosen() || args.public_url.is_some() || !args.events.is_empty();
    if !is_asked {
        return Ok(None);
    }
    let Some(server) = args.target.server_if_any()? else {
        if args.public_url.is_some() || !args.events.is_empty() {
            missing_key("--events and --public-url need an API key");
        }
        return Ok(None);
    };
    let is_local = matches!(server.base().host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let reach = match &args.public_url {
        Some(url) => Reach::Certainly(url.clone()),
        None if is_local => Reach::Perhaps(here.clone()),
        None => Reach::Nowhere,
    };
    let types: Vec<_> = args.events.iter().map(ToString::to_string).collect();
    let busy_max = args.delay.unwrap_or_default() + forward::ANSWER_MAX;
    Ok(Some(TemporaryEndpoint::begin(server, &types, &reach, busy_max).await?))
}

/// What is said first: where webhooks are received, and by which endpoint.
fn start_line(here: &Url, subscription: Option<&TemporaryEndpoint>) -> String {
    match subscription {
        None => format!("listening on {here}"),
        Some(subscription) => match &subscription.inbox_secret {
            None => format!("listening on {here} as the endpoint {}", subscription.id()),
            Some(secret) => format!(
                "listening through the inbox {}, since the server cannot reach this machine; what is passed on is \
                 signed with {}",
                subscription.id(),
                secret.reveal()
            ),
        },
    }
}

async fn serve(listener: TcpListener, receiver: Arc<Receiver>) -> Result<(), CliError> {
    // Anything but a POST is answered 405.
    let router = Router::new()
        .route("/", post(receive))
        .route("/{*path}", post(receive))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(receiver);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let webhook = IncomingWebhook { received_at: receiver.clock.now(), headers, body };
    receiver.handle(webhook).await
}

/// Receives the events of an inbox; never, without one.
async fn pull(
    receiver: &Receiver,
    subscription: Option<&TemporaryEndpoint>,
) -> Result<(), CliError> {
    let Some((subscription, secret)) =
        subscription.and_then(|all| Some((all, all.inbox_secret.as_ref()?)))
    else {
        return std::future::pending().await;
    };
    let complain = |error: &ServerError| note(&format!("the inbox does not answer: {error}"));
    loop {
        let events = subscription.receive(complain).await?;
        for (event, webhook) in events.webhooks(secret, &receiver.clock)? {
            let status = receiver.handle(webhook).await;
            if let Err(error) = subscription.finish(&event, status.is_success()).await {
                complain(&error);
            }
        }
    }
}

/// Repeats the last webhook for each line `r`: to the receiver that it is passed on to, or else by the server.
async fn repeat(
    receiver: &Receiver,
    subscription: Option<&TemporaryEndpoint>,
    mut lines: mpsc::Receiver<String>,
) -> Result<(), CliError> {
    while let Some(line) = lines.recv().await {
        if line.trim() != "r" {
            continue;
        }
        let last = receiver.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (last, subscription) {
            (None, _) => receiver.say("nothing was received yet")?,
            (Some(webhook), _) if receiver.forwarder.is_some() => {
                receiver.handle(webhook).await;
            }
            (Some(webhook), Some(subscription)) => {
                // Its sender has written the id.
                let Some(id) = webhook.id().and_then(|id| id.parse().ok()) else { continue };
                if let Err(error) = subscription.replay(id).await {
                    receiver.say(&format!("cannot replay: {error}"))?;
                }
            }
            (Some(_), None) => receiver.say("r needs --forward-to or --api-key")?,
        }
    }
    std::future::pending().await
}

/// The lines of standard input, read by a thread of its own since nothing can interrupt reading.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Receiver {
    fn new(args: &ListenArgs, subscription: Option<&TemporaryEndpoint>) -> Result<Self, CliError> {
        let verifier = subscription.map(|made| made.verifier.clone()).or(args.secret.clone());
        Ok(Self {
            verifier,
            forwarder: args.forward_to.clone().map(Forwarder::new).transpose()?,
            status: StatusCode::from_u16(args.status)?,
            delay: args.delay.unwrap_or_default(),
            headers: args.headers,
            output: args.output,
            clock: Clock::system(),
            attempts: Cache::new(COUNTED_EVENTS_MAX),
            last: Mutex::new(None),
            unread: Notify::new(),
        })
    }

    /// Checks, passes on, shows and answers a webhook.
    async fn handle(&self, webhook: IncomingWebhook) -> StatusCode {
        let watch = Stopwatch::start();
        let signature = webhook.check(self.verifier.as_ref());
        tokio::time::sleep(self.delay).await;
        let forwarded = match (&self.forwarder, &signature) {
            (Some(forwarder), Signature::Valid | Signature::Unchecked) => {
                Some(forwarder.forward(&webhook).await)
            }
            _ => None,
        };
        let status = match (&signature, &forwarded) {
            (Signature::Invalid(_), _) => StatusCode::BAD_REQUEST,
            (_, Some(forwarded)) => forwarded.status(),
            (_, None) => self.status,
        };
        let shown = Shown {
            webhook: &webhook,
            attempt: self.count(&webhook),
            signature: &signature,
            status,
            duration: watch.elapsed(),
            forwarded: forwarded.as_ref(),
        };
        let text = shown.render(self.output, self.headers);
        if writeln!(std::io::stdout().lock(), "{text}").is_err() {
            self.unread.notify_one();
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        if !matches!(signature, Signature::Invalid(_)) {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(webhook);
        }
        status
    }

    /// Which attempt of its event a webhook is, as far as this process has seen them.
    fn count(&self, webhook: &IncomingWebhook) -> u64 {
        let Some(id) = webhook.id() else { return 1 };
        let attempt = self.attempts.get(id).unwrap_or(0) + 1;
        self.attempts.insert(id.to_owned(), attempt);
        attempt
    }

    /// Says something that is not a webhook: to people only.
    fn say(&self, line: &str) -> Result<(), CliError> {
        match self.output {
            Output::Text => print_line(&printable(line))?,
            Output::Json => note(line),
        }
        Ok(())
    }
}
