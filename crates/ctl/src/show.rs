//! The verbs `show-config`, `history` and `version`. The table of members is in `list`.

use serde_json::{Map, Value, json};

use crate::cli::{self, Format};
use crate::context::Context;
use crate::fault::{Fault, Result};
use crate::table::{self, Column, left, right};
use crate::{agent, members, yaml};

/// The dynamic configuration.
pub(crate) async fn config(context: &Context, options: &cli::Cluster) -> Result {
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    context.console.say(yaml::print(&cluster.config(&read)?.value))
}

const HISTORY: [Column; 5] = [right("TL"), right("LSN"), left("Reason"), left("Timestamp"), left("New Leader")];

/// The promotions so far.
pub(crate) async fn history(context: &Context, options: &cli::History) -> Result {
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let lines = cluster.read().await?.history;
    context.console.write(&print_history(&lines, options.format.format))
}

fn print_history(lines: &[ha::cluster::HistoryLine], format: Format) -> String {
    let values = |line: &ha::cluster::HistoryLine| {
        [json!(line.timeline), json!(line.lsn), json!(line.reason), json!(line.timestamp), json!(line.new_leader)]
    };
    let texts = |line: &ha::cluster::HistoryLine| {
        values(line).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).to_vec()
    };
    let object = |line: &ha::cluster::HistoryLine| {
        let named = HISTORY.iter().map(|c| c.heading.to_owned()).zip(values(line));
        Value::Object(named.collect::<Map<_, _>>())
    };
    match format {
        Format::Pretty => {
            let rows: Vec<_> = lines.iter().map(texts).collect();
            format!("{}\n", table::render("", &HISTORY, &rows))
        }
        Format::Tsv => {
            let head = HISTORY.map(|c| c.heading.to_owned()).to_vec();
            std::iter::once(head).chain(lines.iter().map(texts)).map(|cells| cells.join("\t") + "\n").collect()
        }
        Format::Json => yaml::json_line(&lines.iter().map(object).collect()) + "\n",
        Format::Yaml => yaml::print(&lines.iter().map(object).collect()) + "\n",
    }
}

/// The version of this program.
pub(crate) fn own_version() -> String {
    format!("pgherdctl version {}", env!("CARGO_PKG_VERSION"))
}

/// The versions of a cluster's members.
pub(crate) async fn versions(context: &Context, options: &cli::Version) -> Result {
    let cluster = context.cluster(options.cluster.as_deref()).await?;
    let read = cluster.read().await?;
    let mut failed = 0;
    context.console.say("")?;
    for member in members::select(&read, &cluster.name, &options.members, cli::Role::Any)? {
        let about = match agent::reach(context, member).await {
            Ok(agent) => agent.about().await,
            Err(reason) => Err(reason),
        };
        let line = match about {
            Ok(about) => {
                let server = about.server_version.map(|v| format!(" PostgreSQL {}", server_version(v)));
                format!("{}: {} {}{}", member.name, about.program, about.version, server.unwrap_or_default())
            }
            Err(reason) => {
                failed += 1;
                format!("{}: failed to get version: {reason}", member.name)
            }
        };
        context.console.say(line)?;
    }
    if failed == 0 { Ok(()) } else { Err(Fault::failed(format!("{failed} of the members can't be asked"))) }
}

/// server_version_num for people: 15.4, 9.6.24.
fn server_version(number: u64) -> String {
    let (major, minor, patch) = (number / 10_000, number / 100 % 100, number % 100);
    if major < 10 { format!("{major}.{minor}.{patch}") } else { format!("{major}.{}", number % 10_000) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::Lsn;
    use ha::cluster::HistoryLine;

    fn line(timeline: u32, lsn: u64, timestamp: &str, new_leader: &str) -> HistoryLine {
        HistoryLine {
            timeline,
            lsn: Lsn(lsn),
            reason: "no recovery target specified".into(),
            timestamp: timestamp.into(),
            new_leader: new_leader.into(),
        }
    }

    #[test]
    fn history_is_printed_as_patronictl_does() {
        let lines = [line(1, 67_108_864, "2020-01-11T08:09:52.112190+00:00", "pg2"), line(2, 83_886_592, "", "")];
        let expected = "\
+----+----------+------------------------------+----------------------------------+------------+
| TL |      LSN | Reason                       | Timestamp                        | New Leader |
+----+----------+------------------------------+----------------------------------+------------+
|  1 | 67108864 | no recovery target specified | 2020-01-11T08:09:52.112190+00:00 | pg2        |
|  2 | 83886592 | no recovery target specified |                                  |            |
+----+----------+------------------------------+----------------------------------+------------+
";
        assert_eq!(print_history(&lines, Format::Pretty), expected);
        let empty = "\
+----+-----+--------+-----------+------------+
| TL | LSN | Reason | Timestamp | New Leader |
+----+-----+--------+-----------+------------+
+----+-----+--------+-----------+------------+
";
        assert_eq!(print_history(&[], Format::Pretty), empty);
        let json = "[{\"TL\": 2, \"LSN\": 83886592, \"Reason\": \"no recovery target specified\", \"Timestamp\": \"\", \
                    \"New Leader\": \"\"}]\n";
        assert_eq!(print_history(&lines[1..], Format::Json), json);
        let tsv = "TL\tLSN\tReason\tTimestamp\tNew Leader\n2\t83886592\tno recovery target specified\t\t\n";
        assert_eq!(print_history(&lines[1..], Format::Tsv), tsv);
        let yaml =
            "- LSN: 83886592\n  New Leader: ''\n  Reason: no recovery target specified\n  TL: 2\n  Timestamp: ''\n\n";
        assert_eq!(print_history(&lines[1..], Format::Yaml), yaml);
    }

    #[test]
    fn server_versions_are_written_as_people_do() {
        assert_eq!([90_624, 100_000, 140_008, 150_020].map(server_version), ["9.6.24", "10.0", "14.8", "15.20"]);
    }
}
