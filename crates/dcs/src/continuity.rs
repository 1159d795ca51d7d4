//! Notices that the DCS was rebuilt or restored from a backup behind the cluster's back. What to do then is up to the
//! caller: to act no more.

use crate::Snapshot;

/// Compares each reading with the ones before it. Hand it the readings of one client in the order they were made.
#[derive(Debug, Clone, Default)]
pub struct Continuity {
    seen: Option<(u64, i64)>,
    broken: Option<String>,
}

impl Continuity {
    /// Takes the first reading for granted.
    pub fn new() -> Continuity {
        Continuity::default()
    }

    /// Goes on from a reading that is known already.
    pub fn since(dcs_id: u64, revision: i64) -> Continuity {
        Continuity { seen: Some((dcs_id, revision)), broken: None }
    }

    /// A sentence for people when this reading is of another store, or older than one seen before. That stays so for
    /// good: a restored store's revision grows past the old one sooner or later, which makes nothing right.
    pub fn check(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        if let (None, Some((id, revision))) = (&self.broken, self.seen) {
            self.broken = fault(id, revision, snapshot);
        }
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        self.seen = Some((snapshot.dcs_id, snapshot.revision));
        Ok(())
    }
}

fn fault(id: u64, revision: i64, now: &Snapshot) -> Option<String> {
    const ADVICE: &str = "Nothing is done automatically any more, because the leader lock and the synchronous state in it \
        can't be trusted. Make sure by hand that one PostgreSQL at most is a primary and that it holds the newest data, \
        then restart the agents, that node's first";
    if now.dcs_id != id {
        return Some(format!(
            "the DCS was rebuilt: its cluster id was {id:x} and is {:x}. {ADVICE}; if the address is wrong, correct it",
            now.dcs_id
        ));
    }
    (now.revision < revision).then(|| {
        format!(
            "the DCS was restored from an older state: its revision was {revision} and is {}. {ADVICE}",
            now.revision
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(dcs_id: u64, revision: i64) -> Snapshot {
        Snapshot { dcs_id, revision, ..Snapshot::default() }
    }

    #[test]
    fn growing_revisions_are_fine() {
        let mut continuity = Continuity::new();
        for revision in [5, 5, 6, 100] {
            assert_eq!(continuity.check(&reading(1, revision)), Ok(()));
        }
    }

    #[test]
    fn restored_store_is_refused_for_good() {
        let mut continuity = Continuity::new();
        assert_eq!(continuity.check(&reading(1, 10)), Ok(()));
        let fault = continuity.check(&reading(1, 9)).unwrap_err();
        assert!(fault.contains("restored") && fault.contains("restart the agents"), "{fault}");
        assert_eq!(continuity.check(&reading(1, 1000)), Err(fault));
    }

    #[test]
    fn another_store_is_refused_for_good() {
        let mut continuity = Continuity::since(0xa, 10);
        let fault = continuity.check(&reading(0xb, 11)).unwrap_err();
        assert!(fault.contains("rebuilt") && fault.contains("was a and is b"), "{fault}");
        assert_eq!(continuity.check(&reading(0xa, 12)), Err(fault));
    }
}
