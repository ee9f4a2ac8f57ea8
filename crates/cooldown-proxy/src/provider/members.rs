//! The members of a JSON object as they are written, one by one, without building or checking their values.

use memchr::memchr2;

/// Bytes of numbers and of `true`, `false` and `null`.
const SCALAR: u8 = 1;
/// Bytes between the values of an object or array.
const BETWEEN: u8 = 2;
const BLANK: u8 = 4;

/// What a byte may be outside of strings, brackets aside.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let (scalar, blank) = (b"0123456789+-.Eaeflnrstu", b" \t\r\n");
    let mut at = 0;
    while at < scalar.len() {
        kinds[scalar[at] as usize] = SCALAR;
        at += 1;
    }
    at = 0;
    while at < blank.len() {
        kinds[blank[at] as usize] = BLANK;
        at += 1;
    }
    kinds[b',' as usize] = BETWEEN;
    kinds[b':' as usize] = BETWEEN;
    kinds
};

/// One member, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member<'a> {
    /// Its name in quotes, escapes not resolved.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// Why the members of a text cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MembersFault {
    /// It is not JSON.
    NotJson,
    /// It is another kind of value.
    NotAnObject,
}

/// The members of an object. Of JSON it gives what any reader would; of what only looks like it, something or a fault: within
/// a value strings must end and as many brackets close as open, and outside of strings nothing may stand that JSON does not
/// have.
#[derive(Debug)]
pub(super) struct Members<'a> {
    json: &'a [u8],
    at: usize,
    is_first: bool,
}

impl<'a> Members<'a> {
    /// The members of the one object in `json`.
    ///
    /// # Errors
    /// When something else is there.
    pub(super) fn of(json: &'a [u8]) -> Result<Self, MembersFault> {
        let mut members = Self { json, at: 0, is_first: true };
        match members.past_blanks() {
            Some(b'{') => Ok(Self { at: members.at + 1, ..members }),
            Some(b'[' | b'"' | b'-' | b'0'..=b'9') => Err(MembersFault::NotAnObject),
            _ if matches!(json[members.at..].trim_ascii_end(), b"true" | b"false" | b"null") => {
                Err(MembersFault::NotAnObject)
            }
            _ => Err(MembersFault::NotJson),
        }
    }

