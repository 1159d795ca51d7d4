//! Every key of Patroni's YAML and of pgherd's own, as tables. What is done with unknown ones is in `spelling`.

use Kind::{Free, List, Scalar, Secret, Section, Text, Unsupported};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A mapping whose keys are in the table too.
    Section,
    /// A mapping or list whose contents are the user's own.
    Free,
    /// A list of texts.
    List,
    /// A text.
    Text,
    /// A text that must not be shown.
    Secret,
    /// A number or boolean.
    Scalar,
    /// Patroni knows it, pgherd doesn't support it yet.
    Unsupported,
}

/// A table: full path and kind. A section stands before what it holds.
pub(super) type Table = &'static [(&'static str, Kind)];

/// Keys of the file.
pub(super) const LOCAL: Table = &[
    ("scope", Text),
    ("name", Text),
    ("namespace", Text),
    ("restapi", Section),
    ("restapi.listen", Text),
    ("restapi.connect_address", Text),
    ("restapi.authentication", Section),
    ("restapi.authentication.username", Text),
    ("restapi.authentication.password", Secret),
    ("restapi.certfile", Text),
    ("restapi.keyfile", Text),
    ("restapi.keyfile_password", Secret),
    ("restapi.cafile", Text),
    ("restapi.ciphers", Unsupported),
    ("restapi.verify_client", Text),
    ("restapi.allowlist", List),
    ("restapi.allowlist_include_members", Scalar),
    ("restapi.http_extra_headers", Free),
    ("restapi.https_extra_headers", Free),
    ("restapi.request_queue_size", Unsupported),
    ("restapi.server_tokens", Unsupported),
    ("ctl", Section),
    ("ctl.authentication", Section),
    ("ctl.authentication.username", Text),
    ("ctl.authentication.password", Secret),
    ("ctl.insecure", Scalar),
    ("ctl.cacert", Text),
    ("ctl.certfile", Text),
    ("ctl.keyfile", Text),
    ("ctl.keyfile_password", Secret),
    ("control", Section),
    ("control.listen", Text),
    ("etcd", Section),
    ("etcd.host", Text),
    ("etcd.hosts", List),
    ("etcd.url", Text),
    ("etcd.protocol", Text),
    ("etcd.username", Text),
    ("etcd.password", Secret),
    ("etcd.cacert", Text),
    ("etcd.cert", Text),
    ("etcd.key", Text),
    ("etcd.srv", Unsupported),
    ("etcd.srv_suffix", Unsupported),
    ("etcd.proxy", Unsupported),
    ("etcd.use_proxies", Unsupported),
    ("etcd3", Section),
    ("etcd3.host", Text),
    ("etcd3.hosts", List),
    ("etcd3.url", Text),
    ("etcd3.protocol", Text),
    ("etcd3.username", Text),
    ("etcd3.password", Secret),
    ("etcd3.cacert", Text),
    ("etcd3.cert", Text),
    ("etcd3.key", Text),
    ("etcd3.srv", Unsupported),
    ("etcd3.srv_suffix", Unsupported),
    ("etcd3.proxy", Unsupported),
    ("etcd3.use_proxies", Unsupported),
    ("embedded", Section),
    ("embedded.path", Text),
    ("consul", Unsupported),
    ("zookeeper", Unsupported),
    ("exhibitor", Unsupported),
    ("kubernetes", Unsupported),
    ("raft", Unsupported),
    ("citus", Unsupported),
    ("multisite", Unsupported),
    ("bootstrap", Section),
    ("bootstrap.dcs", Free),
    ("bootstrap.initdb", Free),
    ("bootstrap.pg_hba", List),
    ("bootstrap.users", Free),
    ("bootstrap.method", Unsupported),
    ("bootstrap.post_bootstrap", Unsupported),
    ("bootstrap.post_init", Unsupported),
    ("postgresql", Section),
    ("postgresql.name", Unsupported),
    ("postgresql.scope", Unsupported),
    ("postgresql.listen", Text),
    ("postgresql.connect_address", Text),
    ("postgresql.proxy_address", Unsupported),
    ("postgresql.data_dir", Text),
    ("postgresql.config_dir", Text),
    ("postgresql.bin_dir", Text),
    ("postgresql.bin_name", Section),
    ("postgresql.bin_name.pg_ctl", Text),
    ("postgresql.bin_name.initdb", Text),
    ("postgresql.bin_name.pg_controldata", Text),
    ("postgresql.bin_name.pg_basebackup", Text),
    ("postgresql.bin_name.postgres", Text),
    ("postgresql.bin_name.pg_isready", Text),
    ("postgresql.bin_name.pg_rewind", Text),
    ("postgresql.pgpass", Text),
    ("postgresql.use_unix_socket", Scalar),
    ("postgresql.use_unix_socket_repl", Scalar),
    ("postgresql.custom_conf", Text),
    ("postgresql.authentication", Section),
    ("postgresql.authentication.superuser", Section),
    ("postgresql.authentication.replication", Section),
    ("postgresql.authentication.rewind", Section),
    ("postgresql.parameters", Free),
    ("postgresql.parameters_primary", Unsupported),
    ("postgresql.parameters_replica", Unsupported),
    ("postgresql.parameters_standby_leader", Unsupported),
    ("postgresql.pg_hba", List),
    ("postgresql.pg_hba_primary", Unsupported),
    ("postgresql.pg_hba_replica", Unsupported),
    ("postgresql.pg_hba_standby_leader", Unsupported),
    ("postgresql.pg_ident", List),
    ("postgresql.pg_ident_primary", Unsupported),
    ("postgresql.pg_ident_replica", Unsupported),
    ("postgresql.pg_ident_standby_leader", Unsupported),
    ("postgresql.use_pg_rewind", Scalar),
    ("postgresql.use_slots", Scalar),
    ("postgresql.remove_data_directory_on_rewind_failure", Scalar),
    ("postgresql.remove_data_directory_on_diverged_timelines", Scalar),
    ("postgresql.basebackup", Free),
    ("postgresql.rewind", Free),
    ("postgresql.pg_ctl_timeout", Scalar),
    ("postgresql.run_as", Text),
    ("postgresql.callbacks", Unsupported),
    ("postgresql.create_replica_methods", Unsupported),
    ("postgresql.create_replica_method", Unsupported),
    ("postgresql.recovery_conf", Unsupported),
    ("postgresql.pre_promote", Unsupported),
    ("postgresql.before_stop", Unsupported),
    ("log", Section),
    ("log.type", Text),
    ("log.level", Text),
    ("log.traceback_level", Unsupported),
    ("log.format", Text),
    ("log.dateformat", Text),
    ("log.static_fields", Unsupported),
    ("log.max_queue_size", Unsupported),
    ("log.dir", Text),
    ("log.mode", Unsupported),
    ("log.file_num", Scalar),
    ("log.file_size", Scalar),
    ("log.loggers", Free),
    ("log.deduplicate_heartbeat_logs", Unsupported),
    ("watchdog", Section),
    ("watchdog.mode", Text),
    ("watchdog.device", Text),
    ("watchdog.driver", Unsupported),
    ("watchdog.safety_margin", Scalar),
    ("tags", Free),
];

