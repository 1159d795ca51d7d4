//! The test's world: PostgreSQL servers that replicate, and a pooler in this process that is told of them.

use std::cell::RefCell;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use harness::address::Block;
use harness::pooler::password;
use harness::pooler::postgres::{HBA, Postgres};
use harness::pooler::raw::Raw;
use harness::reaper::Reaper;
use pool::config::Config;
use pool::listen::Listener;
use pool::pooler::Pooler;
use pool::route::{Drain, Member, Report, Topology};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Longest wait for anything.
const SOON: Duration = Duration::from_secs(20);

/// Name of the cluster.
pub(crate) const CLUSTER: &str = "otus";

/// Servers `pg1`, `pg2`, ...: the first is the leader, the others stream from it.
pub(crate) struct Site {
    pub(crate) postgres: Vec<Postgres>,
    pub(crate) pooler: Pooler,
    pub(crate) topology: RefCell<Topology>,
    address: Ipv4Addr,
    // Dropped in this order: processes, files.
    _reaper: Reaper,
    _block: Block,
    _files: TempDir,
}

/// What a test may choose.
pub(crate) struct Setup {
    pub(crate) servers: u8,
    pub(crate) databases: String,
    pub(crate) settings: String,
    pub(crate) postgres: Vec<(String, String)>,
}

