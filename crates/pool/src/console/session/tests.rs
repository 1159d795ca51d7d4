//! Tests of whole conversations.

use super::*;
use crate::console::command::Show;
use crate::console::rows::State;
use crate::wire::HEADER;
use crate::wire::build::frontend;

fn session() -> Session {
    Session::new(Rights::Admin, "PgBouncer 1.25.0")
}

/// The messages in `bytes` as kind and body.
fn split(mut bytes: &[u8]) -> Vec<(char, Vec<u8>)> {
    let mut messages = Vec::new();
    while let Some((kind, rest)) = bytes.split_first() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        messages.push((*kind as char, rest[4..length].to_vec()));
        bytes = &rest[length..];
    }
    messages
}

/// The kinds of the messages in `bytes`.
fn kinds(bytes: &[u8]) -> String {
    split(bytes).into_iter().map(|(kind, _)| kind).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Feeds built messages one by one, and answers every command by `answer`.
fn converse(session: &mut Session, messages: &[u8], answer: impl Fn(&Command) -> Result<Answer, Error>) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, body) in split(messages) {
        match session.message(kind as u8, &body, &mut out) {
            Step::Next => {}
            Step::Perform(command) => {
                assert!(session.is_waiting());
                session.complete(answer(&command), &mut out);
            }
            Step::Close => out.extend(b"#\0\0\0\x04"),
        }
        assert!(!session.is_waiting());
    }
    out
}

fn states(command: &Command) -> Result<Answer, Error> {
    assert_eq!(*command, Command::Show(Show::State));
    Ok(Answer::Rows(State::Active.table()))
}

fn done(_: &Command) -> Result<Answer, Error> {
    Ok(Answer::Done)
}

fn never(command: &Command) -> Result<Answer, Error> {
    panic!("performed {command:?}")
}

fn query(sql: &str) -> Vec<u8> {
    built(|out| frontend::query(out, sql.as_bytes()))
}

