//! Tests of the module above, most of them against what a real pgbouncer said.

use super::*;

fn admin(sql: &str) -> Result<Request, Error> {
    parse(sql, Rights::Admin)
}

fn commanded(sql: &str) -> Command {
    match admin(sql) {
        Ok(Request::Command(command)) => command,
        other => panic!("{sql}: {other:?}"),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\r", "\r").replace("\\n", "\n")
}

#[test]
fn every_query_is_taken_or_refused_as_by_pgbouncer() {
    let mut compared = 0;
    for line in include_str!("pgbouncer.txt").lines().filter(|line| !line.starts_with('#')) {
        let [rights, query, expected] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let rights = if rights == "admin" { Rights::Admin } else { Rights::Stats };
        let got = match parse(&unescape(query), rights) {
            Ok(Request::Command(command)) => format!("tag {}", command.tag()),
            Ok(Request::Own(own)) => format!("tag {}", own.tag()),
            Err(error) => format!("{} {}", error.sqlstate(), error.text()),
        };
        assert_eq!(got, unescape(expected), "{query} for {rights:?}");
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn names_keep_their_case_and_lose_their_quotes() {
    assert_eq!(commanded("PAUSE App"), Command::Pause(Some("App".to_owned())));
    assert_eq!(commanded("pause \"a\"\"b; c\";"), Command::Pause(Some("a\"b; c".to_owned())));
    assert_eq!(commanded("kill \"\""), Command::Kill(None));
    assert_eq!(commanded("resume"), Command::Resume(None));
    assert_eq!(commanded("enable \"база\""), Command::Enable("база".to_owned()));
}

#[test]
fn set_takes_a_word_or_a_quoted_text() {
    let set = |key: &str, value: &str| Command::Set { key: key.to_owned(), value: value.to_owned() };
    assert_eq!(commanded("set Pool_Mode = Session"), set("Pool_Mode", "Session"));
    assert_eq!(commanded("set a to 'it''s; \"b\"'"), set("a", "it's; \"b\""));
    assert_eq!(commanded("set to to to"), set("to", "to"));
    assert_eq!(commanded("set a=''"), set("a", ""));
}

#[test]
fn a_long_set_has_a_tag_of_bounded_length() {
    let value = "ж".repeat(1000);
    let tag = commanded(&format!("set auth_query = '{value}'")).tag();
    assert!(tag.starts_with("SET auth_query=ж") && tag.len() <= LONGEST_TAG, "{}", tag.len());
}

#[test]
fn every_show_is_found_by_its_name() {
    for show in Show::ALL {
        assert_eq!(commanded(&format!("show {}", show.name())), Command::Show(show));
        assert_eq!(commanded(&format!("SELECT {};", show.name().to_uppercase())), Command::Show(show));
    }
}

#[test]
fn shutdown_waits_as_told() {
    assert_eq!(commanded("shutdown"), Command::Shutdown(Shutdown::Immediate));
    assert_eq!(commanded("SHUTDOWN wait_for_servers;"), Command::Shutdown(Shutdown::WaitForServers));
    assert_eq!(commanded("shutdown Wait_For_Clients"), Command::Shutdown(Shutdown::WaitForClients));
}

#[test]
fn a_client_is_the_number_at_the_beginning() {
    assert_eq!(commanded("kill_client 17"), Command::KillClient(17));
    assert_eq!(commanded("kill_client \" 17\""), Command::KillClient(17));
    assert_eq!(commanded("kill_client 17abc"), Command::KillClient(17));
    assert_eq!(commanded("kill_client 99999999999999999999"), Command::KillClient(u64::MAX));
}

#[test]
fn an_admin_who_is_also_a_stats_user_is_an_admin() {
    let (admins, stats) = (["postgres".to_owned()], ["stats".to_owned(), "postgres".to_owned()]);
    let of = |user| Rights::of(user, &admins, &stats);
    assert_eq!(of("postgres"), Some(Rights::Admin));
    assert_eq!(of("stats"), Some(Rights::Stats));
    assert_eq!(of("Stats"), None);
    assert_eq!(of(""), None);
}

#[test]
fn suspend_is_known() {
    assert_eq!(commanded("suspend"), Command::Suspend);
    assert_eq!(commanded("suspend").tag(), "SUSPEND");
}

proptest::proptest! {
    #[test]
    fn no_query_is_too_strange(sql in "[ \t\n;=\"'a-zA-Z0-9_é*]{0,40}") {
        let _ = parse(&sql, Rights::Admin);
    }

    #[test]
    fn a_quoted_name_means_itself(name in "[^\u{0}]{1,15}") {
        let quoted = name.replace('"', "\"\"");
        proptest::prop_assert_eq!(commanded(&format!("pause \"{quoted}\"")), Command::Pause(Some(name)));
    }
}
