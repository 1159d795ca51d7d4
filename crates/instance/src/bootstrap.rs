//! A new cluster: initdb, its first configuration, and the users that pgherd works with.

use std::time::Duration;

use crate::connection::{STATEMENT_LIMIT, identifier, literal, rows, text};
use crate::error::Error;
use crate::files::{remove_tree, summary, take_place, write_atomic};
use crate::instance::Instance;
use crate::options::{Configuration, Credentials};
use crate::programs::run;

/// initdb writes some tens of megabytes.
const INITDB_LIMIT: Duration = Duration::from_secs(600);

/// An option of initdb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitOption {
    /// Such as `data-checksums`.
    Flag(String),
    /// Such as `encoding: UTF8`.
    Value(String, String),
}

/// How to run initdb.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitDb {
    /// Its options in the order given.
    pub options: Vec<InitOption>,
}

impl InitDb {
    /// Refuses options that pgherd sets itself, and names that are none.
    pub fn check(&self) -> Result<(), Error> {
        const OWN: [&str; 9] =
            ["pgdata", "nosync", "no-sync", "pwfile", "pwprompt", "sync-only", "version", "show", "username"];
        for option in &self.options {
            let (InitOption::Flag(name) | InitOption::Value(name, _)) = option;
            let bare = name.trim_start_matches('-');
            let well_formed = bare.len() > 1 && bare.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            if OWN.contains(&bare) {
                return Err(Error::Setup(format!(
                    "bootstrap.initdb: {bare} can't be set, pgherd sets it itself: remove it"
                )));
            }
            if !well_formed {
                return Err(Error::Setup(format!(
                    "bootstrap.initdb: {name:?} is not a long option of initdb: write `- encoding: UTF8` or `- data-checksums`"
                )));
            }
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let one = |o: &InitOption| match o {
            InitOption::Flag(name) => format!("--{}", name.trim_start_matches('-')),
            InitOption::Value(name, value) => format!("--{}={value}", name.trim_start_matches('-')),
        };
        self.options.iter().map(one).collect()
    }

    fn names(&self, option: &str) -> bool {
        self.options.iter().any(|o| matches!(o, InitOption::Flag(n) | InitOption::Value(n, _) if n == option))
    }
}

/// A user to create in a new cluster besides pgherd's own (`bootstrap.users`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// Name and password.
    pub credentials: Credentials,
    /// Role options such as `createdb`.
    pub options: Vec<String>,
}

impl Instance {
    /// Makes a new cluster in the data directory, which must be missing or empty: initdb with a password for the
    /// superuser, then the configuration files. It is made elsewhere and takes its place when complete. The server is not
    /// started; [`Instance::create_users`] comes after its first start as a primary.
    pub async fn initialize(&self, initdb: &InitDb, conf: &Configuration) -> Result<(), Error> {
        initdb.check()?;
        let permit = self.0.work.permit();
        let staging = self.step(permit, |own| own.0.prepare_staging()).await?;
        let outcome = self.run_initdb(initdb, &staging).await;
        let (conf, finished) = (conf.clone(), outcome.is_ok());
        self.step(permit, move |own| {
            own.0.refuse_while_alive()?;
            let placed = if finished { take_place(&staging, own.0.data_dir()) } else { Ok(()) };
            remove_tree(&staging)?;
            placed?;
            if finished {
                own.0.write_conf(&conf, None, |_| ())?;
                own.0.write_access(&conf)?;
                own.0.write_pgpass()?;
                own.0.lock_state().conf = conf;
            }
            Ok(())
        })
        .await?;
        outcome
    }

    async fn run_initdb(&self, initdb: &InitDb, staging: &std::path::Path) -> Result<(), Error> {
        let superuser = self.0.options.superuser.clone();
        let mut command = self.0.programs.command("initdb");
        command.arg("-D").arg(staging).args(["-U", &superuser.username]);
        // Held until initdb has read it.
        let mut _password_dir = None;
        let auth = match &superuser.password {
            Some(password) => {
                let (dir, file) = self.password_file(password).await?;
                command.arg(format!("--pwfile={}", file.display()));
                _password_dir = Some(dir);
                "scram-sha-256"
            }
            None => "trust",
        };
        if !["auth", "auth-local", "auth-host"].iter().any(|o| initdb.names(o)) {
            command.arg(format!("--auth={auth}"));
        }
        command.args(initdb.arguments());
        tracing::info!("making a new cluster in {}", self.0.data_dir().display());
        let done = run("initdb", command, INITDB_LIMIT).await?;
        if done.success {
            return Ok(());
        }
        if done.stderr.contains("No space left on device") {
            return Err(Error::DiskFull(self.0.data_dir().to_owned()));
        }
        Err(Error::Program { program: "initdb".into(), message: summary(&done.stderr) })
    }

