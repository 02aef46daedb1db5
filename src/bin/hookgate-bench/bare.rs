//! The handler that only answers: axum, one route, one status.

use axum::Router;
use axum::http::StatusCode;
use axum::serve::ListenerExt;
use hookgate::cli::{CliError, print_line};
use tokio::net::TcpListener;

/// Prints its address and answers `202` to every request until the process is killed.
pub(crate) async fn serve() -> Result<(), CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    print_line(&listener.local_addr()?.to_string())?;
    let listener = listener.tap_io(|stream| {
        // The server sets it too; without it the handler would be slowed down by Nagle's algorithm.
        let _ = stream.set_nodelay(true);
    });
    // It reads the body, as every server must that answers a POST.
    let answer = |_body: axum::body::Bytes| async { StatusCode::ACCEPTED };
    axum::serve(listener, Router::new().fallback(answer)).await?;
    Ok(())
}
