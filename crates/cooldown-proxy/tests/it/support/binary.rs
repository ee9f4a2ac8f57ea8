//! The program itself, as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::PATIENCE;

/// A running `cooldown-proxy`; killed when dropped.
pub(crate) struct Binary {
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    /// Where it runs; removed after its end.
    folder: TempDir,
}

/// What it has written so far, standard output and standard error together.
#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments, run in `folder` to its end, with no environment variables but `PATH`.
pub(crate) fn command(folder: &TempDir, arguments: &[&str]) -> Finished {
    command_with(folder, arguments, &[])
}

/// The same, with these environment variables.
pub(crate) fn command_with(folder: &TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let output = bare(folder).args(arguments).envs(environment.iter().copied()).output().expect("the program runs");
    Finished {
        status: output.status,
        stdout: String::from_utf8(output.stdout).expect("output in UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("output in UTF-8"),
    }
}

fn bare(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cooldown-proxy"));
    command.current_dir(folder.path()).env_clear().stdin(Stdio::null());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command
}

impl Binary {
    /// Starts it with `config` as its `config.yaml`.
    pub(crate) fn serve(config: &str) -> Self {
        Self::serve_with(config, &[], &[])
    }

    /// The same, with arguments and environment variables.
    pub(crate) fn serve_with(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("config.yaml"), config).expect("the file is written");
        Self::start_in(folder, arguments, environment)
    }

    /// Starts it in `folder`.
    pub(crate) fn start_in(folder: TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = bare(&folder);
        command.args(arguments).envs(environment.iter().copied());
        Self::launched(folder, command)
    }

    /// Starts it with `config` where no file may grow beyond a few kilobytes.
    pub(crate) fn serve_without_room(config: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("config.yaml"), config).expect("the file is written");
        let mut command = Command::new("sh");
        let limited = "trap '' XFSZ; ulimit -S -f 8; exec \"$0\"";
        command.args(["-c", limited, env!("CARGO_BIN_EXE_cooldown-proxy")]);
        Self::launched(folder, command)
    }

    /// Starts it by `command`, which becomes the program in the end.
    pub(crate) fn launched(folder: TempDir, mut command: Command) -> Self {
        let mut child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let readers = vec![follow(stdout, &output), follow(stderr, &output)];
        Self { child, output, readers, folder }
    }

    /// A figure of its memory as `/proc` names it, in KiB.
    pub(crate) fn memory(&self, figure: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("Linux tells");
        let line = status.lines().find(|line| line.starts_with(figure)).expect("the figure is there");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// Where it runs.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line that `matches`, and returns it.
    pub(crate) fn line(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.output.lines.lock();
        loop {
            if let Some(line) = lines.iter().find(|line| matches(line)) {
                return line.clone();
            }
            let timed_out = self.output.grown.wait_until(&mut lines, deadline).timed_out();
            assert!(!timed_out, "no line {what}:\n{}", lines.join("\n"));
        }
    }

    /// Every line so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.output.lines.lock().clone()
    }

    /// Where clients reach it, read from what it says at its start.
    pub(crate) fn address(&self) -> SocketAddr {
        self.told("listening on ")
    }

    /// Where its admin listener is.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.told("admin on ")
    }

    fn told(&self, before: &str) -> SocketAddr {
        let line = self.line(&format!("with `{before}ADDRESS`"), |line| address_after(line, before).is_some());
        address_after(&line, before).expect("it was there just now")
    }

    /// Sends a signal: `TERM`, `INT`, `KILL`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "the signal could not be sent");
    }

    /// Waits for its end, and returns its status and how long that took.
    pub(crate) fn end(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                self.readers.drain(..).for_each(|reader| reader.join().expect("the reader ends"));
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "the program does not end:\n{}", self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stream: impl Read + Send + 'static, output: &Arc<Output>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            output.lines.lock().push(line);
            output.grown.notify_all();
        }
    })
}

/// The address that stands behind `before`, whatever URL or punctuation it is dressed in.
fn address_after(line: &str, before: &str) -> Option<SocketAddr> {
    let rest = line.split_once(before)?.1.trim_start_matches("http://").replacen("localhost", "127.0.0.1", 1);
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || "[]:.".contains(c))).unwrap_or(rest.len());
    rest[..end].trim_end_matches(['.', ':']).parse().ok()
}
