//! A cluster's keys in a DCS of its own, a configuration that names it, and the program to run on them.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dcs::{Dcs as _, Embedded, Write};
use serde_json::Value;

/// Everything a test needs. It goes away with the value.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) dcs: Embedded,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    /// A cluster `otus` with these keys.
    pub(crate) async fn new(keys: &[(&str, &str)]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dcs.sqlite");
        let dcs = Embedded::open(&file, "/service/otus/").unwrap();
        let text = format!("scope: otus\nembedded:\n  path: {}\n", file.display());
        std::fs::write(folder.path().join("ctl.yml"), text).unwrap();
        let place = Place { folder, dcs };
        place.put(keys).await;
        place
    }

    /// Three members, of which pg1 leads, with their agents at this address.
    pub(crate) async fn with_members(address: &str) -> Place {
        let member = |name: &str, role: &str| {
            format!(
                "{{\"conn_url\":\"postgres://{name}:5432/postgres\",\"api_url\":\"http://{address}/patroni\",\
                 \"state\":\"running\",\"role\":\"{role}\",\"timeline\":1}}"
            )
        };
        let replica = |name| member(name, "replica");
        Place::new(&[
            ("initialize", "7575894273613416871"),
            ("leader", "pg1"),
            ("members/pg1", &member("pg1", "primary")),
            ("members/pg2", &replica("pg2")),
            ("members/pg3", &replica("pg3")),
            ("config", r#"{"ttl":30,"loop_wait":1,"retry_timeout":10,"postgresql":{"use_slots":true}}"#),
        ])
        .await
    }

    pub(crate) async fn put(&self, keys: &[(&str, &str)]) {
        let write = |(key, value): &(&str, &str)| Write::Put { key: (*key).into(), value: (*value).into(), lease: 0 };
        let writes: Vec<Write> = keys.iter().map(write).collect();
        self.dcs.commit(&[], &writes).await.unwrap();
    }

    pub(crate) async fn value(&self, key: &str) -> Option<String> {
        let entry = self.dcs.read().await.unwrap().entries.remove(key)?;
        Some(String::from_utf8(entry.value).unwrap())
    }

    pub(crate) async fn config(&self) -> Value {
        serde_json::from_str(&self.value("config").await.unwrap()).unwrap()
    }

    /// A script in the place of an editor; `$1` is the file and `$CTL` the program on this configuration.
    pub(crate) fn editor(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join("editor.sh");
        let ctl = format!("CTL='{} -c {}'", env!("CARGO_BIN_EXE_pgherdctl"), self.config_file().display());
        std::fs::write(&path, format!("#!/bin/sh\nset -e\n{ctl}\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Adds lines to the configuration.
    pub(crate) fn configure(&self, lines: &str) {
        let text = std::fs::read_to_string(self.config_file()).unwrap();
        std::fs::write(self.config_file(), text + lines).unwrap();
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("ctl.yml")
    }

    /// Starts the program. The words of the line are separated by spaces.
    pub(crate) fn start(&self, line: &str, editor: Option<&Path>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgherdctl"));
        command.arg("-c").arg(self.config_file()).args(line.split(' '));
        command.env_remove("DCS_URL").env("TMPDIR", self.folder.path());
        match editor {
            Some(editor) => command.env("EDITOR", editor),
            None => command.env_remove("EDITOR"),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs the program with these answers.
    pub(crate) async fn run(&self, line: &str, answers: &str) -> Run {
        finish(self.start(line, None), answers).await
    }

    /// The same with an editor.
    pub(crate) async fn run_with_editor(&self, line: &str, answers: &str, editor: &Path) -> Run {
        finish(self.start(line, Some(editor)), answers).await
    }
}

/// Gives the answers and waits for the end, away from the test's own tasks.
pub(crate) async fn finish(mut child: Child, answers: &str) -> Run {
    let answers = answers.to_owned();
    let wait = move || {
        let mut input = child.stdin.take().unwrap();
        // The program may have ended without wanting the answers.
        let _ = input.write_all(answers.as_bytes());
        drop(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}

/// Reads the program's output until it ends with this.
pub(crate) fn read_until(child: &mut Child, end: &str) -> String {
    let output = child.stdout.as_mut().unwrap();
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "ended after {:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}
