//! Why a decision was made. The log line, the status texts, metric labels and scenario tests all come from here.

use std::fmt;

use crate::lsn::Lsn;
use crate::view::JobKind;

macro_rules! reasons {
    ($( $(#[$doc:meta])* $name:ident $({ $($field:ident : $ty:ty),* })? = $label:literal, $text:literal ;)*) => {
        /// Why a decision was made.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Reason { $( $(#[$doc])* $name $({ $($field: $ty),* })?, )* }

        impl Reason {
            /// A short stable label for metrics.
            pub fn label(&self) -> &'static str {
                match self { $( Reason::$name $({ $($field: _),* })? => $label, )* }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $( Reason::$name $({ $($field),* })? => write!(f, $text $(, $($field = $field),*)?), )* }
            }
        }
    };
}

reasons! {
    // The lease and the guard.
    LeaseNotRenewed = "lease_not_renewed", "demoting: the lease was not renewed in time, another member may take over";
    LeaseLost = "lease_lost", "demoting: the lease has ended";
    LeadershipLost { leader: String } = "leadership_lost", "demoting: the leader key belongs to {leader}";
    GuardLost = "guard_lost", "demoting: the guard process doesn't answer and could not be replaced";
    GuardFenced = "guard_fenced", "demoting: the guard has fenced this term";
    Settling = "settling", "telling the guard that its fencing is known";
    TermEnded = "term_ended", "releasing the leader key: this term has ended here";
    Arming = "arming", "arming the guard before PostgreSQL may accept writes";
    Distrusted { why: String } = "dcs_distrusted", "no automatic action: {why}";
    NoDcs = "no_dcs", "waiting: the DCS can't be read";
    NoLease = "no_lease", "waiting for a lease";

    // PostgreSQL's processes.
    Killing = "killing", "waiting until PostgreSQL is seen to be gone";
    Orphans = "orphans", "the postmaster is gone but other processes of PostgreSQL live: killing them first";
    Busy { kind: JobKind } = "busy", "{kind:?} in progress";
    Backoff { kind: JobKind, why: String } = "backoff", "waiting to try {kind:?} again: {why}";
    DataDamaged { why: String } = "data_damaged", "the data directory can't be used and is left as it is: {why}; repair it, or run pgherdctl reinit to clone it again";
    ForeignData { ours: String, cluster: String } = "foreign_data",
        "the data directory belongs to another cluster (system identifier {ours}, this cluster has {cluster}): \
         move it away or fix `scope` or `data_dir`";

    // Bootstrap.
    Claiming = "claiming", "trying to bootstrap a new cluster";
    Bootstrapping = "bootstrapping", "initializing a new cluster";
    WaitingForBootstrap = "waiting_for_bootstrap", "waiting for another member to bootstrap the cluster";
    Cloning { from: String } = "cloning", "cloning from {from}";
    WaitingForLeader = "waiting_for_leader", "no data directory yet: waiting for a leader to clone from";
    WaitingForPrimary { leader: String } = "waiting_for_primary", "waiting for leader {leader} to accept writes";
    CompletingInitialize = "completing_initialize", "recording the new cluster in the DCS";

    // Leading.
    Leading { name: String } = "leading", "no action. I am ({name}), the leader with the lock";
    Starting = "starting", "starting as the leader: no other member can have written";
    Promoting = "promoting", "promoting myself: the leader key is mine";
    PreparingSync = "preparing_sync", "preparing synchronous replication before promotion";
    Recovering { seconds: u64 } = "recovering", "PostgreSQL has not served for {seconds} s; I hold the leader key";
    HandingOver { to: String, seconds: u64 } = "handing_over", "PostgreSQL has not served for {seconds} s: handing over to {to}";
    NobodyToHandTo { seconds: u64 } = "nobody_to_hand_to",
        "PostgreSQL has not served for {seconds} s and no caught-up candidate answers: still trying here";
    SyncChanging { what: String } = "sync_changing", "synchronous replication: {what}";

    // Poolers.
    Draining { poolers: usize } = "draining", "waiting for {poolers} poolers to finish what runs on this server";

    // Hand-over on request.
    AskingPeers = "asking_peers", "asking the other members for their state";
    SwitchoverRefused { why: String } = "switchover_refused", "switchover refused: {why}";
    Switchover { to: String } = "switchover", "switchover: handing leadership over to {to}";
    Released = "released", "released the leader key after a shutdown";
    YieldingTo { to: String } = "yielding", "leaving the leader key to {to}";

    // Following.
    Following { name: String, leader: String } = "following", "no action. I am ({name}), a secondary, and following a leader ({leader})";
    StartingReplica = "starting_replica", "starting as a secondary";
    ReplicaRecovering { seconds: u64 } = "replica_recovering", "PostgreSQL has been recovering for {seconds} s and takes no connections yet";
    ChangingUpstream { leader: String } = "changing_upstream", "following new leader {leader}";
    CheckingHistory { leader: String } = "checking_history", "comparing my history with that of leader {leader}";
    NotStreaming { leader: String } = "not_streaming", "not streaming from leader {leader} yet";
    Reinitializing = "reinitializing", "removing the data directory for a requested reinitialization";
    Restarting = "restarting", "restart on request";

    // Election.
    Election = "election", "the leader key is free: preparing to compete";
    StoppingReceiver = "stopping_receiver", "the leader key is free: stopping the WAL receiver before comparing positions";
    NoFailoverTag = "nofailover", "not competing: tagged nofailover";
    NotSynchronous { allowed: String } = "not_synchronous", "not competing: not a synchronous standby, only {allowed} may lead";
    TooFarBehind { lag: u64, allowed: u64 } = "too_far_behind", "not competing: {lag} bytes behind, maximum_lag_on_failover is {allowed}";
    HistoryDiverged { timeline: u32, end: Lsn } = "history_diverged",
        "not competing: my data goes past the end {end} of timeline {timeline}, others have continued from there";
    BehindTimeline { mine: u32, theirs: u32 } = "behind_timeline", "not competing: on timeline {mine}, the cluster has reached {theirs}";
    PeerAhead { peer: String } = "peer_ahead", "not competing: {peer} has more WAL";
    PeerPrimary { peer: String } = "peer_primary", "not competing: {peer} still says it is a primary";
    Acquiring = "acquiring", "competing for the leader key";
    EmptyDcs { seconds: u64 } = "empty_dcs",
        "there is data here and the DCS knows nothing of it: waiting {seconds} s for the lease of a leader that may still be there";
    Abstaining = "abstaining", "leaving the leader key to others for a while";

    // Pause and leaving.
    Paused { doing: String } = "paused", "PAUSE: {doing}";
    Leaving { what: String } = "leaving", "stopping: {what}";
}

impl Reason {
    /// Whether a person should hear of it at once.
    pub fn is_alarming(&self) -> bool {
        use Reason::*;
        matches!(
            self,
            LeaseNotRenewed | LeaseLost | LeadershipLost { .. } | GuardLost | GuardFenced | TermEnded | Orphans
        ) || matches!(self, Distrusted { .. } | DataDamaged { .. } | ForeignData { .. } | Backoff { .. })
            || matches!(self, HandingOver { .. } | HistoryDiverged { .. } | EmptyDcs { .. })
            // A start takes a moment on a busy machine, the first one of a new cluster too, which nobody could take over.
            || matches!(self, Recovering { seconds } | NobodyToHandTo { seconds } if *seconds >= 5)
    }
}
