//! Synchronous replication: which standbys every commit waits for, and what the `sync` key may promise.
//!
//! The promise: while the `sync` key exists, every acknowledged commit is on disk at its `leader` and at each of its
//! `standbys`. It holds because `synchronous_standby_names` in force always asks for *all* of a list that contains the
//! key's standbys: a name enters the key only after the list with it is in force and the standby has confirmed what the
//! leader had flushed by then (so everything older as well), and leaves the key before it leaves the list. A promoting
//! member first makes the key name itself alone. So any member that the key names has every acknowledged commit, and
//! one that it doesn't name is never promoted.

use std::time::Duration;

use super::Step;
use crate::action::Action;
use crate::cluster::{Cluster, Revisioned, SyncState, Term};
use crate::local::Answer;
use crate::reason::Reason;

/// How long a new leader waits for any standby's acknowledgement before it goes on without one (not in strict mode).
const ALONE_AFTER: Duration = Duration::from_secs(10);

/// How long every process of the server may take to read a changed setting, after one is seen to have done so.
const RELOAD: Duration = Duration::from_secs(1);

/// The text of synchronous_standby_names that makes every commit wait for all of these standbys.
pub fn standby_names(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("\"{}\"", n.replace('"', "\"\""))).collect();
    match quoted.len() {
        0 => String::new(),
        1 => quoted.concat(),
        n => format!("{n} ({})", quoted.join(",")),
    }
}

/// Whether a setting has the form that is set here: one left in force by an earlier leader makes commits wait for
/// standbys that nobody chooses any more. A person's own setting, written otherwise, is left alone.
fn is_ours(value: &str) -> bool {
    let list = value.split_once(" (").map_or(value, |(_, rest)| rest);
    value == "*" || list.starts_with('"')
}

