//! The Unix socket and its file: making it, finding out whether somebody answers at it, removing it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Settings;

/// Where a Unix socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file.
    File(PathBuf),
    /// A name in the abstract namespace (`man 7 unix`), without the zero byte.
    Abstract(OsString),
}

impl Address {
    /// The socket that the settings ask for. Its name is the one that libpq looks for.
    #[must_use]
    pub fn of(settings: &Settings) -> Option<Address> {
        let directory = settings.unix_socket_dir.as_ref().filter(|d| !d.as_os_str().is_empty())?;
        let path = directory.join(format!(".s.PGSQL.{}", settings.listen_port));
        Some(match path.as_os_str().as_bytes() {
            [b'@', name @ ..] => Address::Abstract(OsStr::from_bytes(name).to_owned()),
            _ => Address::File(path),
        })
    }

    /// The address with something added to its last part.
    #[must_use]
    pub fn with(&self, suffix: &str) -> Address {
        let longer = |name: &OsStr| OsString::from_vec([name.as_bytes(), suffix.as_bytes()].concat());
        match self {
            Address::File(path) => Address::File(longer(path.as_os_str()).into()),
            Address::Abstract(name) => Address::Abstract(longer(name)),
        }
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::File(path) => Some(path),
            Address::Abstract(_) => None,
        }
    }

    /// The form that the kernel takes.
    ///
    /// # Errors
    /// When it's too long.
    pub fn to_kernel(&self) -> io::Result<SockAddr> {
        match self {
            Address::File(path) => SockAddr::unix(path),
            Address::Abstract(name) => SockAddr::unix(OsString::from_vec([b"\0", name.as_bytes()].concat())),
        }
    }

    pub(super) fn is(&self, other: &SocketAddr) -> bool {
        *self == Address::from(other)
    }

    /// Whether somebody takes connections there.
    fn answers(&self) -> bool {
        let connected = match self {
            Address::File(path) => UnixStream::connect(path),
            Address::Abstract(name) => {
                SocketAddr::from_abstract_name(name.as_bytes()).and_then(|a| UnixStream::connect_addr(&a))
            }
        };
        // A full queue, or a socket that is closed to us, is somebody's too.
        !connected.is_err_and(|e| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }
}

impl From<&SocketAddr> for Address {
    fn from(address: &SocketAddr) -> Self {
        match address.as_abstract_name() {
            Some(name) => Address::Abstract(OsStr::from_bytes(name).to_owned()),
            None => Address::File(address.as_pathname().map(Path::to_owned).unwrap_or_default()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::File(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{}", name.display()),
        }
    }
}

/// Whether somebody takes connections at the Unix socket of these settings.
#[must_use]
pub fn in_use(settings: &Settings) -> bool {
    Address::of(settings).is_some_and(|address| address.answers())
}

/// Makes the socket with the settings' permissions. Removes a file that a dead process has left.
pub(super) fn open(address: &Address, settings: &Settings) -> io::Result<UnixListener> {
    clear(address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address.to_kernel()?)?;
    if let Some(path) = address.path() {
        // Nobody can connect before it listens.
        if let Some(group) = &settings.unix_socket_group {
            std::os::unix::fs::chown(path, None, Some(group_id(group)?.as_raw()))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(settings.unix_socket_mode.0))?;
    }
    socket.listen(super::open::backlog(settings))?;
    Ok(socket.into())
}

/// Removes a socket file that nobody answers at.
///
/// # Errors
/// Somebody answers ([`io::ErrorKind::AddrInUse`]), or it can't be removed.
pub(crate) fn clear(address: &Address) -> io::Result<()> {
    let Some(path) = address.path() else { return Ok(()) };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::other("the file is not a socket")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    if address.answers() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    fs::remove_file(path)
}

/// A group by name or number.
fn group_id(group: &str) -> io::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(group)?;
    found.map(|g| g.gid).ok_or_else(|| io::Error::other(format!("unix_socket_group: there is no group {group}")))
}

/// A socket's file, which is removed in the end unless another process has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// The file that is there now.
    pub(crate) fn of(path: &Path) -> Option<SocketFile> {
        let identity = identity(path)?;
        Some(SocketFile { path: path.to_owned(), identity: Some(identity) })
    }

    /// Leaves the file to another process.
    pub fn leave(mut self) {
        self.identity = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // What can't be removed is found stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
