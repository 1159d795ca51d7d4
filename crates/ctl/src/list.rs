//! The verb `list`, and the table of members that other verbs show too. Roles and lags come from the core.

use std::time::Duration;

use ha::Cluster;
use ha::members::{Lags, Row, is_paused, rows};
use serde_json::{Map, Value};

use crate::cli::{self, Format};
use crate::context::Context;
use crate::fault::Result;
use crate::table::{self, Column, left, right};
use crate::{clock, yaml};

/// Shows clusters, again and again when asked to.
pub(crate) async fn run(context: &Context, options: &cli::List) -> Result {
    let names = match options.clusters.as_slice() {
        [] => vec![context.cluster_name(None)?],
        names => names.to_vec(),
    };
    let mut clusters = Vec::new();
    for name in &names {
        clusters.push(context.cluster(Some(name)).await?);
    }
    let period = options.watch.or(options.watch_two.then_some(2.0)).map(Duration::from_secs_f64);
    loop {
        let mut text = String::new();
        if options.timestamp {
            text.push_str(&format!("{}\n", clock::now("%Y-%m-%d %H:%M:%S")));
        }
        for cluster in &clusters {
            match cluster.read().await {
                Ok(read) => text.push_str(&show(&read, &cluster.name, options.format.format, options.extended)),
                Err(fault) if period.is_some() => text.push_str(&format!("Error: {fault}\n")),
                Err(fault) => return Err(fault),
            }
        }
        if period.is_some() {
            context.console.clear()?;
        }
        context.console.write(&text)?;
        let Some(period) = period else { return Ok(()) };
        tokio::time::sleep(period).await;
    }
}

/// The members of a cluster, ending with a line end.
pub(crate) fn show(cluster: &Cluster, name: &str, format: Format, extended: bool) -> String {
    let members = Members::new(cluster, name, format == Format::Pretty, extended);
    match format {
        Format::Pretty => members.pretty(cluster),
        Format::Tsv => members.tsv(),
        Format::Json => format!("{}\n", yaml::json_line(&members.objects())),
        Format::Yaml => format!("{}\n", yaml::print(&members.objects())),
    }
}

