//! The user list (`auth_file`): names and passwords or their verifiers.

use std::collections::BTreeMap;

use super::Secret;

/// Users of `auth_file` and their secrets: plain text, `md5...` or `SCRAM-SHA-256$...`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// A user's secret; empty where the file has an empty one. `None`: no such user.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<&Secret> {
        self.0.get(user)
    }

    /// All users, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    /// Number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, Secret)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(users: I) -> Self {
        Self(users.into_iter().collect())
    }
}
