//! How many tokens a request will take, from its size and from what the model's responses have taken so far.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::usage::{Partial, Usage};

/// What is known of each model. Shared by all threads; a look takes well below a microsecond.
#[derive(Debug, Default)]
pub struct Estimator {
    models: Mutex<Models>,
}

/// A request whose tokens are to be estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve<'a> {
    /// The model as the upstream knows it.
    pub model: &'a str,
    /// How large its prompt is.
    pub prompt: PromptSize,
    /// The most tokens that one answer may have, if the request says it.
    pub max_output: Option<u64>,
    /// How many answers are asked for.
    pub answers: u64,
}

/// How large a prompt is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptSize {
    /// Its bytes, by [`Peek::prompt_bytes`](super::Peek::prompt_bytes).
    pub bytes: u64,
    /// Its tokens, by [`Peek::prompt_tokens`](super::Peek::prompt_tokens), where they are counted. What is learned corrects
    /// them: what a provider puts around messages, and models that cut texts in other ways.
    pub tokens: Option<u64>,
}

/// The tokens that a request will probably take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub input: u64,
    /// Tokens of the answers: somewhat more than this model's answers usually have, but not more than may come.
    pub output: u64,
    /// The most tokens that all answers together may have, if the request says it. Several providers charge this in
    /// advance.
    pub most_output: Option<u64>,
}

/// More models than this are not remembered; the one that was heard of least recently makes room.
const MOST_MODELS: usize = 1_000;
/// A longer name is no model's, in bytes.
const LONGEST_NAME: usize = 200;
/// The weight of the newest response once enough are known: about the last thirty count.
const NEWEST: f64 = 1.0 / 16.0;
/// Tokens per byte and per request until a model has answered; rather too many than too few.
const FIRST_BY_BYTES: (f64, f64) = (0.3, 8.0);
/// Tokens per token that was counted, and per request, until a model has answered.
const FIRST_BY_TOKENS: (f64, f64) = (1.0, 3.0);
/// Tokens of an answer until a model has answered.
const FIRST_OUTPUT: f64 = 512.0;
/// Tokens per byte or per token that can be; anything else is a mistake of somebody's.
const POSSIBLE: std::ops::RangeInclusive<f64> = 0.001..=100.0;
/// A provider puts fewer tokens than this before each prompt.
const MOST_PER_REQUEST: f64 = 5_000.0;
/// How far apart the sizes of prompts must lie before a part is ascribed to the request itself: this share of their
/// mean (as a variance, of their inverses).
const RIDGE: f64 = 0.02;

#[derive(Debug, Default)]
struct Models {
    known: HashMap<Box<str>, Model, RandomState>,
    /// How many responses have been learned from.
    heard: u64,
}

/// What a model's responses have shown.
#[derive(Debug, Default, Clone, Copy)]
struct Model {
    /// Tokens of a prompt by its bytes, and by the tokens that were counted.
    by_bytes: Line,
    by_tokens: Line,
    output: Spread,
    /// Output tokens per byte of streamed text.
    streamed: Spread,
    heard_at: u64,
}

/// Tokens of a prompt as a line over its size, fitted so that relative errors are small: tokens for a unit of size over the
/// inverse of the size, by means that forget.
#[derive(Debug, Default, Clone, Copy)]
struct Line {
    seen: u32,
    per_unit: f64,
    inverse: f64,
    variance: f64,
    covariance: f64,
}

/// The mean and the mean deviation of something, by means that forget.
#[derive(Debug, Default, Clone, Copy)]
struct Spread {
    seen: u32,
    mean: f64,
    deviation: f64,
}

impl Estimator {
    /// The tokens that a request will take.
    pub fn estimate(&self, reserve: &Reserve<'_>) -> Estimate {
        let model = self.model(reserve.model);
        let answers = reserve.answers.max(1);
        let most_output = reserve.max_output.map(|most| most.saturating_mul(answers));
        let output = (model.usual_output() * answers as f64).ceil() as u64;
        Estimate {
            input: model.prompt_tokens(&reserve.prompt),
            output: output.min(most_output.unwrap_or(u64::MAX)),
            most_output,
        }
    }

    /// What a response that broke off has taken. Its prompt was read whole; of its answer, what came counts.
    pub fn settle(&self, model: &str, estimate: &Estimate, partial: &Partial) -> Usage {
        let per_byte = self.model(model).output_per_byte();
        let input = partial.input.unwrap_or(estimate.input);
        let output = (partial.output_bytes as f64 * per_byte).ceil() as u64;
        let output = output.min(estimate.most_output.unwrap_or(u64::MAX));
        let total = input.saturating_add(output);
        Usage { input, cached_input: partial.cached_input.min(input), output, total }
    }

