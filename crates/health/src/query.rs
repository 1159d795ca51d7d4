//! The query part of a URL.

use ha::settings::parse_bytes;
use serde_json::Value;

/// Decoded names and values in their order.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let decode = |part: &str| {
            let part = part.replace('+', " ");
            percent_encoding::percent_decode_str(&part).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Query(pairs.filter(|(_, v)| !v.is_empty()).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    /// The first value of that name. A name without a value counts as absent, as it does for Patroni.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A size, `1048576` or `10MB`. What isn't one counts as absent, as it does for Patroni.
    pub(crate) fn bytes(&self, name: &str) -> Option<u64> {
        parse_bytes(&Value::String(self.get(name)?.to_owned()))
    }

    /// Values whose name begins with `prefix`, with the rest of the name.
    pub(crate) fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(k, v)| Some((k.strip_prefix(prefix)?, v.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_measured() {
        let query = Query::parse("lag=10MB&tag_zone=eu%2Fwest+1&empty=&bare&lag=1&bad=x");
        assert_eq!(query.bytes("lag"), Some(10 << 20));
        assert_eq!(query.bytes("bad"), None);
        assert_eq!(query.get("empty"), None);
        assert_eq!(query.get("bare"), None);
        assert_eq!(query.with_prefix("tag_").collect::<Vec<_>>(), [("zone", "eu/west 1")]);
    }
}