impl Step<'_> {
    /// Before a promotion: the key names this node alone, and commits will wait for somebody.
    pub(super) fn prepare_sync(&mut self, cluster: &Cluster, term: Term, answer: &Answer) -> Option<Reason> {
        if !self.view.settings.synchronous_mode {
            return None;
        }
        let alone = SyncState { leader: self.view.me.name.clone(), ..SyncState::default() };
        if cluster.sync.as_ref().map(|s| &s.value) != Some(&alone) {
            self.write_sync(cluster, term, Some(alone));
            return Some(Reason::PreparingSync);
        }
        if answer.synchronous_standby_names != "*" {
            return Some(self.work(Action::SetSync { value: "*".to_owned() }, Reason::PreparingSync));
        }
        None
    }

    /// On a running primary: one step towards the wanted synchronous standbys. `None` when nothing is to be done.
    pub(super) fn synchronize(&mut self, cluster: &Cluster, term: Term, answer: &Answer) -> Option<Reason> {
        if !self.view.settings.synchronous_mode {
            return self.stop_synchronizing(cluster, term, answer);
        }
        self.memory.async_in = None;
        let me = self.view.me.name.clone();
        let Some(Revisioned { value: current, .. }) = cluster.sync.as_ref().filter(|s| s.value.leader == me) else {
            self.write_sync(cluster, term, Some(SyncState { leader: me, ..SyncState::default() }));
            return Some(changing("recording that only this node is complete"));
        };
        let wanted = self.wanted_standbys(cluster, current, answer);
        let kept: Vec<String> = current.standbys.iter().filter(|n| wanted.contains(n)).cloned().collect();
        if kept != current.standbys {
            self.write_sync(cluster, term, Some(SyncState { standbys: kept, ..current.clone() }));
            return Some(changing("a standby is no longer synchronous"));
        }
        let value = self.wanted_setting(&wanted, answer);
        if answer.synchronous_standby_names != value {
            (self.memory.sync_mark, self.memory.sync_since) = (None, None);
            if !self.is_settled(cluster) {
                let same = current.clone();
                self.write_sync(cluster, term, Some(same));
                return Some(changing("making sure that no earlier write of the sync key is still to come"));
            }
            let reason = changing(&format!("setting synchronous_standby_names to {value:?}"));
            return Some(self.work(Action::SetSync { value }, reason));
        }
        self.mark(value, answer);
        self.admit_standbys(cluster, term, current, &wanted, answer)
    }

    /// Whether the last write of the key has taken effect, or can't any more. One that was not confirmed may still be
    /// on its way; once the key has another revision than it expects, it fails.
    fn is_settled(&self, cluster: &Cluster) -> bool {
        let revision = cluster.sync.as_ref().map_or(0, |s| s.revision);
        self.memory.sync_written.is_some_and(|replaced| replaced != revision)
    }

    /// Notes how far WAL was flushed once every process had taken the setting: what is acknowledged past that point
    /// has waited for the standbys it names.
    fn mark(&mut self, value: String, answer: &Answer) {
        if self.memory.sync_mark.as_ref().is_some_and(|(v, _)| *v == value) {
            return;
        }
        let looked = self.view.local.taken_at;
        let since = match &self.memory.sync_since {
            Some((v, at)) if *v == value => *at,
            _ => {
                self.memory.sync_since = Some((value.clone(), looked));
                looked
            }
        };
        if looked >= since + RELOAD {
            self.memory.sync_mark = Some((value, answer.flushed));
        } else {
            self.wake((since + RELOAD).max(self.now + Duration::from_millis(100)));
        }
    }

    /// Standbys that have confirmed what was flushed when the setting came into force enter the key.
    fn admit_standbys(
        &mut self,
        cluster: &Cluster,
        term: Term,
        current: &SyncState,
        wanted: &[String],
        answer: &Answer,
    ) -> Option<Reason> {
        let mark = self.memory.sync_mark.as_ref().map(|(_, lsn)| *lsn)?;
        let confirmed = |name: &String| {
            answer.replication.iter().any(|r| {
                r.application_name == *name && r.sync_state == "sync" && r.flush_lsn.is_some_and(|lsn| lsn >= mark)
            })
        };
        let mut standbys = current.standbys.clone();
        standbys.extend(wanted.iter().filter(|n| !current.standbys.contains(n) && confirmed(n)).cloned());
        if standbys.len() == current.standbys.len() {
            if wanted.len() > standbys.len() {
                self.wake(self.now + Duration::from_millis(100));
            }
            return None;
        }
        standbys.sort();
        self.write_sync(cluster, term, Some(SyncState { standbys, ..current.clone() }));
        Some(changing("a standby has become synchronous"))
    }

    /// Streaming members that commits shall wait for; those that are synchronous already come first.
    fn wanted_standbys(&self, cluster: &Cluster, current: &SyncState, answer: &Answer) -> Vec<String> {
        let mut rows: Vec<_> = answer
            .replication
            .iter()
            .filter(|r| r.state == "streaming" && r.application_name != self.view.me.name)
            .filter(|r| {
                cluster.members.get(&r.application_name).is_some_and(|m| !m.tag("nosync") && !m.tag("nofailover"))
            })
            .collect();
        rows.sort_by_key(|r| {
            let already = current.standbys.contains(&r.application_name);
            (!already, std::cmp::Reverse(r.flush_lsn), r.application_name.clone())
        });
        let count = self.view.settings.synchronous_node_count as usize;
        let mut names: Vec<String> = rows.into_iter().map(|r| r.application_name.clone()).collect();
        names.dedup();
        names.truncate(count);
        names.sort();
        names
    }

    fn wanted_setting(&mut self, wanted: &[String], answer: &Answer) -> String {
        if !wanted.is_empty() {
            self.memory.no_standby_since = None;
            return standby_names(wanted);
        }
        let since = *self.memory.no_standby_since.get_or_insert(self.now);
        let fresh = answer.synchronous_standby_names == "*" && self.now < since + ALONE_AFTER;
        if self.view.settings.synchronous_mode_strict || fresh {
            self.wake(since + ALONE_AFTER);
            return "*".to_owned();
        }
        String::new()
    }

    /// The mode was switched off: the key goes first, then the setting.
    fn stop_synchronizing(&mut self, cluster: &Cluster, term: Term, answer: &Answer) -> Option<Reason> {
        if cluster.sync.is_some() {
            self.write_sync(cluster, term, None);
            return Some(changing("synchronous mode is off"));
        }
        if self.memory.async_in == Some(term) {
            return None;
        }
        self.memory.sync_mark = None;
        if !is_ours(&answer.synchronous_standby_names) {
            self.memory.async_in = Some(term);
            return None;
        }
        Some(self.work(Action::SetSync { value: String::new() }, changing("synchronous mode is off")))
    }

    fn write_sync(&mut self, cluster: &Cluster, term: Term, state: Option<SyncState>) {
        let revision = cluster.sync.as_ref().map_or(0, |s| s.revision);
        self.memory.sync_written = Some(revision);
        self.act(Action::WriteSync { term, state, revision });
    }
}

fn changing(what: &str) -> Reason {
    Reason::SyncChanging { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The count asks for all of the list, and the names come back out as PostgreSQL reads them.
        #[test]
        fn every_name_of_the_list_is_asked_for(names in prop::collection::btree_set("[a-z \"]{1,8}", 1..5)) {
            let names: Vec<String> = names.into_iter().collect();
            let text = standby_names(&names);
            let list = match names.len() {
                1 => text.as_str(),
                n => text.strip_prefix(&format!("{n} (")).and_then(|t| t.strip_suffix(')')).unwrap(),
            };
            let inner = list.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap();
            let read: Vec<String> = inner.split("\",\"").map(|n| n.replace("\"\"", "\"")).collect();
            // A quote next to a comma can't occur: names hold no commas here.
            prop_assert_eq!(read, names);
        }
    }

    #[test]
    fn no_names_mean_no_waiting() {
        assert_eq!(standby_names(&[]), "");
    }
}
