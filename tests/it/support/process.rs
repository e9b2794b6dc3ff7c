//! A child process: its output line by line, its end, and the certainty that it ends with the test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{DEADLINE, within};

/// How much of what a process has said a failed test shows.
const LINES_SHOWN: usize = 30;

/// A running child in a process group of its own, killed when dropped.
pub(crate) struct Process {
    name: String,
    pid: u32,
    stdout: watch::Receiver<Vec<String>>,
    stderr: watch::Receiver<Vec<String>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    reaper: Option<JoinHandle<()>>,
}

/// How a command that ran to its end ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts `command`; `name` is for messages only.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (stdout, stdout_reader) = read_lines(child.stdout.take().unwrap());
        let (stderr, stderr_reader) = read_lines(child.stderr.take().unwrap());
        let pid = child.id();
        let (ended, exit) = watch::channel(None);
        let reaper = thread::spawn(move || {
            let status = child.wait().unwrap();
            // Whoever sees the exit may look at the output at once, so it has to be complete.
            stdout_reader.join().unwrap();
            stderr_reader.join().unwrap();
            ended.send_replace(Some(status));
        });
        Self {
            name: name.to_owned(),
            pid,
            stdout,
            stderr,
            exit,
            reaper: Some(reaper),
        }
    }

    /// Runs `command` to its end.
    pub(crate) async fn run(name: &str, command: &mut Command) -> Outcome {
        let process = Self::spawn(name, command);
        let code = process.exited().await.code();
        Outcome {
            code,
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, e.g. `TERM`, to the process and those it started in its group.
    pub(crate) fn signal(&self, signal: &str) {
        if self.exit.borrow().is_none() {
            send_signal(signal, &format!("-{}", self.pid));
        }
    }

    /// Waits for the end.
    pub(crate) async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let what = format!("{} to exit", self.name);
        let status = *within(&what, exit.wait_for(Option::is_some)).await.unwrap();
        status.unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        self.stdout.borrow().join("\n")
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.borrow().join("\n")
    }

    /// The first line of standard output that `wanted` accepts; waits for it.
    pub(crate) async fn stdout_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.line(self.stdout.clone(), wanted).await
    }

    /// The first line of standard error that `wanted` accepts; waits for it.
    pub(crate) async fn stderr_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.line(self.stderr.clone(), wanted).await
    }

    async fn line(
        &self,
        mut lines: watch::Receiver<Vec<String>>,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let mut seen = 0;
        loop {
            {
                let all = lines.borrow_and_update();
                if let Some(line) = all[seen..].iter().find(|line| wanted(line)) {
                    return line.clone();
                }
                seen = all.len();
            }
            let more = tokio::time::timeout(super::DEADLINE, lines.changed()).await;
            if !matches!(more, Ok(Ok(()))) {
                panic!(
                    "{} did not print what the test waits for\nstdout:\n{}\nstderr:\n{}",
                    self.name,
                    self.stdout(),
                    self.stderr()
                );
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let stderr = self.stderr.borrow();
            let last = stderr.len().saturating_sub(LINES_SHOWN);
            eprintln!("{} said last:\n{}", self.name, stderr[last..].join("\n"));
        }
        self.signal("KILL");
        if let Some(reaper) = self.reaper.take() {
            // Temporary directories are deleted after this, so nobody may write there any more.
            let _ = reaper.join();
        }
    }
}

/// Signals one process, or a group where the id is negative. Behind `STOP` the process, or the first of the group, runs
/// no more.
pub(crate) fn send_signal(signal: &str, target: &str) {
    // The standard library can only kill, and the tests forbid unsafe code as the server does.
    let status = Command::new("kill")
        .args([&format!("-{signal}"), "--", target])
        .stderr(Stdio::null())
        .status();
    assert!(status.is_ok(), "kill is not to be found in PATH");
    if signal == "STOP" {
        let pid = target.trim_start_matches('-');
        let deadline = Instant::now() + DEADLINE;
        // One thread takes the signal and stops the others: they go on until it has had its turn on a core.
        while runs(pid) {
            assert!(Instant::now() < deadline, "process {pid} does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether a thread of a process is not stopped. A process that is gone does not run.
fn runs(pid: &str) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        let status = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may be of any text.
        let state = status.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
        !matches!(state, None | Some("T" | "Z" | "X"))
    })
}

fn read_lines(from: impl Read + Send + 'static) -> (watch::Receiver<Vec<String>>, JoinHandle<()>) {
    let (lines, received) = watch::channel(Vec::new());
    let reader = thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            lines.send_modify(|lines| lines.push(text));
            line.clear();
        }
    });
    (received, reader)
}
