//! From the keys of a cluster to where its clients go. Pure: the same keys and the same last answer give the same one.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use ha::members::leader_position;
use ha::settings::Settings;
use ha::{Cluster, Member};
use pool::route::{self, Drain, Topology};
use serde_json::Value;

/// Where clients go by these keys. `last` is where they went before, `local` tells whether a host is this machine.
pub(super) fn topology(cluster: &Cluster, last: &Topology, local: impl Fn(&str) -> bool) -> Topology {
    let members = cluster.members.values().filter_map(|m| member(cluster, m, &local)).collect();
    let drain = |d: &ha::cluster::Revisioned<ha::poolers::Drain>| Drain {
        order: d.revision,
        to: d.value.to.as_deref().map(Arc::from),
        patience: d.value.patience(),
    };
    let draining = cluster.drains.iter().map(|(name, d)| (Arc::from(name.as_str()), drain(d))).collect();
    let (leader, epoch) = match &cluster.leader {
        Some(leader) => (Some(Arc::from(leader.name.as_str())), leader.term.revision),
        // A leader may have lost its key and go on: nobody takes over from it then.
        None if keeps_without_key(cluster) => (last.leader.clone(), last.epoch),
        None => (None, last.epoch),
    };
    Topology { leader, epoch, members, draining }
}

/// In maintenance mode nobody takes over, and in failsafe mode the leader goes on as long as all members agree.
fn keeps_without_key(cluster: &Cluster) -> bool {
    cluster.config.as_ref().is_some_and(|c| {
        let failsafe = c.value.get("failsafe_mode") == Some(&Value::Bool(true));
        failsafe || Settings::from_json(&c.value).0.pause
    })
}

fn member(cluster: &Cluster, m: &Member, local: &impl Fn(&str) -> bool) -> Option<route::Member> {
    let (host, port) = m.host_port()?;
    let primary = matches!(m.role.as_str(), "primary" | "master" | "standby_leader");
    let replica = m.is_running() && !primary && !cluster.is_led_by(&m.name) && !m.tag("noloadbalance");
    let position = m.replay_lsn.or(m.receive_lsn).or(m.xlog_location);
    let lag = position.map(|p| leader_position(cluster).bytes_since(p));
    Some(route::Member { name: m.name.as_str().into(), local: local(&host), host, port, replica, lag })
}

/// The same members, led by this one as far as anybody can tell: an epoch that no key has.
pub(super) fn led_by(last: &Topology, leader: &str) -> Topology {
    Topology { leader: Some(leader.into()), epoch: -last.epoch.abs() - 1, ..last.clone() }
}

/// Whether a host is this machine: one of the addresses that the pooler listens on, where it names some, else any address
/// that this machine has.
pub(super) fn local(listen: &[String]) -> impl Fn(&str) -> bool {
    let named: Vec<String> =
        listen.iter().filter(|a| a.parse::<IpAddr>().is_ok_and(|a| !a.is_unspecified())).cloned().collect();
    move |host| {
        if !named.is_empty() {
            return named.iter().any(|a| a == host);
        }
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| UdpSocket::bind((ip, 0)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ha::cluster::{Leader, Optime, Revisioned, Term};
    use ha::{Lsn, poolers};
    use serde_json::json;

    use super::*;

    fn member(name: &str, role: &str, position: u64) -> (String, Member) {
        let member = Member {
            name: name.into(),
            conn_url: format!("postgres://10.0.0.{}:5432/postgres", &name[2..]),
            role: role.into(),
            state: "running".into(),
            xlog_location: Some(Lsn(position)),
            ..Member::default()
        };
        (name.into(), member)
    }

    fn cluster() -> Cluster {
        let term = Term { dcs_id: 1, revision: 7 };
        Cluster {
            leader: Some(Leader { name: "pg1".into(), term, lease: 1 }),
            members: [member("pg1", "primary", 1000), member("pg2", "replica", 900), member("pg3", "replica", 1000)]
                .into(),
            status: Some(Optime { optime: Lsn(990), ..Optime::default() }),
            ..Cluster::default()
        }
    }

    fn route(cluster: &Cluster, last: &Topology) -> Topology {
        topology(cluster, last, |host| host == "10.0.0.3")
    }

    #[test]
    fn writes_go_to_the_holder_of_the_key_and_reads_to_the_others() {
        let now = route(&cluster(), &Topology::default());
        assert_eq!((now.leader.as_deref(), now.epoch), (Some("pg1"), 7));
        let seen: Vec<_> = now.members.iter().map(|m| (&*m.name, m.replica, m.lag, m.local)).collect();
        let expected = [("pg1", false, Some(0), false), ("pg2", true, Some(100), false), ("pg3", true, Some(0), true)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn members_that_dont_run_or_take_no_load_are_not_read_from() {
        let mut c = cluster();
        c.members.get_mut("pg2").unwrap().state = "starting".into();
        c.members.get_mut("pg3").unwrap().tags.insert("noloadbalance".into(), Value::Bool(true));
        assert!(route(&c, &Topology::default()).members.iter().all(|m| !m.replica));
    }

    #[test]
    fn without_a_holder_clients_wait() {
        let last = route(&cluster(), &Topology::default());
        let gone = route(&Cluster { leader: None, ..cluster() }, &last);
        assert_eq!((gone.leader, gone.epoch), (None, 7));
    }

    #[test]
    fn in_maintenance_and_failsafe_mode_the_last_leader_is_kept() {
        let last = route(&cluster(), &Topology::default());
        for config in [json!({"pause": true}), json!({"failsafe_mode": true})] {
            let config = Some(Revisioned { revision: 1, value: config });
            let kept = route(&Cluster { leader: None, config, ..cluster() }, &last);
            assert_eq!((kept.leader.as_deref(), kept.epoch), (Some("pg1"), 7));
        }
    }

    #[test]
    fn drains_are_passed_on_with_their_revision() {
        let drain = Revisioned { revision: 44, value: poolers::Drain { to: Some("pg2".into()), patience_ms: 2500 } };
        let now = route(&Cluster { drains: [("pg1".into(), drain)].into(), ..cluster() }, &Topology::default());
        assert_eq!(
            now.draining["pg1"],
            Drain { order: 44, to: Some("pg2".into()), patience: Duration::from_millis(2500) }
        );
    }

    #[test]
    fn a_leader_by_word_of_mouth_has_an_epoch_of_its_own() {
        let last = route(&cluster(), &Topology::default());
        let heard = led_by(&last, "pg2");
        assert_eq!((heard.leader.as_deref(), &heard.members), (Some("pg2"), &last.members));
        assert!(heard.epoch < 0);
        assert!(led_by(&heard, "pg3").epoch < heard.epoch);
    }

    #[test]
    fn an_address_that_is_listened_on_is_this_machine() {
        assert!(local(&["127.0.0.9".into()])("127.0.0.9") && !local(&["127.0.0.9".into()])("127.0.0.8"));
        assert!(local(&["0.0.0.0".into()])("127.0.0.8") && !local(&[])("192.0.2.1"));
    }
}
