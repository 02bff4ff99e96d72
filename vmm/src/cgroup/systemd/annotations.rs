//! Annotations `org.systemd.property.NAME`, which set any property of a container's unit, in GVariant's text format
//! (runc's docs/systemd-properties.md). The types that properties of scopes have are read; others are refused by name.

use std::collections::HashMap;

use crate::cgroup::Error;
use crate::dbus::message::Value;

const PREFIX: &str = "org.systemd.property.";

/// The properties that annotations ask for, in the order of their names.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<(String, Value)>, Error> {
    let mut found = Vec::new();
    for (annotation, text) in annotations {
        let Some(name) = annotation.strip_prefix(PREFIX) else { continue };
        let invalid =
            |why: &str| Error::Invalid(format!("annotations: {annotation}={text}: {why}"));
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(invalid("this is no name of a property"));
        }
        let value = value(text).ok_or_else(|| {
            invalid("a value is a boolean, number, string, or a list of numbers or strings, in GVariant's text format")
        })?;
        found.push(match name.strip_suffix("Sec") {
            // What people write in seconds, systemd takes in microseconds.
            Some(stem) if !stem.ends_with('U') => {
                let seconds = match value {
                    Value::I32(n) => u64::try_from(n).ok(),
                    Value::I64(n) => u64::try_from(n).ok(),
                    Value::U32(n) => Some(n.into()),
                    Value::U64(n) => Some(n),
                    _ => None,
                };
                let time = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
                let time = time.ok_or_else(|| invalid("this is no time in seconds"))?;
                (format!("{stem}USec"), Value::U64(time))
            }
            _ => (name.to_owned(), value),
        });
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn value(text: &str) -> Option<Value> {
    let text = text.trim();
    let text = text.strip_prefix("@as").or(text.strip_prefix("@au")).unwrap_or(text).trim_start();
    if let Some(list) = text.strip_prefix('[') {
        return list.trim_end().strip_suffix(']').and_then(list_of);
    }
    match text {
        "true" | "boolean true" => return Some(Value::Bool(true)),
        "false" | "boolean false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if text.starts_with(['\'', '"']) {
        let (string, rest) = string(text)?;
        return rest.is_empty().then_some(Value::Text(string));
    }
    let (kind, number) = text.split_once(' ').unwrap_or(("int32", text));
    let number = number.trim_start();
    match kind {
        "int32" => number.parse().ok().map(Value::I32),
        "uint32" => number.parse().ok().map(Value::U32),
        "int64" => number.parse().ok().map(Value::I64),
        "uint64" => number.parse().ok().map(Value::U64),
        _ => None,
    }
}

fn list_of(text: &str) -> Option<Value> {
    let mut rest = text.trim();
    if !rest.is_empty() && !rest.starts_with(['\'', '"']) {
        let number = |item: &str| {
            let item = item.trim();
            item.strip_prefix("uint32").unwrap_or(item).trim_start().parse().ok()
        };
        return rest.split(',').map(number).collect::<Option<_>>().map(Value::Numbers);
    }
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (text, after) = string(rest)?;
        texts.push(text);
        rest = match after.trim_start().split_at_checked(1) {
            None => "",
            Some((",", after)) => after.trim_start(),
            Some(_) => return None,
        };
    }
    Some(Value::Texts(texts))
}

/// A string in either kind of quotes, and what comes after.
fn string(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut string = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => string.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            '\0' => return None,
            c if c == quote => return Some((string, &text[at + c.len_utf8()..])),
            c => string.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_gvariant_s() {
        let texts = |list: &[&str]| Value::Texts(list.iter().map(|&text| text.into()).collect());
        for (text, expected) in [
            ("true", Value::Bool(true)),
            ("uint64 123456789", Value::U64(123_456_789)),
            ("-5", Value::I32(-5)),
            ("int64 7", Value::I64(7)),
            ("'inactive-or-failed'", Value::Text("inactive-or-failed".into())),
            (r#""a\"b""#, Value::Text("a\"b".into())),
            ("['a', \"b\"]", texts(&["a", "b"])),
            ("@as []", texts(&[])),
            ("[uint32 1, 2]", Value::Numbers(vec![1, 2])),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for wrong in
            ["", "x", "'a", "'a'b", "[1", "['a' 'b']", "(1, 2)", "uint64 -1", "{}", "['a',"]
        {
            assert_eq!(value(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn properties_are_named() {
        let of = |name: &str, text: &str| {
            properties(&HashMap::from([(format!("{PREFIX}{name}"), text.to_owned())]))
        };
        let pair = |name: &str, value| vec![(name.to_owned(), value)];
        let time = Value::U64(2_000_000);
        assert_eq!(of("TimeoutStopSec", "2").unwrap(), pair("TimeoutStopUSec", time));
        assert_eq!(
            of("TimeoutStopUSec", "uint64 2").unwrap(),
            pair("TimeoutStopUSec", Value::U64(2))
        );
        for (name, text) in
            [("ab", "1"), ("A-B-C", "1"), ("CollectMode", "x"), ("TimeoutStopSec", "-1")]
        {
            assert!(of(name, text).is_err(), "{name}={text}");
        }
        let others = HashMap::from([("org.example".to_owned(), "x".to_owned())]);
        assert_eq!(properties(&others).unwrap(), []);
    }
}
