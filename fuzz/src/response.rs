//! A response as corpus files hold it: `KIND STATUS`, then fields, then a blank line and the body.

use std::time::Duration;

use cooldown_pacer::LONGEST_PERIOD;
use cooldown_proxy::config::model::ProviderKind;
use cooldown_proxy::fields::Fields;
use cooldown_proxy::provider::{Reset, Statement, UnixTime};
use http::{HeaderName, HeaderValue};

/// When responses come: Sun, 22 Nov 2026 20:00:00 GMT.
pub const RECEIVED: UnixTime = UnixTime::from_secs(1_795_377_600);

/// No API allows more of anything in a window.
const LARGEST_AMOUNT: u64 = 1_000_000_000_000_000;

/// A window may end this much later than it is long: clocks differ.
const LATE: Duration = Duration::from_secs(3600);

const KINDS: [ProviderKind; 13] = [
    ProviderKind::OpenAi,
    ProviderKind::Azure,
    ProviderKind::Anthropic,
    ProviderKind::Cerebras,
    ProviderKind::Groq,
    ProviderKind::Gemini,
    ProviderKind::Mistral,
    ProviderKind::OpenRouter,
    ProviderKind::Together,
    ProviderKind::Fireworks,
    ProviderKind::DeepSeek,
    ProviderKind::GitHub,
    ProviderKind::Generic,
];

/// A response.
pub struct Response<'a> {
    /// Whose it is.
    pub kind: ProviderKind,
    /// Its status; 429 where none can be read.
    pub status: u16,
    /// Its fields; lines that are none are left out.
    pub headers: Fields,
    /// What follows the first blank line.
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads any bytes.
    pub fn read(data: &'a [u8]) -> Self {
        let (first, mut rest) = line(data);
        let mut words = first.split(|byte| *byte == b' ');
        let name = words.next().unwrap_or_default();
        let by_number = KINDS[usize::from(first.first().copied().unwrap_or_default()) % KINDS.len()];
        let kind = KINDS.into_iter().find(|kind| kind.name().as_bytes() == name).unwrap_or(by_number);
        let status = words.next().and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        let mut headers = Fields::default();
        while !rest.is_empty() {
            let (field, after) = line(rest);
            rest = after;
            if field.is_empty() {
                break;
            }
            let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
            let name = HeaderName::from_bytes(&field[..colon]);
            let value = HeaderValue::from_bytes(field[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        Self { kind, status: status.unwrap_or(429), headers, body: rest }
    }
}

/// The first line, without its end, and what follows.
fn line(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let line = &data[..end];
    (line.strip_suffix(b"\r").unwrap_or(line), data.get(end + 1..).unwrap_or_default())
}

/// What is said about a limit can be believed: no nonsense can lock an upstream up, or open it wide.
pub fn assert_believable(said: &Statement) {
    assert!(said.limit.is_none_or(|limit| (1..=LARGEST_AMOUNT).contains(&limit)), "{said:?}");
    assert!(said.remaining.is_none_or(|remaining| remaining <= said.limit.unwrap_or(LARGEST_AMOUNT)), "{said:?}");
    assert!(said.window.is_none_or(|window| !window.is_zero() && window <= LONGEST_PERIOD), "{said:?}");
    let reset = said.reset.map(Reset::after).unwrap_or_default();
    assert!(reset <= LONGEST_PERIOD, "{said:?}");
    if let Some(window) = said.window {
        assert!(reset <= window + LATE, "{said:?}");
    }
    for amount in [0, 1, 1000, u64::MAX] {
        assert!(said.wait_for(amount).is_none_or(|wait| wait <= LONGEST_PERIOD), "{said:?}");
    }
}
