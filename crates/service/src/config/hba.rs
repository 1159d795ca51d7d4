//! A first look at lines for pg_hba.conf, so that no file is written with which PostgreSQL wouldn't start or that would keep
//! everybody out. The format is PostgreSQL's (documentation, chapter "The pg_hba.conf File"); the last word is its own.

/// Of all versions; `oauth` is PostgreSQL 18's.
const METHODS: [&str; 15] = [
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
    "bsd",
    "oauth",
];
const HOSTS: [&str; 5] = ["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
/// PostgreSQL 16's.
const INCLUDES: [&str; 3] = ["include", "include_if_exists", "include_dir"];

/// What is wrong with these lines.
pub(super) fn fault(lines: &[String]) -> Option<String> {
    let mut any = false;
    let mut goes_on = false;
    for line in lines {
        let (begins, text) = (!goes_on, line.trim_end());
        goes_on = text.ends_with('\\');
        let fields = fields(text);
        // What spans several lines is PostgreSQL's to judge.
        if fields.is_empty() || !begins || goes_on {
            any |= !fields.is_empty();
            continue;
        }
        any = true;
        if let Some(why) = line_fault(&fields) {
            return Some(format!("{line:?}: {why}"));
        }
    }
    (!any).then(|| "has no rule, which would keep everybody out: delete it to leave the file to others".to_owned())
}

fn line_fault(fields: &[String]) -> Option<String> {
    let kind = fields[0].as_str();
    let method = match kind {
        "local" => fields.get(3),
        kind if HOSTS.contains(&kind) => {
            // An address without a length has a mask behind it.
            let address = fields.get(3).is_some_and(|a| a.parse::<std::net::IpAddr>().is_ok());
            fields.get(if address { 5 } else { 4 })
        }
        kind if INCLUDES.contains(&kind) => return None,
        _ => return Some(format!("a rule begins with local, {}, not with {kind:?}", HOSTS.join(", "))),
    };
    match method {
        None => Some("too few fields: type, database, user, address (not for local), method".to_owned()),
        Some(m) if METHODS.contains(&m.as_str()) => None,
        Some(m) => Some(format!("{m:?} is no method of authentication")),
    }
}

/// The fields of a line, without its comment. A quoted one is one field, whatever is in it.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted, mut inside) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, inside) = (!quoted, true),
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                // A list may go on behind its comma.
                if inside && !field.ends_with(',') {
                    fields.push(std::mem::take(&mut field));
                    inside = false;
                }
            }
            c => {
                field.push(c);
                inside = true;
            }
        }
    }
    if inside {
        fields.push(field);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<String> {
        fault(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rules_of_every_kind_are_accepted() {
        let good = [
            "# all of it",
            "local all all peer map=x # comment",
            "local \"my db\", other all trust",
            "host all all 0.0.0.0/0 scram-sha-256",
            "host all all 10.0.0.1 255.255.255.255 md5",
            "hostssl replication replicator ::1/128 cert clientcert=verify-full",
            "host all /^x.*$ .example.org reject",
            "host all \\",
            "  all samenet ldap ldapserver=x",
            "include_dir more",
            "",
        ];
        assert_eq!(of(&good), None);
    }

    #[test]
    fn what_postgresql_would_not_start_with_is_refused() {
        for bad in
            ["garbage line", "host all all 10.0.0.1 md5", "local all all", "host all all all scram", "Local a b trust"]
        {
            assert!(of(&["local all all trust", bad]).is_some_and(|why| why.contains(bad)), "{bad}");
        }
        assert!(of(&[]).is_some_and(|why| why.contains("everybody out")));
        assert!(of(&["# nothing"]).is_some());
    }
}
