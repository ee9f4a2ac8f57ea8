//! What a field is to a proxy, by its name. It is told once, when the field comes: every head is asked for the same names again
//! and again.

/// What a field is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Passed on; whoever wants it looks it up by its name.
    Other,
    /// `host`.
    Host,
    /// `connection`: it may name more fields that end here.
    Connection,
    /// `content-type`.
    ContentType,
    /// `content-encoding`.
    ContentEncoding,
    /// `content-length`.
    ContentLength,
    /// `transfer-encoding`.
    TransferEncoding,
    /// `te`.
    Te,
    /// `upgrade`.
    Upgrade,
    /// `expect`.
    Expect,
    /// Another one that ends here (RFC 9110 §7.6.1).
    HopByHop,
    /// What earlier proxies told of the way, and every proxy tells anew.
    Forwarded,
    /// Between the client and this proxy.
    Ours,
    /// In one of the fields in which credentials travel.
    Credentials,
    /// What a client says about how long it waits.
    Patience,
    /// `priority`.
    Priority,
    /// What an SDK says about how often it has asked before.
    RetryCount,
    /// `date`.
    Date,
    /// It may state a limit, or when to come again.
    Limits,
}

/// Some kinds of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kind {
    /// What a field of this name is, which is in lower case.
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"host" => Self::Host,
            b"connection" => Self::Connection,
            b"content-type" => Self::ContentType,
            b"content-encoding" => Self::ContentEncoding,
            b"content-length" => Self::ContentLength,
            b"transfer-encoding" => Self::TransferEncoding,
            b"te" => Self::Te,
            b"upgrade" => Self::Upgrade,
            b"expect" => Self::Expect,
            b"keep-alive" | b"proxy-connection" | b"proxy-authenticate" | b"proxy-authorization" => Self::HopByHop,
            b"x-forwarded-host" | b"x-forwarded-proto" => Self::Forwarded,
            b"authorization" | b"x-api-key" | b"api-key" | b"x-goog-api-key" => Self::Credentials,
            b"prefer" | b"x-server-timeout" | b"grpc-timeout" => Self::Patience,
            b"x-stainless-timeout" | b"x-stainless-read-timeout" => Self::Patience,
            b"priority" => Self::Priority,
            b"x-stainless-retry-count" => Self::RetryCount,
            b"date" => Self::Date,
            [b'x', b'-', rest @ ..] if rest.starts_with(b"cooldown-") => Self::Ours,
            [b'a' | b'r' | b'x', ..] if holds(name, b"limit") || holds(name, b"retry-after") => Self::Limits,
            _ => Self::Other,
        }
    }
}

fn holds(name: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(name, words).is_some()
}

impl Kinds {
    /// These.
    pub const fn of(kinds: &[Kind]) -> Self {
        let (mut all, mut index) = (Self(0), 0);
        while index < kinds.len() {
            all = all.and(kinds[index]);
            index += 1;
        }
        all
    }

    /// These and one more.
    pub const fn and(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u32)
    }

    /// Whether it is one of them.
    pub const fn has(self, kind: Kind) -> bool {
        self.0 >> kind as u32 & 1 == 1
    }

    /// Whether one is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Kind::Host, &["host"])]
    #[case(Kind::Connection, &["connection"])]
    #[case(Kind::ContentType, &["content-type"])]
    #[case(Kind::ContentEncoding, &["content-encoding"])]
    #[case(Kind::ContentLength, &["content-length"])]
    #[case(Kind::TransferEncoding, &["transfer-encoding"])]
    #[case(Kind::Te, &["te"])]
    #[case(Kind::Upgrade, &["upgrade"])]
    #[case(Kind::Expect, &["expect"])]
    #[case(Kind::Priority, &["priority"])]
    #[case(Kind::RetryCount, &["x-stainless-retry-count"])]
    #[case(Kind::Date, &["date"])]
    #[case(Kind::HopByHop, &["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate"])]
    #[case(Kind::Forwarded, &["x-forwarded-host", "x-forwarded-proto"])]
    #[case(Kind::Ours, &["x-cooldown-client", "x-cooldown-"])]
    #[case(Kind::Credentials, &["authorization", "x-api-key", "api-key", "x-goog-api-key"])]
    #[case(Kind::Patience, &["prefer", "x-stainless-timeout", "x-stainless-read-timeout", "x-server-timeout", "grpc-timeout"])]
    #[case(Kind::Limits, &["ratelimit", "retry-after", "x-ms-retry-after-ms", "anthropic-ratelimit-unified-status", "x-tokenlimit-remaining"])]
    #[case(Kind::Other, &["", "hosts", "accept", "x-forwarded-for", "x-cooldown", "via", "unlimited"])]
    fn a_kind_is_told_by_the_name(#[case] kind: Kind, #[case] names: &[&str]) {
        for name in names {
            assert_eq!(Kind::of(name.as_bytes()), kind, "{name}");
        }
    }

    #[test]
    fn kinds_are_a_set() {
        let some = Kinds::of(&[Kind::Te, Kind::Limits]);
        assert!(some.has(Kind::Te) && some.has(Kind::Limits) && !some.has(Kind::Other));
        assert!(some.meets(Kinds::of(&[Kind::Te])) && !some.meets(Kinds::of(&[Kind::Ours])));
    }
}
