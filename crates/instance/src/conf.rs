//! The text of postgresql.conf, pg_hba.conf, pg_ident.conf, pgpass and connection strings. Pure; writing the files is in
//! `files` and `apply`.

use std::collections::BTreeMap;

use crate::options::{Credentials, Upstream};
use crate::version::Version;

/// First line of every file that pgherd writes.
pub(crate) const HEADER: &str =
    "# Written by pgherd: changes here are lost. Change the cluster's configuration, or postgresql.base.conf.";

/// Comment before the parameters that pgherd changes while the server runs.
const MANAGED: &str = "# Changed by pgherd while the server runs:";

/// Parameters that pgherd changes while the server runs. They live in postgresql.conf alone, so that an agent that
/// starts anew goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Managed {
    /// `primary_conninfo`; empty for none.
    pub(crate) primary_conninfo: String,
    /// `primary_slot_name`; empty for none.
    pub(crate) primary_slot_name: String,
    /// `synchronous_standby_names`; `None` leaves it to the configured parameters.
    pub(crate) synchronous_standby_names: Option<String>,
}

/// The text of postgresql.conf.
pub(crate) fn postgresql_conf(base: &str, parameters: &BTreeMap<String, String>, managed: &Managed) -> String {
    let mut text = format!("{HEADER}\ninclude {}\n\n", quote(base));
    for (name, value) in parameters {
        text.push_str(&format!("{name} = {}\n", quote(value)));
    }
    text.push_str(&format!("\n{MANAGED}\n"));
    text.push_str("recovery_target_timeline = 'latest'\n");
    text.push_str(&format!("primary_conninfo = {}\n", quote(&managed.primary_conninfo)));
    text.push_str(&format!("primary_slot_name = {}\n", quote(&managed.primary_slot_name)));
    if let Some(names) = &managed.synchronous_standby_names {
        text.push_str(&format!("synchronous_standby_names = {}\n", quote(names)));
    }
    text
}

/// Parameters and managed values of an existing postgresql.conf, ours or another program's (which has no managed part:
/// the three values are then taken from anywhere in it).
pub(crate) fn read(text: &str) -> (BTreeMap<String, String>, Managed) {
    let (head, tail) = text.split_once(MANAGED).unwrap_or((text, text));
    let tail = values(tail);
    let managed = Managed {
        primary_conninfo: tail.get("primary_conninfo").cloned().unwrap_or_default(),
        primary_slot_name: tail.get("primary_slot_name").cloned().unwrap_or_default(),
        synchronous_standby_names: tail.get("synchronous_standby_names").cloned(),
    };
    (values(head), managed)
}

/// `name = 'value'` lines of a configuration file; later ones win; names in lower case.
fn values(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
        if name.is_empty() || rest.is_empty() || name.starts_with("include") {
            continue;
        }
        let value = match rest.strip_prefix('\'') {
            Some(quoted) => unquote(quoted),
            None => rest.split(['#', ' ', '\t']).next().unwrap_or_default().to_owned(),
        };
        found.insert(name.to_ascii_lowercase(), value);
    }
    found
}

/// A value in quotes, safe in a configuration file. Line breaks can't be written there and become spaces.
pub(crate) fn quote(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('\'');
    for c in value.chars() {
        match c {
            '\'' => text.push_str("''"),
            '\\' => text.push_str("\\\\"),
            '\n' | '\r' | '\0' => text.push(' '),
            other => text.push(other),
        }
    }
    text.push('\'');
    text
}

/// Reads a quoted value up to its closing quote; `text` begins after the opening one.
fn unquote(text: &str) -> String {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => break,
            '\\' => value.extend(chars.next()),
            other => value.push(other),
        }
    }
    value
}

/// A libpq connection string of key and quoted value.
pub(crate) fn conninfo<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let word = |(k, v): (&str, &str)| {
        let plain = !v.is_empty() && v.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:,".contains(c));
        if plain { format!("{k}={v}") } else { format!("{k}='{}'", v.replace('\\', "\\\\").replace('\'', "\\'")) }
    };
    pairs.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// How soon a host that has vanished without a word is noticed: seconds while connecting; seconds of silence, seconds
