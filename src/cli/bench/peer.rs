//! The peer to measure beside: axum, a route, and an answer.

use axum::Router;
use axum::http::StatusCode;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use super::super::CliError;
use super::super::output::print_line;

/// Answers `202` to everything until it is killed, and prints where.
pub(super) async fn serve_bare() -> Result<(), CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    print_line(&listener.local_addr()?.to_string())?;
    let listener = listener.tap_io(|stream| {
        // Without it the bare handler would be measured with a delay that ours has not.
        let _ = stream.set_nodelay(true);
    });
    // It reads the body, as whoever answers a POST must.
    let answer = |_body: axum::body::Bytes| async { StatusCode::ACCEPTED };
    axum::serve(listener, Router::new().fallback(answer)).await?;
    Ok(())
}
