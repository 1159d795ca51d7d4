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
    pub(super) access: Access,
}

/// How to get at a setting's field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    pub(super) read: fn(&mut Settings, &str) -> bool,
    pub(super) write: fn(&Settings) -> Option<String>,
    pub(super) expected: fn() -> String,
    pub(super) is_same: fn(&Settings, &Settings) -> bool,
    pub(super) copy: fn(&Settings, &mut Settings),
}

/// Why SET fails. The texts are pgbouncer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such setting.
    #[error("unknown parameter: pgbouncer/{0}")]
    Unknown(String),
    /// It changes only by a restart.
    #[error("parameter {0} cannot be changed without a restart")]
    Fixed(&'static str),
    /// It can't have that value.
    #[error("invalid value \"{value}\" for parameter {name}: it takes {expected}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The value.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// That isn't supported, or contradicts another setting or a file.
    #[error("{0}")]
    Refused(String),
}

impl Setting {
    /// Its value as `SHOW CONFIG` gives it; `None` is NULL.
    #[must_use]
    pub fn get(&self, settings: &Settings) -> Option<String> {
        (self.access.write)(settings).or_else(|| self.default.map(|_| String::new()))
    }

    /// Changes it, whether or not it may change at run time.
    ///
    /// # Errors
    /// [`SetError::Invalid`]; nothing is changed then.
    pub fn put(&self, settings: &mut Settings, value: &str) -> Result<(), SetError> {
        if (self.access.read)(settings, value) {
            Ok(())
        } else {
            Err(SetError::Invalid { name: self.name, value: value.to_owned(), expected: self.expected() })
        }
    }

    /// What its value has to be, for a message.
    #[must_use]
    pub fn expected(&self) -> String {
        (self.access.expected)()
    }

    /// Whether it has the same value in both.
    #[must_use]
    pub fn is_same(&self, one: &Settings, other: &Settings) -> bool {
        (self.access.is_same)(one, other)
    }

    /// Gives it the value that it has in `from`.
    pub fn copy(&self, from: &Settings, to: &mut Settings) {
        (self.access.copy)(from, to);
    }
}

/// The setting of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    let name = if name == "service_name" { "job_name" } else { name };
    TABLE.iter().find(|setting| setting.name == name)
}

/// Changes a setting at run time, and nothing else: see [`Config::set`](crate::config::Config::set).
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

/// Settings whose values differ.
pub fn changes<'a>(old: &'a Settings, new: &'a Settings) -> impl Iterator<Item = &'static Setting> + 'a {
    TABLE.iter().filter(|setting| !setting.is_same(old, new))
}

/// Defines [`Settings`], its defaults and the table of its fields:
/// `name: Type as Notation = default => what SHOW CONFIG has for the default, Change;`
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
            access: table::Access {
                read: |settings, text| match <notation::$notation as Notation<$type>>::read(text) {
                    Some(value) => {
                        settings.$name = value;
                        true
                    }
                    None => false,
                },
                write: |settings| <notation::$notation as Notation<$type>>::write(&settings.$name),
                expected: <notation::$notation as Notation<$type>>::expected,
                is_same: |one, other| one.$name == other.$name,
                copy: |from, to| to.$name.clone_from(&from.$name),
            },
        },)*];
    };
}

pub(super) use settings;
