//! Names of replication slots. Creating and dropping them is in `slots`.

/// The slot of a member, named as Patroni names it: lower case; `-`, `.` and white space become `_`, any other character
/// that a slot name may not have becomes `u` and four hexadecimal digits; at most 63 characters.
pub fn slot_name(member: &str) -> String {
    let mut name = String::with_capacity(member.len());
    for c in member.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' | '_' => name.push(c),
            '-' | '.' | ' ' => name.push('_'),
            other => name.push_str(&format!("u{:04x}", u32::from(other))),
        }
    }
    // Everything pushed above is ASCII.
    name.truncate(63);
    name
}

#[cfg(test)]
mod tests {
    use super::slot_name;

    #[test]
    fn member_names_become_valid_slot_names() {
        assert_eq!(slot_name("pg1"), "pg1");
        assert_eq!(slot_name("Node-1.example.org"), "node_1_example_org");
        assert_eq!(slot_name("a b@c"), "a_bu0040c");
        assert_eq!(slot_name("ж"), "u0436");
        assert_eq!(slot_name(&"x".repeat(80)).len(), 63);
    }
}
