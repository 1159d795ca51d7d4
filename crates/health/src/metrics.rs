//! GET /metrics: Patroni's gauges and counters, and a few of pgherd's own, in Prometheus' text format 0.0.4.
//!
//! Written by hand because the encoders at hand speak OpenMetrics, which renames counters.

use std::fmt::Write as _;

use ha::cluster::tag_is_set;
use ha::settings::parse_bool;
use ha::{Lsn, Role, State, Status};
use serde_json::Value;

use crate::{Moment, report};

/// Every metric with its value now.
pub(crate) fn render(moment: &Moment) -> String {
    let status = &*moment.status;
    let labels = format!("scope=\"{}\",name=\"{}\"", escape(&status.scope), escape(&status.name));
    let mut page = Page { text: String::with_capacity(6000), labels };
    postgres(&mut page, status);
    cluster(&mut page, moment);
    own(&mut page, moment);
    page.text
}

struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.add("gauge", name, help, "", value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    fn position(&mut self, name: &str, help: &str, value: Option<Lsn>) {
        self.add("counter", name, help, "", value.unwrap_or_default().0);
    }

    fn add(&mut self, kind: &str, name: &str, help: &str, more: &str, value: impl std::fmt::Display) {
        let labels = &self.labels;
        let lines = format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{labels}{more}}} {value}\n");
        // Writing to a String can't fail.
        let _ = self.text.write_fmt(lines);
    }
}

/// A label's value, by the text format's rules.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// `4.1.5` as 40105, which Patroni prints as 040105.
fn padded_version(version: &str) -> String {
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>();
    version.split('.').map(|part| format!("{:0>2}", digits(part))).collect()
}

/// A time as PostgreSQL prints it, as seconds since 1970; 0 when there is none.
fn epoch(text: Option<&str>) -> f64 {
    let time: Option<jiff::Timestamp> = text.and_then(|t| t.parse().ok());
    time.map_or(0.0, |t| t.as_second() as f64 + f64::from(t.subsec_microsecond()) / 1e6)
}

fn postgres(page: &mut Page, s: &Status) {
    let streams = |state: &str| s.replication_state.as_deref() == Some(state);
    page.gauge("patroni_version", "Version without periods.", padded_version(&s.version));
    page.flag("patroni_postgres_running", "1 if PostgreSQL is running, else 0.", s.state == State::Running);
    page.gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds since PostgreSQL started.",
        epoch(s.postmaster_start_time.as_deref()),
    );
    page.flag("patroni_primary", "1 if this node is a primary, else 0.", s.role == Role::Primary);
    page.position("patroni_xlog_location", "Write position of a primary, 0 elsewhere.", s.location);
    page.flag("patroni_standby_leader", "1 if this node leads a standby cluster, else 0.", false);
    page.flag("patroni_replica", "1 if this node is a replica, else 0.", s.role == Role::Replica);
    page.flag("patroni_sync_standby", "1 if this node is a synchronous standby, else 0.", s.sync_standby);
    page.flag("patroni_quorum_standby", "1 if this node is a quorum standby, else 0.", false);
    page.position(
        "patroni_xlog_received_location",
        "What a replica has received, 0 elsewhere.",
        s.received_location.or(s.replayed_location),
    );
    page.position("patroni_xlog_replayed_location", "What a replica has replayed, 0 elsewhere.", s.replayed_location);
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Epoch seconds of the last replayed transaction, 0 if none.",
        epoch(s.replayed_timestamp.as_deref()),
    );
    page.flag("patroni_xlog_paused", "1 if replay is paused, else 0.", s.replay_paused);
    page.flag("patroni_postgres_streaming", "1 if this node streams from another, else 0.", streams("streaming"));
    page.flag(
        "patroni_postgres_in_archive_recovery",
        "1 if this node replicates from an archive, else 0.",
        streams("in archive recovery"),
    );
    let version = s.server_version.unwrap_or(0);
    page.gauge("patroni_postgres_server_version", "server_version_num, 0 if not running.", version);
    page.gauge("patroni_postgres_timeline", "Timeline, 0 if unknown.", s.timeline.unwrap_or(0));
    page.flag("patroni_pending_restart", "1 if parameters wait for a restart, else 0.", !s.pending_restart.is_empty());
    page.gauge(
        "patroni_postgres_state",
        "State of PostgreSQL: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, \
         4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, 9=restarting, \
         10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed.",
        s.state.metric(),
    );
}

fn cluster(page: &mut Page, moment: &Moment) {
    let s = &*moment.status;
    let config = s.cluster.as_deref().and_then(|c| c.config.as_ref());
    let failsafe = config.and_then(|c| c.value.get("failsafe_mode")).and_then(parse_bool).unwrap_or(false);
    page.flag("patroni_cluster_unlocked", "1 if nobody holds the leader lock, else 0.", report::is_unlocked(moment));
    page.flag("patroni_failsafe_mode_is_active", "1 if failsafe mode is active, else 0.", false);
    page.flag("patroni_failsafe_mode_enabled", "1 if failsafe mode is configured, else 0.", failsafe);
    page.flag("patroni_failsafe_member", "1 if this node is in the failsafe key, else 0.", false);
    page.gauge("patroni_dcs_last_seen", "Epoch seconds of the last reading of the DCS.", s.dcs_last_seen);
    page.flag("patroni_is_paused", "1 if the cluster is in maintenance mode, else 0.", s.pause);
    page.gauge("patroni_failover_priority", "failover_priority of this node.", failover_priority(s));
}

/// The tag `failover_priority`, which `nofailover` turns into 0.
fn failover_priority(s: &Status) -> i64 {
    if tag_is_set(&s.tags, "nofailover") {
        return 0;
    }
    s.tags.get("failover_priority").and_then(Value::as_i64).unwrap_or(1)
}

fn own(page: &mut Page, moment: &Moment) {
    let s = &*moment.status;
    let left = s.leader_until.map_or(0.0, |until| (until - moment.now).as_secs_f64());
    let age = (moment.now - s.decided_at).as_secs_f64();
    page.flag("pgherd_leader", "1 while this node's lease on the leader key lives, else 0.", moment.leads());
    page.gauge("pgherd_leader_deadline_seconds", "Time until this node must stop leading, 0 if it doesn't.", left);
    page.gauge("pgherd_decision_age_seconds", "Time since the agent last completed a decision.", age);
    let reason = format!(",reason=\"{}\"", escape(s.reason_label));
    page.add("gauge", "pgherd_decision_info", "Why the last decision was made.", &reason, 1);
    page.flag("pgherd_trouble", "1 if there is a fault that a person must look at, else 0.", s.trouble.is_some());
    page.flag("pgherd_watchdog_failed", "1 if the watchdog device can't be used, else 0.", s.watchdog_failed);
}
