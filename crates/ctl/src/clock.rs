//! The wall clock as people read it. Nothing is timed with it.

/// The local time in strftime's notation.
pub(crate) fn now(format: &str) -> String {
    jiff::Zoned::now().strftime(format).to_string()
}

/// An hour from now, as an example of how to write a time.
pub(crate) fn example() -> String {
    let next = jiff::Zoned::now().saturating_add(jiff::Span::new().hours(1));
    next.strftime("%Y-%m-%dT%H:%M").to_string()
}

/// The moment for a line about what has happened: `2020-01-11 08:09:52.11219`.
pub(crate) fn stamp() -> String {
    let mut text = now("%Y-%m-%d %H:%M:%S.%6f");
    text.pop();
    text
}