const COLUMNS: [&str; 10] =
    ["Cluster", "Member", "Host", "Role", "State", "TL", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"];
const OPTIONAL: [&str; 4] = ["Pending restart", "Pending restart reason", "Scheduled restart", "Tags"];

/// All values of all members by column; an absent value is an empty text.
struct Members {
    name: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Members {
    fn new(cluster: &Cluster, name: &str, short: bool, extended: bool) -> Members {
        let members = rows(cluster);
        let with_port = shows_ports(&members);
        let mut rows: Vec<Vec<Value>> =
            members.iter().map(|m| [fixed(m, name, with_port), optional(m, short)].concat()).collect();
        let mut columns = [&COLUMNS[..], &OPTIONAL[..]].concat();
        for i in (COLUMNS.len()..columns.len()).rev() {
            if !extended && rows.iter().all(|row| is_empty(&row[i])) {
                columns.remove(i);
                rows.iter_mut().for_each(|row| _ = row.remove(i));
            }
        }
        Members { name: name.to_owned(), columns, rows }
    }

    fn pretty(&self, cluster: &Cluster) -> String {
        let state = match cluster.initialize.as_deref() {
            None => "uninitialized",
            Some("") => "initializing",
            Some(identifier) => identifier,
        };
        let columns: Vec<Column> = self.columns[1..].iter().map(|c| column(c)).collect();
        let cell = |value: &Value| match value {
            Value::Object(tags) if !tags.is_empty() => yaml::print(value).trim_end().to_owned(),
            other => text(other),
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row[1..].iter().map(cell).collect()).collect();
        let title = format!(" Cluster: {} ({state}) ", self.name);
        format!("{}\n{}", table::render(&title, &columns, &rows), footer(cluster))
    }

    fn tsv(&self) -> String {
        let cell = |value: &Value| match value {
            Value::Object(tags) if !tags.is_empty() => yaml::flow(tags),
            other => text(other),
        };
        let line = |cells: Vec<String>| format!("{}\n", cells.join("\t"));
        let head = line(self.columns.iter().map(|c| (*c).to_owned()).collect());
        head + &self.rows.iter().map(|row| line(row.iter().map(cell).collect())).collect::<String>()
    }

    fn objects(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let given = self.columns.iter().zip(row).filter(|(_, v)| !is_empty(v));
            Value::Object(given.map(|(c, v)| ((*c).to_owned(), v.clone())).collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

fn column(name: &'static str) -> Column {
    match name {
        "Receive Lag" | "Replay Lag" => right("Lag"),
        "TL" | "Receive LSN" | "Replay LSN" => right(name),
        _ => left(name),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        other => other.is_null(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        _ if is_empty(value) => String::new(),
        other => other.to_string(),
    }
}

/// Ports are shown when one isn't PostgreSQL's own, or when members share a host.
fn shows_ports(members: &[Row]) -> bool {
    let mut hosts: Vec<&str> = members.iter().filter_map(|m| m.host.as_deref()).collect();
    let all = hosts.len();
    hosts.sort_unstable();
    hosts.dedup();
    hosts.len() < all || members.iter().any(|m| m.host.is_some() && m.port.is_some_and(|p| p != 5432))
}

fn fixed(member: &Row, cluster: &str, with_port: bool) -> Vec<Value> {
    let host = match (&member.host, member.port) {
        (Some(host), Some(port)) if with_port => format!("{host}:{port}"),
        (host, _) => host.clone().unwrap_or_default(),
    };
    let [receive, receive_lag, replay, replay_lag] = member.lags.map(|l| positions(member, l)).unwrap_or_default();
    vec![
        cluster.into(),
        member.name.clone().into(),
        host.into(),
        words(member.role.as_str()).into(),
        member.state.clone().into(),
        member.timeline.map_or(Value::Null, Value::from),
        receive,
        receive_lag,
        replay,
        replay_lag,
    ]
}

/// Receive LSN and lag, replay LSN and lag. Lags are in MB.
fn positions(member: &Row, lags: Lags) -> [Value; 4] {
    let Lags { mut receive, mut replay, overall } = lags;
    // Members of old versions publish one position only.
    if receive.is_none() && replay.is_none() {
        match member.state.as_str() {
            "streaming" => receive = overall,
            _ => replay = overall,
        }
    }
    let lsn = |p: Option<ha::members::Position>| p.map_or_else(|| "unknown".to_owned(), |p| p.lsn.to_string()).into();
    let lag = |p: Option<ha::members::Position>| p.map_or(Value::Null, |p| megabytes(p.lag).into());
    [lsn(receive), lag(receive), lsn(replay), lag(replay)]
}

fn megabytes(bytes: u64) -> u64 {
    (bytes as f64 / 1_048_576.0).round_ties_even() as u64
}

/// `sync_standby` as `Sync Standby`.
fn words(role: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    role.split('_').map(capital).collect::<Vec<_>>().join(" ")
}

fn optional(member: &Row, short: bool) -> Vec<Value> {
    vec![
        if member.pending_restart { "*".into() } else { Value::Null },
        member.pending_restart_reason.as_ref().map_or(Value::Null, |r| reasons(r, short).into()),
        member.scheduled_restart.as_ref().map_or(Value::Null, |s| schedule(s).into()),
        Value::Object(member.tags.clone()),
    ]
}

/// `parameter: old->new` a line. For people, what is longer than 50 characters is left out.
fn reasons(reasons: &Value, short: bool) -> String {
    let line = |(parameter, change): (&String, &Value)| {
        let value = |key: &str| change.get(key).map(text).unwrap_or_default();
        let line = format!("{parameter}: {}->{}", value("old_value"), value("new_value"));
        if short && line.chars().count() > 50 { format!("{parameter}: [hidden - too long]") } else { line }
    };
    reasons.as_object().into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

fn schedule(restart: &Value) -> String {
    let at = restart.get("schedule").map(text).unwrap_or_default();
    match restart.get("postgres_version").map(text) {
        Some(version) => format!("{at} if version < {version}"),
        None => at,
    }
}

/// What is to be known about the cluster as a whole.
fn footer(cluster: &Cluster) -> String {
    let mut lines = String::new();
    if is_paused(cluster) {
        lines.push_str(" Maintenance mode: on\n");
    }
    if let Some(failover) = cluster.failover.as_ref().map(|f| &f.value)
        && let Some(at) = &failover.scheduled_at
    {
        lines.push_str(&format!(" Switchover scheduled at: {at}\n"));
        for (word, name) in [("from", &failover.leader), ("to", &failover.candidate)] {
            if let Some(name) = name {
                lines.push_str(&format!("{word:>24}: {name}\n"));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
