//! Makes a target of HTTP/2 that will wait small: it may be a slice of the buffer that its connection reads into, most of which is
//! empty. Thousands may wait, so it gets memory of its own, and only as much as it needs.

use bytes::Bytes;
use http::Uri;

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
    fn a_compact_target_says_the_same() {
        for target in ["/a%2fb//c?", "*", "/?q", "http://a/b"] {
            let mut copy: Uri = target.parse().expect("a URI");
            uri(&mut copy);
            assert_eq!(copy.to_string(), target);
        }
    }
}
