//! Tests of the log's form, levels, files, and of a reader that is stuck.

use std::fs;
use std::sync::{Condvar, Mutex, mpsc};

use tracing::{debug, error, info, info_span, warn};

use super::*;
use crate::config::LogKind;

const PATIENCE: Duration = Duration::from_secs(10);

/// A writer that tests can read.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn plain() -> Log {
    Log { file_num: 2, file_size: 25_000_000, ..Log::default() }
}

fn logged(log: &Log, work: impl FnOnce(&Logging)) -> String {
    let memory = Memory::default();
    let (subscriber, logging) = build(log, "pgherd-test", Box::new(memory.clone())).unwrap();
    tracing::subscriber::with_default(subscriber, || work(&logging));
    assert!(logging.flush(PATIENCE));
    memory.text()
}

/// Exchanges digits for `0`, so that times compare.
fn shape(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
}

#[test]
fn lines_have_patronis_form() {
    let text = logged(&plain(), |_| {
        info!("Changed temp_buffers from {} to 16MB", "old");
        warn!("careful");
        error!("a person must look");
        debug!("nobody asked");
    });
    let expected = "0000-00-00 00:00:00,000 INFO: Changed temp_buffers from old to 00MB\n\
                    0000-00-00 00:00:00,000 WARNING: careful\n\
                    0000-00-00 00:00:00,000 ERROR: a person must look\n";
    assert_eq!(shape(&text), expected);
}

#[test]
fn fields_of_records_and_spans_follow_the_message() {
    let text = logged(&plain(), |_| {
        let outer = info_span!("loop", node = "pg1", term = 5_u64).entered();
        let inner = info_span!("act", action = "start now", late = tracing::field::Empty).entered();
        inner.record("late", true);
        info!(took_ms = 7, term = 6_u64, "done");
        drop((inner, outer));
    });
    assert!(text.ends_with("INFO: done took_ms=7 term=6 action=\"start now\" late=true node=pg1\n"), "{text}");
}

#[test]
fn a_message_cannot_pass_for_another_line() {
    let text = logged(&plain(), |_| info!("one\n2020-01-11 08:30:24,178 INFO: two\u{1b}[31m"));
    assert!(text.ends_with("INFO: one\n    2020-01-11 08:30:24,178 INFO: two\\u{1b}[31m\n"), "{text:?}");
}

#[test]
fn json_has_one_object_a_line() {
    let log = Log { kind: LogKind::Json, ..plain() };
    let text = logged(&log, |_| {
        info!(member = "pg2", lag = 12_u64, "said \"hi\"\nand left");
        warn!("x");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["message"], "said \"hi\"\nand left");
    assert_eq!((&lines[0]["member"], &lines[0]["lag"]), (&"pg2".into(), &12.into()));
    assert_eq!(lines[1]["levelname"], "WARNING");
    assert_eq!(shape(lines[1]["asctime"].as_str().unwrap()), "0000-00-00 00:00:00,000");
}

#[test]
fn pythons_format_strings_are_understood() {
    let log = Log {
        format: Some("[%(levelname)-8s] %(asctime)s %(process)d 100% %(nothing)s %(message)s".to_owned()),
        dateformat: Some("%Y/%m".to_owned()),
        ..plain()
    };
    let text = shape(&logged(&log, |_| info!("m")));
    let text = text.replace(&"0".repeat(std::process::id().to_string().len()), "PID");
    assert!(text.starts_with("[INFO    ] ") && text.ends_with(" %(nothing)s m\n"), "{text}");
}

#[test]
fn levels_follow_configuration_loggers_and_override() {
    let shown = |filter: EnvFilter| {
        let memory = Memory::default();
        let queue = Queue::start(Box::new(memory.clone())).unwrap();
        let lines = Lines { queue: queue.clone(), format: Arc::new(RwLock::new(Format::new(&plain()))) };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            debug!(target: "dcs::etcd", "fine");
            info!(target: "dcs::etcd", "plain");
            info!(target: "agent", "plain");
            error!(target: "agent", "bad");
        });
        assert!(queue.flush(PATIENCE));
        memory.text().lines().count()
    };
    let mut log = Log { level: Level::Error, ..plain() };
    assert_eq!(shown(levels(&log, None)), 1);
    log.loggers.insert("dcs.etcd".to_owned(), Level::Debug);
    assert_eq!(shown(levels(&log, None)), 3);
    assert_eq!(shown(levels(&log, Some("debug"))), 4);
}

#[test]
fn reload_changes_level_and_form() {
    let text = logged(&plain(), |logging| {
        debug!("before");
        logging.reload(&Log { level: Level::Debug, kind: LogKind::Json, ..plain() }).unwrap();
        debug!("after");
    });
    assert!(text.starts_with('{') && text.contains("after") && !text.contains("before"), "{text}");
}

#[test]
fn files_rotate_by_size_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log { dir: Some(dir.path().join("log")), file_num: 2, file_size: 200, ..plain() };
    logged(&log, |_| (0..30).for_each(|i| info!("line {i:03} {}", "x".repeat(30))));
    let mut names: Vec<_> =
        fs::read_dir(dir.path().join("log")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["pgherd-test.log", "pgherd-test.log.1", "pgherd-test.log.2"]);
    let read = |name: &str| fs::read_to_string(dir.path().join("log").join(name)).unwrap();
    assert!(read("pgherd-test.log").contains("line 029"));
    let numbers: Vec<String> =
        names.iter().rev().flat_map(|n| read(n).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert!(numbers.windows(2).all(|w| w[0][30..] < w[1][30..]), "{numbers:?}");
    assert!(names.iter().all(|n| read(n).len() <= 200));
}

#[test]
fn an_unusable_directory_is_reported() {
    let log = Log { dir: Some("/proc/nowhere".into()), ..plain() };
    let Err(e) = build(&log, "pgherd-test", Box::new(io::sink())) else { panic!("it worked") };
    assert!(e.to_string().contains("/proc/nowhere"), "{e}");
}

/// A pipe that nobody reads, until somebody does.
struct Stuck {
    reached: mpsc::Sender<()>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    memory: Memory,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.reached.send(());
        let open = self.gate.1.wait_while(self.gate.0.lock().unwrap(), |open| !*open).unwrap();
        drop(open);
        self.memory.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_reader_costs_lines_but_no_time() {
    let (reached, arrived) = mpsc::channel();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let memory = Memory::default();
    let stuck = Stuck { reached, gate: gate.clone(), memory: memory.clone() };
    let (subscriber, logging) = build(&plain(), "pgherd-test", Box::new(stuck)).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        info!("first");
        arrived.recv_timeout(PATIENCE).unwrap();
        // The writer is stuck in the first line now; these calls must return all the same.
        (0..6000).for_each(|i| info!("{i}"));
    });
    assert_eq!(logging.dropped(), 6000 - 4096);
    assert!(!logging.flush(Duration::ZERO));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert!(logging.flush(PATIENCE));
    assert!(memory.text().contains("(1904 log lines before this were lost"), "no word about lost lines");
}
