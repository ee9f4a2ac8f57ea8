//! Configuration files: they have a meaning or faults, and no secret is shown.

use cooldown_proxy::config::model::{Config, Provider};
use cooldown_proxy::config::{ModelGlob, parse};

/// What every variable of the environment holds: a key, but no host and no path.
const FROM_ENVIRONMENT: &str = "sk-from-<the>-environment";
/// What stands behind whatever a file begins with.
const WRITTEN: &str = "sk-written-in-the-file";

/// Reads a text as a configuration, alone and with a key behind it.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    check(&text);
    check(&format!("{text}\nproviders:\n  hidden:\n    api_key: {WRITTEN}\n"));
}

fn check(text: &str) {
    // What is read without a file's saying so (`OTEL_…`) is no key, and shown.
    let is_set = |name: &str| !name.starts_with("NO") && !name.starts_with("OTEL_");
    let environment = |name: &str| is_set(name).then(|| FROM_ENVIRONMENT.to_owned());
    match parse("config.yaml", text, &environment) {
        Ok(config) => check_config(&config),
        Err(faults) => {
            assert!(faults.iter().next().is_some(), "a file without faults is a configuration");
            for shown in [faults.to_string(), format!("{faults:?}")] {
                assert!(text.contains(FROM_ENVIRONMENT) || !shown.contains(FROM_ENVIRONMENT), "{shown}");
                assert!(!shown.contains(WRITTEN), "{shown}");
            }
        }
    }
}

fn check_config(config: &Config) {
    let started = config.describe(&config.addresses());
    assert!(started.starts_with("listening on http://"));
    // The name of a model may come out of the environment, and is no secret then.
    if config.providers.iter().any(has_model_of_environment) {
        return;
    }
    for shown in [started, format!("{config:?}")] {
        assert!(![FROM_ENVIRONMENT, WRITTEN].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}

fn has_model_of_environment(provider: &Provider) -> bool {
    let listed = provider.models.iter().map(ModelGlob::as_str);
    let aliased = provider.model_aliases.iter().map(|(_, model)| model.as_str());
    listed.chain(aliased).any(|model| model.contains(FROM_ENVIRONMENT))
}
