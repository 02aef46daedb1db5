//! Documents that take their readers by the hand: every command is run as it stands there, in as many terminals as the
//! document has, and what the document shows must come, line by line.
//!
//! A block of `sh` is for the terminal that the last `**Terminal N` above it names. A block without a language is the output
//! of the last terminal that is named, in which `…`, ids and times are any text, and a line `…` any lines. Ctrl-C in the prose
//! is pressed.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use regex::{Captures, Regex};
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};

use super::terminal::Terminal;
use crate::support::binary::first_keys;
use crate::support::temporary;
use crate::support::wait::until;

const CTRL_C: &str = "<kbd>Ctrl</kbd>+<kbd>C</kbd>";

/// A reader with a new directory, where the ports of the server and the receiver are free ones.
struct Reader {
    directory: TempDir,
    terminals: BTreeMap<u32, Terminal>,
    /// Of the server and of the receiver.
    ports: [HeldPort; 2],
}

/// A port on which only programs listen that are told to.
struct HeldPort {
    number: u16,
    /// Bound, so that the system gives the port to nobody, and not listening, so that a program can.
    _socket: TcpSocket,
}

impl Reader {
    fn new() -> Self {
        let directory = temporary::directory();
        let programs = directory.path().join("target/release");
        fs::create_dir_all(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_hookgate"), programs.join("hookgate")).unwrap();
        // The program that these tests test, and not another build of it.
        let cargo = programs.join("cargo");
        fs::write(&cargo, include_str!("cargo.sh")).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        let ports = [HeldPort::take(), HeldPort::take()];
        Self { directory, terminals: BTreeMap::new(), ports }
    }

    async fn terminal(&mut self, number: u32) -> &mut Terminal {
        if !self.terminals.contains_key(&number) {
            let home = self.directory.path().display();
            let path = std::env::var("PATH").unwrap();
            let variables = [
                ("HOME", home.to_string()),
                ("PATH", format!("{home}/target/release:{home}/.cargo/bin:{path}")),
                ("PORT", self.ports[0].number.to_string()),
            ];
            let variables = variables.map(|(name, value)| (name.to_owned(), value));
            let terminal = Terminal::open(number, self.directory.path(), &variables).await;
            self.terminals.insert(number, terminal);
        }
        self.terminals.get_mut(&number).unwrap()
    }

    fn with_ports(&self, text: &str) -> String {
        let [server, receiver] = self.ports.each_ref().map(|port| port.number);
        let shown = Regex::new(r"(?-u:\b)(3000|9000)(?-u:\b)").unwrap();
        let port = |shown: &Captures| if &shown[1] == "3000" { server } else { receiver };
        shown.replace_all(text, |shown: &Captures| port(shown).to_string()).into_owned()
    }

    /// Commands with the keys for which readers put those that they were shown.
    async fn with_keys(&self, block: &str) -> String {
        let mut block = self.with_ports(block);
        if block.contains("hg_…") {
            let (key, _) = first_keys(&self.directory.path().join("data")).await;
            block = block.replace("hg_…", &key);
        }
        if block.contains("whsec_…") {
            let shown: String = self.terminals.values().map(Terminal::text).collect();
            let secrets = Regex::new(r"whsec_[A-Za-z0-9+/]+=*").unwrap();
            let secret = secrets.find_iter(&shown).last().expect("no secret was shown");
            block = block.replace("whsec_…", secret.as_str());
        }
        block
    }

    async fn run(&mut self, number: u32, block: &str) {
        let block = self.with_keys(block).await;
        let [server, receiver] = self.ports.each_ref().map(|port| port.number);
        let terminal = self.terminal(number).await;
        terminal.run(&block).await;
        let last = block.trim_end().lines().last().unwrap_or_default();
        match last.split_whitespace().find(|word| ["serve", "listen"].contains(word)) {
            None => terminal.end().await,
            Some("serve") => wait_for(server).await,
            Some(_) => wait_for(receiver).await,
        }
    }

    async fn expect(&mut self, number: u32, output: &str) {
        let changing = Regex::new(
            r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[0-9:.]+Z|whsec_[A-Za-z0-9+/]+=*|\d+\.\d ms",
        );
        let output = changing.unwrap().replace_all(output, "…").into_owned();
        let output = self.with_ports(&output);
        let terminal = self.terminal(number).await;
        for group in groups(&output) {
            terminal.expect(&group).await;
        }
    }
}

/// The lines of an output that follow one another directly: those between lines `…`.
fn groups(output: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = output.trim_matches('\n').lines().collect();
    let groups = lines.split(|line| *line == "…").filter(|group| !group.is_empty());
    groups.map(<[&str]>::to_vec).collect()
}

/// Waits until something listens on the port.
async fn wait_for(port: u16) {
    let connects = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
    until("a server listens", connects).await;
}

impl HeldPort {
    fn take() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // As the programs do, which may then share it.
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { number: socket.local_addr().unwrap().port(), _socket: socket }
    }
}

/// Does what a document says from one heading to another.
async fn follow(document: &str, from: &str, to: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(file).unwrap();
    let (_, text) = text.split_once(from).unwrap();
    let (text, _) = text.split_once(to).unwrap_or((text, ""));
    let mut reader = Reader::new();
    let (mut typing, mut showing) = (1, 1);
    let parts: Vec<&str> = text.split("\n```").collect();
    for pair in parts.chunks(2) {
        let prose = pair[0];
        typing = terminal_in(prose, r"\*\*Terminal (\d)").unwrap_or(typing);
        showing = terminal_in(prose, r"\*\*Terminal (\d)").unwrap_or(showing);
        showing = terminal_in(prose, r"[Tt]erminal (\d)[^.]*:\s*$").unwrap_or(showing);
        if prose.contains(CTRL_C) {
            reader.terminal(typing).await.interrupt().await;
        }
        let Some((language, block)) = pair.get(1).and_then(|code| code.split_once('\n')) else {
            break;
        };
        match language {
            "sh" => {
                showing = typing;
                reader.run(typing, block).await;
            }
            "" => reader.expect(showing, block).await,
            _ => {}
        }
    }
}

/// The last terminal that a text names.
fn terminal_in(text: &str, pattern: &str) -> Option<u32> {
    let found = Regex::new(pattern).unwrap();
    found.captures_iter(text).last().map(|capture| capture[1].parse().unwrap())
}

#[tokio::test]
async fn quick_start_of_the_readme_works_as_written() {
    follow("README.md", "\n## Quick start\n", "\n## ").await;
}

#[tokio::test]
async fn first_hour_goes_as_written() {
    follow("docs/first-hour.md", "\n## ", "\n## Where to go next\n").await;
}
