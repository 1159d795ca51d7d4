//! Builds a [`Config`] section by section and checks what each says. The DCS and bootstrap sections are in `store` and
//! `bootstrap`; reading of single values is in `read`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ha::access::Access;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::known;
use super::model::*;
use super::read::{Reader, scalar};
use super::{Role, bootstrap, dynamic, store};

/// Reads everything. Faults are left in the reader.
pub(super) fn config(r: &mut Reader<'_>, role: Role, merged: &Value) -> Config {
    let agent = role == Role::Agent;
    let restapi = restapi(r, agent);
    let mut ctl = ctl(r, agent);
    ctl.authentication = ctl.authentication.or_else(|| restapi.authentication.clone());
    Config {
        scope: if agent { key_part(r, "scope", "batman") } else { r.text("scope").unwrap_or_default() },
        name: if agent { key_part(r, "name", "pg1") } else { r.text("name").unwrap_or_default() },
        namespace: namespace(r),
        restapi,
        ctl,
        control: Control { listen: r.host_port("control.listen", None) },
        dcs: store::dcs(r),
        bootstrap: bootstrap::section(r),
        postgresql: postgresql(r, agent),
        log: log(r),
        watchdog: watchdog(r),
        tags: r.get("tags").and_then(Value::as_object).cloned().unwrap_or_default(),
        merged: Merged(merged.clone()),
    }
}

/// A text that becomes part of DCS keys.
fn key_part(r: &mut Reader<'_>, path: &str, example: &str) -> String {
    let text = r.required(path, example);
    if text.contains('/') || text.chars().any(char::is_control) {
        r.fault(path, format!("\"{text}\" must not contain \"/\" or control characters"));
    }
    text
}

fn namespace(r: &mut Reader<'_>) -> String {
    let text = r.text("namespace").unwrap_or_else(|| "/service".to_owned());
    format!("/{}", text.trim_matches('/'))
}

fn restapi(r: &mut Reader<'_>, agent: bool) -> RestApi {
    let default = HostPort { host: "127.0.0.1".to_owned(), port: 8008 };
    let listen = r.host_port("restapi.listen", Some(8008)).unwrap_or(default);
    let api = RestApi {
        connect_address: connect_address(r, "restapi", &listen, agent),
        listen,
        authentication: basic(r, "restapi.authentication"),
        certfile: r.path("restapi.certfile"),
        keyfile: r.path("restapi.keyfile"),
        keyfile_password: r.secret("restapi.keyfile_password"),
        cafile: r.path("restapi.cafile"),
        verify_client: r.word(
            "restapi.verify_client",
            VerifyClient::None,
            &[("none", VerifyClient::None), ("optional", VerifyClient::Optional), ("required", VerifyClient::Required)],
        ),
        allowlist: r.list("restapi.allowlist").unwrap_or_default(),
        allowlist_include_members: r.bool("restapi.allowlist_include_members", false),
        http_extra_headers: r.map("restapi.http_extra_headers"),
        https_extra_headers: r.map("restapi.https_extra_headers"),
    };
    if agent {
        check_restapi(r, &api);
    }
    api
}

fn check_restapi(r: &mut Reader<'_>, api: &RestApi) {
    if api.verify_client != VerifyClient::None {
        if api.certfile.is_none() {
            r.fault("restapi.verify_client", "needs TLS: set restapi.certfile as well");
        }
        if api.cafile.is_none() {
            r.fault("restapi.verify_client", "needs restapi.cafile, the authority of the clients' certificates");
        }
    }
    if api.keyfile.is_some() && api.certfile.is_none() {
        r.fault("restapi.keyfile", "has no effect without restapi.certfile");
    }
    for item in &api.allowlist {
        if let Err(why) = item.parse::<ha::access::Network>() {
            r.fault("restapi.allowlist", format!("{why} (host names are not supported yet)"));
        }
    }
    for (section, headers) in
        [("http_extra_headers", &api.http_extra_headers), ("https_extra_headers", &api.https_extra_headers)]
    {
        for (name, value) in headers.iter().filter(|(name, value)| header(name, value).is_none()) {
            r.fault(&format!("restapi.{section}"), format!("\"{name}: {value}\" is not a usable HTTP header"));
        }
    }
    let files = [("certfile", &api.certfile), ("keyfile", &api.keyfile), ("cafile", &api.cafile)];
    for (key, file) in files {
        readable(r, &format!("restapi.{key}"), file);
    }
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}

