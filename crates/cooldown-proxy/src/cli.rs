//! The command line: what was asked for, and the commands that need no running proxy.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, Config, Faults};
use crate::load::{self, Load};
use crate::simulate::Simulate;
use crate::status::Status;

/// Exit code of a failure while running.
pub const RUN_TIME_FAILURE: u8 = 1;
/// Exit code of a faulty command line or configuration.
pub const USAGE: u8 = 2;

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "config.yaml";

const EXAMPLES: &str = "\
Examples:
  cooldown-proxy                                      serve with config.yaml
  cooldown-proxy -config proxy.yaml                   serve with another file
  cooldown-proxy --upstream https://api.github.com --limit 10/s --limit \"8 concurrent\"
  cooldown-proxy init && cooldown-proxy check         write a configuration, and see what it means
  cooldown-proxy status --watch                       look at a running one
  cooldown-proxy demo --seconds 10                    see it work, without any account
  cooldown-proxy load http://localhost:8080/ --limit 10/s
  cooldown-proxy simulate workload.yaml --compare other.yaml

Exit codes: 0 done, 1 failed while running, 2 faulty command line or configuration";

const LOAD_EXAMPLES: &str = "\
Examples:
  cooldown-proxy load http://localhost:8080/x -H \"Host: api.example.com\" --clients 32 --greedy 32 --limit 50/s
  cooldown-proxy load http://localhost:8080/openai/v1/chat/completions -H \"Authorization: Bearer KEY\" \\
      --tokens 800:200 --stream --rate 30/min --duration 5m --limit \"60k tokens/min\"

Exit codes: 0 something was answered, 1 nothing was, 2 faulty command line";

const SIMULATE_EXAMPLES: &str = "\
A workload is a list of clients; docs/commands.md explains every field:
  duration: 1d
  clients:
    - {name: batch, requests: 20000, host: api.example.com, takes: 2s}
    - {name: people, count: 50, rate: 2/min, model: gpt-4o-mini, tokens: {input: 800, output: 200}}

Exit codes: 0 done, 1 failed, 2 faulty command line, configuration or workload";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve until told to stop.
    Serve {
        /// Where the configuration comes from.
        source: ServeFrom,
    },
    /// Say what a configuration means, or what is wrong with it.
    Check {
        /// The file.
        path: PathBuf,
    },
    /// Write the example configuration.
    Init {
        /// The file.
        path: PathBuf,
        /// Whether an existing file is overwritten.
        force: bool,
    },
    /// Show direct calls against paced ones.
    Demo {
        /// When it ends by itself.
        seconds: Option<u64>,
    },
    /// Send requests to a URL and measure what comes of them.
    Load {
        /// What is sent, and when.
        load: Box<Load>,
        /// Whether the report is JSON.
        json: bool,
    },
    /// Tell how long a workload would take, in virtual time.
    Simulate {
        /// What is simulated.
        simulate: Simulate,
        /// Whether the report is JSON.
        json: bool,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Print what a shell needs to complete the command line.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages.
    Man {
        /// Where to.
        folder: PathBuf,
    },
    /// Ask a running proxy how everything stands.
    Status(Status),
    /// Print the version.
    Version,
}

/// Where a configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServeFrom {
    /// A file; what the command line says about the listener goes first.
    File {
        /// The file.
        path: PathBuf,
        /// Where to listen.
        listen: Listen,
    },
    /// The command line alone: one upstream.
    Flags {
        /// Its URL.
        upstream: String,
        /// Its limits, such as `10/s` or `60k tokens/min`.
        limits: Vec<String>,
        /// Where to listen.
        listen: Listen,
    },
}

/// Where to listen, as far as the command line says so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub struct Listen {
    /// Listen on this host name or address
    #[arg(long)]
    pub host: Option<String>,
    /// Listen on this port; 0 lets the system choose
    #[arg(long)]
    pub port: Option<u16>,
}

