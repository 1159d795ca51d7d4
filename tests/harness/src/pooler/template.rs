//! A data directory with the tests' roles and databases, made once a build directory and copied for each test: a copy
//! takes a tenth of the time of `initdb`.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::{password, postgres::as_postgres};
use crate::node;

/// Users whose secret PostgreSQL keeps as an MD5 hash.
const MD5: &[&str] = &["alice", "postgres", "stats", "replica", "lookup", "other"];

/// Users whose secret it keeps as a SCRAM verifier.
const SCRAM: &[&str] = &["bob", "carol"];

/// Told apart from what earlier versions of this file made.
const VERSION: u32 = 3;

/// The tests' databases. Nobody needs `template0`.
const DATABASES: &str = "\
CREATE DATABASE app
CREATE DATABASE second
UPDATE pg_database SET datistemplate = false WHERE datname = 'template0'
DROP DATABASE template0
";

/// Puts a fresh data directory into place.
pub(super) fn copy(programs: &Path, to: &Path) -> Result<()> {
    let template = ready(programs)?;
    run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(template).arg(to))
}

/// The template, made now unless it is there. Its name tells apart what it was made by.
fn ready(programs: &Path) -> Result<PathBuf> {
    let directory = build_directory()?;
    let mut hasher = DefaultHasher::new();
    (VERSION, statements(), programs, crate::programs::is_root()).hash(&mut hasher);
    let template = directory.join(format!("pooler-postgres-{:016x}", hasher.finish()));
    let lock = File::create(template.with_extension("lock")).context("make a lock file")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).context("wait for the template")?;
    if !template.is_dir() {
        make(programs, &template)?;
    }
    Ok(template)
}

/// The directory cargo built this program into.
pub(super) fn build_directory() -> Result<PathBuf> {
    let me = std::env::current_exe().context("find this program")?;
    let directory = me.parent().context("find the directory of this program")?;
    Ok(if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory }.to_owned())
}

fn make(programs: &Path, template: &Path) -> Result<()> {
    // PostgreSQL's user may not be able to look into the build directory.
    let place = tempfile::Builder::new().prefix("pgherd-pooler-").tempdir_in("/tmp").context("make a directory")?;
    let data = place.path().join("data");
    node::make_owned_directory(&data, 0o700)?;
    open_up(place.path())?;
    let mut initdb = as_postgres(&programs.join("initdb"))?;
    // Small: it is copied often.
    initdb.args(["--no-sync", "--wal-segsize=1", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]);
    initdb.arg(&data);
    run(&mut initdb)?;
    for (database, sql) in statements() {
        single_user(programs, &data, database, &sql)?;
    }
    // Maps of free space and visibility, a third of all files: PostgreSQL does without and makes them anew.
    run(Command::new("find").arg(&data).args(["(", "-name", "*_fsm", "-o", "-name", "*_vm", ")", "-delete"]))?;
    let fresh = template.with_extension("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).context("remove an unfinished template")?;
    }
    run(Command::new("cp").arg("-a").arg(&data).arg(&fresh))?;
    fs::rename(&fresh, template).context("put the template into place")
}

fn open_up(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).context("open a directory")
}

/// What makes the roles and databases: a database each, and lines for it.
fn statements() -> Vec<(&'static str, String)> {
    // Grants on catalogs are each database's own and are copied from template1.
    let template = "GRANT CREATE ON SCHEMA public TO PUBLIC\n\
        GRANT SELECT ON pg_authid, pg_shadow TO lookup\n\
        CREATE FUNCTION user_lookup(who text, OUT name text, OUT secret text) LANGUAGE sql SECURITY DEFINER AS \
        $$ SELECT usename::text, passwd::text FROM pg_shadow WHERE usename = who $$\n";
    vec![("postgres", roles()), ("template1", template.to_owned()), ("postgres", DATABASES.to_owned())]
}

fn roles() -> String {
    let mut lines = String::new();
    for (kind, users) in [("md5", MD5), ("scram-sha-256", SCRAM)] {
        lines.push_str(&format!("SET password_encryption = '{kind}'\n"));
        for user in users {
            let verb = if *user == "postgres" { "ALTER" } else { "CREATE" };
            lines.push_str(&format!("{verb} ROLE {user} LOGIN PASSWORD '{}'\n", password(user)));
        }
    }
    lines.push_str("ALTER ROLE replica REPLICATION\n");
    lines
}

/// Runs statements, one a line, with nothing else running on the data directory.
fn single_user(programs: &Path, data: &Path, database: &str, sql: &str) -> Result<()> {
    let mut command = as_postgres(&programs.join("postgres"))?;
    command.args(["--single", "-F", "-D"]).arg(data).arg(database).current_dir(data);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start PostgreSQL")?;
    child.stdin.take().context("write to PostgreSQL")?.write_all(sql.as_bytes()).context("write to PostgreSQL")?;
    let output = child.wait_with_output().context("run PostgreSQL")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || errors.contains("ERROR") {
        bail!("making the template failed:\n{errors}");
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
