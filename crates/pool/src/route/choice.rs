//! Which members a database goes to, and what becomes of connections to the others: pure, from the topology alone.

use std::sync::Arc;

use super::{Member, Topology};
use crate::config::{Role, Target};

/// The member that a connection was made to, and the epoch of its leadership then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Name of the member.
    pub(crate) member: Arc<str>,
    /// The cluster's epoch.
    pub(crate) epoch: i64,
}

/// What a topology means for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It serves.
    Good,
    /// No transaction begins on it now; it's kept.
    Held,
    /// It ends when it's given back.
    Outdated,
    /// Another leadership is in force: it ends now.
    Deposed,
}

/// Whether no transaction may begin at the leader now.
pub(crate) fn is_held(topology: &Topology, target: &Target) -> bool {
    let draining = |leader: &Arc<str>| topology.draining.contains_key(leader);
    target.role == Role::Leader && topology.leader.as_ref().is_none_or(draining)
}

/// The member that takes the draining leader's place, where that is known.
pub(crate) fn successor(topology: &Topology) -> Option<&Arc<str>> {
    match &topology.leader {
        Some(leader) => topology.draining.get(leader)?.to.as_ref(),
        None => topology.draining.values().find_map(|drain| drain.to.as_ref()),
    }
}

/// What is to be expected of a member that was to take the leader's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    /// It may come to lead.
    Open,
    /// It leads, in this epoch.
    Leads(i64),
    /// Another does, or will.
    Over,
}

/// What is to be expected of such a member.
pub(crate) fn prospect(topology: &Topology, member: &Arc<str>) -> Prospect {
    match (&topology.leader, successor(topology)) {
        (_, Some(next)) if next == member => Prospect::Open,
        (Some(leader), None) if leader == member => Prospect::Leads(topology.epoch),
        // Its predecessor has gone, and it hasn't come yet.
        (None, None) => Prospect::Open,
        _ => Prospect::Over,
    }
}

/// Members that new connections may go to. They're the same as those whose connections are used.
pub(crate) fn candidates<'a>(topology: &'a Topology, target: &Target) -> Vec<&'a Member> {
    let leads = |member: &Member| topology.leader.as_ref() == Some(&member.name);
    let leader = || topology.members.iter().filter(|m| leads(m) && !topology.draining.contains_key(&m.name));
    if target.role == Role::Leader {
        return leader().collect();
    }
    let is_near = |member: &Member| member.lag.is_some_and(|lag| lag <= target.max_lag);
    let replicas = topology.members.iter().filter(|m| m.replica && is_near(m) && !leads(m));
    let mut chosen: Vec<&Member> = replicas.filter(|m| !topology.draining.contains_key(&m.name)).collect();
    if target.role == Role::Any || (chosen.is_empty() && target.falls_back) {
        chosen.extend(leader());
    }
    if target.prefer_local && chosen.iter().any(|m| m.local) {
        chosen.retain(|m| m.local);
    }
    chosen
}

