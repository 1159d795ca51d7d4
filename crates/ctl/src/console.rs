//! The person at the terminal, or the script in its place: output, questions and their answers, progress. Answers may be
//! piped in. Knows nothing of clusters.

use std::io::{self, BufRead, BufReader, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::fault::{Fault, Result};

/// Where output goes and answers come from. Clones share both.
#[derive(Clone)]
pub(crate) struct Console {
    input: Arc<Mutex<dyn BufRead + Send>>,
    output: Arc<Mutex<dyn Write + Send>>,
    /// Colours and screen control may be written to the output.
    pub(crate) colourful: bool,
    verbose: bool,
    busy: Arc<AtomicBool>,
    ordered: Arc<AtomicBool>,
}

impl Console {
    /// The process's own input and output. `verbose` shows progress where stderr is no terminal, too.
    pub(crate) fn standard(verbose: bool) -> Console {
        let colourful = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Console { colourful, verbose, ..Console::new(BufReader::new(io::stdin()), io::stdout()) }
    }

    /// Any input and output.
    pub(crate) fn new(input: impl BufRead + Send + 'static, output: impl Write + Send + 'static) -> Console {
        Console {
            input: Arc::new(Mutex::new(input)),
            output: Arc::new(Mutex::new(output)),
            colourful: false,
            verbose: false,
            busy: Arc::default(),
            ordered: Arc::default(),
        }
    }

    /// Writes one line.
    pub(crate) fn say(&self, line: impl AsRef<str>) -> Result {
        self.write(&format!("{}\n", line.as_ref()))
    }

    /// Writes text as it is.
    pub(crate) fn write(&self, text: &str) -> Result {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(text.as_bytes())?;
        Ok(output.flush()?)
    }

    /// Tells something beside the result.
    pub(crate) fn note(&self, line: impl AsRef<str>) {
        eprintln!("{}", line.as_ref());
    }

    /// Clears the screen, where there is one.
    pub(crate) fn clear(&self) -> Result {
        if self.colourful { self.write("\x1b[2J\x1b[H") } else { Ok(()) }
    }

    /// Asks for a text; an empty answer means the default, and without one the question comes again.
    pub(crate) async fn ask(&self, question: &str, default: Option<&str>) -> Result<String> {
        loop {
            let suffix = default.map(|d| format!(" [{d}]")).unwrap_or_default();
            let answer = self.answer(&format!("{question}{suffix}: ")).await?;
            match (answer.is_empty(), default) {
                (false, _) => return Ok(answer),
                (true, Some(default)) => return Ok(default.to_owned()),
                (true, None) => {}
            }
        }
    }

    /// Asks whether to go on. No is the default.
    pub(crate) async fn confirm(&self, question: &str) -> Result<bool> {
        loop {
            match self.answer(&format!("{question} [y/N]: ")).await?.to_lowercase().as_str() {
                "y" | "yes" => return Ok(true),
                "" | "n" | "no" => return Ok(false),
                _ => self.say("Error: invalid input, answer y or n")?,
            }
        }
    }

    /// All the input there is.
    pub(crate) async fn read_all(&self) -> Result<String> {
        self.blocking(|input| {
            let mut text = String::new();
            input.read_to_string(&mut text)?;
            Ok(text)
        })
        .await
    }

    async fn answer(&self, prompt: &str) -> Result<String> {
        self.write(prompt)?;
        let line = self
            .blocking(|input| {
                let mut line = String::new();
                input.read_line(&mut line)?;
                Ok(line)
            })
            .await?;
        // A line without its end is an answer all the same; nothing at all is the end of the input.
        if line.is_empty() {
            self.write("\n")?;
            return Err(Fault::Aborted);
        }
        Ok(line.trim().to_owned())
    }

    async fn blocking(
        &self,
        work: impl FnOnce(&mut dyn BufRead) -> io::Result<String> + Send + 'static,
    ) -> Result<String> {
        let input = Arc::clone(&self.input);
        let done = tokio::task::spawn_blocking(move || {
            let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut *input)
        });
        let text = done.await.map_err(|e| Fault::failed(format!("can't read the answer: {e}")))?;
        text.map_err(|e| Fault::failed(format!("can't read the answer: {e}")))
    }

    /// Hands the terminal to another program until the guard goes: Ctrl-C is that program's business.
    pub(crate) fn lend(&self) -> Lent {
        self.busy.store(true, Ordering::SeqCst);
        Lent(Arc::clone(&self.busy))
    }

    /// Whether another program has the terminal.
    pub(crate) fn is_lent(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    /// From now on an interruption doesn't undo what was begun.
    pub(crate) fn order_is_out(&self, out: bool) {
        self.ordered.store(out, Ordering::SeqCst);
    }

    /// Whether an order is under way somewhere.
    pub(crate) fn is_order_out(&self) -> bool {
        self.ordered.load(Ordering::SeqCst)
    }

    /// Shows on stderr that something goes on: one moving line on a terminal, lines with `--verbose`, else nothing.
    pub(crate) fn progress(&self, what: &str) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let progress = Progress { bar, lines: self.verbose };
        progress.step(what);
        progress
    }
}

/// The terminal is lent to another program.
pub(crate) struct Lent(Arc<AtomicBool>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Something that goes on; the moving line ends with it.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
}

impl Progress {
    /// What happens now.
    pub(crate) fn step(&self, line: &str) {
        match &self.bar {
            Some(bar) if self.lines => bar.suspend(|| eprintln!("{line}")),
            Some(bar) => bar.set_message(line.to_owned()),
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Output that a test can read.
    #[derive(Clone, Default)]
    pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console whose answers are piped in.
    pub(crate) fn piped(answers: &str) -> (Console, Paper) {
        let paper = Paper::default();
        (Console::new(io::Cursor::new(answers.to_owned()), paper.clone()), paper)
    }

    #[tokio::test]
    async fn an_empty_answer_means_the_default() {
        let (console, paper) = piped("\n pg3 \n\n\npg1");
        assert_eq!(console.ask("Primary", Some("pg1")).await.unwrap(), "pg1");
        assert_eq!(console.ask("Candidate ['pg2', 'pg3']", Some("")).await.unwrap(), "pg3");
        assert_eq!(console.ask("Name", None).await.unwrap(), "pg1", "asked until answered");
        assert_eq!(paper.text(), "Primary [pg1]: Candidate ['pg2', 'pg3'] []: Name: Name: Name: ");
    }

    #[tokio::test]
    async fn only_yes_is_yes() {
        let (console, paper) = piped("maybe\nY\nno\n\nyes\n");
        for expected in [true, false, false, true] {
            assert_eq!(console.confirm("Sure?").await.unwrap(), expected);
        }
        assert!(paper.text().starts_with("Sure? [y/N]: Error: invalid input"), "{}", paper.text());
    }

    #[tokio::test]
    async fn the_end_of_the_input_aborts() {
        let (console, paper) = piped("");
        assert!(matches!(console.confirm("Sure?").await, Err(Fault::Aborted)));
        assert!(matches!(console.ask("Name", Some("x")).await, Err(Fault::Aborted)));
        assert_eq!(paper.text(), "Sure? [y/N]: \nName [x]: \n");
    }
}
