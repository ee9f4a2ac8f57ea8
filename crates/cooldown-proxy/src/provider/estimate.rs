//! How many tokens a request will take, from its bytes and from what the model's responses have taken so far.

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
    /// Bytes of prompt, as [`peek`](super::peek) counts them.
    pub prompt_bytes: u64,
    /// The most tokens that one answer may have, if the request says it.
    pub max_output: Option<u64>,
    /// How many answers are asked for.
    pub answers: u64,
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
const FIRST_PER_BYTE: f64 = 0.3;
const FIRST_PER_REQUEST: f64 = 8.0;
/// Tokens of an answer until a model has answered.
const FIRST_OUTPUT: f64 = 512.0;
/// Tokens per byte that can be; anything else is a mistake of somebody's.
const POSSIBLE_PER_BYTE: std::ops::RangeInclusive<f64> = 0.001..=100.0;
/// A provider puts fewer tokens than this before each prompt.
const MOST_PER_REQUEST: f64 = 5_000.0;
/// How far apart the sizes of prompts must lie before a part is ascribed to the request itself: this share of their
/// mean (as a variance, in inverse bytes).
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
    prompt: Prompt,
    output: Spread,
    /// Output tokens per byte of streamed text.
    streamed: Spread,
    heard_at: u64,
}

/// Tokens of a prompt as a line over its bytes, fitted so that relative errors are small: tokens per byte over one per
/// byte, by means that forget.
#[derive(Debug, Default, Clone, Copy)]
struct Prompt {
    seen: u32,
    per_byte: f64,
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
            input: model.prompt.tokens(reserve.prompt_bytes),
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
    pub fn learn(&self, model: &str, prompt_bytes: u64, answers: u64, output_bytes: u64, usage: &Usage) {
        if model.len() > LONGEST_NAME {
            return;
        }
        let mut models = self.models.lock();
        models.heard += 1;
        let heard_at = models.heard;
        let known = models.entry(model);
        known.heard_at = heard_at;
        known.prompt.learn(prompt_bytes, usage.input);
        known.output.learn(usage.output as f64 / answers.max(1) as f64);
        if output_bytes > 0 {
            let per_byte = usage.output as f64 / output_bytes as f64;
            if POSSIBLE_PER_BYTE.contains(&per_byte) {
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
    /// Tokens of one answer: the mean and a deviation more, so that most answers stay below.
    fn usual_output(&self) -> f64 {
        if self.output.seen == 0 { FIRST_OUTPUT } else { self.output.mean + self.output.deviation }
    }

    fn output_per_byte(&self) -> f64 {
        if self.streamed.seen == 0 { FIRST_PER_BYTE } else { self.streamed.mean }
    }
}

impl Prompt {
    fn tokens(&self, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        let (per_byte, per_request) = self.line();
        (bytes as f64).mul_add(per_byte, per_request).ceil() as u64
    }

    /// Tokens per byte and tokens per request.
    fn line(&self) -> (f64, f64) {
        if self.seen == 0 {
            return (FIRST_PER_BYTE, FIRST_PER_REQUEST);
        }
        // The last term keeps prompts of one size, whose slope is noise, from telling one.
        let slope = self.covariance / (self.variance + RIDGE * self.inverse * self.inverse);
        let slope = slope.clamp(0.0, MOST_PER_REQUEST.min(0.9 * self.per_byte / self.inverse));
        (slope.mul_add(-self.inverse, self.per_byte), slope)
    }

    fn learn(&mut self, bytes: u64, tokens: u64) {
        if bytes == 0 || tokens == 0 {
            return;
        }
        let (per_byte, inverse) = (tokens as f64 / bytes as f64, 1.0 / bytes as f64);
        if !POSSIBLE_PER_BYTE.contains(&per_byte) {
            return;
        }
        let weight = weight_after(&mut self.seen);
        let (off_per_byte, off_inverse) = (per_byte - self.per_byte, inverse - self.inverse);
        self.per_byte += weight * off_per_byte;
        self.inverse += weight * off_inverse;
        self.variance = (1.0 - weight) * (weight * off_inverse).mul_add(off_inverse, self.variance);
        self.covariance = (1.0 - weight) * (weight * off_inverse).mul_add(off_per_byte, self.covariance);
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
