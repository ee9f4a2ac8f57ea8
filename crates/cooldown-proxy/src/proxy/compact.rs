//! Makes a head that will wait small.
//!
//! Its values are slices of the buffer that the connection reads into, most of which is empty; and its map has room for
//! more fields than it has. Thousands may wait, so a waiting head gets memory of its own, and only as much as it needs.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Uri};

/// The same fields in memory of their own.
pub(super) fn headers(headers: &mut HeaderMap) {
    let total = headers.values().map(HeaderValue::len).sum();
    let mut buffer = BytesMut::with_capacity(total);
    headers.values().for_each(|value| buffer.extend_from_slice(value.as_bytes()));
    let mut buffer = buffer.freeze();
    let mut compact = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let mut copy = HeaderValue::from_maybe_shared(buffer.split_to(value.len())).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        compact.append(name.clone(), copy);
    }
    *headers = compact;
}

/// The same target in memory of its own.
pub(super) fn uri(uri: &mut Uri) {
    if let Ok(copy) = Uri::from_maybe_shared(Bytes::from(uri.to_string())) {
        *uri = copy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compact_head_says_the_same() {
        let mut map = HeaderMap::with_capacity(500);
        map.append("host", HeaderValue::from_static("a"));
        map.append("x-odd", HeaderValue::from_bytes(b"caf\xe9").expect("a value"));
        map.append("x-odd", HeaderValue::from_static(""));
        let mut secret = HeaderValue::from_static("Bearer x");
        secret.set_sensitive(true);
        map.append("authorization", secret);
        let before = map.clone();
        headers(&mut map);
        assert_eq!(map, before);
        assert!(map["authorization"].is_sensitive());
        assert!(map.capacity() < 20);

        for target in ["/a%2fb//c?", "*", "/?q", "http://a/b"] {
            let mut copy: Uri = target.parse().expect("a URI");
            uri(&mut copy);
            assert_eq!(copy.to_string(), target);
        }
    }
}
