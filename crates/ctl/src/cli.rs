//! The command line: verbs and options, patronictl's where it has them. What they do is elsewhere.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Exit codes:
  0   done
  1   refused or failed, or ended by Ctrl-C or by the end of the piped answers
  2   the command line makes no sense
  3   an order was given and its outcome is not known: look before trying again
  64  the configuration can't be used

Without -c the configuration is the first of $PGHERDCTL_CONFIG_FILE, $PATRONICTL_CONFIG_FILE,
~/.config/pgherd/pgherdctl.yml, ~/.config/patroni/patronictl.yaml, /etc/pgherd/pgherdctl.yml,
/etc/patroni/patronictl.yaml, /etc/patroni/patroni.yml and /etc/patroni/config.yml. An agent's file will do.";

/// Looks after PostgreSQL clusters run by pgherd or Patroni.
#[derive(Debug, Parser)]
#[command(name = "pgherdctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Configuration file (YAML), or a directory of *.yml files
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    pub(crate) config_file: Option<PathBuf>,

    /// The DCS, in place of the one in the configuration: etcd://HOST:PORT[/NAMESPACE], embedded:/PATH
    #[arg(
        short = 'd',
        long,
        visible_alias = "dcs",
        value_name = "URL",
        env = "DCS_URL",
        hide_env_values = true,
        global = true
    )]
    pub(crate) dcs_url: Option<String>,

    /// Don't verify the agents' TLS certificates
    #[arg(short = 'k', long, global = true)]
    pub(crate) insecure: bool,

    /// Show what goes on, on stderr
    #[arg(short = 'v', long, global = true)]
    pub(crate) verbose: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the members of clusters
    List(List),
    /// Hand leadership over to a replica, planned
    Switchover(Switchover),
    /// Make a replica the leader although the leader may be gone
    Failover(Failover),
    /// Restart PostgreSQL on members
    Restart(Restart),
    /// Make members read their configuration files again
    Reload(Reload),
    /// Wipe members and clone them again
    Reinit(Reinit),
    /// Change the cluster's configuration
    EditConfig(EditConfig),
    /// Show the cluster's configuration
    ShowConfig(Cluster),
    /// Begin maintenance mode: no automatic failover
    Pause(Pause),
    /// End maintenance mode
    Resume(Resume),
    /// Show the promotions that the cluster has seen
    History(History),
    /// Remove a cluster from the DCS
    Remove(Remove),
    /// Show this program's version, and the members'
    Version(Version),
}

