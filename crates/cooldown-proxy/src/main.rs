//! The program: reads the command line and does what it says.

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use cooldown_proxy::app::App;
use cooldown_proxy::cli::{self, Command, ServeFrom};
use cooldown_proxy::config::Config;
use cooldown_proxy::demo;
use cooldown_proxy::telemetry::Logs;
use tokio::signal::unix::{Signal, SignalKind, signal};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(answer) => answer.exit(),
    };
    match command {
        Command::Serve { source } => serve(&source),
        Command::Check { path } => cli::check(&path),
        Command::Init { path, force } => cli::init(&path, force),
        Command::Demo { seconds } => show(seconds),
        Command::Version => cli::version(),
    }
}

fn serve(source: &ServeFrom) -> ExitCode {
    let config = match source.load() {
        Ok(config) => config,
        Err(faults) => {
            faults.print();
            return ExitCode::from(cli::USAGE);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn show(seconds: Option<u64>) -> ExitCode {
    match demo::run(seconds) {
        Ok(outcome) if outcome.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(cli::RUN_TIME_FAILURE),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("cooldown-proxy: {error:#}");
    ExitCode::from(cli::RUN_TIME_FAILURE)
}

/// Serves until SIGTERM or SIGINT.
fn run(mut config: Config) -> anyhow::Result<()> {
    let logs = Logs::start(&config.log)?;
    let app = App::bind(&config, logs.access().clone())?;
    tell_ports(&mut config, &app);
    print!("{}", config.describe(&config.addresses()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { app.run(told_to_stop()?).await })
}

/// Where the system chose a port, the start-up text tells which.
fn tell_ports(config: &mut Config, app: &App) {
    if let Some(address) = app.addresses().first() {
        config.server.port = address.port();
    }
    if let (Some(admin), Some(address)) = (&mut config.admin, app.admin_address()) {
        admin.port = address.port();
    }
}

/// Completes at the first SIGTERM or SIGINT. A second one ends the program at once.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).context("signals cannot be listened for");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            std::process::exit(i32::from(cli::RUN_TIME_FAILURE));
        });
    })
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
