//! An API with models and keys: what is known of one provider.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_lc_rs::digest;
use cooldown_pacer::{Cost, Instant};
use foldhash::fast::RandomState;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::site::Route;
use super::way;
use crate::config::ModelGlob;
use crate::config::model::{KeyField, Keys, Provider};
use crate::provider::{Charge, Estimate, Estimator, Tokenizer};

/// For how long a key is left alone whose money is spent, or which the upstream does not accept.
const REST: Duration = Duration::from_secs(600);

/// What is known of a provider.
#[derive(Debug)]
pub(super) struct Api {
    pub charge: Charge,
    pub estimator: Arc<Estimator>,
    /// By which tokenizer prompts are counted, if by any: the first entry that a model matches.
    tokenizers: Vec<(ModelGlob, Option<Tokenizer>)>,
    /// Our own keys; none where callers bring theirs.
    pub keys: Vec<ApiKey>,
    /// The provider's names of models that callers call otherwise.
    aliases: HashMap<Box<str>, Box<str>, RandomState>,
    /// What stands in place of `/v1` for requests whose model led here.
    pub unified_base: &'static str,
    /// Whether it is there for requests that others have turned away.
    pub fallback: bool,
}

/// A key of ours, as it is sent.
#[derive(Debug)]
pub(super) struct ApiKey {
    pub field: HeaderName,
    /// Marked as sensitive: it is never shown.
    pub value: HeaderValue,
    /// What a person may see of it.
    pub fingerprint: String,
    /// Until when it is left alone, in the pacing clock's nanoseconds.
    rests_until: Arc<AtomicU64>,
}

impl Api {
    /// What is known of a configured provider.
    pub(super) fn new(provider: &Provider) -> Self {
        let keys = match &provider.keys {
            Keys::Client => Vec::new(),
            Keys::Ours(keys) => keys.iter().filter_map(|key| ApiKey::new(provider.key_field, key.expose())).collect(),
        };
        let alias = |(alias, model): &(String, String)| (alias.as_str().into(), model.as_str().into());
        Self {
            charge: provider.charge,
            estimator: Arc::default(),
            tokenizers: provider.tokenizers.clone(),
            keys,
            aliases: provider.model_aliases.iter().map(alias).collect(),
            unified_base: provider.unified_base,
            fallback: provider.fallback,
        }
    }

    /// What counts the prompts for a model, by the provider's own name of it.
    pub(super) fn tokenizer(&self, model: &str) -> Option<Tokenizer> {
        self.tokenizers.iter().find(|(glob, _)| glob.matches(model))?.1
    }
}

/// Loads what counts prompts, on a thread of its own: nothing waits for it, and until it is there bytes are counted.
///
/// # Errors
/// When the system refuses the thread.
pub(super) fn load_tokenizers(providers: &[Provider]) -> io::Result<()> {
    let named = providers.iter().flat_map(|provider| &provider.tokenizers).filter_map(|(_, tokenizer)| *tokenizer);
    let wanted: HashSet<Tokenizer, RandomState> = named.filter(|tokenizer| !tokenizer.is_loaded()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let load = move || {
        for tokenizer in wanted {
            tokenizer.load();
            tracing::info!("tokens are counted by {tokenizer}");
        }
    };
    std::thread::Builder::new().name("tokenizers".to_owned()).spawn(load).map(drop)
}

impl Api {
    /// Knows from now on what the same provider knew under another configuration.
    pub(super) fn go_on_from(&mut self, before: &Self) {
        self.estimator = Arc::clone(&before.estimator);
        for key in &mut self.keys {
            if let Some(before) = before.keys.iter().find(|before| before.value == key.value) {
                key.rests_until = Arc::clone(&before.rests_until);
            }
        }
    }
}

impl ApiKey {
    fn new(field: KeyField, key: &str) -> Option<Self> {
        let (field, text) = match field {
            KeyField::Authorization => (AUTHORIZATION, format!("Bearer {key}")),
            KeyField::XApiKey => (HeaderName::from_static("x-api-key"), key.to_owned()),
            KeyField::ApiKey => (HeaderName::from_static("api-key"), key.to_owned()),
            KeyField::XGoogApiKey => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(Self { field, value, fingerprint: fingerprint(key), rests_until: Arc::default() })
    }
}

/// The first 32 bits of the SHA-256 of a key, in hexadecimal.
fn fingerprint(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Route {
    /// How many keys of its own it has.
    pub(super) fn keys(&self) -> usize {
        self.api.as_ref().map_or(0, |api| api.keys.len())
    }

    /// A key of its own.
    pub(super) fn key(&self, key: Option<usize>) -> Option<&ApiKey> {
        self.api.as_ref()?.keys.get(key?)
    }

    /// Leaves a key alone for a while. False if it is none of its own.
    pub(super) fn rest(&self, key: Option<usize>, now: Instant) -> bool {
        let Some(key) = self.key(key) else { return false };
        key.rests_until.store(now.after(REST).as_nanos(), Relaxed);
        true
    }

    /// Whether a key is left alone.
    pub(super) fn rests(&self, key: Option<usize>, now: Instant) -> bool {
        self.key(key).is_some_and(|key| key.rests_until.load(Relaxed) > now.as_nanos())
    }

    /// Its keys are left alone no longer.
    pub(super) fn wake_keys(&self) {
        let keys = self.api.iter().flat_map(|api| &api.keys);
        keys.for_each(|key| key.rests_until.store(0, Relaxed));
    }

    /// Whether it is there for requests that others have turned away.
    pub(super) fn is_fallback(&self) -> bool {
        self.api.as_ref().is_some_and(|api| api.fallback)
    }

    /// Its own name of a model.
    pub(super) fn own_name<'a>(&'a self, model: &'a str) -> &'a str {
        self.api.as_ref().and_then(|api| api.aliases.get(model)).map_or(model, |own| own)
    }

    /// What a request takes until its response tells the truth.
    pub(super) fn reserved(&self, estimate: &Estimate) -> Cost {
        self.api.as_ref().map_or(Cost::ONE_REQUEST, |api| way::reserved(&api.charge, estimate))
    }
}