/// Delays requests to rate-limited APIs instead of refusing them.
#[derive(Debug, Parser)]
#[command(name = "cooldown-proxy", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Subcommands>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Read this configuration; `-config FILE` works as well [default: config.yaml]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Pace this one upstream, without a configuration file
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    upstream: Option<String>,
    /// A limit of the upstream: `10/s`, `"60k tokens/min"`, `"8 concurrent"`; may be repeated
    #[arg(long = "limit", value_name = "LIMIT", requires = "upstream")]
    limits: Vec<String>,
    #[command(flatten)]
    listen: Listen,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Say what a configuration means, or what is wrong with it
    Check {
        /// The file [default: config.yaml]
        #[arg(value_name = "FILE")]
        path: Option<PathBuf>,
    },
    /// Write a commented configuration that starts as it stands
    Init {
        /// The file
        #[arg(value_name = "FILE", default_value = DEFAULT_FILE)]
        path: PathBuf,
        /// Overwrite the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Show direct calls against paced ones: a strict mock provider, the proxy and a crowd of clients
    Demo {
        /// End after this many seconds
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        seconds: Option<u64>,
    },
    /// Send requests to a URL and tell: 429s seen, share of a limit that was used, fairness, waits
    #[command(after_help = LOAD_EXAMPLES)]
    Load(load::Arguments),
    /// Tell how long a workload would take under a configuration, in virtual time
    #[command(after_help = SIMULATE_EXAMPLES)]
    Simulate {
        /// A workload in YAML, or a log with access lines in JSON
        #[arg(value_name = "WORKLOAD")]
        workload: PathBuf,
        /// Show another configuration beside the first
        #[arg(long, value_name = "FILE")]
        compare: Option<PathBuf>,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print what a shell needs to complete the command line
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// The folder that they are written to
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Ask a running proxy how everything stands; a token is taken from COOLDOWN_ADMIN_TOKEN
    Status {
        /// Its admin listener
        #[arg(long, value_name = "URL", default_value = "http://localhost:9900")]
        url: String,
        /// Go on, once a second
        #[arg(short, long)]
        watch: bool,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the version
    Version,
}

/// Reads the command line; the first argument is the program's own name.
///
/// # Errors
/// When it is faulty, or asks for help: [`clap::Error::exit`] prints either and ends with the right code.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let Arguments { serve, command } = Arguments::try_parse_from(with_long_config(arguments))?;
    let Some(command) = command else { return Ok(Command::Serve { source: source(serve) }) };
    let takes_config = matches!(command, Subcommands::Check { path: None } | Subcommands::Simulate { .. });
    if serve.has_more_than_config() || (serve.config.is_some() && !takes_config) {
        let message = "options of serving do not go with this command, or name a file twice";
        return Err(Arguments::command().error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    Ok(match command {
        Subcommands::Check { path } => Command::Check { path: path.or(serve.config).unwrap_or_else(default_file) },
        Subcommands::Init { path, force } => Command::Init { path, force },
        Subcommands::Demo { seconds } => Command::Demo { seconds },
        Subcommands::Load(arguments) => {
            let json = arguments.json;
            let faulty = |why| Arguments::command().error(clap::error::ErrorKind::ValueValidation, why);
            Command::Load { load: Box::new(arguments.load().map_err(faulty)?), json }
        }
        Subcommands::Simulate { workload, compare, json } => {
            let config = serve.config.unwrap_or_else(default_file);
            Command::Simulate { simulate: Simulate { workload, config, compare }, json }
        }
        Subcommands::Schema => Command::Schema,
        Subcommands::Completions { shell } => Command::Completions { shell },
        Subcommands::Man { folder } => Command::Man { folder },
        Subcommands::Status { url, watch, json } => Command::Status(Status { url, watch, json }),
        Subcommands::Version => Command::Version,
    })
}

impl Serve {
    fn has_more_than_config(&self) -> bool {
        self.upstream.is_some() || !self.limits.is_empty() || self.listen != Listen::default()
    }
}

/// Turns `-config` into `--config`: clap would read it as `-c` with the value `onfig`.
fn with_long_config(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut after_separator = false;
    let rewritten = arguments.into_iter().map(|argument| {
        after_separator |= argument == "--";
        match argument.to_str() {
            Some(text) if !after_separator && (text == "-config" || text.starts_with("-config=")) => {
                OsString::from(format!("-{text}"))
            }
            _ => argument,
        }
    });
    rewritten.collect()
}

fn source(serve: Serve) -> ServeFrom {
    match serve.upstream {
        Some(upstream) => ServeFrom::Flags { upstream, limits: serve.limits, listen: serve.listen },
        None => ServeFrom::File { path: serve.config.unwrap_or_else(default_file), listen: serve.listen },
    }
}

fn default_file() -> PathBuf {
    PathBuf::from(DEFAULT_FILE)
}

impl ServeFrom {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Flags { .. } => None,
        }
    }

    /// The configuration to serve with.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(&self) -> Result<Config, Faults> {
        let (config, listen) = match self {
            Self::File { path, listen } => (config::load(path)?, listen),
            Self::Flags { upstream, limits, listen } => (config::from_flags(upstream, limits)?, listen),
        };
        config.listening_on(listen.host.as_deref(), listen.port)
    }
}

