//! The startup parameter `options`: settings as on a server's command line (PostgreSQL documentation, "options" among the
//! connection parameters).

use super::login::Refusal;

/// Names and values of `-c name=value`, `-cname=value` and `--name=value`. A backslash makes the next character part of a
/// word.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut settings = Vec::new();
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).map(str::to_owned)
        };
        let pair = setting.as_deref().and_then(|s| s.split_once('='));
        let Some((name, value)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err(Refusal::told(
                "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
            ));
        };
        // As on a command line, dashes stand for underscores.
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut characters) = (Vec::new(), String::new(), text.chars());
    let mut inside = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                word.extend(characters.next());
                inside = true;
            }
            c if c.is_ascii_whitespace() => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            c => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Option<Vec<(String, String)>> {
        parse(text).ok()
    }

    #[test]
    fn both_forms_are_read_and_others_are_refused() {
        let expected = |name: &str, value: &str| Some(vec![(name.to_owned(), value.to_owned())]);
        assert_eq!(pairs("-c TimeZone=UTC"), expected("TimeZone", "UTC"));
        assert_eq!(pairs("  -ccommit-delay=a\\ b "), expected("commit_delay", "a b"));
        assert_eq!(pairs("--application_name=x=y"), expected("application_name", "x=y"));
        assert_eq!(pairs(""), Some(Vec::new()));
        for bad in ["-c", "-c name", "-B 5", "word", "--=x"] {
            assert_eq!(pairs(bad), None, "{bad}");
        }
    }
}