/// between probes and their number on a connection at rest (25 s in all); milliseconds for data sent (libpq's
/// documentation, "Parameter Key Words"). A host that is merely slow or frozen acknowledges in its kernel.
const VANISHED: [(&str, &str); 5] = [
    ("connect_timeout", "5"),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "3"),
    ("tcp_user_timeout", "25000"),
];

/// Connection string to another member, with the passwords left to the password file.
pub(crate) fn upstream_conninfo(
    upstream: &Upstream,
    user: &Credentials,
    passfile: &str,
    extra: &[(&str, &str)],
    version: Version,
) -> String {
    let port = upstream.port.to_string();
    let mut pairs: BTreeMap<&str, &str> = BTreeMap::from([
        ("user", user.username.as_str()),
        ("passfile", passfile),
        ("host", upstream.host.as_str()),
        ("port", port.as_str()),
        ("sslmode", "prefer"),
        ("gssencmode", "prefer"),
    ]);
    pairs.extend(VANISHED);
    if version.has_channel_binding() {
        pairs.insert("channel_binding", "prefer");
    }
    pairs.extend(user.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    pairs.extend(extra.iter().copied());
    conninfo(pairs)
}

/// The host and port that a connection string names.
pub(crate) fn conninfo_target(conninfo: &str) -> Option<(String, u16)> {
    let config: tokio_postgres::Config = conninfo
        .split_whitespace()
        .filter(|w| w.starts_with("host=") || w.starts_with("port="))
        .collect::<Vec<_>>()
        .join(" ")
        .parse()
        .ok()?;
    let host = match config.get_hosts().first()? {
        tokio_postgres::config::Host::Tcp(h) => h.clone(),
        tokio_postgres::config::Host::Unix(p) => p.display().to_string(),
    };
    Some((host, config.get_ports().first().copied().unwrap_or(5432)))
}

/// A password file (`.pgpass` of libpq) for these users at any host.
pub(crate) fn pgpass<'a>(users: impl IntoIterator<Item = &'a Credentials>) -> String {
    let escape = |s: &str| s.replace('\\', "\\\\").replace(':', "\\:");
    let mut lines: Vec<String> = Vec::new();
    for user in users {
        if let Some(password) = &user.password {
            let line = format!("*:*:*:{}:{}\n", escape(&user.username), escape(password));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.concat()
}

/// pg_hba.conf. The managing user comes first, so that no line of the configuration can lock pgherd out. The method
/// `md5` takes passwords stored either way (md5 or SCRAM). Without a password the lines stand alone.
pub(crate) fn pg_hba(lines: &[String], superuser: &Credentials, sockets: bool, local_host: &str) -> String {
    let mut text = format!("{HEADER}\n");
    if superuser.password.is_some() {
        let user = format!("\"{}\"", superuser.username.replace('"', "\"\""));
        if sockets {
            text.push_str(&format!("local all {user} md5\n"));
        } else {
            let bits = if local_host.contains(':') { 128 } else { 32 };
            let address = if local_host == "localhost" { "samehost".into() } else { format!("{local_host}/{bits}") };
            text.push_str(&format!("host all {user} {address} md5\n"));
        }
    }
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `synchronous_standby_names` for standbys of which all must confirm: empty for none; `["*"]` means any one.
pub(crate) fn synchronous_standby_names(names: &[String]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|n| if n == "*" { "*".to_owned() } else { format!("\"{}\"", n.replace('"', "\"\"")) })
        .collect();
    match quoted.len() {
        0 => String::new(),
        1 => quoted.concat(),
        n => format!("{n} ({})", quoted.join(",")),
    }
}

/// Removes settings from postgresql.auto.conf (written by ALTER SYSTEM, read after postgresql.conf) that would override
/// what pgherd manages. `None` when nothing is there to remove.
pub(crate) fn without_overrides(auto_conf: &str) -> Option<String> {
    const OVERRIDES: [&str; 8] = [
        "listen_addresses",
        "port",
        "cluster_name",
        "hot_standby",
        "primary_conninfo",
        "primary_slot_name",
        "synchronous_standby_names",
        "recovery_target_timeline",
    ];
    let overrides = |line: &&str| values(line).keys().any(|k| OVERRIDES.contains(&k.as_str()));
    if !auto_conf.lines().any(|l| overrides(&l)) {
        return None;
    }
    Some(auto_conf.lines().filter(|l| !overrides(l)).map(|l| format!("{l}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: Option<&str>) -> Credentials {
        Credentials { username: name.into(), password: password.map(Into::into), settings: BTreeMap::new() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let parameters = BTreeMap::from([
            ("archive_command".to_owned(), r"cp '%p' C:\x\'y".to_owned()),
            ("search_path".to_owned(), "\"$user\", public".to_owned()),
        ]);
        let managed = Managed {
            primary_conninfo: "host='a b' password='it\\'s'".into(),
            primary_slot_name: "pg1".into(),
            synchronous_standby_names: Some("2 (\"a\",\"b\")".into()),
        };
        let text = postgresql_conf("postgresql.base.conf", &parameters, &managed);
        assert_eq!(read(&text), (parameters, managed));
        assert!(text.contains("include 'postgresql.base.conf'"));
    }

    #[test]
    fn another_programs_file_is_read() {
        let (p, m) = read(
            "include 'postgresql.base.conf'\nmax_connections = '100'\nport=5433 # x\nwork_mem 4MB\n\n# recovery.conf\nprimary_conninfo = 'host=h port=1'\n",
        );
        assert_eq!((p["port"].as_str(), p["work_mem"].as_str()), ("5433", "4MB"));
        assert_eq!(m.primary_conninfo, "host=h port=1");
        assert_eq!(m.synchronous_standby_names, None);
    }

    #[test]
    fn a_value_cannot_begin_another_line() {
        assert_eq!(quote("x'\nport = 1"), "'x'' port = 1'");
    }

    #[test]
    fn connection_strings_are_quoted_and_read() {
        let up = Upstream { name: "pg2".into(), host: "10.0.0.2".into(), port: 5433 };
        let text = upstream_conninfo(
            &up,
            &user("it's", None),
            "/p/x",
            &[("application_name", "pg 1"), ("sslmode", "require")],
            Version(150_000),
        );
        assert!(text.contains("user='it\\'s'") && text.contains("application_name='pg 1'"), "{text}");
        assert!(text.contains("sslmode=require") && !text.contains("sslmode=prefer"), "{text}");
        assert!(text.contains("keepalives_idle=10") && text.contains("tcp_user_timeout=25000"), "{text}");
        assert_eq!(conninfo_target(&text), Some(("10.0.0.2".into(), 5433)));
        assert_eq!(conninfo_target(""), None);
    }

    #[test]
    fn the_password_file_escapes_and_skips_users_without_password() {
        let text = pgpass(&[user("a:b", Some("c\\d")), user("x", None), user("a:b", Some("c\\d"))]);
        assert_eq!(text, "*:*:*:a\\:b:c\\\\d\n");
    }

    #[test]
    fn the_managing_user_is_never_locked_out() {
        let lines = ["host all all 0.0.0.0/0 md5".to_owned()];
        let text = pg_hba(&lines, &user("postgres", Some("otus")), true, "127.0.0.1");
        let mut rest = text.lines().skip(1);
        assert_eq!(rest.next(), Some("local all \"postgres\" md5"));
        assert_eq!(rest.next(), Some("host all all 0.0.0.0/0 md5"));
        assert!(pg_hba(&lines, &user("p", Some("x")), false, "::1").contains("host all \"p\" ::1/128 md5"));
    }

    #[test]
    fn synchronous_names_are_quoted() {
        let names = |n: &[&str]| synchronous_standby_names(&n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&[]), "");
        assert_eq!(names(&["*"]), "*");
        assert_eq!(names(&["a"]), "\"a\"");
        assert_eq!(names(&["a", "b\"c"]), "2 (\"a\",\"b\"\"c\")");
    }

    #[test]
    fn overrides_leave_auto_conf() {
        let text = "# Do not edit\nwork_mem = '8MB'\nprimary_conninfo = 'host=old'\n";
        assert_eq!(without_overrides(text), Some("# Do not edit\nwork_mem = '8MB'\n".into()));
        assert_eq!(without_overrides("work_mem = '8MB'\n"), None);
    }
}
