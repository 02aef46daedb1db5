//! A PostgreSQL of the tests' own: a fresh cluster in a temporary directory on a free port.
//!
//! It is stopped and its directory removed when the test process ends, however it ends: a small
//! shell waits on a pipe from this process and cleans up when the pipe closes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use hookgate::runtime::Stopwatch;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::wait::PATIENCE;

const INSTALL: &str = "the tests need PostgreSQL 15 or later: scripts/test installs or fetches it";

/// What the server is told: a tenth of its usual memory, room for every test's pool, and that a statement ends with the
/// test that asked for it. An endless one would fill the disk, and take a CPU from all further tests.
const SETTINGS: &str = "-c shared_buffers=32MB -c max_connections=400 -c fsync=on \
                        -c listen_addresses=127.0.0.1 -c log_min_messages=error \
                        -c client_connection_check_interval=1s -c temp_file_limit=4GB";

/// Ports on which a new server is tried to start.
const PORTS_TRIED: u32 = 5;
/// What the log says of that.
const PORT_IS_TAKEN: &str = "could not bind";

/// A new empty database in the server that all tests share; its URL.
pub(crate) async fn fresh_database() -> String {
    static SHARED: OnceLock<PrivatePostgres> = OnceLock::new();
    SHARED.get_or_init(PrivatePostgres::start).fresh_database().await
}

/// A running server.
pub(crate) struct PrivatePostgres {
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
    owner: Option<(u32, u32)>,
    databases: AtomicU32,
    /// The small disk that its tables are on; `None` for the disk of everybody.
    small_disk: Option<SmallDisk>,
    /// Its standard input is the pipe that keeps the server alive.
    _watchdog: Child,
}

/// A `tmpfs` in a mount namespace of its own.
struct SmallDisk {
    /// A process in the namespace.
    inside: u32,
}

impl PrivatePostgres {
    /// Creates a cluster and starts it. Blocks for a few seconds.
    pub(crate) fn start() -> Self {
        let (programs, owner) = (find_programs(), cluster_owner());
        let directory = new_directory(owner);
        let watchdog = watchdog(&programs, &directory, owner);
        let mut server = Self::at(programs, directory, owner, watchdog, None);
        server.create_cluster(&[]);
        server.start_first();
        server
    }

    /// The same with all its tables on a disk of so many MiB, and its log of changes (WAL) on another one. `None` where
    /// the system lets this user mount no file system.
    pub(crate) fn start_on_small_disk(mib: u32) -> Option<Self> {
        let (programs, owner) = (find_programs(), cluster_owner());
        let directory = new_directory(owner);
        let (watchdog, small_disk) = small_disk(&programs, &directory, owner, mib)?;
        let mut server = Self::at(programs, directory, owner, watchdog, Some(small_disk));
        let wal = server.directory.join("wal");
        server.create_cluster(&["--waldir", wal.to_str().unwrap()]);
        server.start_first();
        Some(server)
    }

    fn at(
        programs: PathBuf,
        directory: PathBuf,
        owner: Option<(u32, u32)>,
        watchdog: Child,
        small_disk: Option<SmallDisk>,
    ) -> Self {
        let (port, databases) = (free_port(), AtomicU32::new(0));
        Self { programs, directory, port, owner, databases, small_disk, _watchdog: watchdog }
    }

