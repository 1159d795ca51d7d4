//! Tests of the ini dialect, after what pgbouncer 1.24 takes and refuses.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Ini {
    let mut ini = Ini::default();
    ini.parse(Path::new("t.ini"), text.as_bytes());
    ini
}

/// Sections and entries in a readable form, one a line.
fn shown(text: &str) -> Vec<String> {
    let ini = read(text);
    assert_eq!(ini.faults, [], "{text}");
    let show = |item: &Item| match &item.what {
        What::Section(name) => format!("{}: [{name}]", item.place.line),
        What::Entry(key, value) => format!("{}: {key}={value}", item.place.line),
    };
    ini.items.iter().map(show).collect()
}

fn faults(text: &str) -> Vec<String> {
    read(text).faults.iter().map(ToString::to_string).collect()
}

#[test]
fn sections_entries_and_comments_are_told_apart() {
    let text = "; c\n # c\n\n[pgbouncer] ; c\n  a  =  b ; not a comment  \r\nc=\n[databases]d=e\nf==g";
    assert_eq!(
        shown(text),
        ["4: [pgbouncer]", "5: a=b ; not a comment", "6: c=", "7: [databases]", "7: d=e", "8: f==g"]
    );
}

#[test]
fn names_may_be_quoted() {
    let text = "\"x y\" = 1\n\"x\"\"y\"=2\na-b.c_*=3\n\"\u{451}\"=4";
    assert_eq!(shown(text), ["1: x y=1", "2: x\"y=2", "3: a-b.c_*=3", "4: \u{451}=4"]);
}

#[test]
fn a_byte_order_mark_and_foreign_comments_do_no_harm() {
    let mut ini = Ini::default();
    ini.parse(Path::new("t.ini"), b"\xef\xbb\xbf[a]\n; \xca\xee\xec\xec\xe5\xed\xf2\nb=1\n");
    assert_eq!((ini.items.len(), ini.faults), (2, vec![]));
}

#[test]
fn every_bad_line_is_told() {
    let text = "[a\nfoo\nx y=1\n=1\n\"x=1\n\u{451}=1\n%foo x\n%include\nok=1\na:b\n";
    let lines: Vec<Option<usize>> = read(text).faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 10].map(Some));
    assert_eq!(faults("foo"), ["syntax error in configuration (t.ini:1): \"=\" is missing"]);
}

#[test]
fn included_files_stand_where_they_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let [main, other] = ["main.ini", "other.ini"].map(|name| directory.path().join(name));
    fs::write(&main, format!("[a]\nb=1\n%include {}\ne=4\n", other.display())).unwrap();
    fs::write(&other, "c=2\n[d]\n").unwrap();
    let ini = Ini::read(&main);
    assert_eq!(ini.faults, []);
    let entries: Vec<(&Path, usize)> = ini.items.iter().map(|i| (&*i.place.file, i.place.line)).collect();
    assert_eq!(
        entries,
        [(&*main, 1), (&*main, 2), (&*other, 1), (&*other, 2), (&*main, 4)].map(|(file, line)| (file, line))
    );
}

#[test]
fn files_include_each_other_ten_levels_deep() {
    let directory = tempfile::tempdir().unwrap();
    let file = |level: usize| directory.path().join(format!("{level}.ini"));
    let chain = |levels: usize| {
        for level in 0..levels {
            fs::write(file(level), format!("%include {}\n", file(level + 1).display())).unwrap();
        }
        fs::write(file(levels), "[a]\n").unwrap();
        Ini::read(&file(0))
    };
    let ini = chain(DEEPEST);
    assert_eq!((ini.items.len(), ini.faults), (1, vec![]));
    let ini = chain(DEEPEST + 1);
    assert_eq!(ini.items, []);
    assert_eq!(ini.faults, [Fault::at(&file(DEEPEST), 1, "include nesting level too deep")]);
}

#[test]
fn files_that_are_missing_or_include_themselves_are_faults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("self.ini");
    fs::write(&path, format!("%include {}\n%include {}/none\n", path.display(), directory.path().display())).unwrap();
    let faults = Ini::read(&path).faults;
    assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!(Ini::read(Path::new("/nonexistent/x.ini")).faults[0].text.starts_with("could not load file"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // No file is named, so that nothing else is read.
        prop_assume!(!bytes.contains(&b'%'));
        Ini::default().parse(Path::new("t.ini"), &bytes);
    }

    #[test]
    fn what_is_printed_is_read_back(
        key in "[^\"\\p{Cc}]{1,20}",
        value in "([^\\s\\p{Cc}]([^\\p{Cc}]{0,20}[^\\s\\p{Cc}])?)?",
    ) {
        let text = format!("\"{}\" = {value}", key.replace('"', "\"\""));
        let items = read(&text).items;
        prop_assert_eq!(items.len(), 1);
        prop_assert_eq!(&items[0].what, &What::Entry(key, value));
    }
}
