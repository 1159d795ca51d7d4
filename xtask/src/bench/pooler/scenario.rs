//! What is measured: every scenario by name. How it is measured lives in `runner`.

/// When a client gives its server connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Session,
    Transaction,
}

/// How pgbench sends its query (`-M`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

/// How clients log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    Md5,
    Scram,
}

/// Size of a pool in transaction mode.
pub(super) const POOL: u32 = 16;

/// Clients that connect anew for each transaction.
const CONNECTING: u32 = 8;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) mode: Mode,
    pub(super) protocol: Protocol,
    pub(super) auth: Auth,
    pub(super) clients: u32,
    /// Whether each transaction has a connection of its own.
    pub(super) reconnect: bool,
}

impl Scenario {
    /// Its name for `--only` and the JSON file.
    pub(super) fn name(&self) -> String {
        if self.reconnect {
            return format!("connect-{}", self.auth.name());
        }
        format!("{}-{}-{}", self.mode.name(), self.protocol.name(), self.clients)
    }

    /// Size of the pool: as large as the clients in session mode.
    pub(super) fn pool(&self) -> u32 {
        match self.mode {
            Mode::Session => self.clients,
            Mode::Transaction => POOL,
        }
    }
}

impl Mode {
    /// Its name in the configuration file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
        }
    }
}

impl Protocol {
    /// Its name for pgbench.
    pub(super) fn name(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        }
    }
}

impl Auth {
    /// Its short name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Auth::Md5 => "md5",
            Auth::Scram => "scram",
        }
    }

    /// Its name in the configuration file.
    pub(super) fn setting(self) -> &'static str {
        match self {
            Auth::Md5 => "md5",
            Auth::Scram => "scram-sha-256",
        }
    }
}

/// Every scenario under load: queries over connections that stay, then connections for a query each.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for mode in [Mode::Session, Mode::Transaction] {
        for protocol in [Protocol::Simple, Protocol::Extended, Protocol::Prepared] {
            for clients in [8, 64, 500] {
                all.push(Scenario { mode, protocol, auth: Auth::Md5, clients, reconnect: false });
            }
        }
    }
    for auth in [Auth::Md5, Auth::Scram] {
        let (mode, protocol) = (Mode::Transaction, Protocol::Simple);
        all.push(Scenario { mode, protocol, auth, clients: CONNECTING, reconnect: true });
    }
    all
}

/// Whether `--only` wants this name. No pattern wants everything.
pub(super) fn wanted(only: &[String], name: &str) -> bool {
    only.is_empty() || only.iter().any(|pattern| name.contains(pattern.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_scenarios_by_parts_of_their_names() {
        let chosen = |only: &[&str]| -> Vec<String> {
            let only: Vec<String> = only.iter().map(|o| (*o).to_owned()).collect();
            all().iter().map(Scenario::name).filter(|n| wanted(&only, n)).collect()
        };
        assert_eq!(chosen(&[]).len(), 20);
        assert_eq!(chosen(&["session-simple", "scram"]).len(), 4);
        assert_eq!(chosen(&["transaction-prepared-64"]), ["transaction-prepared-64"]);
        assert!(chosen(&["idle"]).is_empty());
    }

    #[test]
    fn pools_are_as_large_as_the_clients_in_session_mode_only() {
        for scenario in all() {
            let expected = if scenario.mode == Mode::Session { scenario.clients } else { 16 };
            assert_eq!(scenario.pool(), expected);
        }
    }
}
