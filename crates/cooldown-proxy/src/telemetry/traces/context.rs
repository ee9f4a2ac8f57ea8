//! W3C trace context: `traceparent` and `tracestate`, as callers send them and as upstreams get them.

use http::{HeaderName, HeaderValue};

use super::{SpanId, TraceId};

use crate::fields::Fields;

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// The bit of the flags that says that the caller's trace is recorded.
const SAMPLED: u8 = 1;
/// Longer states are dropped, as the standard allows.
const LONGEST_STATE: usize = 512;

/// What a request says about its caller's span.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
    pub(super) state: String,
}

/// The caller's span; `None` where none is named, or not as the standard has it.
pub(super) fn caller(headers: &Fields) -> Option<Caller> {
    let mut parents = headers.get_all(PARENT);
    let parent = parents.next()?.as_bytes();
    if parents.next().is_some() {
        return None;
    }
    let (trace, span, flags) = parse(parent)?;
    let states = headers.get_all(STATE).filter_map(|state| state.to_str().ok());
    let state = states.collect::<Vec<_>>().join(",");
    let state = if state.len() <= LONGEST_STATE { state } else { String::new() };
    Some(Caller { trace, span, sampled: flags & SAMPLED != 0, state })
}

/// Makes this span the parent of what the next one does. A state belongs to the caller's trace: it stays with that.
pub(super) fn tell(headers: &mut Fields, trace: &TraceId, span: &SpanId) {
    if caller(headers).is_none_or(|caller| caller.trace != *trace) {
        headers.remove(STATE);
    }
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-01";
    write_hex(&mut parent[3..35], trace);
    write_hex(&mut parent[36..52], span);
    // Hexadecimal digits and dashes are a valid value.
    if let Ok(parent) = HeaderValue::from_bytes(&parent) {
        headers.insert(PARENT, parent);
    }
}

/// `version-trace-span-flags`. Later versions may say more behind it.
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let (known, rest) = text.split_at_checked(55)?;
    let [version] = read_hex(&known[..2])?;
    let is_whole = rest.is_empty() || (version > 0 && rest[0] == b'-');
    if version == 0xff || !is_whole || [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
        return None;
    }
    let (trace, span): (TraceId, SpanId) = (read_hex(&known[3..35])?, read_hex(&known[36..52])?);
    let [flags] = read_hex(&known[53..])?;
    (trace != [0; 16] && span != [0; 8]).then_some((trace, span, flags))
}

/// Lower case only, as the standard has it.
fn read_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// The number of a trace as people see it.
pub(super) fn hexadecimal(trace: &TraceId) -> String {
    let mut text = [0; 32];
    write_hex(&mut text, trace);
    text.map(char::from).iter().collect()
}

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        (pair[0], pair[1]) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn only_what_the_standard_allows_is_a_parent() {
        let (trace, span, flags) = parse(EXAMPLE.as_bytes()).expect("the standard's own example");
        assert_eq!((trace[0], trace[15], span[1], flags), (0x4b, 0x36, 0xf0, 1));
        let later = format!("cc{}-what-comes-later", &EXAMPLE[2..]);
        assert!(parse(later.as_bytes()).is_some());
        for wrong in [
            "",
            "00",
            &EXAMPLE.to_uppercase(),
            &EXAMPLE[..54],
            &format!("{EXAMPLE}-more"),
            &format!("ff{}", &EXAMPLE[2..]),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("4bf9", "4bg9"),
        ] {
            assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = Fields::default();
        headers.append(PARENT, HeaderValue::from_static(EXAMPLE));
        assert!(caller(&headers).is_some());
        headers.append(PARENT, HeaderValue::from_static(EXAMPLE));
        assert!(caller(&headers).is_none());
    }

    proptest! {
        #[test]
        fn what_is_told_is_read_again(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>()) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let mut headers = Fields::default();
            headers.insert(STATE, HeaderValue::from_static("other=1"));
            tell(&mut headers, &trace, &span);
            let told = caller(&headers).expect("a parent");
            prop_assert_eq!(told, Caller { trace, span, sampled: true, state: String::new() });
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
