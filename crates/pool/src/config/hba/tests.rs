//! Tests of the host-based rules, after what pgbouncer 1.24 does with the same lines.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::Idents;

/// Rules of lines, each of which can be read.
fn good(text: &str) -> Hba {
    let reading = read(text);
    assert_eq!((reading.faults, reading.warnings), (vec![], vec![]), "{text}");
    reading.hba
}

fn read(text: &str) -> Reading {
    let directory = tempfile::tempdir().unwrap();
    let [rules, map] = ["hba", "ident"].map(|name| directory.path().join(name));
    fs::write(&rules, text).unwrap();
    fs::write(&map, "m root postgres\n").unwrap();
    Hba::load(&rules, &Idents::load(&map).0)
}

fn client(address: &str) -> Attempt<'static> {
    let address = (!address.is_empty()).then(|| address.parse().unwrap());
    Attempt { address, tls: false, database: "db", user: "bob", replication: false }
}

fn fits(line: &str, attempt: &Attempt<'_>) -> bool {
    good(line).matches(attempt).is_some()
}

#[test]
fn types_tell_connections_apart() {
    let (unix, tcp) = (client(""), client("10.0.0.1"));
    let tls = Attempt { tls: true, ..tcp };
    for (line, fitting) in [
        ("local all all trust", [true, false, false]),
        ("host all all all trust", [false, true, true]),
        ("hostssl all all all trust", [false, false, true]),
        ("hostnossl all all all trust", [false, true, false]),
    ] {
        assert_eq!([unix, tcp, tls].map(|attempt| fits(line, &attempt)), fitting, "{line}");
    }
}

#[test]
fn addresses_are_blocks() {
    let inside = |block: &str, address: &str| fits(&format!("host all all {block} trust"), &client(address));
    assert!(inside("10.0.0.0/8", "10.255.0.1") && !inside("10.0.0.0/8", "11.0.0.1"));
    assert!(inside("10.0.0.0 255.0.0.0", "10.255.0.1"));
    assert!(inside("0.0.0.0/0", "1.2.3.4") && !inside("0.0.0.0/0", "::1"));
    assert!(inside("1.2.3.4/32", "1.2.3.4") && !inside("1.2.3.4/32", "1.2.3.5"));
    assert!(inside("::/0", "fe80::1") && !inside("::/0", "1.2.3.4"));
    assert!(inside("fe80::/10", "fe80::1") && inside("::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1"));
    assert!(inside("127.0.0.0/8", "::ffff:127.0.0.1"), "an IPv4 client at an IPv6 socket");
    assert!(!inside("::ffff:127.0.0.0/104", "::ffff:127.0.0.1"));
}

#[test]
fn names_are_lists_keywords_and_quoted_names() {
    let fits = |names: &str, database: &'static str, user: &'static str| {
        fits(&format!("host {names} all trust"), &Attempt { database, user, ..client("1.1.1.1") })
    };
    assert!(fits("a,db all", "db", "bob") && fits("a, db all", "db", "bob") && fits("a ,db all", "db", "bob"));
    assert!(fits("db alice,bob", "db", "bob") && !fits("db alice", "db", "bob"));
    assert!(fits("\"a b\" \"c\"\"d\"", "a b", "c\"d"));
    assert!(!fits("\"all\" all", "db", "bob") && fits("\"all\" all", "all", "bob"));
    assert!(!fits("all \"all\"", "db", "bob") && fits("all \"all\"", "db", "all"));
    assert!(fits("sameuser all", "bob", "bob") && !fits("sameuser all", "db", "bob"));
    assert!(!fits("ALL all", "db", "bob"), "keywords have one case");
}

#[test]
fn physical_replication_needs_its_own_rule() {
    let physical = Attempt { replication: true, ..client("1.1.1.1") };
    assert!(fits("host replication all all trust", &physical));
    assert!(fits("host db,replication all all trust", &physical));
    assert!(!fits("host all all all trust", &physical));
    assert!(!fits("host db all all trust", &physical));
    assert!(!fits("host replication all all trust", &client("1.1.1.1")));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let hba = good("# c\n\nhost db alice all reject\nhost db bob all md5 # c\nhost all all all trust\n");
    let rule = hba.matches(&client("1.1.1.1")).unwrap();
    assert_eq!((rule.line, rule.method), (4, Method::Md5));
    assert_eq!(good("host x all all trust").matches(&client("1.1.1.1")), None);
}

