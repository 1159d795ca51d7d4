//! The table of all settings, for the console and the loader: names, defaults, whether they change at run time, and
//! access by name.

use super::{Settings, TABLE};

/// Whether a setting changes at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By RELOAD and SET.
    Live,
    /// Only by a restart.
    Fixed,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What `SHOW CONFIG` calls its default.
    pub default: Option<&'static str>,
    /// Whether it changes at run time.
    pub change: Change,
    pub(super) get: fn(&Settings) -> Option<String>,
    pub(super) set: fn(&mut Settings, &str) -> bool,
}

/// Why SET fails. The texts are pgbouncer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such setting.
    #[error("unknown configuration parameter: {0}")]
    Unknown(String),
    /// It changes only by a restart.
    #[error("parameter cannot be changed online: {0}")]
    Fixed(&'static str),
    /// It can't have that value.
    #[error("invalid value \"{value}\" for parameter {name}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
    },
}

impl Setting {
    /// Its value as `SHOW CONFIG` gives it.
    #[must_use]
    pub fn get(&self, settings: &Settings) -> Option<String> {
        (self.get)(settings).or_else(|| self.default.map(str::to_owned))
    }

    /// Changes it, whether or not it may change at run time.
    ///
    /// # Errors
    /// [`SetError::Invalid`]; nothing is changed then.
    pub fn put(&self, settings: &mut Settings, value: &str) -> Result<(), SetError> {
        if (self.set)(settings, value) {
            Ok(())
        } else {
            Err(SetError::Invalid { name: self.name, value: value.to_owned() })
        }
    }
}

/// The setting of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    let name = if name.eq_ignore_ascii_case("service_name") { "job_name" } else { name };
    TABLE.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
}

/// Changes a setting at run time (SET).
///
/// # Errors
/// There is no such setting, or it can't change now, or not to that; nothing is changed then.
pub fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), SetError> {
    let setting = find(name).ok_or_else(|| SetError::Unknown(name.to_owned()))?;
    match setting.change {
        Change::Live => setting.put(settings, value),
        Change::Fixed => Err(SetError::Fixed(setting.name)),
    }
}

/// Rows of `SHOW CONFIG`: every setting with its value.
pub fn show(settings: &Settings) -> impl Iterator<Item = (&'static Setting, Option<String>)> {
    TABLE.iter().map(move |setting| (setting, setting.get(settings)))
}

/// Defines [`Settings`], its defaults and the table of its fields:
/// `name: Type as notation = default => "default in SHOW CONFIG", Change;`
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty as $notation:ident = $value:expr => $default:expr, $change:ident;)*) => {
        /// Settings of section `[pgbouncer]`. Each field has the name of its setting.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $value,)* }
            }
        }

        /// All settings, in the order of `SHOW CONFIG`.
        pub static TABLE: &[Setting] = &[$(Setting {
            name: stringify!($name),
            default: $default,
            change: Change::$change,
            get: |settings| text::$notation::print(&settings.$name),
            set: |settings, value| match text::$notation::parse(value) {
                Some(value) => {
                    settings.$name = value;
                    true
                }
                None => false,
            },
        },)*];
    };
}

pub(super) use settings;
