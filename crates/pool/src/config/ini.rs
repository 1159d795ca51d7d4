//! pgbouncer's ini dialect: sections, `key = value` with the rest of the line as the value, whole-line comments after
//! `;` or `#`, `%include FILE`. What keys mean is the loader's matter.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Fault;
use super::quoted::unquote;

/// Levels of files within the first one. pgbouncer has the same bound.
const DEEPEST: usize = 10;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Rc<Path>,
    pub(super) line: usize,
}

/// What a file says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) what: What,
}

/// One thing that a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// `[name]`: what follows belongs there.
    Section(String),
    /// `key = value`
    Entry(String, String),
}

/// What one line says.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Blank,
    Section(&'a str, &'a str),
    Include(&'a str),
    Entry(String, &'a str),
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Ini {
    pub(super) items: Vec<Item>,
    pub(super) faults: Vec<Fault>,
    /// Files that are being read, the innermost last.
    open: Vec<Rc<Path>>,
}

impl Place {
    /// Something about this line.
    pub(super) fn fault(&self, text: impl Into<String>) -> Fault {
        Fault::at(&self.file, self.line, text)
    }
}

impl Ini {
    /// Reads a file and those that it includes. A name that isn't absolute is relative to the working directory.
    pub(super) fn read(path: &Path) -> Self {
        let mut ini = Self::default();
        match fs::read(path) {
            Ok(bytes) => ini.parse(path, &bytes),
            Err(e) => ini.faults.push(Fault::unloadable(path, &e)),
        }
        ini
    }

    /// Takes in a file's bytes.
    pub(super) fn parse(&mut self, path: &Path, bytes: &[u8]) {
        let file: Rc<Path> = path.into();
        self.open.push(Rc::clone(&file));
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let place = Place { file: Rc::clone(&file), line: number + 1 };
            self.line(&place, line.trim_ascii());
        }
        self.open.pop();
    }

    fn line(&mut self, place: &Place, line: &[u8]) {
        // A comment may be in any encoding.
        if matches!(line.first(), None | Some(b';' | b'#')) {
            return;
        }
        let Ok(line) = str::from_utf8(line) else {
            return self.faults.push(place.fault("syntax error in configuration").hint("the line isn't UTF-8"));
        };
        match parse_line(line) {
            Ok(Line::Blank) => {}
            Ok(Line::Section(name, rest)) => {
                self.items.push(Item { place: place.clone(), what: What::Section(name.to_owned()) });
                self.line(place, rest.as_bytes());
            }
            Ok(Line::Include(name)) => self.include(place, name),
            Ok(Line::Entry(key, value)) => {
                self.items.push(Item { place: place.clone(), what: What::Entry(key, value.to_owned()) });
            }
            Err(hint) => self.faults.push(place.fault("syntax error in configuration").hint(hint)),
        }
    }

    fn include(&mut self, place: &Place, name: &str) {
        let path = PathBuf::from(name);
        if self.open.len() > DEEPEST || self.open.iter().any(|open| **open == *path) {
            return self.faults.push(place.fault("include nesting level too deep"));
        }
        match fs::read(&path) {
            Ok(bytes) => self.parse(&path, &bytes),
            Err(e) => self.faults.push(place.fault(Fault::unloadable(&path, &e).text)),
        }
    }
}

fn parse_line(line: &str) -> Result<Line<'_>, &'static str> {
    if line.contains('\0') {
        return Err("the line has a zero byte");
    }
    let line = line.trim();
    match line.chars().next() {
        None | Some(';' | '#') => Ok(Line::Blank),
        Some('[') => {
            let (name, rest) = line[1..].split_once(']').ok_or("\"]\" is missing")?;
            Ok(Line::Section(name, rest.trim()))
        }
        Some('%') => directive(line),
        Some(_) => entry(line),
    }
}

fn directive(line: &str) -> Result<Line<'_>, &'static str> {
    let rest = line.strip_prefix("%include").filter(|rest| rest.starts_with(char::is_whitespace));
    match rest.map(str::trim) {
        Some(name) if !name.is_empty() => Ok(Line::Include(name)),
        _ => Err("after \"%\" comes \"include\" and the name of a file"),
    }
}

fn entry(line: &str) -> Result<Line<'_>, &'static str> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(quoted) => unquote(quoted, '"').ok_or("the closing quote is missing")?,
        None => plain_key(line),
    };
    if key.is_empty() && !rest.trim_start().starts_with('=') {
        return Err("a name with other characters than letters, digits and _.*- has to be in double quotes");
    }
    let value = rest.trim_start().strip_prefix('=').ok_or("\"=\" is missing")?;
    if key.is_empty() { Err("a name is missing before \"=\"") } else { Ok(Line::Entry(key, value.trim())) }
}

fn plain_key(line: &str) -> (String, &str) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '*' | '-');
    let end = line.find(|c| !is_plain(c)).unwrap_or(line.len());
    (line[..end].to_owned(), &line[end..])
}

#[cfg(test)]
mod tests;