/// `check`: prints what a configuration means (code 0), or everything that is wrong with it (code 2).
pub fn check(path: &Path) -> ExitCode {
    match config::load(path) {
        Ok(config) => {
            print!("{} is valid\n{}", path.display(), config.describe(&config.addresses()));
            ExitCode::SUCCESS
        }
        Err(faults) => {
            faults.print();
            ExitCode::from(USAGE)
        }
    }
}

/// `init`: writes the example configuration. An existing file is only overwritten with `force`.
pub fn init(path: &Path, force: bool) -> ExitCode {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    let written = options.open(path).and_then(|mut file| file.write_all(config::example().as_bytes()));
    let shown = path.display();
    match written {
        Ok(()) => {
            println!("wrote {shown}\nstart with: cooldown-proxy --config {shown}");
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            eprintln!("{shown} exists already; overwrite it with --force, or name another file");
            ExitCode::from(USAGE)
        }
        Err(error) => {
            eprintln!("{shown} cannot be written: {error}");
            ExitCode::from(RUN_TIME_FAILURE)
        }
    }
}

/// `schema`: prints the JSON Schema of the configuration.
pub fn schema() -> ExitCode {
    print!("{}", config::schema());
    ExitCode::SUCCESS
}

/// `completions`: prints what a shell needs to complete the command line.
pub fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "cooldown-proxy", &mut script);
    // A reader that closes the pipe early has what it wants.
    let _ = std::io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// `man`: writes a manual page for the program and one for each of its commands.
pub fn man(folder: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let command = Arguments::command().disable_help_subcommand(true);
        clap_mangen::generate_to(command, folder)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} cannot be written: {error}", folder.display());
            ExitCode::from(RUN_TIME_FAILURE)
        }
    }
}

