//! The nearest known name for a misspelt one.

/// Advice for a name that isn't known; empty when no known name is like it.
pub(super) fn advice<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let lower = written.to_lowercase();
    let slips = |name: &&str| strsim::osa_distance(&lower, name);
    let near = known.into_iter().min_by_key(slips).filter(|name| slips(name) <= 1 + name.len() / 5);
    near.map_or(String::new(), |name| format!("did you mean \"{name}\"?"))
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn the_nearest_name_is_found_when_there_is_one() {
        let known = ["pool_mode", "pool_size", "host", "user"];
        assert_eq!(advice("pool_mod", known), "did you mean \"pool_mode\"?");
        assert_eq!(advice("Pool-Mode", known), "did you mean \"pool_mode\"?");
        assert_eq!(advice("hots", known), "did you mean \"host\"?");
        assert_eq!(advice("password", known), "");
        assert_eq!(advice("", []), "");
    }
}
