//! How long it takes to refuse acme's ids and nobody's. Shown, never asserted: machines are noisy.

use std::time::{Duration, Instant};

use crate::support::server::Server;

use super::FLAGS;
use super::victim::Victim;

/// Times each id is asked for.
const TIMES: usize = 200;

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures for whoever runs it with --nocapture")]
async fn refusing_ids_of_others_and_ids_of_nobody_takes_the_same_statements() {
    let server = Server::start_with(FLAGS).await;
    let elsewhere = Server::start_with(FLAGS).await;
    let acme = Victim::settle(&server, "acme").await;
    let nobody = Victim::settle(&elsewhere, "nobody").await;
    let stranger = server.tenant("stranger").await;
    for path in ["/api/events/{event}", "/api/endpoints/{endpoint}", "/api/deliveries/{delivery}"] {
        let mut spans = [Vec::new(), Vec::new()];
        for _ in 0..TIMES {
            for (ids, spans) in [&acme.ids, &nobody.ids].into_iter().zip(&mut spans) {
                let begin = now();
                let answer = server.get(&ids.fill(path), &stranger.key).await;
                spans.push(begin.elapsed());
                assert_eq!(answer.status, 404);
            }
        }
        let [theirs, nobodys] = spans.map(quartiles);
        println!("{path}: another's {theirs:?}, nobody's {nobodys:?} (quartiles)");
    }
}

fn quartiles(mut spans: Vec<Duration>) -> [Duration; 3] {
    spans.sort_unstable();
    [1, 2, 3].map(|quarter| spans[spans.len() * quarter / 4])
}

#[expect(clippy::disallowed_methods, reason = "a measurement, which nothing depends on")]
fn now() -> Instant {
    Instant::now()
}