/// `version`: prints the name and version of the program.
pub fn version() -> ExitCode {
    println!("cooldown-proxy {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn parse_line(line: &str) -> Result<Command, clap::Error> {
        parse(std::iter::once("cooldown-proxy").chain(line.split_whitespace()).map(OsString::from))
    }

    fn from_file(path: &str) -> Command {
        Command::Serve { source: ServeFrom::File { path: path.into(), listen: Listen::default() } }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[rstest]
    #[case("", "config.yaml")]
    #[case("-config f.yaml", "f.yaml")]
    #[case("-config=f.yaml", "f.yaml")]
    #[case("--config f.yaml", "f.yaml")]
    #[case("--config=f.yaml", "f.yaml")]
    #[case("-c f.yaml", "f.yaml")]
    #[case("-cf.yaml", "f.yaml")]
    fn a_file_is_named_in_every_usual_way(#[case] line: &str, #[case] path: &str) {
        assert_eq!(parse_line(line).expect(line), from_file(path));
    }

    #[test]
    fn one_upstream_can_be_paced_without_a_file() {
        let command =
            parse_line("--upstream https://a --limit 10/s --limit 1k/min --port 0 --host ::1").expect("valid");
        let listen = Listen { host: Some("::1".into()), port: Some(0) };
        let limits = vec!["10/s".to_owned(), "1k/min".to_owned()];
        let source = ServeFrom::Flags { upstream: "https://a".into(), limits, listen };
        assert_eq!(command, Command::Serve { source });
    }

    #[rstest]
    #[case("check", Command::Check { path: "config.yaml".into() })]
    #[case("check f.yaml", Command::Check { path: "f.yaml".into() })]
    #[case("check -config f.yaml", Command::Check { path: "f.yaml".into() })]
    #[case("check -c f.yaml", Command::Check { path: "f.yaml".into() })]
    #[case("-config f.yaml check", Command::Check { path: "f.yaml".into() })]
    #[case("init", Command::Init { path: "config.yaml".into(), force: false })]
    #[case("init f.yaml --force", Command::Init { path: "f.yaml".into(), force: true })]
    #[case("demo", Command::Demo { seconds: None })]
    #[case("demo --seconds 4", Command::Demo { seconds: Some(4) })]
    #[case("schema", Command::Schema)]
    #[case("completions zsh", Command::Completions { shell: Shell::Zsh })]
    #[case("man pages", Command::Man { folder: "pages".into() })]
    #[case("status", Command::Status(Status { url: "http://localhost:9900".into(), watch: false, json: false }))]
    #[case("status --url http://a -w --json", Command::Status(Status { url: "http://a".into(), watch: true, json: true }))]
    #[case("version", Command::Version)]
    fn every_command_is_understood(#[case] line: &str, #[case] command: Command) {
        assert_eq!(parse_line(line).expect(line), command);
    }

    #[rstest]
    #[case("--config a --upstream https://b")]
    #[case("--limit 10/s")]
    #[case("-config")]
    #[case("-- -config f.yaml")]
    #[case("--port 65536")]
    #[case("demo --seconds 0")]
    #[case("check a -c b")]
    #[case("-c b check a")]
    #[case("--port 1 check")]
    #[case("--upstream https://a check")]
    #[case("-c a demo")]
    #[case("version --config a")]
    #[case("serve-me")]
    #[case("load")]
    #[case("load a.example")]
    #[case("load http://a --limit 10")]
    #[case("load http://a --rate 1/s --greedy 1")]
    #[case("load http://a --stream")]
    #[case("load http://a -H nothing")]
    #[case("load http://a --duration 0s")]
    #[case("load http://a --config b")]
    #[case("simulate")]
    #[case("completions tcsh")]
    fn a_faulty_line_ends_with_code_2(#[case] line: &str) {
        assert_eq!(parse_line(line).expect_err(line).exit_code(), i32::from(USAGE));
    }

    #[test]
    fn help_shows_examples_and_ends_with_code_0() {
        let help = parse_line("--help").expect_err("help is printed as an error is");
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string();
        assert!(text.contains("-config proxy.yaml") && text.contains("Exit codes"), "{text}");
    }

    #[test]
    fn the_command_line_overrides_the_listener() {
        let listen = Listen { host: Some("127.0.0.1".into()), port: Some(0) };
        let source = ServeFrom::Flags { upstream: "http://a".into(), limits: Vec::new(), listen };
        let config = source.load().expect("valid flags");
        assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 0));
        let listen = Listen { host: Some("a b".into()), port: None };
        let source = ServeFrom::Flags { upstream: "http://a".into(), limits: Vec::new(), listen };
        assert!(source.load().expect_err("no host").to_string().contains("--host"));
    }

    #[test]
    fn init_writes_a_valid_file_and_overwrites_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.yaml");
        assert_eq!(init(&path, false), ExitCode::SUCCESS);
        assert_eq!(check(&path), ExitCode::SUCCESS);
        std::fs::write(&path, "server: {}").expect("written");
        assert_eq!(init(&path, false), ExitCode::from(USAGE));
        assert_eq!(check(&path), ExitCode::from(USAGE));
        assert_eq!(init(&path, true), ExitCode::SUCCESS);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), config::example());
        assert_eq!(init(&folder.path().join("none/config.yaml"), false), ExitCode::from(RUN_TIME_FAILURE));
    }
}