    /// Learns from a response that told its usage. `output_bytes` is [`Partial::output_bytes`] at its end: 0 unless it
    /// was a stream.
    pub fn learn(&self, model: &str, prompt: &PromptSize, answers: u64, output_bytes: u64, usage: &Usage) {
        if model.len() > LONGEST_NAME {
            return;
        }
        let mut models = self.models.lock();
        models.heard += 1;
        let heard_at = models.heard;
        let known = models.entry(model);
        known.heard_at = heard_at;
        known.by_bytes.learn(prompt.bytes, usage.input);
        known.by_tokens.learn(prompt.tokens.unwrap_or(0), usage.input);
        known.output.learn(usage.output as f64 / answers.max(1) as f64);
        if output_bytes > 0 {
            let per_byte = usage.output as f64 / output_bytes as f64;
            if POSSIBLE.contains(&per_byte) {
                known.streamed.learn(per_byte);
            }
        }
    }

    fn model(&self, name: &str) -> Model {
        self.models.lock().known.get(name).copied().unwrap_or_default()
    }
}

impl Models {
    fn entry(&mut self, name: &str) -> &mut Model {
        if !self.known.contains_key(name) && self.known.len() >= MOST_MODELS {
            let oldest = self.known.iter().min_by_key(|(_, model)| model.heard_at).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        self.known.entry(name.into()).or_default()
    }
}

impl Model {
    /// By what was counted, where it was.
    fn prompt_tokens(&self, prompt: &PromptSize) -> u64 {
        match prompt.tokens {
            Some(tokens) => self.by_tokens.tokens(tokens, FIRST_BY_TOKENS),
            None => self.by_bytes.tokens(prompt.bytes, FIRST_BY_BYTES),
        }
    }

    /// Tokens of one answer: the mean and a deviation more, so that most answers stay below.
    fn usual_output(&self) -> f64 {
        if self.output.seen == 0 { FIRST_OUTPUT } else { self.output.mean + self.output.deviation }
    }

    fn output_per_byte(&self) -> f64 {
        if self.streamed.seen == 0 { FIRST_BY_BYTES.0 } else { self.streamed.mean }
    }
}

impl Line {
    /// Tokens of a prompt of this size; `first` is the line until something has been learned.
    fn tokens(&self, size: u64, first: (f64, f64)) -> u64 {
        if size == 0 {
            return 0;
        }
        let (per_unit, per_request) = if self.seen == 0 { first } else { self.line() };
        (size as f64).mul_add(per_unit, per_request).ceil() as u64
    }

    /// Tokens for a unit of size and for a request.
    fn line(&self) -> (f64, f64) {
        // The last term keeps prompts of one size, whose slope is noise, from telling one.
        let slope = self.covariance / (self.variance + RIDGE * self.inverse * self.inverse);
        let slope = slope.clamp(0.0, MOST_PER_REQUEST.min(0.9 * self.per_unit / self.inverse));
        (slope.mul_add(-self.inverse, self.per_unit), slope)
    }

    fn learn(&mut self, size: u64, tokens: u64) {
        if size == 0 || tokens == 0 {
            return;
        }
        let (per_unit, inverse) = (tokens as f64 / size as f64, 1.0 / size as f64);
        if !POSSIBLE.contains(&per_unit) {
            return;
        }
        let weight = weight_after(&mut self.seen);
        let (off_per_unit, off_inverse) = (per_unit - self.per_unit, inverse - self.inverse);
        self.per_unit += weight * off_per_unit;
        self.inverse += weight * off_inverse;
        self.variance = (1.0 - weight) * (weight * off_inverse).mul_add(off_inverse, self.variance);
        self.covariance = (1.0 - weight) * (weight * off_inverse).mul_add(off_per_unit, self.covariance);
    }
}

impl Spread {
    fn learn(&mut self, value: f64) {
        let weight = weight_after(&mut self.seen);
        let off = value - self.mean;
        self.mean += weight * off;
        // The first value deviates from nothing.
        self.deviation += if weight < 1.0 { weight * (off.abs() - self.deviation) } else { 0.0 };
    }
}

/// Counts a response, and gives its weight: a plain mean at first, later one that forgets.
fn weight_after(seen: &mut u32) -> f64 {
    *seen = seen.saturating_add(1);
    NEWEST.max(1.0 / f64::from(*seen))
}

#[cfg(test)]
mod tests;
