//! A PgBouncer of the tests' own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, Row};
use tempfile::TempDir;

use super::postgres::fresh_database;
use super::wait::until;

/// Ports on which one is tried to start.
const PORTS_TRIED: u32 = 5;

/// A PgBouncer before a database, stopped when it is dropped.
pub(crate) struct Bouncer {
    child: Child,
    /// The database, through it.
    pub(crate) url: String,
    /// The database, past it.
    pub(crate) direct: String,
    /// How many sessions it gives out.
    connections: u32,
    _directory: TempDir,
}

impl Bouncer {
    /// Starts one before a new database, with as few server connections as that mode can do with.
    pub(crate) async fn start(mode: &str, connections: u32) -> Self {
        let direct = fresh_database().await;
        // Another process may take a port since it was free.
        for _ in 0..PORTS_TRIED {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(bouncer) = Self::try_start(&direct, mode, connections, port).await {
                return bouncer;
            }
        }
        panic!("no port stays free");
    }

    /// `None` if it ends because another process has the port.
    async fn try_start(direct: &str, mode: &str, connections: u32, port: u16) -> Option<Self> {
        let (host, database) =
            direct.strip_prefix("postgres://postgres@127.0.0.1:").unwrap().split_once('/').unwrap();
        let directory = crate::support::temporary::directory();
        let users = directory.path().join("users.txt");
        fs::write(&users, "\"postgres\" \"\"\n").unwrap();
        let settings = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={host}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = {mode}\ndefault_pool_size = {connections}\nmax_client_conn = 200\n",
            users.display()
        );
        fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
            command.uid(65_534).gid(65_534);
        }
        let stderr = fs::File::create(directory.path().join("said")).unwrap();
        command.arg("--quiet").arg(&settings).current_dir("/");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let child = child
            .unwrap_or_else(|error| panic!("pgbouncer: {error}: sudo apt-get install pgbouncer"));
        let url = format!("postgres://postgres@127.0.0.1:{port}/{database}");
        let said = directory.path().join("said");
        let options = url.parse::<PgConnectOptions>().unwrap().extra_float_digits(None);
        let direct = direct.to_owned();
        let mut bouncer = Self { child, url, direct, connections, _directory: directory };
        let mut ended = false;
        until("pgbouncer answers", async || {
            ended = bouncer.child.try_wait().unwrap().is_some();
            ended || PgConnection::connect_with(&options).await.is_ok()
        })
        .await;
        let said = fs::read_to_string(said).unwrap_or_default();
        assert!(!ended || said.contains("Address already in use"), "{said}");
        (!ended).then_some(bouncer)
    }

    /// The search path of each session that the pooler gives out.
    pub(crate) async fn search_paths(&self) -> Vec<String> {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let options = options.extra_float_digits(None);
        let mut paths = Vec::new();
        let mut held = Vec::new();
        for _ in 0..self.connections {
            let mut connection = PgConnection::connect_with(&options).await.unwrap();
            let begin = "BEGIN; SELECT current_setting('search_path') AS path";
            let rows = sqlx::raw_sql(begin).fetch_all(&mut connection).await.unwrap();
            paths.extend(rows.iter().map(|row| row.get::<String, _>("path")));
            // In a transaction, so that the next one gets another session.
            held.push(connection);
        }
        paths
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
