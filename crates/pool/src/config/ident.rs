//! The ident map (`auth_ident_file`): which system user or certificate may be which database user.

use std::collections::BTreeMap;

/// Maps by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Idents(BTreeMap<String, Vec<Mapping>>);

/// One line of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Name that the system or the certificate gives.
    pub system: String,
    /// The database user it may be; `None`: every one (`all`).
    pub user: Option<String>,
}

impl Idents {
    /// Whether a map lets a system user be a database user.
    #[must_use]
    pub fn allows(&self, map: &str, system: &str, user: &str) -> bool {
        self.0.get(map).is_some_and(|lines| {
            lines.iter().any(|line| line.system == system && line.user.as_deref().is_none_or(|u| u == user))
        })
    }
}
