//! Files and directories of the instance: atomic writes with the right owner, checks of the data directory, temporary
//! siblings. Blocking; what the files say is in `conf`.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::programs::User;

/// Name of the file that the storage check writes.
pub(crate) const STORAGE_CHECK: &str = "pgherd.storage-check";

/// Writes a file in one step, readable by its owner alone. False when it had this content already. Base backups and
/// pg_rewind skip the temporary file because of its name.
pub(crate) fn write_atomic(path: &Path, text: &str, user: Option<&User>) -> Result<bool, Error> {
    let context = || format!("write {}", path.display());
    if read_if_exists(path)?.as_deref() == Some(text) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix("pgsql_tmp.pgherd").tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        if let Some(user) = user {
            user.own(file.as_file())?;
        }
        file.as_file().set_permissions(Permissions::from_mode(0o600))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| Error::io(context(), e))?;
    Ok(true)
}

/// A file's text, `None` when there is no such file.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
    }
}

/// Removes a file; none is fine.
pub(crate) fn remove_if_exists(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), e)),
    }
}

/// What file systems put at their root.
pub(crate) const LOST_FOUND: &str = "lost+found";

/// Name of the place inside a data directory where a cluster is made.
const INNER_STAGING: &str = ".pgherd-new";

/// Whether the data directory is missing or has nothing in it but what file systems put at their root and what an
/// unfinished clone or a storage check beside a removal has left.
pub(crate) fn is_empty(data_dir: &Path) -> Result<bool, Error> {
    match std::fs::read_dir(data_dir) {
        Ok(entries) => {
            let nothing = [LOST_FOUND, INNER_STAGING, STORAGE_CHECK];
            Ok(entries.flatten().all(|e| nothing.iter().any(|n| e.file_name() == *n)))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            Err(Error::Setup(format!("{} is not a directory: name another data_dir", data_dir.display())))
        }
        Err(e) => Err(Error::io(format!("read {}", data_dir.display()), e)),
    }
}

/// Refuses a data directory with files whose owner, mode or version PostgreSQL would refuse, with what to do.
pub(crate) fn check_data_dir(data_dir: &Path, user: Option<&User>, major: u32) -> Result<(), Error> {
    if is_empty(data_dir)? {
        return Ok(());
    }
    let meta = std::fs::metadata(data_dir).map_err(|e| Error::io(format!("look at {}", data_dir.display()), e))?;
    let dir = data_dir.display();
    let me = nix::unistd::Uid::effective().as_raw();
    let owned = if user.is_some() { meta.uid() != 0 } else { meta.uid() == me };
    let closed = meta.mode() & 0o727 == 0o700;
    if !(owned && closed || data_dir.join("PG_VERSION").exists()) {
        return Err(Error::Setup(format!(
            "{dir} holds files, but no data of PostgreSQL (there's no PG_VERSION), and isn't a directory for it: correct \
             postgresql.data_dir"
        )));
    }
    if user.is_some() && meta.uid() == 0 {
        return Err(Error::Setup(format!(
            "the data directory {dir} belongs to root, as whom PostgreSQL does not run: `chown -R postgres {dir}`"
        )));
    }
    if user.is_none() && meta.uid() != me {
        return Err(Error::Setup(format!(
            "the data directory {dir} belongs to user {}, but this agent runs as user {me}: run it as the owner or as \
             root, or `chown -R {me} {dir}`",
            meta.uid()
        )));
    }
    if meta.mode() & 0o027 != 0 {
        return Err(Error::Setup(format!(
            "the data directory {dir} has mode {:04o}, which lets others in: `chmod 0700 {dir}` (or 0750)",
            meta.mode() & 0o7777
        )));
    }
    if meta.mode() & 0o700 != 0o700 {
        return Err(Error::Setup(format!(
            "the data directory {dir} has mode {:04o}, which keeps PostgreSQL out: `chmod 0700 {dir}`",
            meta.mode() & 0o7777
        )));
    }
    if let Some(version) = read_if_exists(&data_dir.join("PG_VERSION"))?
        && version.trim() != major.to_string()
    {
        return Err(Error::Setup(format!(
            "the data directory {dir} is of PostgreSQL {}, but the programs are of {major}: set postgresql.bin_dir to \
             those of {0}, or upgrade the data with pg_upgrade",
            version.trim()
        )));
    }
    Ok(())
}

