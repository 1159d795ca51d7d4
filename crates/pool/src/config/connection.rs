//! Connection strings: `key=value` pairs with blanks between them, values with blanks in single quotes, two quotes for
//! one within.

use super::quoted::unquote;

/// Reads a connection string.
///
/// # Errors
/// What is wrong with it; no value is named, because one of them may be a password.
pub(super) fn parse(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or("\"=\" is missing")?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err("\"=\" is missing after a name".to_owned());
        }
        let (value, after) = value(after.trim_start()).ok_or_else(|| format!("the quotes of {key} don't end"))?;
        if value.is_empty() {
            return Err(format!("{key} has no value"));
        }
        if !after.is_empty() && !after.starts_with(char::is_whitespace) {
            return Err(format!("a blank is missing after the quoted value of {key}"));
        }
        pairs.push((key, value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value at the beginning of a text, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('\'') {
        return unquote(quoted, '\'');
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    Some((text[..end].to_owned(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        match parse(text) {
            Ok(pairs) => pairs.iter().map(|(key, value)| format!("[{key}={value}]")).collect(),
            Err(fault) => fault,
        }
    }

    #[test]
    fn pairs_are_read_as_pgbouncer_reads_them() {
        let cases = [
            ("", ""),
            ("host=h port=1", "[host=h][port=1]"),
            ("  host = h   port= 1 ", "[host=h][port=1]"),
            ("a='it''s' b='x y'", "[a=it's][b=x y]"),
            ("a=x'y b=\"x\"", "[a=x'y][b=\"x\"]"),
            ("q='select ''1''' a=b", "[q=select '1'][a=b]"),
            ("a=b=c", "[a=b=c]"),
        ];
        for (text, pairs) in cases {
            assert_eq!(shown(text), pairs, "{text}");
        }
    }

    #[test]
    fn what_is_no_pair_is_told() {
        let cases = [
            ("host=", "host has no value"),
            ("host=''", "host has no value"),
            ("dbname", "\"=\" is missing"),
            ("dbname=x dbname", "\"=\" is missing"),
            ("a b=c", "\"=\" is missing after a name"),
            ("=c", "\"=\" is missing after a name"),
            ("a='x", "the quotes of a don't end"),
            ("a='x''", "the quotes of a don't end"),
            ("a='x'b=y", "a blank is missing after the quoted value of a"),
            ("; comment", "\"=\" is missing"),
        ];
        for (text, fault) in cases {
            assert_eq!(shown(text), fault, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ ='a\\PC]{0,30}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_printed_is_read_back(pairs in prop::collection::vec(("[a-z_]{1,8}", "\\PC{1,8}"), 0..4)) {
            let print = |(key, value): &(String, String)| format!("{key}='{}'", value.replace('\'', "''"));
            let text = pairs.iter().map(print).collect::<Vec<_>>().join(" ");
            let read = parse(&text).unwrap();
            prop_assert_eq!(read.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Vec<_>>(), pairs);
        }
    }
}
