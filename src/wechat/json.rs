//! JSON objects as WeChat writes them: one whole object, in which no key stands twice.
//!
//! Of a key that stands twice some readers take the first value and some the last, so that it
//! would depend on the reader who is logged in (RFC 8259 section 4).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The object that `text` is; `None` for anything else, for what follows behind it, and for a
/// key that stands twice, at any depth.
pub(super) fn object(text: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(text) {
        Ok(Unique(Value::Object(fields))) => Some(fields),
        Ok(Unique(
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_),
        ))
        | Err(_) => None,
    }
}

/// A value in which no key stands twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without a key that stands twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, _>()? {
            if fields.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands twice"));
            }
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_one_object_is_read_as_serde_json_reads_it() {
        for text in [
            "{}",
            " {\"a\": null, \"b\": [true, -1, 1.5, 18446744073709551615, \"\\u5c0f\"]}\r\n",
            r#"{"a":{"a":{"a":1}},"b":{"a":2}}"#,
            "{\"\\ud83d\\ude00\":\"\u{1f600}\"}",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(object(text.as_bytes()).as_ref(), value.as_object(), "{text}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_at_any_depth_makes_it_unreadable() {
        for text in [
            r#"{"openid":"a","openid":"a"}"#,
            r#"{"openid":"a","x":1,"\u006fpenid":"b"}"#,
            r#"{"a":{"appid":"a","appid":"b"}}"#,
            r#"{"a":[{"b":1,"b":2}]}"#,
        ] {
            assert_eq!(object(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_or_has_something_behind_it_is_none() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        for text in ["", "[]", "1", "null", "\"a\"", "{} x", "{}{}", "{\"a\":1", "<html>", &deep] {
            assert_eq!(object(text.as_bytes()), None);
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), None);
        assert_eq!(object(b"\xef\xbb\xbf{}"), None, "a byte order mark");
    }
}