/// A path beside the data directory: its name with a suffix.
pub(crate) fn sibling(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    data_dir.with_file_name(name)
}

/// A file that says that pg_rewind was at work in the data directory. It lies beside it, because pg_rewind removes what
/// its source doesn't have.
pub(crate) fn rewind_mark(data_dir: &Path) -> PathBuf {
    sibling(data_dir, ".pgherd-rewinding")
}

/// Makes an empty directory of mode 0700 that belongs to the user. A leftover of the same name is removed first: only
/// unfinished work has such a name.
pub(crate) fn fresh_dir(path: &Path, user: Option<&User>) -> Result<(), Error> {
    remove_tree(path)?;
    let make = || -> std::io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        if let Some(user) = user {
            user.own_path(path)?;
        }
        Ok(())
    };
    make().map_err(|e| Error::io(format!("create {}", path.display()), e))
}

/// Gives a directory to the user and closes it to others.
pub(crate) fn make_private(path: &Path, user: Option<&User>) -> Result<(), Error> {
    let own = || -> std::io::Result<()> {
        if let Some(user) = user {
            user.own_path(path)?;
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    own().map_err(|e| Error::io(format!("set owner and mode of {}", path.display()), e))
}

/// Creates the directories above the data directory.
pub(crate) fn make_parents(data_dir: &Path) -> Result<(), Error> {
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(|e| Error::io(format!("create {}", parent.display()), e))
}

/// Removes a directory with all in it; none is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format!("remove {}", path.display()), e)),
    }
}

/// Where a cluster is made before it takes its place: beside the data directory, or inside when nothing can be renamed
/// onto that: a mount point, a link, a directory that keeps what its file system has put there.
pub(crate) fn staging_dir(data_dir: &Path) -> PathBuf {
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    let own = device(data_dir);
    let mounted = own.is_some() && device(parent) != own;
    if mounted || data_dir.is_symlink() || data_dir.join(LOST_FOUND).exists() {
        data_dir.join(INNER_STAGING)
    } else {
        sibling(data_dir, ".pgherd-new")
    }
}

/// Moves a finished cluster from its staging place to the data directory, which must be missing or empty.
pub(crate) fn take_place(staging: &Path, data_dir: &Path) -> Result<(), Error> {
    let context = || format!("move {} to {}", staging.display(), data_dir.display());
    if staging.parent() != Some(data_dir) {
        if !is_empty(data_dir)? {
            return Err(Error::NotEmpty(data_dir.to_owned()));
        }
        std::fs::rename(staging, data_dir).map_err(|e| Error::io(context(), e))?;
        return sync_dir(data_dir.parent().unwrap_or(Path::new("/")));
    }
    // `global` holds pg_control, without which nothing is a cluster: it goes last.
    let entries = std::fs::read_dir(staging).map_err(|e| Error::io(context(), e))?;
    let mut names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    names.sort_by_key(|n| n == "global");
    for name in names {
        std::fs::rename(staging.join(&name), data_dir.join(&name)).map_err(|e| Error::io(context(), e))?;
    }
    remove_tree(staging)?;
    sync_dir(data_dir)
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io(format!("sync {}", dir.display()), e))
}

/// The last few lines that matter of a server's log from `offset` on, in one line.
pub(crate) fn log_tail(path: &Path, offset: u64) -> String {
    use std::io::Seek;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(offset.max(length.saturating_sub(65_536))))?;
        let mut bytes = Vec::new();
        file.take(65_536).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => summary(&text),
        Err(e) => format!("its log {} can't be read: {e}", path.display()),
    }
}