/// Keys of one role under `postgresql.authentication`.
pub(super) const CREDENTIALS: Table = &[
    ("username", Text),
    ("password", Secret),
    ("sslmode", Text),
    ("sslkey", Text),
    ("sslpassword", Secret),
    ("sslcert", Text),
    ("sslrootcert", Text),
    ("sslcrl", Text),
    ("sslcrldir", Text),
    ("sslnegotiation", Text),
    ("gssencmode", Text),
    ("channel_binding", Text),
];

/// Keys of the dynamic configuration (`bootstrap.dcs`, the DCS's `config` key).
pub(super) const DYNAMIC: Table = &[
    ("ttl", Scalar),
    ("loop_wait", Scalar),
    ("retry_timeout", Scalar),
    ("maximum_lag_on_failover", Scalar),
    ("maximum_lag_on_syncnode", Unsupported),
    ("primary_start_timeout", Scalar),
    ("primary_stop_timeout", Scalar),
    ("master_start_timeout", Scalar),
    ("master_stop_timeout", Scalar),
    ("primary_race_backoff", Unsupported),
    ("pause", Scalar),
    ("check_timeline", Scalar),
    ("max_timelines_history", Scalar),
    ("failsafe_mode", Unsupported),
    ("synchronous_mode", Scalar),
    ("synchronous_mode_strict", Scalar),
    ("synchronous_node_count", Scalar),
    ("member_slots_ttl", Scalar),
    ("switchover_drain_timeout", Scalar),
    ("slots", Unsupported),
    ("ignore_slots", Unsupported),
    ("standby_cluster", Unsupported),
    ("postgresql", Section),
    ("postgresql.use_pg_rewind", Scalar),
    ("postgresql.use_slots", Scalar),
    ("postgresql.remove_data_directory_on_rewind_failure", Scalar),
    ("postgresql.remove_data_directory_on_diverged_timelines", Scalar),
    ("postgresql.parameters", Free),
    ("postgresql.parameters_primary", Unsupported),
    ("postgresql.parameters_replica", Unsupported),
    ("postgresql.parameters_standby_leader", Unsupported),
    ("postgresql.pg_hba", List),
    ("postgresql.pg_hba_primary", Unsupported),
    ("postgresql.pg_hba_replica", Unsupported),
    ("postgresql.pg_hba_standby_leader", Unsupported),
    ("postgresql.pg_ident", List),
    ("postgresql.pg_ident_primary", Unsupported),
    ("postgresql.pg_ident_replica", Unsupported),
    ("postgresql.pg_ident_standby_leader", Unsupported),
    ("postgresql.pg_ctl_timeout", Unsupported),
    ("postgresql.recovery_conf", Unsupported),
    ("postgresql.basebackup", Unsupported),
    ("postgresql.rewind", Unsupported),
    ("postgresql.callbacks", Unsupported),
    ("postgresql.create_replica_methods", Unsupported),
    ("postgresql.pre_promote", Unsupported),
    ("postgresql.before_stop", Unsupported),
];

/// The kind of a key of the file, credentials included.
pub(super) fn kind(path: &str) -> Option<Kind> {
    if let Some(kind) = lookup(LOCAL, path) {
        return Some(kind);
    }
    let (role, key) = path.strip_prefix("postgresql.authentication.")?.split_once('.')?;
    matches!(role, "superuser" | "replication" | "rewind").then(|| lookup(CREDENTIALS, key)).flatten()
}

/// The kind of a path in one table.
pub(super) fn lookup(table: Table, path: &str) -> Option<Kind> {
    table.iter().find(|(known, _)| *known == path).map(|(_, kind)| *kind)
}

/// Names that a table has directly under a section (`""` is the top).
pub(super) fn children(table: Table, section: &str) -> Vec<&'static str> {
    let below = |path: &'static str| {
        let rest = if section.is_empty() { path } else { path.strip_prefix(section)?.strip_prefix('.')? };
        (!rest.contains('.')).then_some(rest)
    };
    table.iter().filter_map(|(path, _)| below(path)).collect()
}
