//! The program: reads the command line, and does what it says.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use cooldown_proxy::app::App;
use cooldown_proxy::cli::{self, Command, RUN_TIME_FAILURE, ServeFrom, USAGE};
use cooldown_proxy::config::watch::FileWatch;
use cooldown_proxy::config::{Addresses, Config};
use cooldown_proxy::load::{self, Load};
use cooldown_proxy::reload::Reloader;
use cooldown_proxy::service::Sockets;
use cooldown_proxy::simulate::{self, Fault, Simulate};
use cooldown_proxy::telemetry::Logs;
use cooldown_proxy::{demo, status};
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Every request takes and gives back some twenty small pieces of memory. This allocator keeps those of each thread at hand.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    match command {
        Command::Serve { source } => serve(&source),
        Command::Check { path } => cli::check(&path),
        Command::Init { path, force } => cli::init(&path, force),
        Command::Demo { seconds } => show(seconds),
        Command::Load { load, json } => measure(&load, json),
        Command::Simulate { simulate, json } => foresee(&simulate, json),
        Command::Schema => cli::schema(),
        Command::Completions { shell } => cli::completions(shell),
        Command::Man { folder } => cli::man(&folder),
        Command::Status(status) => ended(status::run(&status)),
        Command::Version => cli::version(),
    }
}

fn serve(source: &ServeFrom) -> ExitCode {
    match source.load() {
        Ok(config) => ended(run(source.clone(), &config)),
        Err(faults) => {
            faults.print();
            ExitCode::from(USAGE)
        }
    }
}

/// Serves until SIGTERM or SIGINT.
fn run(source: ServeFrom, config: &Config) -> anyhow::Result<()> {
    // Before there are threads.
    let sockets = Sockets::inherited()?;
    let logs = Logs::start(&config.log)?;
    let app = App::on(sockets, config, logs.access().clone())?.with_log_level(logs.level().clone());
    for line in config.describe(&bound(&app)).lines() {
        tracing::info!("{line}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let told = told_to_stop().context("signals cannot be received")?;
        let file = source.file().map(ToOwned::to_owned);
        let reloader = app.reloader(move || source.load());
        reload_when_told(reloader.clone(), file).context("signals cannot be received")?;
        app.with_reloader(reloader).run(told).await
    })
}

/// Reads the configuration again at each SIGHUP, and when its file changes.
fn reload_when_told(reloader: Reloader, file: Option<PathBuf>) -> std::io::Result<()> {
    let mut hang_ups = signal(SignalKind::hangup())?;
    let by_signal = reloader.clone();
    tokio::spawn(async move {
        while hang_ups.recv().await.is_some() {
            // Whatever comes of it is told.
            let _ = by_signal.reload_and_tell();
        }
    });
    let Some(file) = file else { return Ok(()) };
    match FileWatch::start(&file) {
        Ok(mut watch) => drop(tokio::spawn(async move {
            loop {
                watch.changed().await;
                let _ = reloader.reload_and_tell();
            }
        })),
        Err(error) => tracing::warn!(%error, "changes of the configuration are only seen on SIGHUP"),
    }
    Ok(())
}

/// Completes at the first SIGTERM or SIGINT. A second one ends the program at once.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        either(&mut signals).await;
        tokio::spawn(async move {
            either(&mut signals).await;
            std::process::exit(i32::from(RUN_TIME_FAILURE));
        });
    })
}

async fn either((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The addresses as they are known once the ports are open.
fn bound(app: &App) -> Addresses {
    let server = app.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    Addresses { server, admin: app.admin_address().map(|address| address.to_string()) }
}

fn show(seconds: Option<u64>) -> ExitCode {
    match demo::run(seconds) {
        Ok(outcome) if outcome.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(RUN_TIME_FAILURE),
        Err(error) => ended(Err(error)),
    }
}

fn measure(load: &Load, json: bool) -> ExitCode {
    match load::measure(load) {
        Ok(report) => {
            tell(json, &report, load::Report::json);
            if report.answers() > 0 { ExitCode::SUCCESS } else { ExitCode::from(RUN_TIME_FAILURE) }
        }
        Err(error) => ended(Err(error)),
    }
}

fn foresee(simulate: &Simulate, json: bool) -> ExitCode {
    match simulate::run(simulate) {
        Ok(report) => {
            tell(json, &report, simulate::Report::json);
            ExitCode::SUCCESS
        }
        Err(Fault::Config(faults)) => {
            faults.print();
            ExitCode::from(USAGE)
        }
        Err(Fault::Workload(why)) => {
            eprintln!("cooldown-proxy: {why}");
            ExitCode::from(USAGE)
        }
        Err(Fault::System(error)) => ended(Err(error)),
    }
}

fn tell<R: std::fmt::Display>(json: bool, report: &R, as_json: fn(&R) -> String) {
    match json {
        true => println!("{}", as_json(report)),
        false => print!("{report}"),
    }
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cooldown-proxy: {error:#}");
            ExitCode::from(RUN_TIME_FAILURE)
        }
    }
}
