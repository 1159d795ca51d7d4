//! Quoted text, with the quote doubled where it's meant itself.

/// Text after its opening quote up to the closing one, and what follows; `None`: it doesn't end.
pub(super) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut plain = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once(quote)?;
        plain.push_str(part);
        match after.strip_prefix(quote) {
            Some(more) => {
                plain.push(quote);
                rest = more;
            }
            None => return Some((plain, after)),
        }
    }
}
