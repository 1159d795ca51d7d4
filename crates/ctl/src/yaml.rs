//! YAML and JSON as the admin client reads and writes them. What the values mean is not here.

use std::io;

use serde::Serialize as _;
use serde_json::ser::Formatter;
use serde_json::{Map, Value};
use serde_yaml_ng as yaml;

/// Reads a YAML text. The error says where and what.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut value: yaml::Value = yaml::from_str(text).map_err(|e| e.to_string())?;
    value.apply_merge().map_err(|e| e.to_string())?;
    json(value)
}

fn json(value: yaml::Value) -> Result<Value, String> {
    Ok(match value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(b) => Value::Bool(b),
        yaml::Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64().and_then(serde_json::Number::from_f64)) {
            (Some(n), _, _) => n.into(),
            (_, Some(n), _) => n.into(),
            (_, _, Some(n)) => Value::Number(n),
            _ => return Err(format!("{n} is not a number that can be stored")),
        },
        yaml::Value::String(text) => Value::String(text),
        yaml::Value::Sequence(items) => Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?),
        yaml::Value::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let key = match key {
                    yaml::Value::String(key) => key,
                    yaml::Value::Bool(key) => key.to_string(),
                    yaml::Value::Number(key) => key.to_string(),
                    _ => return Err("a key is neither a text nor a number".to_owned()),
                };
                object.insert(key, json(value)?);
            }
            Value::Object(object)
        }
        yaml::Value::Tagged(tagged) => return Err(format!("the tag {} is not supported", tagged.tag)),
    })
}

/// Stands before a text that needs quotes while it is printed.
const MARK: char = '\u{F8FF}';

/// Block YAML with the keys sorted, ending with a line end. Texts that readers of YAML 1.1 (Patroni's) take for
/// something else are quoted.
pub(crate) fn print(value: &Value) -> String {
    let print = |value: &Value| yaml::to_string(value).unwrap_or_else(|e| format!("# can't be shown as YAML: {e}\n"));
    let text = print(&sorted(value));
    if text.contains(MARK) {
        return text;
    }
    // The printer knows YAML 1.2 only. Marked texts have no character that it would quote or break a line at.
    let marked = print(&mark(&sorted(value)));
    let quoted = |line: &str| match line.split_once(MARK) {
        None => line.to_owned(),
        Some((before, rest)) => match rest.split_once(": ").or_else(|| Some((rest.strip_suffix(':')?, ""))) {
            Some((key, value)) => {
                let value = value.strip_prefix(MARK).map_or_else(|| value.to_owned(), |v| format!("'{v}'"));
                format!("{before}'{key}': {value}").trim_end().to_owned()
            }
            None => format!("{before}'{rest}'"),
        },
    };
    let marked: String = marked.lines().map(|line| quoted(line) + "\n").collect();
    if parse(&marked).is_ok_and(|read| read == *value) { marked } else { text }
}

fn mark(value: &Value) -> Value {
    let text = |text: &str| if is_ambiguous(text) { format!("{MARK}{text}") } else { text.to_owned() };
    match value {
        Value::String(s) => Value::String(text(s)),
        Value::Array(items) => items.iter().map(mark).collect(),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (text(k), mark(v))).collect()),
        other => other.clone(),
    }
}

/// Whether YAML 1.1 takes it for a boolean, a date, a number in base 60 or one with underscores.
fn is_ambiguous(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-:._TtZz ".contains(&b)) && !text.ends_with(' ');
    let (rest, last) = unsigned.rsplit_once(':').unwrap_or(("", unsigned));
    let base_60 = rest.split(':').chain(last.splitn(2, '.')).all(is_number);
    let day: Vec<&str> = text.split(['T', 't', ' ']).next().unwrap_or_default().split('-').collect();
    let date = day.len() == 3 && day[0].len() == 4 && day.iter().all(|p| is_number(p));
    let grouped = unsigned.contains('_') && is_number(&unsigned.replacen('.', "", 1));
    let word = matches!(text.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off");
    word || plain && (base_60 || date || grouped)
}

/// A mapping on one line: `{clonefrom: true, note: a b}`.
pub(crate) fn flow(map: &Map<String, Value>) -> String {
    let scalar = |value: &Value| match value {
        Value::Object(map) => flow(map),
        other => print(other).trim_end().to_owned(),
    };
    let mut entries: Vec<_> = map.iter().map(|(k, v)| format!("{k}: {}", scalar(v))).collect();
    entries.sort();
    format!("{{{}}}", entries.join(", "))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// JSON on one line with a space after commas and colons and everything but ASCII escaped, as patronictl prints it.
pub(crate) fn json_line(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Spaced);
    if value.serialize(&mut serializer).is_err() {
        return value.to_string();
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_string())
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_printed_reads_back_the_same() {
        let value = json!({"ttl": 30, "postgresql": {"parameters": {
            "a": "on", "b": "1", "c": 1.5, "d": "", "e": "a\nb\n", "f": " x", "g": "null", "h": "~", "i": "12:30",
            "j": "#", "k": "a: b", "l": ["x", {"y": null}], "m": {}, "n": [], "o": "010", "p": "0x1F", "q": "1e3",
            "r": "yes", "s": "2020-01-01", "t": "жук", "u": "'", "v": "\"", "w": "cp %p /a/%f", "x": u64::MAX, "y": -1,
            "z": "tab\t", "=": "&a", "<<<": "*a", "1": true}}});
        assert_eq!(parse(&print(&value)).unwrap(), value);
    }

    #[test]
    fn keys_are_sorted_and_lists_stand_below_their_keys() {
        let value = json!({"b": "1", "a": {"d": "", "c": ["x", 1]}});
        assert_eq!(print(&value), "a:\n  c:\n  - x\n  - 1\n  d: ''\nb: '1'\n");
    }

    #[test]
    fn texts_that_other_readers_misunderstand_are_quoted() {
        let value = json!({"a": "on", "b": ["12:30", "2020-01-11T08:09:52.11+00:00", "1_000"], "c": "127.0.0.1:5433",
            "off": {"No": "x"}, "d": "0/4000000", "no": "yes"});
        let expected = "a: 'on'\nb:\n- '12:30'\n- '2020-01-11T08:09:52.11+00:00'\n- '1_000'\nc: 127.0.0.1:5433\n\
                        d: 0/4000000\n'no': 'yes'\n'off':\n  'No': x\n";
        assert_eq!(print(&value), expected);
        assert_eq!(parse(expected).unwrap(), value);
    }

    #[test]
    fn faults_say_where() {
        for bad in ["a: [", "a: 1\na: 2\n", "a: b: c", "\ta: 1", "a: !x 1", "[a]: 1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let fault = parse("ttl: 30\nloop_wait: ]\n").unwrap_err();
        assert!(fault.contains("line 2"), "{fault}");
    }

    #[test]
    fn anchors_and_merges_work() {
        assert_eq!(parse("a: &x {b: 1}\nc: {<<: *x, d: 2}").unwrap(), json!({"a": {"b": 1}, "c": {"d": 2, "b": 1}}));
    }

    #[test]
    fn json_has_pythons_spacing() {
        assert_eq!(json_line(&json!([{"a": 1, "b": ["é", "\n"]}, {}])), r#"[{"a": 1, "b": ["\u00e9", "\n"]}, {}]"#);
    }

    #[test]
    fn tags_fit_on_one_line() {
        let tags = json!({"nofailover": false, "clonefrom": true, "b": "x y"});
        assert_eq!(flow(tags.as_object().unwrap()), "{b: x y, clonefrom: true, nofailover: false}");
    }
}
