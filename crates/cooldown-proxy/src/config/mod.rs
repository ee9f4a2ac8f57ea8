//! Configuration in two stages: what was written, then what is meant.
//!
//! [`parse`] reads YAML into a tree in which every value knows its place, replaces `${NAME}` from the environment, and
//! walks the tree once. Whatever is wrong is noted on the way, so that all [`Faults`] of a file are reported together;
//! a [`Config`] comes out only when there are none, and nothing in it can be wrong.

mod clients;
mod describe;
mod env;
mod fault;
mod field;
mod flags;
mod glob;
mod host;
mod identity;
mod limits;
mod listen;
mod mask;
pub mod model;
mod models;
mod node;
mod preset;
mod providers;
mod quantity;
mod rate;
mod routes;
mod schema;
pub mod secret;
mod shared;
mod traces;
mod upstream_tls;
mod url;
pub mod watch;

#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::path::Path;

pub use describe::Addresses;
pub use env::Env;
pub use fault::{Fault, Faults, Place};
pub use flags::from_flags;
pub use glob::ModelGlob;
pub use identity::{Identity, IdentityError, IdentityFiles, PemError};
pub use model::Config;
pub use schema::schema;
pub use secret::Secret;
pub use upstream_tls::{Authorities, UpstreamTls};

use fault::Report;
use field::Fields;
use mask::Hidden;

/// No configuration is larger than this, in bytes.
const LARGEST_FILE: u64 = 4 << 20;

/// The configuration that `init` writes: it starts as it stands, and every line is explained.
pub fn example() -> &'static str {
    include_str!("../../../../config.yaml.example")
}

/// Reads a configuration file, with the variables of this process.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let name = path.display().to_string();
    let unreadable = |message: String, hint: &str| Faults::without_place(&name, vec![(message, hint.to_owned())]);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = opened {
        let hint = "write one with `cooldown-proxy init`, name another with `--config FILE`, or use `--upstream URL`";
        return Err(unreadable(format!("the configuration cannot be read: {error}"), hint));
    }
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(unreadable("the configuration is larger than 4 MiB".to_owned(), "is this the right file?"));
    }
    parse_bytes(&name, &bytes, &|variable| std::env::var(variable).ok())
}

/// Reads a configuration from its text. `name` is the path that faults tell, beside which other files are looked for; `env`
/// looks variables up.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(name: &str, text: &str, env: Env<'_>) -> Result<Config, Faults> {
    let mut report = Report::default();
    let Some(mut root) = node::read(text, &mut report) else {
        return Err(report.into_faults(name, text, &Hidden::ByLook));
    };
    let hidden = Hidden::of(&root, text);
    env::expand(&mut root, env, &mut report);
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let config = Fields::of_file(&root, &mut report).and_then(|file| read(file, folder, env, &mut report));
    match config {
        Some(config) if report.is_empty() => Ok(config),
        _ => Err(report.into_faults(name, text, &hidden)),
    }
}

/// Reads a limit that names its own unit: `10/s` (requests), `60k tokens/min`, `8 concurrent`.
///
/// # Errors
/// What is wrong with it and what to write instead, for a person.
pub fn limit(text: &str) -> Result<cooldown_pacer::Limit, String> {
    rate::limit(text).map_err(|why| format!("{why}; {}", why.hint()))
}

/// Reads a duration with its unit, such as `10s` or `1h30m`.
///
/// # Errors
/// What is wrong with it and what to write instead, for a person.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    quantity::duration(text).map_err(|why| format!("{why}; {}", why.duration_hint()))
}

/// Reads the URL of an upstream, as it is with the default time-outs. Its own `Host` is sent.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn upstream(url: &str) -> Result<model::Upstream, String> {
    let url = url::parse(url).map_err(|why| why.to_string())?;
    Ok(model::Upstream::at(url, model::HostHeader::Upstream))
}

fn parse_bytes(name: &str, bytes: &[u8], env: Env<'_>) -> Result<Config, Faults> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(name, text, env),
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let mut report = Report::default();
            let at = valid.len()..valid.len();
            report.fault(&at, "this is no UTF-8 text", "save the file in UTF-8");
            Err(report.into_faults(name, &valid, &Hidden::ByLook))
        }
    }
}

/// What a whole file means; `None` only when something was reported. Files that it names are looked for in `folder`.
fn read(mut file: Fields<'_>, folder: &Path, env: Env<'_>, report: &mut Report) -> Option<Config> {
    let server = listen::server(&mut file, folder, report);
    let faults_before = report.len();
    let routes = routes::routes(&mut file, folder, report);
    let providers = providers::providers(&mut file, folder, report);
    if routes.is_empty() && providers.is_empty() && report.len() == faults_before {
        let hint = "under `routes:`, write `api.example.com: https://api.example.com`";
        report.fault(&file.at().clone(), "at least one route must be configured", hint);
    }
    let domain_limits = routes::domain_limits(&mut file, report);
    let default_limits = routes::default_limits(&mut file, report);
    let queue = clients::queue(&mut file, report);
    let clients = clients::clients(&mut file, &queue, report);
    let retry = clients::retry(&mut file, report);
    let admin = listen::admin(&mut file, server.as_ref(), report);
    let log = listen::log(&mut file, report);
    let traces = traces::telemetry(&mut file, env, report);
    let state = listen::state(&mut file, report);
    let shared = shared::shared(&mut file, report);
    file.close(report);
    Some(Config {
        server: server?,
        routes,
        domain_limits,
        default_limits,
        providers,
        clients,
        queue,
        retry,
        state,
        admin,
        log,
        traces,
        shared: shared.map(Box::new),
    })
}
