//! What a client sets as it logs in: startup parameters, and among them `options`, settings as on a server's command line
//! (PostgreSQL documentation, "options" among the connection parameters).

use super::login::{BARRED, Login, Refusal, SILENCE, Wish};
use crate::client::Origin;
use crate::config::OnCancelled;
use crate::flow::honesty;
use crate::vars::Vars;
use crate::wire::startup;

impl Login<'_> {
    /// The tracked parameters that the client starts with.
    pub(super) fn vars(&self, wish: &Wish, ignored: &[String]) -> Result<Vars, Refusal> {
        let tracked = &self.seat.worker.shared.tracked;
        let is_ignored = |name: &str| ignored.iter().any(|i| i.eq_ignore_ascii_case(name));
        let mut vars = tracked.none();
        let strict = self.seat.worker.config().settings.sync_commit_cancelled == OnCancelled::Error;
        let silences = |name: &[u8], value: &[u8]| {
            strict && name.eq_ignore_ascii_case(honesty::PARAMETER.as_bytes()) && honesty::suppresses(value)
        };
        let barred = || Refusal::Told { code: BARRED, text: SILENCE.to_owned() };
        for (name, value) in &wish.parameters {
            if matches!(&name[..], b"user" | b"database" | b"replication") || startup::is_extension(name) {
                continue;
            }
            let text = String::from_utf8_lossy(name);
            if silences(name, value) {
                return Err(barred());
            }
            if tracked.set(&mut vars, name, value) || is_ignored(&text) {
                continue;
            }
            if text != "options" {
                return Err(Refusal::told(format!("unsupported startup parameter: {text}")));
            }
            for (name, value) in parse(&String::from_utf8_lossy(value))? {
                if silences(name.as_bytes(), value.as_bytes()) {
                    return Err(barred());
                }
                if !tracked.set(&mut vars, name.as_bytes(), value.as_bytes()) && !is_ignored(&name) {
                    return Err(Refusal::told(format!("unsupported startup parameter in options: {name}")));
                }
            }
        }
        self.add_host(&mut vars);
        Ok(vars)
    }

    /// Says in application_name where the client is (`application_name_add_host`).
    fn add_host(&self, vars: &mut Vars) {
        let worker = &self.seat.worker;
        if !worker.config().settings.application_name_add_host {
            return;
        }
        let tracked = &worker.shared.tracked;
        let name = tracked.get(vars, "application_name").map_or("app".into(), String::from_utf8_lossy);
        let place = match self.seat.presence.origin {
            Origin::Tcp(peer, _) => peer.to_string(),
            Origin::Unix(pid) => format!("unix({})", pid.unwrap_or(0)),
        };
        let named = format!("{name} - {place}");
        tracked.set(vars, b"application_name", named.as_bytes());
    }
}

/// Names and values of `-c name=value`, `-cname=value` and `--name=value`. A backslash makes the next character part of a
/// word.
fn parse(text: &str) -> Result<Vec<(String, String)>, Refusal> {
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