#[test]
fn methods_and_maps_are_read() {
    let rule = |line: &str| good(line).matches(&client("")).unwrap().clone();
    for (name, method) in [
        ("trust", Method::Trust),
        ("reject", Method::Reject),
        ("md5", Method::Md5),
        ("scram-sha-256", Method::Scram),
        ("password", Method::Plain),
        ("plain", Method::Plain),
        ("cert", Method::Cert),
        ("peer", Method::Peer),
    ] {
        assert_eq!(rule(&format!("local all all {name}")).method, method);
    }
    assert_eq!(rule("local all all peer map=m").map.as_deref(), Some("m"));
}

#[test]
fn lines_that_let_in_are_left_out_when_they_cannot_be_read() {
    for line in [
        "local all all 127.0.0.1/32 trust",
        "host all all 127.0.0.1 trust",
        "host all all samenet trust",
        "host all all localhost trust",
        "host all all .example.com trust",
        "host all all 127.0.0.1/33 trust",
        "host all all 127.0.0.1/ trust",
        "host all all 127.0.0.1/+8 trust",
        "host all all 127.0.0.1 ffff:: trust",
        "host all all 127.1/8 trust",
        "host all all \"all\" trust",
        "hostgssenc all all all trust",
        "HOST all all all trust",
        "\"host\" all all all trust",
        "host all all all Trust",
        "host all all all any",
        "host all all all gss",
        "host all all all md5 junk",
        "host all all all md5 clientcert=verify-full",
        "host all all all cert map=nosuch",
        "host all all all cert map=",
        "host all all",
        "host",
        "host samerole all all md5",
        "host all +g all md5",
        "host @nosuch all all md5",
        "host \"all all all md5",
        "include x",
        "host all all all,1.1.1.1/32 md5",
    ] {
        let reading = read(line);
        assert_eq!((reading.hba.0.len(), reading.faults.len(), reading.warnings.len()), (0, 0, 1), "{line}");
    }
    let warning = &read("host all all all any").warnings[0];
    assert_eq!((warning.line, warning.hint.as_str()), (Some(1), "unsupported method: any"));
}

#[test]
fn lines_that_keep_out_are_faults_when_they_cannot_be_read() {
    for line in ["host all all samenet reject", "host \"all all all reject", "host all +g all reject"] {
        let reading = read(&format!("{line}\nhost all all all trust"));
        assert_eq!((reading.faults.len(), reading.warnings.len()), (1, 0), "{line}");
    }
    assert_eq!(read("host all all 10.0.0.1/8 reject").faults.len(), 1);
}

#[test]
fn ldap_and_pam_are_refused_by_name() {
    for (line, hint) in [
        ("host all all all ldap ldapserver=x", "unsupported method: ldap"),
        ("local all all pam", "unsupported method: pam"),
    ] {
        assert_eq!(read(line).faults[0].hint, hint);
    }
}

#[test]
fn a_block_whose_address_is_not_its_first_has_nobody_in_it() {
    let reading = read("host all all 10.0.0.5/8 trust");
    assert_eq!(reading.warnings[0].text, "address does not match mask: 10.0.0.5 / 255.0.0.0");
    assert_eq!(reading.hba.matches(&client("10.0.0.5")), None);
}

#[test]
fn names_may_come_from_a_file_beside_the_rules() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("hba"), "host @names bob,@users all trust\nhost @loop all all trust\n").unwrap();
    fs::write(path("names"), "# c\nx,y z # c\n@more\n").unwrap();
    fs::write(path("more"), "\"db\"\n").unwrap();
    fs::write(path("users"), "").unwrap();
    fs::write(path("loop"), "@loop\n").unwrap();
    let reading = Hba::load(&path("hba"), &Idents::default());
    assert_eq!(reading.warnings.iter().map(|w| w.line).collect::<Vec<_>>(), [Some(2)]);
    let rule = reading.hba.matches(&client("1.1.1.1")).unwrap();
    assert_eq!(rule.databases.names, ["x", "y", "z", "db"]);
}

#[test]
fn a_missing_file_lets_nobody_in() {
    let reading = Hba::load(Path::new("/nonexistent/hba"), &Idents::default());
    assert_eq!((reading.faults.len(), reading.warnings.len()), (0, 1));
    assert_eq!(reading.hba.matches(&client("1.1.1.1")), None);
}

proptest! {
    #[test]
    fn no_line_makes_it_panic(line in "(host|local|hostssl)? ?[ ,\"#a-z0-9./:@+=\\PC]{0,40}") {
        // Files of names are not the matter here.
        prop_assume!(!line.contains('@'));
        read(&line);
    }

    #[test]
    fn an_address_is_in_its_own_block(address in any::<[u8; 4]>(), bits in 0u32..=32) {
        let address = std::net::Ipv4Addr::from(address);
        let first = std::net::Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0));
        let inside = fits(&format!("host all all {first}/{bits} trust"), &client(&address.to_string()));
        prop_assert!(inside);
    }
}
