//! Man pages and shell completions, from the programs' own command lines. What clap doesn't know stands in man/, in roff.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::VERSION;

// The files themselves, because a dependency on the crates would bring everything that the programs are made of into
// xtask. They need nothing but clap.
#[allow(dead_code, reason = "here they are described, not read")]
#[path = "../../../crates/agent/src/cli.rs"]
mod agent;
#[allow(dead_code, reason = "here they are described, not read")]
#[path = "../../../crates/ctl/src/cli.rs"]
mod ctl;
#[allow(dead_code, reason = "here they are described, not read")]
#[path = "../../../crates/pooler/src/flags.rs"]
mod pooler;

const AGENT: &str = include_str!("man/pgherd-agent.8");
const POOLER: &str = include_str!("man/pgherd-pooler.8");
const CTL: &str = include_str!("man/pgherdctl.1");

/// Writes them into a directory that looks like /usr/share.
pub(super) fn write(share: &Path) -> Result<()> {
    for (name, text) in man_pages()? {
        let section = name.rsplit('.').next().unwrap_or_default();
        put(&share.join(format!("man/man{section}")), &name, &text)?;
    }
    for command in [agent::Cli::command(), ctl::Cli::command(), pooler::Flags::command()] {
        for (shell, directory) in [
            (Shell::Bash, "bash-completion/completions"),
            (Shell::Zsh, "zsh/vendor-completions"),
            (Shell::Fish, "fish/vendor_completions.d"),
        ] {
            let (name, text) = completion(command.clone(), shell);
            put(&share.join(directory), &name, &text)?;
        }
    }
    Ok(())
}

fn put(directory: &Path, name: &str, text: &[u8]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    fs::write(directory.join(name), text).with_context(|| format!("write {name}"))
}

/// The file's name, as the shell looks for it, and its text.
fn completion(mut command: clap::Command, shell: Shell) -> (String, Vec<u8>) {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut text);
    let file = match shell {
        Shell::Zsh => format!("_{name}"),
        Shell::Fish => format!("{name}.fish"),
        _ => name,
    };
    (file, text)
}

/// Names and texts of all pages. Each verb of pgherdctl has its own, `pgherdctl-VERB`.
fn man_pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut command = ctl::Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = vec![page(command.clone(), "1", CTL)?];
    for verb in command.get_subcommands() {
        pages.push(page(verb.clone(), "1", "")?);
    }
    pages.push(page(pooler::Flags::command(), "8", POOLER)?);
    pages.push(page(agent::Cli::command(), "8", AGENT)?);
    Ok(pages)
}

/// A page from what clap knows, followed by `more`.
fn page(command: clap::Command, section: &str, more: &str) -> Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let notes = command.get_after_help().map(|text| notes(&text.to_string())).unwrap_or_default();
    let verbs = command.get_subcommands().next().is_some();
    let man = Man::new(command).section(section);
    let mut text = title(&name, section).into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if verbs {
        man.render_subcommands_section(&mut text)?;
    }
    write!(text, "{notes}{more}")?;
    Ok((format!("{name}.{section}"), text))
}

fn title(name: &str, section: &str) -> String {
    format!(".TH {} {section} \"\" \"pgherd {VERSION}\" \"pgherd\"\n", escaped(name))
}

/// What clap prints below the options. Lines keep their indentation and stay apart; long ones are wrapped.
fn notes(text: &str) -> String {
    let line = |line: &str| if line.is_empty() { ".PP\n".to_owned() } else { format!("{}\n.br\n", escaped(line)) };
    format!(".SH NOTES\n{}", text.lines().map(line).collect::<String>())
}

/// A line of text that roff takes for nothing else (groff(7), "Escape sequences").
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(name: &str) -> String {
        let pages = man_pages().unwrap();
        let (_, text) = pages.into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is missing"));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_verb_has_a_page_with_its_options() {
        let verbs: Vec<String> = ctl::Cli::command().get_subcommands().map(|v| v.get_name().to_owned()).collect();
        assert!(verbs.len() > 10, "{verbs:?}");
        for verb in verbs {
            let page = text_of(&format!("pgherdctl-{verb}.1"));
            assert!(page.contains(".SH SYNOPSIS") && page.contains("config\\-file"), "{page}");
        }
        assert!(text_of("pgherdctl-edit-config.1").contains("\\-\\-replace"));
        let page = text_of("pgherdctl.1");
        assert!(page.contains("pgherdctl\\-switchover(1)") && page.contains("\\-\\-rolling"), "{page}");
    }

    #[test]
    fn exit_codes_are_on_the_pages() {
        for name in ["pgherdctl.1", "pgherd-pooler.8", "pgherd-agent.8"] {
            let page = text_of(name);
            assert!(page.starts_with(".TH ") && page.contains("64"), "{page}");
            assert_eq!(page.matches(".SH NAME").count(), 1);
        }
        assert!(text_of("pgherd-agent.8").contains("\\-\\-validate\\-config"));
        assert!(!text_of("pgherd-pooler.8").contains("background process"), "hidden flags stay hidden");
    }

    #[test]
    fn roff_sees_text_as_text() {
        assert_eq!(escaped(".SH a\\b -c"), "\\&.SH a\\eb \\-c");
        assert_eq!(notes("Codes:\n  0  done\n\nMore"), ".SH NOTES\nCodes:\n.br\n  0  done\n.br\n.PP\nMore\n.br\n");
    }

    #[test]
    fn shells_look_for_these_files() {
        let names = [Shell::Bash, Shell::Zsh, Shell::Fish].map(|s| completion(ctl::Cli::command(), s));
        assert_eq!(names.each_ref().map(|(name, _)| name.as_str()), ["pgherdctl", "_pgherdctl", "pgherdctl.fish"]);
        for (name, text) in names {
            assert!(String::from_utf8(text).unwrap().contains("switchover"), "{name}");
        }
    }
}