/// The lines of a program's output that say why it failed; the last lines when none does.
pub(crate) fn summary(text: &str) -> String {
    const TELLING: [&str; 7] = ["FATAL:", "PANIC:", "ERROR:", "HINT:", "DETAIL:", "error:", "fatal:"];
    // What clients are told while the server comes up says nothing of why it didn't.
    const TO_CLIENTS: [&str; 2] =
        ["FATAL:  the database system is", "Consistent recovery state has not been yet reached"];
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !TO_CLIENTS.iter().any(|t| l.contains(t)));
    let lines: Vec<&str> = lines.collect();
    let telling: Vec<&str> = lines.iter().copied().filter(|l| TELLING.iter().any(|t| l.contains(t))).collect();
    let chosen = if telling.is_empty() { lines } else { telling };
    chosen[chosen.len().saturating_sub(6)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atomic_writes_tell_whether_anything_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(write_atomic(&path, "a", None).unwrap());
        assert!(!write_atomic(&path, "a", None).unwrap());
        assert!(write_atomic(&path, "b", None).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_finished_cluster_never_overwrites_files() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let staging = staging_dir(&data);
        assert_eq!(staging, dir.path().join("data.pgherd-new"));
        fresh_dir(&staging, None).unwrap();
        std::fs::write(staging.join("PG_VERSION"), "15").unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("precious"), "1").unwrap();
        assert!(matches!(take_place(&staging, &data), Err(Error::NotEmpty(_))));
        assert!(data.join("precious").exists() && staging.join("PG_VERSION").exists());
        std::fs::remove_file(data.join("precious")).unwrap();
        take_place(&staging, &data).unwrap();
        assert!(data.join("PG_VERSION").exists() && !staging.exists());
    }

    #[test]
    fn what_an_unfinished_clone_leaves_in_a_mount_point_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join(LOST_FOUND)).unwrap();
        let staging = staging_dir(&data);
        assert_eq!(staging, data.join(".pgherd-new"));
        std::fs::create_dir(&staging).unwrap();
        std::fs::write(staging.join("PG_VERSION"), "15").unwrap();
        std::fs::write(data.join(STORAGE_CHECK), "").unwrap();
        assert!(is_empty(&data).unwrap());
        take_place(&staging, &data).unwrap();
        assert!(data.join("PG_VERSION").exists() && data.join(LOST_FOUND).exists() && !staging.exists());
        assert!(!is_empty(&data).unwrap());
    }

    #[test]
    fn modes_that_let_others_in_or_postgresql_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("PG_VERSION"), "15").unwrap();
        let with = |mode| {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            check_data_dir(dir.path(), None, 15)
        };
        assert!(with(0o700).is_ok() && with(0o750).is_ok());
        assert!(with(0o755).unwrap_err().to_string().contains("chmod 0700"));
        assert!(with(0o770).is_err());
        assert!(with(0o500).unwrap_err().to_string().contains("keeps PostgreSQL out"));
        with(0o700).unwrap();
        assert!(check_data_dir(dir.path(), None, 16).unwrap_err().to_string().contains("pg_upgrade"));
    }

    #[test]
    fn nobody_is_told_to_give_away_a_directory_without_data() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("passwd"), "root").unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let told = check_data_dir(dir.path(), None, 15).unwrap_err().to_string();
        assert!(told.contains("no PG_VERSION") && !told.contains("chown") && !told.contains("chmod"), "{told}");
    }

    #[test]
    fn the_telling_lines_are_picked() {
        let text = "LOG: starting\n2026 FATAL: could not create lock file\nHINT: do this\nLOG: down\n";
        assert_eq!(summary(text), "2026 FATAL: could not create lock file; HINT: do this");
        assert_eq!(summary("a\nb\n"), "a; b");
        let refused = "[8] FATAL:  the database system is starting up\n".repeat(9);
        assert_eq!(summary(&format!("[7] FATAL:  no space\n{refused}")), "[7] FATAL:  no space");
    }
}
