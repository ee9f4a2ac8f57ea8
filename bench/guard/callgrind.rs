//! Runs a program under callgrind and reads how many instructions it took.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// A program that will be counted once it has ended.
#[derive(Debug)]
pub(crate) struct Counted {
    folder: TempDir,
}

impl Counted {
    /// Makes room for its counts.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        Ok(Self { folder: TempDir::new().context("a folder for the counts")? })
    }

    /// The command that runs it; output and arguments are the caller's business.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--quiet"])
            .arg(format!("--callgrind-out-file={}", self.folder.path().join("counts").display()))
            .arg(program)
            // Where variables are put moves what is read at the start.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null());
        command
    }

    /// Where files of its own may stand.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All its instructions, in all its threads.
    pub(crate) fn total(&self) -> anyhow::Result<u64> {
        let counts = fs::read_to_string(self.folder.path().join("counts")).context("callgrind left no counts")?;
        let total = counts.lines().find_map(|line| line.strip_prefix("totals: ")).context("counts without a total")?;
        total.trim().parse().context("a total that is no number")
    }
}

/// Runs a program to its end and counts it.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<u64> {
    let counted = Counted::prepare()?;
    let status = counted.command(program).args(arguments).status().context("valgrind does not run")?;
    ensure!(status.success(), "{arguments:?} failed under valgrind");
    counted.total()
}
