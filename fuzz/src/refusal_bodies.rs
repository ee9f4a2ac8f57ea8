//! Bodies and fields of refusals, and errors that came with a 200.

use cooldown_pacer::LONGEST_PERIOD;
use cooldown_proxy::provider::{Class, classify, classify_error_json};

use super::response::{RECEIVED, Response, assert_believable};

/// Judges a response.
pub fn run(data: &[u8]) {
    let Response { kind, status, headers, body } = Response::read(data);
    let class = classify(kind, status, &headers, Some(body), RECEIVED);
    assert!(status < 400 || class != Class::Fine, "an error is an error");
    let without_body = classify(kind, status, &headers, None, RECEIVED);
    let in_stream = classify_error_json(kind, body, RECEIVED);
    for class in [class, without_body, in_stream] {
        match class {
            Class::Limit { wait, stated, .. } => {
                assert!(wait.is_none_or(|wait| wait <= LONGEST_PERIOD), "{class:?}");
                stated.iter().for_each(assert_believable);
            }
            Class::Capacity { wait } => assert!(wait.is_none_or(|wait| wait <= LONGEST_PERIOD), "{class:?}"),
            Class::Fine | Class::Money | Class::Impossible { .. } | Class::Credentials | Class::Fault => {}
        }
    }
}
