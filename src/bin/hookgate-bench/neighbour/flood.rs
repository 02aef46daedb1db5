//! The neighbour `flood`: a client that presents wrong keys.

use hookgate::auth::PresentedKey;
use hookgate::domain::ApiKeyId;
use hookgate::runtime::Clock;

use crate::args::{RunArgs, Scenario};
use crate::load::Load;
use crate::report::Measured;
use crate::server::Server;
use crate::target::Target;

use super::{CONNECTIONS, Running, UNTIL_ABORTED};

/// Keys per second, each different and wrong.
const KEYS_PER_SECOND: u32 = 5_000;

/// Starts the flood.
pub(super) fn start(running: &mut Running, args: &RunArgs, server: &Server) {
    let target = Target::new(Scenario::Ingest, args, server);
    let load =
        Load { connections: CONNECTIONS, rate: Some(KEYS_PER_SECOND), duration: UNTIL_ABORTED };
    running.load.spawn(async move {
        let authority = target.authority.clone();
        let flooding = load.drive(&authority, |mut connection, mut pacer| {
            let target = target.clone();
            async move {
                while pacer.next().await.is_some() {
                    let key = PresentedKey::generate(ApiKeyId::mint(Clock::system().now()))?;
                    let target = target.with_key(key.reveal());
                    // The answer does not matter: a neighbour is not measured.
                    let _ = connection.send(target.request(None)?).await;
                }
                Measured::new()
            }
        });
        let _ = flooding.await;
    });
}
