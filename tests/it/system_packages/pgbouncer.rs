//! PgBouncer in front of PostgreSQL: session mode, and transaction mode. The tests of the store run through the latter,
//! too: see `on_both` there.

use crate::spine::the_whole_way;
use crate::support::pgbouncer::Bouncer;

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_pgbouncer_in_session_mode() {
    let bouncer = Bouncer::start("session", 40).await;
    let dir = crate::support::temporary::directory();
    the_whole_way(dir.path(), &[("DATABASE_URL", &bouncer.url)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_through_pgbouncer_in_transaction_mode() {
    // Fewer connections than the server has: transactions of one change between them.
    let bouncer = Bouncer::start("transaction", 4).await;
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", bouncer.url.as_str()), ("DATABASE_PREPARED", "false")];
    the_whole_way(dir.path(), &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_heard_past_pgbouncer_in_transaction_mode() {
    let bouncer = Bouncer::start("transaction", 4).await;
    let dir = crate::support::temporary::directory();
    let settings = [
        ("DATABASE_URL", bouncer.url.as_str()),
        ("DATABASE_PREPARED", "false"),
        ("DATABASE_LISTEN_URL", bouncer.direct.as_str()),
    ];
    the_whole_way(dir.path(), &settings).await;
}
