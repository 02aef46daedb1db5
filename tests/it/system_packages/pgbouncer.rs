//! PgBouncer in front of PostgreSQL: session mode, and transaction mode. The tests of the store run through the latter,
//! too: see `on_both` there.

use tokio::process::Command;

use crate::spine::the_whole_way;
use crate::support::pgbouncer::Bouncer;
use crate::support::postgres;

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

#[tokio::test(flavor = "multi_thread")]
async fn backup_leaves_no_settings_in_sessions_of_pgbouncer() {
    let bouncer = Bouncer::start("transaction", 4).await;
    let dir = crate::support::temporary::directory();
    let pooled = [("DATABASE_URL", bouncer.url.as_str()), ("DATABASE_PREPARED", "false")];
    the_whole_way(dir.path(), &pooled).await;
    let back_up = async |to: &str, more: &[(&str, &str)], flags: &[&str]| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&path).chain([postgres::programs()]);
        Command::new(env!("CARGO_BIN_EXE_hookgate"))
            .arg("backup")
            .arg(dir.path().join(to))
            .args(flags)
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("DATA_DIR", dir.path())
            .envs(pooled)
            .envs(more.iter().copied())
            .output()
            .await
            .unwrap()
    };
    let refused = back_up("one", &[], &[]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{said}");
    assert!(said.contains("DATABASE_LISTEN_URL") && said.contains("--journal-only"), "{said}");
    assert!(!dir.path().join("one").exists(), "nothing was begun");
    let direct = [("DATABASE_LISTEN_URL", bouncer.direct.as_str())];
    for (to, more, flags) in [("one", &direct[..], &[][..]), ("two", &[], &["--journal-only"])] {
        let made = back_up(to, more, flags).await;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    assert!(dir.path().join("one/hookgate.pgdump").exists());
    // Every session of the pooler still finds the tables.
    let paths = bouncer.search_paths().await;
    assert!(paths.iter().all(|path| path.contains("public")), "{paths:?}");
}