fn built(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    build(&mut out);
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

fn parse_message(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// A Bind without parameters and with these result formats.
fn bind(portal: &str, statement: &str, formats: &[u8]) -> Vec<u8> {
    let mut body = format!("{portal}\0{statement}\0\0\0\0\0\0").into_bytes();
    body.push(formats.len().try_into().unwrap());
    body.extend(formats.iter().flat_map(|format| [0, *format]));
    message(b'B', &body)
}

fn describe(what: char, name: &str) -> Vec<u8> {
    message(b'D', format!("{what}{name}\0").as_bytes())
}

fn close(what: char, name: &str) -> Vec<u8> {
    message(b'C', format!("{what}{name}\0").as_bytes())
}

fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

fn sync() -> Vec<u8> {
    built(frontend::sync)
}

#[test]
fn a_simple_show_is_described_listed_and_finished() {
    let out = converse(&mut session(), &query("show state"), states);
    let messages = split(&out);
    assert_eq!(kinds(&out), "TDDDCZ");
    assert_eq!(messages[1].1, b"\0\x02\0\0\0\x06active\0\0\0\x03yes");
    assert_eq!(messages[4].1, b"SHOW\0");
    assert_eq!(messages[5].1, b"I");
}

#[test]
fn a_simple_command_is_finished_by_its_tag() {
    let out = converse(&mut session(), &query("set verbose = '1'"), done);
    assert_eq!(out, b"C\0\0\0\x12SET verbose=1\0Z\0\0\0\x05I");
    let noted = |_: &Command| Ok(Answer::DoneBut("TLS settings could not be applied".to_owned()));
    let out = converse(&mut session(), &query("set client_tls_sslmode=require"), noted);
    assert_eq!(kinds(&out), "NCZ");
}

#[test]
fn a_failed_command_is_an_error_and_the_session_goes_on() {
    let failed = |_: &Command| Err(Error::ReloadFailed);
    let out = converse(&mut session(), &[query("reload"), query("show version")].concat(), failed);
    assert_eq!(kinds(&out), "EZTDCZ");
    let error = text(&split(&out)[0].1);
    assert!(error.contains("SERROR\0") && error.contains("CF0000\0"), "{error:?}");
    assert!(error.contains("MRELOAD failed, see logs for additional details\0"), "{error:?}");
}

#[test]
fn help_and_version_and_parameters_are_answered_at_once() {
    let mut session = session();
    let help = converse(&mut session, &query("show help"), never);
    assert_eq!(kinds(&help), "NCZ");
    let notice = text(&split(&help)[0].1);
    assert!(notice.contains("MConsole usage\0D\n\tSHOW HELP|CONFIG|"), "{notice:?}");
    assert!(
        notice.contains("\n\tKILL_CLIENT <client_id>\n") && notice.ends_with("WAIT_CLOSE [<db>]\0\0"),
        "{notice:?}"
    );
    let version = converse(&mut session, &query("show version"), never);
    assert_eq!(split(&version)[1].1, b"\0\x01\0\0\0\x10PgBouncer 1.25.0");
    let parameter = converse(&mut session, &query("show DateStyle"), never);
    assert_eq!(split(&parameter)[1].1, b"\0\x01\0\0\0\x03ISO");
    let set = converse(&mut session, &query("set extra_float_digits = 3"), never);
    assert_eq!(kinds(&set), "NCZ");
    assert!(text(&split(&set)[0].1).contains("MSET ignored\0"));
}

#[test]
fn an_extended_show_is_described_before_it_runs() {
    let conversation = [
        parse_message("s", "show state;"),
        describe('S', "s"),
        sync(),
        bind("", "s", &[]),
        describe('P', ""),
        execute("", 0),
        sync(),
        close('S', "s"),
        sync(),
    ];
    let out = converse(&mut session(), &conversation.concat(), states);
    assert_eq!(kinds(&out), "1tTZ2TDDDCZ3Z");
    let messages = split(&out);
    assert_eq!(messages[1].1, b"\0\0");
    assert_eq!(messages[2].1, messages[5].1);
    assert_eq!(messages[9].1, b"SHOW\0");
}

#[test]
fn results_come_in_the_formats_that_bind_asked_for() {
    let mem = |_: &Command| {
        let row = crate::console::rows::MemRow { name: "client_cache", size: 1, used: 2, free: 3, memtotal: 4 };
        Ok(Answer::Rows(Table::of([row])))
    };
    let run = |formats: &[u8]| {
        let conversation = [parse_message("", "show mem"), bind("", "", formats), describe('P', ""), execute("", 0)];
        split(&converse(&mut session(), &conversation.concat(), mem))
    };
    let binary = run(&[1]);
    assert!(binary[3].1.ends_with(b"\0\0\0\x04\0\0\0\x04"), "{binary:?}");
    assert!(binary[2].1.ends_with(b"\0\x01"), "the description says so: {binary:?}");
    let mixed = run(&[0, 0, 1, 0, 0]);
    assert!(mixed[3].1.ends_with(b"\0\0\0\x011\0\0\0\x04\0\0\0\x02\0\0\0\x013\0\0\0\x014"), "{mixed:?}");
}

#[test]
fn a_command_has_no_rows_to_describe() {
    let conversation = [
        parse_message("", "pause app"),
        describe('S', ""),
        bind("", "", &[1]),
        describe('P', ""),
        execute("", 1),
        sync(),
    ];
    let out = converse(&mut session(), &conversation.concat(), done);
    assert_eq!(kinds(&out), "1tn2nCZ");
    assert_eq!(split(&out)[5].1, b"PAUSE\0");
}

#[test]
fn a_portal_hands_its_rows_out_in_portions_from_one_performance() {
    let performed = std::cell::Cell::new(0);
    let once = |command: &Command| {
        performed.set(performed.get() + 1);
        states(command)
    };
    let conversation = [
        parse_message("", "show state"),
        bind("p", "", &[]),
        execute("p", 2),
        execute("p", 1),
        execute("p", 1),
        execute("p", 1),
        sync(),
    ];
    let out = converse(&mut session(), &conversation.concat(), once);
    // Three rows: two, one and perhaps more, none; then it is spent.
    assert_eq!(kinds(&out), "12DDsDsCEZ");
    assert!(text(&split(&out)[8].1).contains("C55000\0"));
    assert_eq!(performed.get(), 1);
}

#[test]
#[should_panic(expected = "columns of the answer")]
fn the_rows_of_another_show_are_a_mistake() {
    let lists = |_: &Command| Ok(Answer::Rows(crate::console::rows::ListCounts::default().table()));
    let _ = converse(&mut session(), &query("show state"), lists);
}

#[test]
fn after_an_error_everything_up_to_sync_is_skipped() {
    let conversation = [
        parse_message("", "show nonsense"),
        bind("", "", &[]),
        execute("", 0),
        query("show version"),
        message(b'F', b"junk"),
        sync(),
        query("show version"),
    ];
    let out = converse(&mut session(), &conversation.concat(), never);
    assert_eq!(kinds(&out), "EZTDCZ");
    assert!(text(&split(&out)[0].1).contains("Minvalid command 'show nonsense', use SHOW HELP;\0"));
}

#[test]
fn a_command_that_fails_at_execute_skips_up_to_sync_too() {
    let failed = |_: &Command| Err(Error::NoSuchDatabase("nosuch".to_owned()));
    let conversation = [parse_message("", "enable nosuch"), bind("", "", &[]), execute("", 0), execute("", 0), sync()];
    let out = converse(&mut session(), &conversation.concat(), failed);
    assert_eq!(kinds(&out), "12EZ");
}

#[test]
fn an_empty_statement_says_so() {
    let conversation = [parse_message("", " ;"), describe('S', ""), bind("", "", &[]), execute("", 0), sync()];
    let out = converse(&mut session(), &conversation.concat(), never);
    assert_eq!(kinds(&out), "1tn2IZ");
}

#[test]
fn rights_hold_in_both_protocols() {
    let mut session = Session::new(Rights::Stats, "PgBouncer 1.25.0");
    let conversation = [query("pause"), parse_message("", "pause"), sync(), query("show state")];
    let out = converse(&mut session, &conversation.concat(), states);
    assert_eq!(kinds(&out), "EZEZTDDDCZ");
    assert_eq!(split(&out)[0], split(&out)[2]);
    assert!(text(&split(&out)[0].1).contains("C08P01\0Madmin access needed\0"));
}

#[test]
fn names_of_statements_and_portals_are_checked() {
    let refused = |conversation: &[Vec<u8>]| {
        let out = converse(&mut session(), &conversation.concat(), never);
        let (kind, body) = split(&out).pop().unwrap();
        assert_eq!(kind, 'E');
        text(&body)
    };
    let version = |name| parse_message(name, "show version");
    assert!(refused(&[version("a"), version("a")]).contains("C42P05\0Mprepared statement \"a\" already exists\0"));
    assert!(refused(&[bind("", "a", &[])]).contains("C26000\0Mprepared statement \"a\" does not exist\0"));
    assert!(refused(&[describe('S', "")]).contains("C26000\0Munnamed prepared statement does not exist\0"));
    let twice = [version(""), bind("p", "", &[]), bind("p", "", &[])];
    assert!(refused(&twice).contains("C42P03\0Mcursor \"p\" already exists\0"));
    assert!(refused(&[execute("p", 0)]).contains("C34000\0Mportal \"p\" does not exist\0"));
    let synced = [version(""), bind("p", "", &[]), sync(), execute("p", 0)];
    assert!(refused(&synced).contains("Mportal \"p\" does not exist\0"));
    let closed = [version("a"), close('S', "a"), bind("", "a", &[])];
    assert!(refused(&closed).contains("Mprepared statement \"a\" does not exist\0"));
    let forgotten = [version(""), query("show version"), bind("", "", &[])];
    assert!(refused(&forgotten).contains("Munnamed prepared statement does not exist\0"));
}

#[test]
fn bind_must_match_its_statement() {
    let refused = |body: &[u8]| {
        let conversation = [parse_message("", "show version"), message(b'B', body)].concat();
        text(&split(&converse(&mut session(), &conversation, never)).pop().unwrap().1)
    };
    let supplied = refused(b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0");
    assert!(supplied.contains("Mbind message supplies 1 parameters, but prepared statement \"\" requires 0\0"));
    let formats = refused(b"\0\0\0\0\0\0\0\x02\0\0\0\0");
    assert!(formats.contains("Mbind message has 2 result formats but query has 1 columns\0"));
    assert!(refused(b"\0\0\0\0\0\0\0\x01\0\x07").contains("C22023\0Munsupported format code: 7\0"));
}

#[test]
fn declared_parameters_are_described_and_their_values_ignored() {
    let parse = message(b'P', b"\0show version\0\0\x01\0\0\0\x17");
    let bind = message(b'B', b"\0\0\0\0\0\x01\0\0\0\x0242\0\0");
    let conversation = [parse, describe('S', ""), bind, execute("", 0), sync()].concat();
    let out = converse(&mut session(), &conversation, never);
    assert_eq!(kinds(&out), "1tT2DCZ");
    assert_eq!(split(&out)[1].1, b"\0\x01\0\0\0\x17");
}

#[test]
fn a_broken_message_ends_the_connection() {
    for (kind, body, expected) in [
        (b'Q', b"show version".as_slice(), "incomplete query"),
        (b'P', b"", "failed to parse packet"),
        (b'B', b"\0", "failed to parse packet"),
        (b'D', b"X\0", "failed to parse packet"),
        (b'E', b"\0", "failed to parse packet"),
        (b'p', b"secret\0", "unknown pkt"),
        (b'z', b"", "unknown pkt"),
    ] {
        let out = converse(&mut session(), &message(kind, body), never);
        assert_eq!(kinds(&out), "E#", "{}", kind as char);
        let error = text(&out[HEADER..]);
        assert!(error.contains("SFATAL\0") && error.contains(&format!("M{expected}\0")), "{error:?}");
    }
}

#[test]
fn messages_without_a_meaning_here_are_harmless() {
    let conversation = [
        message(b'H', b""),
        message(b'd', b"data"),
        message(b'c', b""),
        message(b'f', b"\0"),
        message(b'F', b"\0"),
        message(b'X', b""),
    ];
    let out = converse(&mut session(), &conversation.concat(), never);
    assert_eq!(kinds(&out), "EZ#");
    assert!(text(&out).contains("Munsupported packet type for admin console: 70\0"));
}

#[test]
fn statements_are_bounded_in_number() {
    let mut session = session();
    let many: Vec<u8> = (0..1001).flat_map(|number| parse_message(&number.to_string(), "show version")).collect();
    let out = converse(&mut session, &many, never);
    assert_eq!(kinds(&out), "1".repeat(1000) + "E");
    assert!(text(&split(&out).pop().unwrap().1).contains("C54000\0"));
    // One may still be replaced once another is closed.
    let conversation = [sync(), close('S', "5"), parse_message("", "show version"), sync()].concat();
    assert_eq!(kinds(&converse(&mut session, &conversation, never)), "Z31Z");
}

proptest::proptest! {
    #[test]
    fn whatever_a_client_sends_the_session_answers_in_whole_messages(
        messages in proptest::collection::vec((proptest::sample::select(b"QPBDECSHFXdcfpz".to_vec()),
            proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)), 0..12)
    ) {
        let mut session = session();
        let mut out = Vec::new();
        for (kind, body) in messages {
            match session.message(kind, &body, &mut out) {
                Step::Next => {}
                Step::Perform(_) => session.complete(Ok(Answer::Done), &mut out),
                Step::Close => break,
            }
        }
        split(&out);
    }
}
