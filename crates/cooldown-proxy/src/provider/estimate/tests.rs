use proptest::prelude::*;

use super::*;

fn reserve(prompt_bytes: u64) -> Reserve<'static> {
    Reserve { model: "m", prompt: sized(prompt_bytes), max_output: None, answers: 1 }
}

fn sized(bytes: u64) -> PromptSize {
    PromptSize { bytes, tokens: None }
}

fn usage(input: u64, output: u64) -> Usage {
    Usage { input, cached_input: 0, output, total: input + output }
}

#[test]
fn an_unknown_model_is_estimated_from_bytes() {
    let estimate = Estimator::default().estimate(&reserve(1_000));
    assert_eq!((estimate.input, estimate.output, estimate.most_output), (308, 512, None));
    assert_eq!(Estimator::default().estimate(&reserve(0)).input, 0);
}

#[test]
fn output_is_never_expected_beyond_what_may_come() {
    let estimator = Estimator::default();
    let estimate = estimator.estimate(&Reserve { max_output: Some(100), answers: 3, ..reserve(10) });
    assert_eq!((estimate.output, estimate.most_output), (300, Some(300)));
    let absurd = Reserve { max_output: Some(u64::MAX), answers: u64::MAX, ..reserve(u64::MAX) };
    assert_eq!(estimator.estimate(&absurd).most_output, Some(u64::MAX));
}

#[test]
fn answers_are_expected_as_they_were() {
    let estimator = Estimator::default();
    for output in [90, 110, 100, 90, 110, 100] {
        estimator.learn("m", &sized(1_000), 1, 0, &usage(250, output));
    }
    let output = estimator.estimate(&reserve(10)).output;
    assert!((100..=115).contains(&output), "{output}");
}

#[test]
fn a_broken_stream_is_settled_by_what_came() {
    let estimator = Estimator::default();
    for _ in 0..5 {
        estimator.learn("m", &sized(1_000), 1, 400, &usage(250, 100));
    }
    let estimate = estimator.estimate(&reserve(1_000));
    let partial = Partial { input: None, cached_input: 0, output_bytes: 200 };
    assert_eq!(estimator.settle("m", &estimate, &partial), usage(estimate.input, 50));
    let partial = Partial { input: Some(300), cached_input: 20, output_bytes: 0 };
    assert_eq!(estimator.settle("m", &estimate, &partial), Usage { cached_input: 20, ..usage(300, 0) });
}

#[test]
fn mistakes_are_not_learned() {
    let estimator = Estimator::default();
    for _ in 0..20 {
        estimator.learn("m", &sized(1_000), 1, 0, &usage(250, 100));
    }
    let before = estimator.estimate(&reserve(1_000));
    for (size, input) in [(1, 1 << 40), (0, 5), (1_000, 0), (u64::MAX, 1)] {
        estimator.learn("m", &sized(size), 1, 1, &usage(input, 100));
    }
    assert_eq!(estimator.estimate(&reserve(1_000)).input, before.input);
}

#[test]
fn the_number_of_models_is_bounded() {
    let estimator = Estimator::default();
    for number in 0..2 * MOST_MODELS {
        estimator.learn(&format!("model-{number}"), &sized(1_000), 1, 0, &usage(500, 100));
        estimator.learn("m", &sized(1_000), 1, 0, &usage(1_000, 100));
    }
    estimator.learn(&"x".repeat(LONGEST_NAME + 1), &sized(1_000), 1, 0, &usage(500, 100));
    assert_eq!(estimator.models.lock().known.len(), MOST_MODELS);
    assert_eq!(estimator.estimate(&reserve(1_000)).input, 1_000);
}

fn counted(tokens: u64) -> Reserve<'static> {
    Reserve { prompt: PromptSize { bytes: 1_000, tokens: Some(tokens) }, ..reserve(0) }
}

#[test]
fn counted_tokens_are_believed_from_the_first_request_on() {
    let estimator = Estimator::default();
    assert_eq!(estimator.estimate(&counted(700)).input, 703);
    assert_eq!(estimator.estimate(&counted(0)).input, 0);
}

#[test]
fn a_model_that_cuts_otherwise_than_the_tokenizer_is_learned() {
    let estimator = Estimator::default();
    for tokens in [100, 2_000, 700, 40, 9_000] {
        estimator.learn("m", &counted(tokens).prompt, 1, 0, &usage(tokens * 13 / 10 + 12, 10));
    }
    for tokens in [50, 500, 5_000] {
        let (estimate, actual) = (estimator.estimate(&counted(tokens)).input as f64, tokens as f64 * 1.3 + 12.0);
        assert!((estimate - actual).abs() <= 0.1 * actual, "{estimate}, not {actual}");
    }
}

#[test]
fn bytes_are_learned_beside_counted_tokens() {
    let estimator = Estimator::default();
    for _ in 0..20 {
        estimator.learn("m", &counted(700).prompt, 1, 0, &usage(710, 10));
    }
    assert_eq!(estimator.estimate(&reserve(1_000)).input, 710, "where nothing was counted");
    assert_eq!(estimator.estimate(&counted(700)).input, 710);
}

/// A prompt: its bytes, and how far its tokens are off the model's ratio, as a share.
fn prompts(most: f64) -> impl Strategy<Value = Vec<(f64, f64)>> {
    prop::collection::vec((50f64.ln()..most.ln(), -0.15..0.15f64), 20..200)
        .prop_map(|prompts| prompts.into_iter().map(|(size, noise)| (size.exp().round(), noise)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Over prompts of the sizes that have been seen, both in sum and on average.
    #[test]
    fn twenty_responses_bring_the_estimate_within_a_tenth(
        per_byte in 0.15..0.6f64, per_request in 0.0..15f64, prompts in prompts(100_000.0),
    ) {
        let estimator = Estimator::default();
        for (bytes, noise) in &prompts {
            let tokens = (per_byte * bytes + per_request) * (1.0 + noise);
            estimator.learn("m", &sized(*bytes as u64), 1, 0, &usage(tokens.round() as u64, 10));
        }
        let (mut estimated, mut actual, mut relative) = (0.0, 0.0, 0.0);
        for (bytes, _) in &prompts {
            let truth = per_byte * bytes + per_request;
            let estimate = estimator.estimate(&reserve(*bytes as u64)).input as f64;
            estimated += estimate;
            actual += truth;
            relative += (estimate - truth).abs() / truth;
        }
        prop_assert!((estimated - actual).abs() <= 0.1 * actual, "{estimated}, not {actual}");
        prop_assert!(relative <= 0.1 * prompts.len() as f64, "off by {relative} over {}", prompts.len());
    }

    #[test]
    fn nothing_said_makes_an_estimate_absurd(
        said in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..50), bytes in 1..100_000_000u64,
    ) {
        let estimator = Estimator::default();
        for (bytes, input, output) in said {
            let told = Usage { input, cached_input: 0, output, total: input };
            estimator.learn("m", &sized(bytes >> (input % 64)), 1, output >> 7, &told);
        }
        prop_assert!(estimator.estimate(&reserve(bytes)).input as f64 <= 101.0 * bytes as f64 + 5_001.0);
    }
}
