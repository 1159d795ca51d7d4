//! Which members a verb is about: by name, by role, or by asking. Giving the orders is not here.

use ha::{Cluster, Member};

use crate::cli::Role;
use crate::fault::{Fault, Result};

/// Members with this role, sorted by name.
pub(crate) fn with_role(cluster: &Cluster, role: Role) -> Vec<&Member> {
    let leader = cluster.leader.as_ref().map(|l| l.name.as_str());
    let follows = cluster.config.as_ref().is_some_and(|c| c.value.get("standby_cluster").is_some_and(|v| !v.is_null()));
    let fits = |member: &&Member| {
        let leads = leader == Some(member.name.as_str());
        match role {
            Role::Any => true,
            Role::Leader => leads,
            Role::Primary => leads && !follows,
            Role::StandbyLeader => leads && follows,
            Role::Replica | Role::Standby => !leads,
        }
    };
    cluster.members.values().filter(fits).collect()
}

/// The named members, or all with the role when none are named. Every name must be a member's and have the role.
pub(crate) fn select<'a>(cluster: &'a Cluster, name: &str, wanted: &[String], role: Role) -> Result<Vec<&'a Member>> {
    if cluster.members.is_empty() {
        return Err(Fault::failed(format!("{name} cluster doesn't have any members")));
    }
    let members = with_role(cluster, role);
    if let Some(stranger) = wanted.iter().find(|w| !cluster.members.contains_key(*w)) {
        let names = cluster.members.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Fault::failed(format!("{stranger} is not a member of cluster {name}, which has {names}")));
    }
    if let Some(other) = wanted.iter().find(|w| !members.iter().any(|m| m.name == **w)) {
        return Err(Fault::failed(format!("No {} among provided members: {other} is none", role.as_str())));
    }
    if members.is_empty() {
        return Err(Fault::failed(format!("No {} among the members of cluster {name}", role.as_str())));
    }
    let chosen = |m: &&Member| wanted.is_empty() || wanted.contains(&m.name);
    Ok(members.into_iter().filter(chosen).collect())
}

/// Names with commas between them.
pub(crate) fn names(members: &[&Member]) -> String {
    members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::{Leader, Term};

    fn cluster() -> Cluster {
        let member = |name: &str| (name.to_owned(), Member { name: name.into(), ..Member::default() });
        Cluster {
            leader: Some(Leader { name: "pg2".into(), term: Term::default(), lease: 1 }),
            members: ["pg1", "pg2", "pg3"].map(member).into(),
            ..Cluster::default()
        }
    }

    #[test]
    fn members_are_chosen_by_name_and_role() {
        let cluster = cluster();
        let chosen = |wanted: &[&str], role| {
            let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
            select(&cluster, "otus", &wanted, role).map(|m| names(&m)).map_err(|e| e.to_string())
        };
        assert_eq!(chosen(&[], Role::Any).unwrap(), "pg1, pg2, pg3");
        assert_eq!(chosen(&["pg3", "pg1"], Role::Any).unwrap(), "pg1, pg3");
        assert_eq!(chosen(&[], Role::Replica).unwrap(), "pg1, pg3");
        assert_eq!(chosen(&[], Role::Primary).unwrap(), "pg2");
        assert!(chosen(&["pg1", "pg9"], Role::Any).unwrap_err().contains("pg9 is not a member of cluster otus"));
        assert!(chosen(&["pg1", "pg2"], Role::Replica).unwrap_err().contains("No replica among provided members"));
        assert!(chosen(&[], Role::StandbyLeader).unwrap_err().contains("No standby-leader"));
    }
}
