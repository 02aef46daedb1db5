//! A terminal in which somebody who reads a document works: a shell that goes on from block to block.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::wait::PATIENCE;

/// A shell with its output. What runs in it is killed when it is dropped.
pub(super) struct Terminal {
    shell: Child,
    stdin: ChildStdin,
    directory: PathBuf,
    lines: watch::Receiver<Vec<String>>,
    /// Lines that were expected, and those above them.
    seen: usize,
    blocks: usize,
    _reader: JoinSet<()>,
}

impl Terminal {
    /// Opens one in the directory. Its shell keeps the name of the terminal in its files there.
    pub(super) async fn open(name: u32, directory: &Path, variables: &[(String, String)]) -> Self {
        let files = directory.join(format!(".terminal-{name}"));
        fs::create_dir(&files).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", "exec bash 2>&1"]).current_dir(directory).env_clear();
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut shell = command.spawn().unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        // Ctrl-C ends what the shell runs, and not the shell.
        stdin.write_all(b"trap : INT\n").await.unwrap();
        let mut stdout = BufReader::new(shell.stdout.take().unwrap()).lines();
        let (sender, lines) = watch::channel(Vec::new());
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                sender.send_modify(|lines| lines.push(line.trim_end_matches('\r').to_owned()));
            }
        });
        Self { shell, stdin, directory: files, lines, seen: 0, blocks: 0, _reader: reader }
    }

    /// Types a block of commands. It runs once those before it have ended. Lines above it are no longer expected.
    pub(super) async fn run(&mut self, block: &str) {
        self.blocks += 1;
        self.seen = self.lines.borrow().len();
        let file = self.directory.join(self.blocks.to_string());
        fs::write(&file, block).unwrap();
        // Its own input would be the next block.
        let line = format!(
            "{{ . '{}'; }} </dev/null; printf '\n%s\n' \"{} $?\"\n",
            file.display(),
            self.end_of_block()
        );
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    /// Waits until the block has ended. Panics when its last command has failed.
    pub(super) async fn end(&mut self) {
        let end = self.end_of_block();
        self.wait(&end, 1, |lines| lines[0].starts_with(&end)).await;
        let ended = self.lines.borrow().iter().any(|line| *line == format!("{end} 0"));
        assert!(ended, "a command failed:\n{}", self.text());
    }

    /// Waits for lines such as these, one directly below the other, below those that were expected before; `…` is any
    /// text.
    pub(super) async fn expect(&mut self, patterns: &[&str]) {
        let are_they = |lines: &[String]| {
            patterns.iter().zip(lines).all(|(pattern, line)| matches(pattern, line))
        };
        self.seen += self.wait(&patterns.join("\n"), patterns.len(), are_they).await;
        self.seen += patterns.len();
    }

    /// Presses Ctrl-C, and waits until the block has ended.
    pub(super) async fn interrupt(&mut self) {
        self.signal(Signal::INT);
        let end = self.end_of_block();
        self.wait(&end, 1, |lines| lines[0].starts_with(&end)).await;
    }

    /// All that it shows.
    pub(super) fn text(&self) -> String {
        self.lines.borrow().join("\n")
    }

    fn end_of_block(&self) -> String {
        format!("end of block {}:", self.blocks)
    }

    /// The number of lines between those that were seen and the first `count` lines that are it.
    async fn wait(
        &mut self,
        what: &str,
        count: usize,
        are_it: impl Fn(&[String]) -> bool,
    ) -> usize {
        let seen = self.seen;
        let found = |lines: &[String]| lines[seen..].windows(count).position(&are_it);
        let waiting = self.lines.wait_for(|lines| found(lines).is_some());
        let waited = timeout(PATIENCE, waiting).await.is_ok_and(|lines| lines.is_ok());
        let at = found(&self.lines.borrow());
        assert!(waited && at.is_some(), "never: {what}\n{}", self.text());
        at.unwrap()
    }

    fn signal(&self, signal: Signal) {
        let id = self.shell.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // All of it may have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Whether a line is like the pattern, in which `…` is any text.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn patterns_are_matched_from_end_to_end() {
    assert!(matches("{\"id\":\"…\",…}", "{\"id\":\"1\",\"a\":2}"));
    assert!(matches("…", "") && matches("a", "a") && matches("a…", "ab") && matches("…b", "ab"));
    assert!(!matches("a", "ab") && !matches("a…c", "ab") && !matches("…ab…b", "ab"));
}