    fn create_cluster(&self, options: &[&str]) {
        let data = self.data();
        self.run("initdb", |initdb| {
            initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]);
            initdb.args(options).arg("--no-sync").arg("--pgdata").arg(&data)
        });
    }

    /// A standby of this server, which follows it as a replica, on a port of its own.
    pub(crate) fn standby(&self) -> Self {
        let mut standby = self.base_backup(&["--write-recovery-conf"]);
        standby.start_first();
        standby
    }

    /// A base backup of this server, to be started on a port of its own.
    pub(crate) fn base_backup(&self, options: &[&str]) -> Self {
        let directory = new_directory(self.owner);
        let watchdog = watchdog(&self.programs, &directory, self.owner);
        let backup = Self::at(self.programs.clone(), directory, self.owner, watchdog, None);
        let (data, primary) = (backup.data(), self.port.to_string());
        backup.run("pg_basebackup", |command| {
            command.args(["--host=127.0.0.1", "--username=postgres", "--port", &primary]);
            command.args(["--checkpoint=fast", "--no-sync"]).args(options);
            command.arg("--pgdata").arg(&data)
        });
        backup
    }

    /// The directory of everything that belongs to it. Its account can write there.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of its tables, as this process sees it.
    pub(crate) fn tables(&self) -> PathBuf {
        let data = self.data();
        match &self.small_disk {
            None => data,
            Some(SmallDisk { inside }) => {
                let root = PathBuf::from(format!("/proc/{inside}/root"));
                root.join(data.strip_prefix("/").unwrap())
            }
        }
    }

    /// Makes a standby a primary.
    pub(crate) fn promote(&self) {
        let data = self.data();
        self.run("pg_ctl", |promote| promote.args(["promote", "-w", "-D"]).arg(&data));
    }

    /// Runs statements one by one, as the superuser.
    pub(crate) async fn execute(&self, database: &str, statements: &[&str]) {
        let mut connection = PgConnection::connect(&self.url(database)).await.unwrap();
        for statement in statements {
            connection.execute(AssertSqlSafe(*statement)).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// Where it listens, as a URL names it.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new empty database; its URL.
    pub(crate) async fn fresh_database(&self) -> String {
        let name = format!("hookgate_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let create = format!("CREATE DATABASE {name} TEMPLATE template0");
        connection.execute(AssertSqlSafe(create)).await.unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }

    /// Stops the server at once, as a crash would: connections break.
    pub(crate) fn stop(&self) {
        self.stop_in_mode("immediate");
    }

    /// Stops the server as an operator would: transactions are rolled back, connections are closed.
    pub(crate) fn stop_politely(&self) {
        self.stop_in_mode("fast");
    }

    fn stop_in_mode(&self, mode: &str) {
        let data = self.data();
        self.run("pg_ctl", |stop| stop.args(["stop", "-w", "-m", mode, "-D"]).arg(&data));
    }

    /// Ends every connection that Hookgate has to this server, whatever it is doing; how many.
    pub(crate) async fn terminate_connections(&self) -> i64 {
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let ended = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'hookgate'",
        );
        let ended = ended.fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        ended
    }

    /// Starts the server for the first time. Another process may have taken its port since it was free; then on another.
    fn start_first(&mut self) {
        for _ in 0..PORTS_TRIED {
            let Err(said) = self.try_start() else { return };
            assert!(said.contains(PORT_IS_TAKEN), "{said}");
            self.port = free_port();
        }
        panic!("no port stays free");
    }

    /// Starts the server again after [`Self::stop`], on the same port, and waits until it answers. Somebody's outgoing
    /// connection may have the port for a while.
    pub(crate) fn start_again(&self) {
        let started = Stopwatch::start();
        while let Err(said) = self.try_start() {
            assert!(said.contains(PORT_IS_TAKEN) && started.elapsed() < PATIENCE, "{said}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn try_start(&self) -> Result<(), String> {
        let (data, log) = (self.data(), self.directory.join("log"));
        let before = fs::read(&log).map_or(0, |log| log.len());
        let options = format!("-p {} -k {} {SETTINGS}", self.port, self.directory.display());
        self.try_run("pg_ctl", |start| {
            start.args(["start", "-w", "-t", "60", "-D"]).arg(&data);
            start.arg("-l").arg(&log).arg("-o").arg(&options)
        })
        .map_err(|said| {
            let log = fs::read(&log).unwrap_or_default();
            format!("{said}\n{}", String::from_utf8_lossy(log.get(before..).unwrap_or_default()))
        })
    }

    /// The URL of a database of it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A program, run by the account of the cluster where its tables are seen.
    fn command(&self, program: &Path) -> Command {
        let Some(SmallDisk { inside }) = self.small_disk else {
            let mut command = Command::new(program);
            as_owner(&mut command, self.owner);
            return command;
        };
        let mut command = Command::new("nsenter");
        command.args(["-t", &inside.to_string(), "-m"]);
        match self.owner {
            Some((uid, gid)) => {
                let account = [format!("--reuid={uid}"), format!("--regid={gid}")];
                command.arg("setpriv").args(account).arg("--clear-groups");
            }
            None => {
                command.args(["-U", "--preserve-credentials"]).args(NO_ROOT);
            }
        }
        command.arg(program);
        command
    }

    fn run(&self, program: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
        self.try_run(program, arguments).unwrap_or_else(|said| panic!("{said}"));
    }

    /// Runs a program, or returns what it said when it failed.
    fn try_run(
        &self,
        program: &str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<(), String> {
        let mut command = self.command(&self.programs.join(program));
        // Files instead of pipes: the server inherits them and would hold a pipe open for ever.
        let said = self.directory.join(format!("{program}.out"));
        let file = fs::File::create(&said).unwrap();
        command.current_dir(&self.directory).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let status = arguments(&mut command).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}; {INSTALL}"));
        if status.success() {
            return Ok(());
        }
        Err(format!("{program}: {}", fs::read_to_string(&said).unwrap_or_default()))
    }
}

/// A new directory of the owner's.
fn new_directory(owner: Option<(u32, u32)>) -> PathBuf {
    let directory = super::temporary::of_postgresql().keep();
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).unwrap();
    }
    directory
}

fn watchdog(programs: &Path, directory: &Path, owner: Option<(u32, u32)>) -> Child {
    let script = r#"trap '' INT TERM HUP; cat >/dev/null
        "$0/pg_ctl" stop -w -m immediate -D "$1/data"; rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(programs).arg(directory);
    as_owner(&mut command, owner);
    // A group of its own, so that an interrupt meant for the tests does not end it.
    command.process_group(0).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Mounts a small disk as the directory of the tables, and has it watched like any other server.
fn small_disk(
    programs: &Path,
    directory: &Path,
    owner: Option<(u32, u32)>,
    mib: u32,
) -> Option<(Child, SmallDisk)> {
    let data = directory.join("data");
    fs::create_dir(&data).unwrap();
    // Only root can give it to another account; everybody else is root in a namespace of its own.
    let (flags, account, stop_as) = match owner {
        Some((uid, gid)) => (
            "-m",
            format!(",uid={uid},gid={gid}"),
            format!("setpriv --reuid={uid} --regid={gid} --clear-groups"),
        ),
        None => ("-Urm", String::new(), NO_ROOT.join(" ")),
    };
    let options = format!("size={mib}m,mode=0700{account}");
    let inside = r#"trap '' INT TERM HUP
        mount -t tmpfs -o "$2" tmpfs "$1/data" && echo $$ || exit 1
        exec >/dev/null
        cat
        $3 "$0/pg_ctl" stop -w -m immediate -D "$1/data""#;
    let outside =
        r#"trap '' INT TERM HUP; unshare "$5" sh -c "$4" "$0" "$1" "$2" "$3"; rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(outside).arg(programs).arg(directory);
    command.args([&options, &stop_as, inside, flags]);
    command.process_group(0).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watchdog = command.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut told).unwrap();
    let Ok(inside) = told.trim().parse() else {
        watchdog.wait().unwrap();
        return None;
    };
    Some((watchdog, SmallDisk { inside }))
}

/// What makes an ordinary user of somebody who is root in a namespace: PostgreSQL refuses root.
const NO_ROOT: [&str; 4] = ["unshare", "-U", "--map-user=1000", "--map-group=1000"];

fn as_owner(command: &mut Command, owner: Option<(u32, u32)>) {
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
}

/// The account that owns the cluster when the tests run as root, which PostgreSQL refuses to run as:
/// `postgres`, or `nobody` where no package has created that.
fn cluster_owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let named = |name: &str| accounts.lines().find(|line| line.starts_with(name));
    let account = named("postgres:").or_else(|| named("nobody:")).unwrap();
    let mut fields = account.split(':').skip(2).map(|field| field.parse::<u32>().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

/// The directory of PostgreSQL's programs, such as `pg_restore`.
pub(crate) fn programs() -> PathBuf {
    find_programs()
}

/// The directory of PostgreSQL's programs: the one in `PATH`, else the newest of Debian's packages,
/// else the one that `scripts/test` has fetched.
fn find_programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let mut candidates = in_path.chain(of_debian()).chain([fetched]);
    // Links lead to a directory that has the other programs, too.
    let initdb = candidates.find_map(|directory| fs::canonicalize(directory.join("initdb")).ok());
    initdb.expect(INSTALL).parent().unwrap().to_owned()
}

/// The programs of the newest PostgreSQL that Debian's packages have installed.
fn of_debian() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let versions =
        versions.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    Some(format!("/usr/lib/postgresql/{}/bin", versions.max()?).into())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