/// What becomes of a connection.
pub(crate) fn standing(topology: &Topology, target: &Target, spot: &Spot) -> Standing {
    if target.role != Role::Leader {
        let is_candidate = candidates(topology, target).iter().any(|m| m.name == spot.member);
        return if is_candidate { Standing::Good } else { Standing::Outdated };
    }
    match &topology.leader {
        // The old leader may be finishing, or lead again.
        None => Standing::Held,
        Some(leader) if *leader != spot.member || topology.epoch != spot.epoch => Standing::Deposed,
        Some(leader) if topology.draining.contains_key(leader) => Standing::Held,
        Some(_) => Standing::Good,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Drain;
    use super::*;

    fn member(name: &str, replica: bool, lag: Option<u64>) -> Member {
        Member { name: name.into(), host: name.to_owned(), port: 5432, replica, lag, local: false }
    }

    /// pg1 leads; pg2 and pg3 are replicas, pg3 is 100 bytes behind.
    fn three() -> Topology {
        Topology {
            leader: Some("pg1".into()),
            epoch: 7,
            members: vec![member("pg1", false, None), member("pg2", true, Some(0)), member("pg3", true, Some(100))],
            ..Topology::default()
        }
    }

    fn drain(topology: &mut Topology, name: &str) {
        topology.draining.insert(name.into(), Drain { order: 1, to: None, patience: Duration::ZERO });
    }

    fn target(role: Role) -> Target {
        Target { cluster: "c".into(), role, prefer_local: false, max_lag: 1000, falls_back: true }
    }

    fn names(topology: &Topology, target: &Target) -> Vec<String> {
        candidates(topology, target).iter().map(|m| m.name.to_string()).collect()
    }

    #[test]
    fn each_role_has_its_members() {
        let topology = three();
        assert_eq!(names(&topology, &target(Role::Leader)), ["pg1"]);
        assert_eq!(names(&topology, &target(Role::Replica)), ["pg2", "pg3"]);
        assert_eq!(names(&topology, &target(Role::Any)), ["pg2", "pg3", "pg1"]);
    }

    #[test]
    fn replicas_that_lag_or_drain_or_are_none_are_left_out() {
        let mut topology = three();
        let near = Target { max_lag: 99, ..target(Role::Replica) };
        assert_eq!(names(&topology, &near), ["pg2"]);
        topology.members[2].lag = None;
        assert_eq!(names(&topology, &target(Role::Replica)), ["pg2"]);
        drain(&mut topology, "pg2");
        assert_eq!(names(&topology, &target(Role::Replica)), ["pg1"], "the leader stands in");
        assert_eq!(names(&topology, &Target { falls_back: false, ..target(Role::Replica) }), [""; 0]);
        topology.leader = None;
        assert_eq!(names(&topology, &target(Role::Replica)), [""; 0]);
    }

    #[test]
    fn members_of_this_machine_come_first_where_they_are_preferred() {
        let mut topology = three();
        let near = Target { prefer_local: true, ..target(Role::Any) };
        assert_eq!(names(&topology, &near), ["pg2", "pg3", "pg1"]);
        topology.members[2].local = true;
        assert_eq!(names(&topology, &near), ["pg3"]);
        drain(&mut topology, "pg3");
        assert_eq!(names(&topology, &near), ["pg2", "pg1"]);
    }

    #[test]
    fn a_leader_that_drains_or_is_missing_holds_and_another_leadership_deposes() {
        let mut topology = three();
        let leader = target(Role::Leader);
        let spot = |member: &str, epoch| Spot { member: member.into(), epoch };
        assert_eq!(standing(&topology, &leader, &spot("pg1", 7)), Standing::Good);
        assert_eq!(standing(&topology, &leader, &spot("pg1", 6)), Standing::Deposed);
        assert_eq!(standing(&topology, &leader, &spot("pg2", 7)), Standing::Deposed);
        assert!(!is_held(&topology, &leader));
        drain(&mut topology, "pg1");
        assert_eq!(standing(&topology, &leader, &spot("pg1", 7)), Standing::Held);
        assert!(is_held(&topology, &leader) && !is_held(&topology, &target(Role::Any)));
        assert_eq!(names(&topology, &leader), [""; 0]);
        topology.leader = None;
        assert_eq!(standing(&topology, &leader, &spot("pg1", 7)), Standing::Held);
        assert!(is_held(&topology, &leader));
    }

    #[test]
    fn a_successor_is_prepared_for_until_it_leads_or_another_does() {
        let (mut topology, pg2) = (three(), "pg2".into());
        assert_eq!((successor(&topology), prospect(&topology, &pg2)), (None, Prospect::Over));
        let to = Some(Arc::from("pg2"));
        topology.draining.insert("pg1".into(), Drain { order: 1, to, patience: Duration::ZERO });
        assert_eq!((successor(&topology), prospect(&topology, &pg2)), (Some(&pg2), Prospect::Open));
        assert_eq!(prospect(&topology, &"pg3".into()), Prospect::Over);
        topology.leader = None;
        assert_eq!((successor(&topology), prospect(&topology, &pg2)), (Some(&pg2), Prospect::Open));
        topology.draining.clear();
        assert_eq!((successor(&topology), prospect(&topology, &pg2)), (None, Prospect::Open));
        (topology.leader, topology.epoch) = (Some("pg2".into()), 8);
        assert_eq!(prospect(&topology, &pg2), Prospect::Leads(8));
        topology.leader = Some("pg3".into());
        assert_eq!(prospect(&topology, &pg2), Prospect::Over);
    }

    #[test]
    fn connections_of_readers_end_with_their_use_when_their_member_is_no_candidate() {
        let mut topology = three();
        let spot = Spot { member: "pg2".into(), epoch: 1 };
        assert_eq!(standing(&topology, &target(Role::Replica), &spot), Standing::Good);
        topology.leader = Some("pg2".into());
        assert_eq!(standing(&topology, &target(Role::Replica), &spot), Standing::Outdated);
        assert_eq!(standing(&topology, &target(Role::Any), &spot), Standing::Good);
        topology.members.remove(1);
        assert_eq!(standing(&topology, &target(Role::Any), &spot), Standing::Outdated);
    }
}