    /// A file with the password that only the server's user can read, in a directory that goes when dropped.
    async fn password_file(&self, password: &str) -> Result<(tempfile::TempDir, std::path::PathBuf), Error> {
        let line = format!("{}\n", password.replace('\n', ""));
        self.blocking(move |own| {
            let dir =
                tempfile::Builder::new().prefix("pgherd").tempdir().map_err(|e| Error::io("create a directory", e))?;
            if let Some(user) = own.0.user() {
                user.own_path(dir.path()).map_err(|e| Error::io("chown a directory", e))?;
            }
            let file = dir.path().join("password");
            write_atomic(&file, &line, own.0.user())?;
            Ok((dir, file))
        })
        .await
    }

    /// Creates or updates the replication user, the rewind user with the rights that pg_rewind needs (PostgreSQL's
    /// documentation of pg_rewind, "Notes"), the superuser's password, and further users. All or nothing, and
    /// where they exist they are brought to this state: it can be repeated at every start of a cluster that may be new.
    pub async fn create_users(&self, more: &[NewUser]) -> Result<(), Error> {
        let o = &self.0.options;
        let client = self.0.connect().await?;
        let run = async |context: &str, sql: &str| rows(&client, context, sql, STATEMENT_LIMIT).await;
        // No password may reach the server's log.
        run(
            "set the session",
            "SET log_statement TO none; SET log_min_duration_statement TO -1; SET log_min_error_statement TO panic; \
             SET log_duration TO off",
        )
        .await?;
        // Ends with the connection when anything fails.
        run("begin a transaction", "BEGIN").await?;
        let mut wanted = vec![(o.superuser.clone(), "SUPERUSER LOGIN".to_owned())];
        wanted.push((o.replication.clone(), "REPLICATION LOGIN".to_owned()));
        if let Some(rewind) = &o.rewind {
            wanted.push((rewind.clone(), "LOGIN".to_owned()));
        }
        for user in more {
            let login = if user.options.iter().any(|o| o.eq_ignore_ascii_case("nologin")) { "" } else { "LOGIN" };
            wanted.push((user.credentials.clone(), format!("{} {login}", check_options(&user.options)?)));
        }
        for (user, options) in wanted {
            let context = format!("create user {}", user.username);
            let exists = format!("SELECT 1 FROM pg_roles WHERE rolname = {}", literal(&user.username));
            let verb = if run(&context, &exists).await?.is_empty() { "CREATE" } else { "ALTER" };
            let password = user.password.as_ref().map(|p| format!(" PASSWORD {}", literal(p))).unwrap_or_default();
            run(&context, &format!("{verb} ROLE {} WITH {options}{password}", identifier(&user.username))).await?;
        }
        if let Some(rewind) = o.rewind.as_ref().filter(|r| r.username != o.superuser.username) {
            let who = identifier(&rewind.username);
            for function in REWIND_FUNCTIONS {
                run("grant pg_rewind's rights", &format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {who}"))
                    .await?;
            }
        }
        run("commit the users", "COMMIT").await?;
        let names = run("read users", "SELECT count(*) FROM pg_roles WHERE rolcanlogin").await?;
        tracing::info!("{} users can log in", names.first().map(|r| text(r, 0)).unwrap_or_default());
        Ok(())
    }
}

const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// Role options are words; anything else has no business in a statement.
fn check_options(options: &[String]) -> Result<String, Error> {
    match options.iter().find(|o| o.is_empty() || !o.bytes().all(|b| b.is_ascii_alphabetic())) {
        Some(bad) => Err(Error::Setup(format!("bootstrap.users: {bad:?} is not a role option such as createdb"))),
        None => Ok(options.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_options_become_arguments() {
        let initdb = InitDb {
            options: vec![
                InitOption::Value("encoding".into(), "UTF8".into()),
                InitOption::Flag("data-checksums".into()),
            ],
        };
        initdb.check().unwrap();
        assert_eq!(initdb.arguments(), ["--encoding=UTF8", "--data-checksums"]);
    }

    #[test]
    fn options_that_pgherd_sets_are_refused() {
        for bad in ["pgdata", "pwfile", "no-sync", "D", "x y", "--pwfile"] {
            let initdb = InitDb { options: vec![InitOption::Flag(bad.into())] };
            assert!(initdb.check().unwrap_err().to_string().contains("bootstrap.initdb"), "{bad}");
        }
        assert!(check_options(&["createdb; DROP".into()]).is_err());
        assert_eq!(check_options(&["createdb".into(), "createrole".into()]).unwrap(), "createdb createrole");
    }
}
