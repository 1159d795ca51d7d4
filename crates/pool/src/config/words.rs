//! Lines of the host-based rules and of the ident map: fields with blanks between them, each a list of words with commas
//! between them; `#` begins a comment.

use super::quoted::unquote;

/// A word of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Whether it begins with a quote: then it's a name, whatever it says.
    pub(super) quoted: bool,
}

/// The words of one field.
pub(super) type Field = Vec<Word>;

impl Word {
    /// Whether it's this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// The fields of a line.
///
/// # Errors
/// What is wrong with it.
pub(super) fn fields(line: &str) -> Result<Vec<Field>, &'static str> {
    let mut fields: Vec<Field> = Vec::new();
    let mut rest = line.trim_start();
    let mut continues = false;
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(after) = rest.strip_prefix(',') {
            if continues || fields.is_empty() {
                return Err("a word is missing before a comma");
            }
            continues = true;
            rest = after.trim_start();
            continue;
        }
        let (word, after) = word(rest)?;
        match fields.last_mut() {
            Some(field) if continues => field.push(word),
            _ => fields.push(vec![word]),
        }
        continues = false;
        rest = after.trim_start();
    }
    if continues { Err("a word is missing after a comma") } else { Ok(fields) }
}

/// The word at the beginning of a text, and what follows.
fn word(text: &str) -> Result<(Word, &str), &'static str> {
    let mut word = Word { text: String::new(), quoted: text.starts_with('"') };
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | '#' | '"')).unwrap_or(rest.len());
        word.text.push_str(&rest[..end]);
        let Some(after) = rest[end..].strip_prefix('"') else {
            return Ok((word, &rest[end..]));
        };
        let (part, after) = unquote(after, '"').ok_or("the closing quote is missing")?;
        word.text.push_str(&part);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(line: &str) -> String {
        let word = |word: &Word| if word.quoted { format!("<{}>", word.text) } else { word.text.clone() };
        let field = |field: &Field| field.iter().map(word).collect::<Vec<_>>().join("+");
        fields(line).map_or_else(str::to_owned, |fields| fields.iter().map(field).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn lines_fall_into_fields_of_words() {
        let cases = [
            ("", ""),
            ("  # c", ""),
            ("a b\tc", "a b c"),
            ("a, b ,c d", "a+b+c d"),
            ("\"a b\",\"c\"\"d\" \"all\"", "<a b>+<c\"d> <all>"),
            ("a #b", "a"),
            ("a#b", "a"),
            ("map=\"x y\"", "map=x y"),
            ("\"\" x", "<> x"),
            ("\"a#\" b", "<a#> b"),
        ];
        for (line, expected) in cases {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn open_quotes_and_lonely_commas_are_told() {
        assert_eq!(shown("\"a b"), "the closing quote is missing");
        assert_eq!(shown(",a"), "a word is missing before a comma");
        assert_eq!(shown("a,,b"), "a word is missing before a comma");
        assert_eq!(shown("a,"), "a word is missing after a comma");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(line in prop::collection::vec(prop::collection::vec("\\PC{0,6}", 1..4), 0..4)) {
            let word = |word: &String| format!("\"{}\"", word.replace('"', "\"\""));
            let field = |field: &Vec<String>| field.iter().map(word).collect::<Vec<_>>().join(",");
            let text = line.iter().map(field).collect::<Vec<_>>().join(" ");
            let read: Vec<Vec<String>> =
                fields(&text).unwrap().into_iter().map(|f| f.into_iter().map(|w| w.text).collect()).collect();
            prop_assert_eq!(read, line);
        }

        #[test]
        fn no_text_makes_it_panic(line in "[ ,\"#a\\PC]{0,30}") {
            let _ = fields(&line);
        }
    }
}
