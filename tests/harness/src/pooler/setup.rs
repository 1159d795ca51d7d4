//! What a test starts with: the pooler's ini and user list, and PostgreSQL's settings. Texts may hold `{pg}` and `{pooler}`
//! (addresses), `{sockets}` (directory of PostgreSQL's socket) and `{dir}` (the test's directory).

use std::fmt::Write;
use std::path::Path;

use super::{password, postgres};
use crate::programs;

/// Users in the user list, with plain passwords, unless the test says otherwise.
const USERS: &[&str] = &["alice", "bob", "postgres", "stats", "replica", "lookup", "other"];

/// The pooler's settings unless the test says otherwise. Paths are added for each test.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addr", "{pooler}"),
    ("listen_port", "6543"),
    ("unix_socket_dir", "{dir}/pooler"),
    ("logfile", "{dir}/pooler/pooler.log"),
    ("pidfile", "{dir}/pooler/pooler.pid"),
    ("auth_type", "md5"),
    ("auth_file", "{dir}/userlist.txt"),
    ("admin_users", "postgres"),
    ("stats_users", "stats, postgres"),
    // A server that was down is tried again soon.
    ("server_login_retry", "1"),
];

/// Where databases are unless the test says otherwise.
const SERVER: &str = "host={pg} port=5432";

/// Everything that a test may choose.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(super) settings: Vec<(String, String)>,
    pub(super) databases: Vec<(String, String)>,
    pub(super) users: Vec<(String, String)>,
    pub(super) userlist: String,
    pub(super) ini: Option<String>,
    pub(super) files: Vec<(String, String)>,
    pub(super) postgres: Vec<(String, String)>,
    pub(super) hba: String,
    pub(super) tls: bool,
    pub(super) program: bool,
    pub(super) at_least: (u32, u32),
}

impl Default for Setup {
    fn default() -> Setup {
        Setup::new()
    }
}

impl Setup {
    /// Session mode, md5, every database on the test's PostgreSQL.
    pub fn new() -> Setup {
        let pair = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let mut userlist = String::new();
        for user in USERS {
            let _ = writeln!(userlist, "\"{user}\" \"{}\"", password(user));
        }
        let mut settings: Vec<(String, String)> = SETTINGS.iter().map(pair).collect();
        if programs::is_root() {
            settings.push(("user".to_owned(), "postgres".to_owned()));
        }
        Setup {
            settings,
            databases: vec![("*".to_owned(), SERVER.to_owned())],
            users: Vec::new(),
            userlist,
            ini: None,
            files: Vec::new(),
            postgres: Vec::new(),
            hba: postgres::HBA.to_owned(),
            tls: false,
            program: true,
            at_least: (0, 0),
        }
    }

    /// Transaction mode with so many servers a pool.
    pub fn transaction(servers: u32) -> Setup {
        Setup::new().set("pool_mode", "transaction").set("default_pool_size", servers)
    }

    /// Sets something in `[pgbouncer]`.
    pub fn set(mut self, name: &str, value: impl ToString) -> Setup {
        put(&mut self.settings, name, value.to_string());
        self
    }

    /// Takes a setting out of `[pgbouncer]`.
    pub fn unset(mut self, name: &str) -> Setup {
        self.settings.retain(|(n, _)| n != name);
        self
    }

    /// A line in `[databases]`; without `host=` it is on the test's PostgreSQL. The first one named replaces `*`.
    pub fn database(mut self, name: &str, options: &str) -> Setup {
        self.databases.retain(|(n, v)| n != "*" || v != SERVER);
        let options = if options.contains("host=") { options.to_owned() } else { format!("{SERVER} {options}") };
        put(&mut self.databases, name, options);
        self
    }

    /// Takes a database out.
    pub fn without_database(mut self, name: &str) -> Setup {
        self.databases.retain(|(n, _)| n != name);
        self
    }

    /// A line in `[users]`.
    pub fn user(mut self, name: &str, options: &str) -> Setup {
        put(&mut self.users, name, options.to_owned());
        self
    }

    /// The whole of the user list.
    pub fn userlist(mut self, text: impl Into<String>) -> Setup {
        self.userlist = text.into();
        self
    }

    /// The whole of the ini, in the place of what the other methods make.
    pub fn ini(mut self, text: impl Into<String>) -> Setup {
        self.ini = Some(text.into());
        self
    }

    /// One more file in the test's directory.
    pub fn file(mut self, name: &str, text: impl Into<String>) -> Setup {
        put(&mut self.files, name, text.into());
        self
    }

    /// A parameter in postgresql.conf.
    pub fn postgres(mut self, name: &str, value: &str) -> Setup {
        put(&mut self.postgres, name, value.to_owned());
        self
    }

    /// The whole of PostgreSQL's pg_hba.conf.
    pub fn hba(mut self, text: &str) -> Setup {
        self.hba = text.to_owned();
        self
    }

    /// Makes certificates in `{dir}/tls` and starts PostgreSQL with TLS.
    pub fn tls(mut self) -> Setup {
        self.tls = true;
        self.postgres("ssl", "on")
            .postgres("ssl_cert_file", "'{dir}/tls/server.crt'")
            .postgres("ssl_key_file", "'{dir}/tls/server.key'")
            .postgres("ssl_ca_file", "'{dir}/tls/ca.crt'")
    }

    /// Doesn't start the pooler: the test does.
    pub fn without_pooler(mut self) -> Setup {
        self.program = false;
        self
    }

    /// Leaves the test out where the program is a pgbouncer older than that.
    pub fn pgbouncer_at_least(mut self, major: u32, minor: u32) -> Setup {
        self.at_least = (major, minor);
        self
    }

    /// Leaves the test out where the program is any pgbouncer.
    pub fn pgherd_only(self) -> Setup {
        self.pgbouncer_at_least(u32::MAX, 0)
    }

    /// The ini's text.
    pub(super) fn render(&self) -> String {
        if let Some(ini) = &self.ini {
            return ini.clone();
        }
        let mut text = String::new();
        let sections = [("databases", &self.databases), ("users", &self.users), ("pgbouncer", &self.settings)];
        for (section, lines) in sections {
            let _ = writeln!(text, "[{section}]");
            for (name, value) in lines {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        text
    }
}

fn put(list: &mut Vec<(String, String)>, name: &str, value: String) {
    match list.iter_mut().find(|(n, _)| n == name) {
        Some(found) => found.1 = value,
        None => list.push((name.to_owned(), value)),
    }
}

/// What stands for the names in braces.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) postgres: std::net::Ipv4Addr,
    pub(super) pooler: std::net::Ipv4Addr,
    pub(super) root: &'a Path,
}

impl Places<'_> {
    /// A text with its names in braces replaced.
    pub(super) fn fill(&self, text: &str) -> String {
        let root = self.root.to_string_lossy();
        text.replace("{pg}", &self.postgres.to_string())
            .replace("{pooler}", &self.pooler.to_string())
            .replace("{sockets}", &format!("{root}/postgres"))
            .replace("{dir}", &root)
    }
}