impl RestApi {
    /// Who may give orders, as this section says.
    pub fn access(&self) -> Access {
        let credentials = |basic: &Basic| ha::access::Credentials {
            user: basic.username.clone(),
            password: basic.password.expose().to_owned(),
        };
        Access {
            credentials: self.authentication.as_ref().map(credentials),
            client_certificate: self.verify_client != VerifyClient::None,
            allowlist: self.allowlist.iter().filter_map(|item| item.parse().ok()).collect(),
            allow_members: self.allowlist_include_members,
        }
    }

    /// Headers for every answer; those for TLS win over the others.
    pub fn extra_headers(&self) -> HeaderMap {
        let tls = self.certfile.as_ref().map(|_| &self.https_extra_headers).into_iter().flatten();
        let mut headers = HeaderMap::new();
        for (name, value) in self.http_extra_headers.iter().chain(tls).filter_map(|(name, value)| header(name, value)) {
            headers.insert(name, value);
        }
        headers
    }
}

fn readable(r: &mut Reader<'_>, path: &str, file: &Option<PathBuf>) {
    if let Some(file) = file
        && let Err(e) = std::fs::File::open(file)
    {
        r.fault(path, format!("can't open {}: {e}", file.display()));
    }
}

/// `<section>.connect_address`, by default the listen address where that names one host.
fn connect_address(r: &mut Reader<'_>, section: &str, listen: &HostPort, agent: bool) -> HostPort {
    let path = format!("{section}.connect_address");
    let given = r.get(&path).is_some();
    let address = r.host_port(&path, Some(listen.port)).unwrap_or_else(|| HostPort {
        host: listen.host.split(',').next().unwrap_or_default().trim().to_owned(),
        port: listen.port,
    });
    if agent && matches!(address.host.as_str(), "0.0.0.0" | "*" | "::") {
        let message = match given {
            true => format!("\"{address}\" is no address that others can connect to: name this node's own"),
            false => format!("is missing, and {section}.listen {listen} names no single address: set this node's own"),
        };
        r.fault(&path, message);
    } else if given && address.host.contains(',') {
        r.fault(&path, "must be one address");
    }
    address
}

fn basic(r: &mut Reader<'_>, path: &str) -> Option<Basic> {
    r.get(path)?.as_object().filter(|map| !map.is_empty())?;
    let username = r.required(&format!("{path}.username"), "admin");
    let password = r.secret(&format!("{path}.password"));
    if password.is_none() {
        r.missing(&format!("{path}.password"), "a password");
    }
    Some(Basic { username, password: password? })
}

fn ctl(r: &mut Reader<'_>, agent: bool) -> Ctl {
    let ctl = Ctl {
        authentication: basic(r, "ctl.authentication"),
        insecure: r.bool("ctl.insecure", false),
        cacert: r.path("ctl.cacert"),
        certfile: r.path("ctl.certfile"),
        keyfile: r.path("ctl.keyfile"),
        keyfile_password: r.secret("ctl.keyfile_password"),
    };
    if !agent {
        for (key, file) in [("cacert", &ctl.cacert), ("certfile", &ctl.certfile), ("keyfile", &ctl.keyfile)] {
            readable(r, &format!("ctl.{key}"), file);
        }
    }
    ctl
}

fn postgresql(r: &mut Reader<'_>, agent: bool) -> Postgresql {
    let default = HostPort { host: "127.0.0.1".to_owned(), port: 5432 };
    let listen = r.host_port("postgresql.listen", Some(5432)).unwrap_or(default);
    if agent && r.get("postgresql.listen").is_none() {
        r.missing("postgresql.listen", "0.0.0.0:5432");
    }
    Postgresql {
        connect_address: connect_address(r, "postgresql", &listen, agent && r.get("postgresql.listen").is_some()),
        listen,
        data_dir: data_dir(r, agent),
        config_dir: r.path("postgresql.config_dir"),
        bin_dir: r.path("postgresql.bin_dir"),
        bin_name: r.map("postgresql.bin_name"),
        pgpass: r.path("postgresql.pgpass"),
        use_unix_socket: r.bool("postgresql.use_unix_socket", false),
        use_unix_socket_repl: r.bool("postgresql.use_unix_socket_repl", false),
        custom_conf: r.path("postgresql.custom_conf"),
        authentication: authentication(r, agent),
        parameters: local_parameters(r),
        pg_hba: r.list("postgresql.pg_hba"),
        pg_ident: r.list("postgresql.pg_ident"),
        basebackup: bootstrap::options(r, "postgresql.basebackup", bootstrap::BASEBACKUP_OWN),
        rewind: bootstrap::options(r, "postgresql.rewind", bootstrap::REWIND_OWN),
        pg_ctl_timeout: r.seconds("postgresql.pg_ctl_timeout", 60),
        run_as: r.text("postgresql.run_as"),
    }
}