    /// The next member; `None` behind the last one.
    ///
    /// # Errors
    /// When it is no JSON from here on.
    pub(super) fn next(&mut self) -> Result<Option<Member<'a>>, MembersFault> {
        let is_first = std::mem::take(&mut self.is_first);
        match self.past_blanks() {
            Some(b'}') => return self.end(),
            Some(b'"') if is_first => {}
            Some(b',') if !is_first => self.at += 1,
            _ => return Err(MembersFault::NotJson),
        }
        let member = self.member().ok_or(MembersFault::NotJson)?;
        Ok(Some(member))
    }

    /// Behind the object's bracket nothing may follow.
    fn end(&mut self) -> Result<Option<Member<'a>>, MembersFault> {
        self.at += 1;
        self.past_blanks().map_or(Ok(None), |_| Err(MembersFault::NotJson))
    }

    fn member(&mut self) -> Option<Member<'a>> {
        self.past_blanks().filter(|byte| *byte == b'"')?;
        let name = self.string()?;
        self.past_blanks().filter(|byte| *byte == b':')?;
        self.at += 1;
        let value = match self.past_blanks()? {
            b'"' => self.string(),
            b'{' | b'[' => self.container(),
            _ => self.scalar(),
        };
        value.map(|value| Member { name, value })
    }

    /// Passes a string, quotes included.
    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.at += 1;
        loop {
            let found = memchr2(b'"', b'\\', self.json.get(self.at..)?)?;
            self.at += found + 1;
            if self.json[self.at - 1] == b'"' {
                return Some(&self.json[start..self.at]);
            }
            self.at += 1;
        }
    }

    /// Passes an object or array with all that is in it.
    fn container(&mut self) -> Option<&'a [u8]> {
        let (start, mut open) = (self.at, 0);
        loop {
            self.pass(SCALAR | BETWEEN | BLANK);
            match self.json.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                _ => return None,
            }
            self.at += 1;
            if open == 0 {
                return Some(&self.json[start..self.at]);
            }
        }
    }

    fn scalar(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.pass(SCALAR);
        Some(&self.json[start..self.at]).filter(|scalar| !scalar.is_empty())
    }

    /// What comes behind blanks.
    fn past_blanks(&mut self) -> Option<u8> {
        self.pass(BLANK);
        self.json.get(self.at).copied()
    }

    fn pass(&mut self, kinds: u8) {
        let rest = self.json.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|byte| KINDS[usize::from(**byte)] & kinds != 0).count();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    fn all(json: &[u8]) -> Result<Vec<Member<'_>>, MembersFault> {
        let (mut members, mut all) = (Members::of(json)?, Vec::new());
        while let Some(member) = members.next()? {
            all.push(member);
        }
        Ok(all)
    }

    #[test]
    fn members_come_as_they_are_written() {
        let json = b" { \"a\" : 1.50 ,\"a\":[1, {\"b\":\"]}\\\"\"}],\n\"c\\n\":\"\\\\\",\"d\":null } ";
        let members: Vec<_> = all(json).expect("an object").iter().map(|one| (one.name, one.value)).collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"\"a\"", b"1.50"),
            (b"\"a\"", b"[1, {\"b\":\"]}\\\"\"}]"),
            (b"\"c\\n\"", b"\"\\\\\""),
            (b"\"d\"", b"null"),
        ];
        assert_eq!(members, expected);
    }

    #[rstest]
    #[case("", MembersFault::NotJson)]
    #[case("hello", MembersFault::NotJson)]
    #[case("{", MembersFault::NotJson)]
    #[case(r#"{"a"}"#, MembersFault::NotJson)]
    #[case(r#"{"a":}"#, MembersFault::NotJson)]
    #[case(r#"{"a":1,}"#, MembersFault::NotJson)]
    #[case(r#"{,"a":1}"#, MembersFault::NotJson)]
    #[case(r#"{"a":1 "b":2}"#, MembersFault::NotJson)]
    #[case(r#"{"a":1} x"#, MembersFault::NotJson)]
    #[case(r#"{"a":[}]}"#, MembersFault::NotJson)]
    #[case(r#"{"a":"\"}"#, MembersFault::NotJson)]
    #[case(r#"{'a':1}"#, MembersFault::NotJson)]
    #[case(r#"{"a":[/*"*/],"b":1}"#, MembersFault::NotJson)]
    #[case(r#"{"a":['"'],"b":1}"#, MembersFault::NotJson)]
    #[case(r#"{"a":NaN}"#, MembersFault::NotJson)]
    #[case("nothing", MembersFault::NotJson)]
    #[case("[1]", MembersFault::NotAnObject)]
    #[case(" null ", MembersFault::NotAnObject)]
    #[case("true", MembersFault::NotAnObject)]
    #[case("\"a\"", MembersFault::NotAnObject)]
    #[case(" -3", MembersFault::NotAnObject)]
    fn what_readers_may_differ_in_is_a_fault(#[case] json: &str, #[case] fault: MembersFault) {
        assert_eq!(all(json.as_bytes()), Err(fault), "{json}");
    }

    #[test]
    fn kinds_of_brackets_are_not_compared() {
        // No reader takes it.
        assert_eq!(all(br#"{"a":[}}"#).expect("members")[0].value, b"[}");
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = r#"["\\{}\[\]:,a\n\u{1}é😀 ]{0,8}"#;
        let leaf = prop_oneof![
            any::<Option<bool>>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f32>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..5).prop_map(|map| map.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn of_json_they_are_what_a_parser_finds(
            members in prop::collection::btree_map(r#"["\\a-z]{0,4}"#, value(), 0..6),
            pretty: bool,
        ) {
            let json = if pretty { serde_json::to_string_pretty(&members) } else { serde_json::to_string(&members) };
            let json = json.expect("JSON");
            let parsed: BTreeMap<String, &RawValue> = serde_json::from_str(&json).expect("an object");
            let found = all(json.as_bytes()).expect("an object");
            let named = |one: &Member<'_>| serde_json::from_slice::<String>(one.name).expect("a name");
            let found: BTreeMap<String, &[u8]> = found.iter().map(|one| (named(one), one.value)).collect();
            let parsed: BTreeMap<String, &[u8]> =
                parsed.into_iter().map(|(name, raw)| (name, raw.get().as_bytes())).collect();
            prop_assert_eq!(found, parsed);
        }

        #[test]
        fn what_a_parser_takes_is_taken(json in r#"\{("a":|"b"|\[|\]|\{|\}|,|1|:|-|null| |\\){0,12}\}"#) {
            let is_object = serde_json::from_str::<BTreeMap<String, &RawValue>>(&json).is_ok();
            prop_assert!(!is_object || all(json.as_bytes()).is_ok(), "{}", json);
        }

        #[test]
        fn any_bytes_end_without_a_panic(bytes: Vec<u8>, json in r#"\{["\\:{}\[\]a1, u]{0,60}"#) {
            let _ = (all(&bytes), all(json.as_bytes()));
        }
    }
}