/// A cluster and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Names of clusters; the configuration's scope unless given
    pub(crate) clusters: Vec<String>,
    /// Show pending and scheduled restarts and tags even where there are none
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// Print the time first
    #[arg(short, long)]
    pub(crate) timestamp: bool,
    #[command(flatten)]
    pub(crate) format: FormatOption,
    /// Show it again every 2 seconds
    #[arg(short = 'W')]
    pub(crate) watch_two: bool,
    /// Show it again every SEC seconds
    #[arg(short = 'w', long, value_name = "SEC", value_parser = seconds)]
    pub(crate) watch: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// The present leader
    #[arg(long, visible_alias = "primary", alias = "master", value_name = "NAME")]
    pub(crate) leader: Option<String>,
    /// Who takes over
    #[arg(long, value_name = "NAME")]
    pub(crate) candidate: Option<String>,
    /// When: only "now" is supported
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Failover {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Who takes over
    #[arg(long, value_name = "NAME")]
    pub(crate) candidate: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Names of members; all unless given
    pub(crate) members: Vec<String>,
    /// Only members with this role
    #[arg(short, long, default_value = "any", hide_default_value = true)]
    pub(crate) role: Role,
    /// Only one member, whichever
    #[arg(long)]
    pub(crate) any: bool,
    /// When: only "now" is supported
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Only where PostgreSQL's version is less than this (e.g. 9.5.2)
    #[arg(long, value_name = "VERSION")]
    pub(crate) pg_version: Option<String>,
    /// Only members that wait for a restart
    #[arg(long)]
    pub(crate) pending: bool,
    /// How many seconds PostgreSQL may take to come up
    #[arg(long, value_name = "SEC")]
    pub(crate) timeout: Option<u64>,
    /// One member after another without an interruption: replicas first, then a switchover in the place of the leader's
    /// restart. Each has to be back before the next is taken
    #[arg(long, conflicts_with_all = ["any", "scheduled"])]
    pub(crate) rolling: bool,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Names of members; all unless given
    pub(crate) members: Vec<String>,
    /// Only members with this role
    #[arg(short, long, default_value = "any", hide_default_value = true)]
    pub(crate) role: Role,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reinit {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Names of members
    pub(crate) members: Vec<String>,
    /// Ask nothing, and end long work that is under way there
    #[arg(long)]
    pub(crate) force: bool,
    /// Clone from the leader rather than from a replica
    #[arg(long)]
    pub(crate) from_leader: bool,
    /// Wait until it is complete
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EditConfig {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Don't show the changes
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Set a value; null removes it. May be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Set a server parameter; null removes it. May be repeated
    #[arg(short, long, value_name = "PARAMETER=VALUE")]
    pub(crate) pg: Vec<String>,
    /// Merge a YAML file into the configuration; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) apply: Option<PathBuf>,
    /// Replace the configuration by a YAML file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) replace: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    /// Wait until every member knows
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) pause: Pause,
    /// Resume although no agent answers for the leader
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Name of the cluster; the configuration's scope unless given
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Name of the cluster
    pub(crate) cluster: String,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Name of the cluster
    pub(crate) cluster: Option<String>,
    /// Names of members; all unless given
    pub(crate) members: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FormatOption {
    /// Form of the output
    #[arg(short, long, default_value = "pretty")]
    pub(crate) format: Format,
}

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A box for people.
    Pretty,
    /// Values with tabs between them.
    Tsv,
    /// One line.
    Json,
    /// Block style.
    #[value(alias = "yml")]
    Yaml,
}

/// Which members are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Whoever leads.
    Leader,
    /// The leader, unless the cluster follows another one.
    Primary,
    /// The leader of a cluster that follows another one.
    StandbyLeader,
    /// Everyone but the leader.
    Replica,
    /// Everyone but the leader.
    Standby,
    /// Everyone.
    Any,
}

impl Role {
    /// As it is written on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Primary => "primary",
            Role::StandbyLeader => "standby-leader",
            Role::Replica => "replica",
            Role::Standby => "standby",
            Role::Any => "any",
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is not a number of seconds"))?;
    if (0.01..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("between 0.01 and 86400".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_parser_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn patronictls_spellings_are_understood() {
        for line in [
            "-c f.yml list",
            "list -c f.yml otus other -e -t -f yml -w 1.5",
            "--dcs etcd://h:2379 -k list -W",
            "switchover --master pg1 --candidate pg2 --force",
            "switchover otus --primary pg1 --scheduled now",
            "failover otus --candidate pg2",
            "restart otus pg1 pg2 -r standby-leader --any --pending --timeout 60 --pg-version 15.4 --force",
            "reload otus -r replica",
            "reinit otus pg3 --from-leader --wait",
            "edit-config otus -q -s ttl=30 -s loop_wait=5 -p shared_buffers=1GB --force",
            "edit-config --apply - --replace f.yml",
            "pause --wait",
            "resume otus",
            "history -f json",
            "remove otus",
            "version otus pg1",
            "show-config",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("pgherdctl").chain(line.split(' ')));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in ["", "lst", "list -f xml", "remove", "list -w 0", "restart -r boss"] {
            let words = line.split(' ').filter(|w| !w.is_empty());
            let parsed = Cli::try_parse_from(std::iter::once("pgherdctl").chain(words));
            assert_eq!(parsed.unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