impl Setup {
    /// The database `app` at the leader, in transaction mode.
    pub(crate) fn new(servers: u8) -> Setup {
        let databases = format!("app = cluster={CLUSTER}\nreplica = cluster={CLUSTER} role=replica dbname=app\n");
        let settings = "pool_mode = transaction\ndefault_pool_size = 10\n".to_owned();
        Setup { servers, databases, settings, postgres: Vec::new() }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Setup {
        self.settings.push_str(&format!("{name} = {value}\n"));
        self
    }

    pub(crate) fn database(mut self, entry: &str) -> Setup {
        self.databases.push_str(&format!("{entry}\n"));
        self
    }

    pub(crate) fn postgres(mut self, name: &str, value: &str) -> Setup {
        self.postgres.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a test in its world.
    pub(crate) fn run(self, test: impl AsyncFnOnce(&Site) -> Result<()>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(async {
            let site = Site::make(self).await?;
            site.publish();
            test(&site).await
        });
        runtime.shutdown_background();
        result
    }
}

impl Site {
    async fn make(setup: Setup) -> Result<Site> {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        let files = tempfile::Builder::new().prefix("pgherd-cluster-").permissions(mode).tempdir_in("/tmp")?;
        let root = files.path().canonicalize()?;
        let block = Block::allocate()?;
        let reaper = Reaper::new(&root);
        let mut postgres = Vec::new();
        for n in 1..=setup.servers {
            let home = root.join(format!("pg{n}"));
            harness::node::make_owned_directory(&home, 0o755)?;
            let mut settings = setup.postgres.clone();
            settings.push(("primary_conninfo".to_owned(), conninfo(block.node(1), n)));
            settings.push(("wal_receiver_status_interval".to_owned(), "1s".to_owned()));
            let server = Postgres::prepare(block.node(n), &home, &settings, HBA)?;
            if n > 1 {
                fs::write(home.join("data/standby.signal"), "")?;
            }
            server.start().await?;
            postgres.push(server);
        }
        postgres[0].sql("CREATE TABLE log (id serial, who text); GRANT ALL ON log, log_id_seq TO alice").await?;
        let address = block.node(100);
        let pooler = start(&setup, &root, address)?;
        let members = postgres.iter().zip(1..).map(|(server, n)| Member {
            name: format!("pg{n}").into(),
            host: server.address.to_string(),
            port: 5432,
            replica: n > 1,
            lag: Some(0),
            local: false,
        });
        let topology =
            Topology { leader: Some("pg1".into()), epoch: 1, members: members.collect(), ..Topology::default() };
        let topology = RefCell::new(topology);
        Ok(Site { postgres, pooler, topology, address, _reaper: reaper, _block: block, _files: files })
    }

    /// Tells the pooler how the cluster is now.
    pub(crate) fn publish(&self) {
        self.pooler.set_topology(CLUSTER, self.topology.borrow().clone());
    }

    /// Changes the topology and tells the pooler.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Topology)) {
        change(&mut self.topology.borrow_mut());
        self.publish();
    }

    /// Orders a drain.
    pub(crate) fn drain(&self, member: &str, order: i64, patience: Duration) {
        self.change(|t| _ = t.draining.insert(member.into(), Drain { order, to: None, patience }));
    }

    /// Orders a drain for a successor.
    pub(crate) fn drain_for(&self, member: &str, successor: &str, order: i64) {
        let drain = Drain { order, to: name(successor), patience: Duration::from_secs(600) };
        self.change(|t| _ = t.draining.insert(member.into(), drain));
    }

    /// Waits until a report says something.
    pub(crate) async fn reported(&self, says: impl FnMut(&Report) -> bool) -> Result<Report> {
        let mut reports = self.pooler.reports(CLUSTER);
        let report = tokio::time::timeout(SOON, reports.wait_for(says)).await;
        let report = report.map_err(|_| anyhow!("the pooler doesn't report it"))??.clone();
        Ok(report)
    }

    /// Waits until a drain is obeyed.
    pub(crate) async fn drained(&self, member: &str, order: i64) -> Result<()> {
        self.reported(|r| r.drained.get(member) == Some(&order)).await.map(|_| ())
    }

    pub(crate) fn is_drained(&self, member: &str) -> bool {
        self.pooler.reports(CLUSTER).borrow().drained.contains_key(member)
    }

    /// A session of alice.
    pub(crate) async fn session(&self, database: &str) -> Result<Raw> {
        self.session_with(database, &[]).await
    }

    /// One with more startup parameters.
    pub(crate) async fn session_with(&self, database: &str, more: &[(&str, &str)]) -> Result<Raw> {
        let mut raw = Raw::over(TcpStream::connect((self.address, 6543)).await?);
        let pairs = [&[("user", "alice"), ("database", database)], more].concat();
        raw.log_in(&pairs, &password("alice")).await?;
        Ok(raw)
    }

    /// How to connect as alice.
    pub(crate) fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address.to_string()).port(6543).user("alice").password(password("alice")).dbname(database);
        config
    }

    /// Waits until SQL at a server gives that value.
    pub(crate) async fn until(&self, server: usize, sql: &str, value: &str) -> Result<()> {
        let wait = async {
            loop {
                if self.postgres[server].value(sql).await.is_ok_and(|v| v == value) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.with_context(|| format!("{sql} never gives {value}"))
    }

    /// Promotes a standby that has everything.
    pub(crate) async fn promote(&self, server: usize) -> Result<()> {
        ensure!(self.postgres[server].value("SELECT pg_promote()").await? == "t");
        Ok(())
    }

    /// Members by their ports' addresses: the address that a session's server has.
    pub(crate) async fn member_of(&self, session: &mut Raw) -> Result<usize> {
        let address = session.value("SELECT host(inet_server_addr())").await?;
        let found = self.postgres.iter().position(|p| p.address.to_string() == address);
        found.context("an unknown server")
    }
}

fn conninfo(primary: Ipv4Addr, n: u8) -> String {
    let password = password("replica");
    format!("'host={primary} port=5432 user=replica password={password} application_name=pg{n}'")
}

fn start(setup: &Setup, root: &std::path::Path, address: Ipv4Addr) -> Result<Pooler> {
    let users: String = ["alice", "bob"].iter().map(|u| format!("\"{u}\" \"{}\"\n", password(u))).collect();
    fs::write(root.join("users"), users)?;
    let text = format!(
        "[databases]\n{}[pgbouncer]\nauth_type = plain\nauth_file = {}\ncluster_config = /none\nworkers = 2\n\
         unix_socket_dir =\nmax_client_conn = 1000\n{}",
        setup.databases,
        root.join("users").display(),
        setup.settings
    );
    let ini = root.join("pooler.ini");
    fs::write(&ini, text)?;
    let loaded = Config::load(&ini).map_err(|faults| anyhow!("{faults}"))?;
    let listener = TcpListener::bind((address, 6543)).context("listen")?;
    listener.set_nonblocking(true)?;
    Ok(Pooler::start(loaded.config, vec![Listener::Tcp(listener)])?)
}

/// The first value of an answer, as a number.
pub(crate) fn number(text: &str) -> Result<i64> {
    text.parse().with_context(|| format!("{text} is no number"))
}

/// A shared name.
pub(crate) fn name(text: &str) -> Option<Arc<str>> {
    Some(text.into())
}
