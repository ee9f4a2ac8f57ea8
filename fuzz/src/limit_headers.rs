//! Fields that state limits.

use std::time::Duration;

use cooldown_pacer::LONGEST_PERIOD;
use cooldown_proxy::provider::{MOST_STATEMENTS, read_limits, tell_apart};
use http::HeaderValue;
use http::header::AGE;

use super::response::{RECEIVED, Response, assert_believable};

/// Reads the fields of a response.
pub fn run(data: &[u8]) {
    let Response { kind, status, mut headers, .. } = Response::read(data);
    let said = read_limits(kind, status, &headers, RECEIVED);
    assert!(said.statements.len() <= MOST_STATEMENTS);
    assert!(said.retry_after.is_none_or(|wait| wait <= LONGEST_PERIOD), "{said:?}");
    for (index, statement) in said.statements.iter().enumerate() {
        assert_believable(statement);
        for later in &said.statements[index..] {
            for apart in [0, 1, 60, u64::MAX] {
                let _ = tell_apart(statement, later, Duration::from_secs(apart));
            }
        }
    }
    headers.insert(AGE, HeaderValue::from_static("1"));
    assert!(read_limits(kind, status, &headers, RECEIVED).statements.is_empty(), "a cache says nothing of now");
}
