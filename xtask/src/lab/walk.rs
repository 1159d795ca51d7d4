//! `cargo xtask lab test`: the walk-through of a cluster's day, typed on the hosts as its user types it, and the facts
//! that it shows: roles, timelines, rows, slots, settings, lines of the journal. How the hosts are reached is elsewhere.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long what is told takes to become true.
const SOON: Duration = Duration::from_secs(60);

/// Runs a command on a host with some standard input, and returns what it printed on both outputs.
pub(super) type Shell<'a> = &'a dyn Fn(&str, &str, &str) -> Result<String>;

/// PostgreSQL's hosts and their addresses.
const MEMBERS: [(&str, &str); 3] = [("pg1", "192.168.11.101"), ("pg2", "192.168.11.102"), ("pg3", "192.168.11.103")];
/// The front door.
const DOOR: &str = "192.168.11.104";
/// The admin client, as it's called on a member's host.
const CTL: &str = "pgherdctl -c /etc/pgherd/agent.yml";

/// Somebody at the hosts.
pub(super) struct Walk<'a> {
    pub(super) shell: Shell<'a>,
    /// The password of the user postgres.
    pub(super) password: &'a str,
    /// Whether everything speaks TLS.
    pub(super) encrypted: bool,
}

/// A step's name and what is typed.
type Step<'a> = (&'static str, fn(&Walk<'a>) -> Result<()>);

/// The authority's certificate on a host.
const CA: &str = "/etc/pgherd/tls/ca.crt";

impl<'a> Walk<'a> {
    /// The whole day.
    pub(super) fn go(&self) -> Result<()> {
        let steps: [Step<'a>; 13] = [
            ("etcd is healthy", Self::etcd_is_healthy),
            ("pg1 leads", Self::pg1_leads),
            ("slots and streams through HAProxy", Self::slots_and_streams),
            ("HAProxy's page", Self::web_page),
            ("pools on the console", Self::pools),
            ("the cluster is listed", Self::listed),
            ("a table reaches the replica", Self::table),
            ("switchover to pg2", Self::switchover),
            ("pg2's agent stops and returns", Self::failover),
            ("temp_buffers", Self::temp_buffers),
            ("shared_buffers waits for a restart", Self::shared_buffers),
            ("the cluster is restarted", Self::restart),
            ("the setting is in force", Self::in_force),
        ];
        for (number, (name, step)) in steps.iter().enumerate() {
            let begun = Instant::now();
            step(self).with_context(|| format!("step {}: {name}", number + 1))?;
            say!("{:2}. {name}: as in the walk-through ({:.1} s)", number + 1, begun.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn type_on(&self, host: &str, command: &str, input: &str) -> Result<String> {
        (self.shell)(host, command, input).with_context(|| format!("[{host}]# {command}"))
    }

    /// psql as people call it; the password is asked for, and comes from the environment here.
    pub(super) fn psql(
        &self,
        from: &str,
        address: &str,
        port: u16,
        database: &str,
        query: &str,
    ) -> Result<Vec<Vec<String>>> {
        let query = query.replace('\'', "'\\''");
        let (environment, to) = (self.environment(), self.address(address, port, database));
        let command = format!("{environment} psql '{to}' -XAt -F '|' -c '{query}'");
        let text = self.type_on(from, &command, "")?;
        Ok(text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect())
    }

    /// What psql is told besides where to go.
    pub(super) fn environment(&self) -> String {
        let tls = if self.encrypted { format!(" PGSSLMODE=verify-full PGSSLROOTCERT={CA}") } else { String::new() };
        format!("PGPASSWORD={}{tls}", self.password)
    }

    /// Where psql is to go.
    pub(super) fn address(&self, host: &str, port: u16, database: &str) -> String {
        format!("host={host} port={port} user=postgres dbname={database}")
    }

    /// Through HAProxy in the form that leads to any pooler: each finds the leader, and the replicas.
    pub(super) fn any_pooler_leads_everywhere(&self) -> Result<()> {
        // Until it has asked them, HAProxy takes all servers as good.
        self.soon(|| {
            let page = self.page("/;csv")?;
            let passed =
                |name: &&str| page.lines().any(|l| l.starts_with(&format!("postgres,{name},")) && l.contains(",L7OK,"));
            let failed: Vec<&str> = MEMBERS.into_iter().map(|(name, _)| name).filter(|name| !passed(name)).collect();
            ensure!(failed.is_empty(), "HAProxy's check of {failed:?} doesn't pass:\n{page}");
            Ok(())
        })?;
        for (database, in_recovery) in [("rw", "f"), ("ro", "t")] {
            for _ in 0..2 * MEMBERS.len() {
                self.soon(|| {
                    let rows = self.psql("haproxy", DOOR, 5000, database, "select pg_is_in_recovery()")?;
                    ensure!(rows == [[in_recovery]], "{database}: {rows:?}");
                    Ok(())
                })?;
            }
        }
        say!("HAProxy in front of all poolers: rw leads to the leader and ro to replicas through each");
        Ok(())
    }

    /// Waits until all members run and follow.
    pub(super) fn whole(&self) -> Result<()> {
        let (leader, timeline) = self.settled()?;
        say!("three members, {leader} leads on timeline {timeline}");
        Ok(())
    }

    /// Again until it holds.
    fn soon<T>(&self, what: impl Fn() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            match what() {
                Ok(value) => return Ok(value),
                Err(e) if begun.elapsed() > SOON => return Err(e.context(format!("after {} s", SOON.as_secs()))),
                Err(_) => std::thread::sleep(Duration::from_millis(500)),
            }
        }
    }

    fn members(&self) -> Result<Vec<Value>> {
        let text = self.type_on("pg2", &format!("{CTL} list -f json"), "")?;
        serde_json::from_str(&text).with_context(|| format!("read {text}"))
    }

    /// The leader's name, once all run on one timeline and follow.
    fn settled(&self) -> Result<(String, u64)> {
        self.soon(|| {
            let members = self.members()?;
            ensure!(members.len() == 3, "{} members: {members:?}", members.len());
            let timeline = members[0]["TL"].as_u64().with_context(|| format!("no timeline: {members:?}"))?;
            let well = |m: &Value| {
                let leads = m["Role"] == "Leader";
                m["TL"] == timeline && m["State"] == if leads { "running" } else { "streaming" }
            };
            ensure!(members.iter().all(well), "not settled: {members:?}");
            let leader = members.iter().find(|m| m["Role"] == "Leader").and_then(|m| m["Member"].as_str());
            Ok((leader.with_context(|| format!("no leader: {members:?}"))?.to_owned(), timeline))
        })
    }

    fn etcd_is_healthy(&self) -> Result<()> {
        let (scheme, tls) = match self.encrypted {
            true => (
                "https",
                format!(
                    "ETCDCTL_CACERT={CA} ETCDCTL_CERT=/etc/pgherd/tls/host.crt ETCDCTL_KEY=/etc/pgherd/tls/host.key "
                ),
            ),
            false => ("http", String::new()),
        };
        let command =
            format!("{tls}ETCDCTL_API=3 etcdctl --endpoints={scheme}://localhost:2379 endpoint health --cluster");
        let said = self.type_on("pg1", &command, "")?;
        for (_, address) in MEMBERS {
            ensure!(said.contains(&format!("{scheme}://{address}:2379 is healthy")), "{said}");
        }
        Ok(())
    }

    /// In the walk-through it happens to.
    fn pg1_leads(&self) -> Result<()> {
        let (leader, _) = self.settled()?;
        if leader != "pg1" {
            self.type_on("pg1", &format!("{CTL} switchover --leader {leader} --candidate pg1 --force"), "")?;
            let (leader, _) = self.settled()?;
            ensure!(leader == "pg1", "{leader} leads");
        }
        Ok(())
    }

    fn slots_and_streams(&self) -> Result<()> {
        self.soon(|| {
            let query = "select slot_name,slot_type,active from pg_replication_slots order by 1";
            let slots = self.psql("haproxy", DOOR, 5000, "postgres", query)?;
            ensure!(slots == [["pg2", "physical", "t"], ["pg3", "physical", "t"]], "{slots:?}");
            let query = "select usename,application_name,client_addr,state from pg_stat_replication order by 2";
            let streams = self.psql("haproxy", DOOR, 5000, "postgres", query)?;
            let wanted = [
                ["replicator", "pg2", "192.168.11.102", "streaming"],
                ["replicator", "pg3", "192.168.11.103", "streaming"],
            ];
            ensure!(streams == wanted, "{streams:?}");
            Ok(())
        })
    }

    fn web_page(&self) -> Result<()> {
        let said = self.page("/")?;
        ensure!(said.contains("200 OK") && MEMBERS.iter().all(|(name, _)| said.contains(name)), "{said}");
        Ok(())
    }

    /// What HAProxy shows, by HTTP.
    fn page(&self, path: &str) -> Result<String> {
        let get = format!("exec 3<>/dev/tcp/{DOOR}/7000; printf \"GET {path} HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3");
        self.type_on("pg1", &format!("bash -c '{get}'"), "")
    }

    fn pools(&self) -> Result<()> {
        let rows = self.psql("haproxy", DOOR, 5000, "pgbouncer", "show pools")?;
        let has = |database: &str, user: &str, mode: &str| {
            rows.iter().any(|r| r[0] == database && r[1] == user && r.iter().any(|field| field == mode))
        };
        ensure!(has("pgbouncer", "pgbouncer", "statement"), "{rows:?}");
        ensure!(has("postgres", "postgres", "session"), "{rows:?}");
        Ok(())
    }

    fn listed(&self) -> Result<()> {
        let table = self.type_on("pg2", &format!("{CTL} list"), "")?;
        ensure!(table.contains("Cluster: otus"), "{table}");
        for (name, address) in MEMBERS {
            let role = if name == "pg1" { "Leader" } else { "Replica" };
            let line = table.lines().find(|l| l.starts_with(&format!("| {name} ")));
            ensure!(line.is_some_and(|l| l.contains(role) && l.contains(address)), "{name}:\n{table}");
        }
        Ok(())
    }

    fn table(&self) -> Result<()> {
        let there = self.psql("haproxy", DOOR, 5000, "postgres", "select 1 from pg_database where datname = 'otus'")?;
        if !there.is_empty() {
            // Left by an earlier walk.
            self.psql("haproxy", DOOR, 5000, "postgres", "drop database otus with (force)")?;
        }
        self.psql("haproxy", DOOR, 5000, "postgres", "create database otus")?;
        self.psql("haproxy", DOOR, 5000, "otus", "create table homework (id serial, word varchar)")?;
        self.psql("haproxy", DOOR, 5000, "otus", "insert into homework (word) values ('test_repl1')")?;
        let rows = self.psql("haproxy", DOOR, 5000, "otus", "select * from homework")?;
        ensure!(rows == [["1", "test_repl1"]], "{rows:?}");
        self.soon(|| {
            let rows = self.psql("pg2", "192.168.11.102", 6543, "otus", "select * from homework")?;
            ensure!(rows == [["1", "test_repl1"]], "{rows:?}");
            Ok(())
        })?;
        let replica = self.psql("pg2", "192.168.11.102", 6543, "otus", "select pg_is_in_recovery()")?;
        ensure!(replica == [["t"]], "{replica:?}");
        Ok(())
    }

    fn switchover(&self) -> Result<()> {
        let (_, before) = self.settled()?;
        let said = self.type_on("pg2", &format!("{CTL} switchover --master pg1 --candidate pg2"), "\ny\n")?;
        for text in
            ["Current cluster topology", "demoting current leader pg1?", "Successfully switched over to \"pg2\""]
        {
            ensure!(said.contains(text), "{text:?} is missing in\n{said}");
        }
        let (leader, timeline) = self.settled()?;
        ensure!(leader == "pg2" && timeline == before + 1, "{leader} leads on timeline {timeline}");
        Ok(())
    }

    fn failover(&self) -> Result<()> {
        let (_, before) = self.settled()?;
        self.type_on("pg2", "systemctl stop pgherd-agent.service", "")?;
        let new = self.soon(|| {
            let members = self.members()?;
            ensure!(members.iter().all(|m| m["Member"] != "pg2"), "pg2 is listed: {members:?}");
            let leader = members.iter().find(|m| m["Role"] == "Leader").and_then(|m| m["Member"].as_str());
            leader.map(str::to_owned).with_context(|| format!("no leader: {members:?}"))
        })?;
        self.type_on("pg2", "systemctl start pgherd-agent.service", "")?;
        let (leader, timeline) = self.settled()?;
        ensure!(leader == new && timeline == before + 1, "{leader} leads on timeline {timeline}");
        Ok(())
    }

    /// As in an editor: a line more below `parameters:`, in place of an older one.
    fn edit(&self, name: &str, value: &str) -> Result<String> {
        let editor =
            format!("sed -i -e \"/^ *{name}:/d\" -e \"s/^\\( *\\)wal_keep_segments: 100$/&\\n\\1{name}: {value}/\"");
        let command = format!("EDITOR='{editor}' {CTL} edit-config");
        let said = self.type_on("pg2", &command, "y\n")?;
        ensure!(said.contains(&format!("+    {name}: {value}")), "{said}");
        ensure!(said.contains("Configuration changed"), "{said}");
        Ok(said)
    }

    /// Puts a parameter back as it was before an earlier walk.
    fn forget(&self, name: &str) -> Result<()> {
        self.type_on("pg2", &format!("{CTL} edit-config --force -p {name}=null"), "").map(drop)
    }

    fn journal_says(&self, text: &str) -> Result<()> {
        for (host, _) in MEMBERS {
            self.soon(|| {
                let journal = self.type_on(host, "journalctl -u pgherd-agent.service -n 40 --no-pager", "")?;
                ensure!(journal.contains(text), "{host}: {text:?} is missing in\n{journal}");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn temp_buffers(&self) -> Result<()> {
        self.forget("temp_buffers")?;
        self.soon(|| self.shows("temp_buffers", "8MB"))?;
        self.edit("temp_buffers", "16MB")?;
        self.journal_says("INFO: Changed temp_buffers from 1024 to 16MB")?;
        self.journal_says("INFO: PostgreSQL configuration items changed, reloading configuration.")?;
        self.soon(|| self.shows("temp_buffers", "16MB"))
    }

    fn shows(&self, name: &str, value: &str) -> Result<()> {
        for (_, address) in MEMBERS {
            let rows = self.psql("pg3", address, 6543, "postgres", &format!("show {name}"))?;
            ensure!(rows == [[value]], "{address}: {rows:?}");
        }
        Ok(())
    }

    fn shared_buffers(&self) -> Result<()> {
        if self.shows("shared_buffers", "128MB").is_err() {
            self.forget("shared_buffers")?;
            self.type_on("pg2", &format!("{CTL} restart otus --force"), "")?;
            self.soon(|| self.shows("shared_buffers", "128MB"))?;
        }
        self.edit("shared_buffers", "256MB")?;
        self.journal_says("INFO: Changed shared_buffers from 16384 to 256MB (restart required)")?;
        self.soon(|| {
            let table = self.type_on("pg2", &format!("{CTL} list"), "")?;
            let marked = table.lines().filter(|l| l.starts_with("| pg") && l.contains("| *")).count();
            if table.contains("Pending restart") && marked == MEMBERS.len() { Ok(()) } else { bail!("{table}") }
        })
    }

    fn restart(&self) -> Result<()> {
        let said = self.type_on("pg2", &format!("{CTL} restart otus"), "\ny\n\n")?;
        ensure!(said.contains("Are you sure you want to restart members pg1, pg2, pg3?"), "{said}");
        for (name, _) in MEMBERS {
            ensure!(said.contains(&format!("Success: restart on member {name}")), "{said}");
        }
        self.settled().map(drop)
    }

    fn in_force(&self) -> Result<()> {
        self.soon(|| self.shows("shared_buffers", "256MB"))?;
        let table = self.type_on("pg2", &format!("{CTL} list"), "")?;
        ensure!(!table.contains("Pending restart"), "{table}");
        Ok(())
    }
}