fn data_dir(r: &mut Reader<'_>, agent: bool) -> PathBuf {
    if agent && r.get("postgresql.data_dir").is_none() {
        r.missing("postgresql.data_dir", "/var/lib/postgresql/pg1");
    }
    let dir = r.path("postgresql.data_dir").unwrap_or_default();
    if dir.parent().is_none() && r.get("postgresql.data_dir").is_some() {
        r.fault("postgresql.data_dir", "must not be the root directory");
    }
    dir
}

fn local_parameters(r: &mut Reader<'_>) -> BTreeMap<String, String> {
    match r.get("postgresql.parameters") {
        None => BTreeMap::new(),
        Some(value) => {
            let (parameters, problems) = dynamic::parameters(value);
            for (name, message) in problems {
                let path = if name.is_empty() { String::new() } else { format!(".{name}") };
                r.fault(&format!("postgresql.parameters{path}"), message);
            }
            parameters
        }
    }
}

fn authentication(r: &mut Reader<'_>, agent: bool) -> Authentication {
    let superuser = credentials(r, "superuser").unwrap_or_default();
    let replication = credentials(r, "replication").unwrap_or_default();
    if agent && replication.username.is_empty() {
        r.missing("postgresql.authentication.replication.username", "replicator");
    }
    let superuser = match superuser.username.is_empty() {
        true => Credentials { username: "postgres".to_owned(), ..superuser },
        false => superuser,
    };
    Authentication { superuser, replication, rewind: credentials(r, "rewind").filter(|c| !c.username.is_empty()) }
}

fn credentials(r: &mut Reader<'_>, role: &str) -> Option<Credentials> {
    let path = format!("postgresql.authentication.{role}");
    r.get(&path)?;
    let mut options = BTreeMap::new();
    for (key, _) in known::CREDENTIALS.iter().filter(|(key, _)| !matches!(*key, "username" | "password")) {
        if let Some(text) = r.text(&format!("{path}.{key}")) {
            options.insert((*key).to_owned(), text);
        }
    }
    let username = r.text(&format!("{path}.username")).unwrap_or_default();
    Some(Credentials { username, password: r.secret(&format!("{path}.password")), options })
}

const LEVELS: &[(&str, Level)] = &[
    ("DEBUG", Level::Debug),
    ("INFO", Level::Info),
    ("WARNING", Level::Warning),
    ("ERROR", Level::Error),
    ("CRITICAL", Level::Error),
    ("WARN", Level::Warning),
    ("NOTSET", Level::Debug),
];

fn log(r: &mut Reader<'_>) -> Log {
    let mut loggers = BTreeMap::new();
    if let Some(map) = r.get("log.loggers").and_then(Value::as_object) {
        for name in map.keys() {
            // Names of modules may have dots, so the value isn't looked up by path.
            let text = map.get(name).and_then(scalar).unwrap_or_default();
            match LEVELS.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)) {
                Some((_, level)) => _ = loggers.insert(name.clone(), *level),
                None => r.fault(&format!("log.loggers.{name}"), format!("\"{text}\" is not a level")),
            }
        }
    }
    Log {
        kind: r.word("log.type", LogKind::Plain, &[("plain", LogKind::Plain), ("json", LogKind::Json)]),
        level: r.word("log.level", Level::Info, LEVELS),
        // Patroni's JSON lines may take a list here; pgherd's have fixed fields.
        format: r.get("log.format").and_then(Value::as_str).map(str::to_owned),
        dateformat: r.text("log.dateformat"),
        dir: r.path("log.dir"),
        file_num: u32::try_from(r.integer("log.file_num", 4, 0)).unwrap_or(u32::MAX),
        file_size: r.integer("log.file_size", 25_000_000, 1).unsigned_abs(),
        loggers,
    }
}

fn watchdog(r: &mut Reader<'_>) -> Watchdog {
    let defaults = Watchdog::default();
    let margin = r.integer("watchdog.safety_margin", 5, -1);
    Watchdog {
        mode: r.word(
            "watchdog.mode",
            defaults.mode,
            &[("off", WatchdogMode::Off), ("automatic", WatchdogMode::Automatic), ("required", WatchdogMode::Required)],
        ),
        device: r.path("watchdog.device").unwrap_or(defaults.device),
        safety_margin: u64::try_from(margin).ok().map(Duration::from_secs),
    }
}
