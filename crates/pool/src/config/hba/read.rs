//! Reads the host-based rules.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::{Hba, Kind, Method, Names, Network, Rule};
use crate::config::words::{Field, Word, fields};
use crate::config::{Fault, Idents};

/// Files of names within files of names.
const DEEPEST: usize = 10;

/// Why a line can't be used.
struct Unusable {
    why: String,
    /// Leaving it out would let in whom it was to keep out, or it asks for something known that isn't there.
    grave: bool,
}

impl Hba {
    /// Reads a file of rules: the rules, and what is wrong. A line that can't be read is left out with a warning, as
    /// pgbouncer does: it lets nobody in. Where it was to keep somebody out it's a fault.
    #[must_use]
    pub fn load(path: &Path, idents: &Idents) -> Reading {
        match fs::read(path) {
            Ok(bytes) => Self::parse(path, &bytes, idents),
            Err(e) => {
                let warnings = vec![Fault::io(path, "could not open hba config file", &e)];
                Reading { warnings, ..Reading::default() }
            }
        }
    }

    fn parse(path: &Path, bytes: &[u8], idents: &Idents) -> Reading {
        let mut reading = Reading::default();
        for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let words = str::from_utf8(line).map_err(|_| "the line isn't UTF-8").and_then(fields);
            let rule = match words {
                Ok(fields) => Reader { path, line: number + 1, idents }.rule(&fields),
                Err(why) => Err(Unusable { why: why.to_owned(), grave: line.ends_with(b"reject") }),
            };
            reading.take(path, number + 1, rule);
        }
        reading
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Reading {
    /// The rules that could be read.
    pub hba: Hba,
    /// What makes the file unusable.
    pub faults: Vec<Fault>,
    /// What was left out.
    pub warnings: Vec<Fault>,
}

impl Reading {
    fn take(&mut self, path: &Path, line: usize, rule: Result<Rule, Unusable>) {
        let rule = match rule {
            Ok(rule) => rule,
            Err(unusable) => {
                let fault = Fault::at(path, line, "could not parse hba config line").hint(unusable.why);
                let list = if unusable.grave { &mut self.faults } else { &mut self.warnings };
                return list.push(fault);
            }
        };
        if let Some(network) = rule.address.filter(|network| !network.can_fit()) {
            let text = format!("address does not match mask: {} / {}", network.address, network.mask);
            let fault = Fault::at(path, line, text).hint("the rule never applies");
            let list = if rule.method == Method::Reject { &mut self.faults } else { &mut self.warnings };
            list.push(fault);
        }
        self.hba.0.push(rule);
    }
}

/// One line, and what is needed to read it.
struct Reader<'a> {
    path: &'a Path,
    line: usize,
    idents: &'a Idents,
}

impl Reader<'_> {
    fn rule(&self, fields: &[Field]) -> Result<Rule, Unusable> {
        let known = |word: &Word| word.is("ldap") || word.is("pam");
        let grave = fields.iter().skip(3).flatten().any(|word| word.is("reject") || known(word));
        self.read(fields).map_err(|why| Unusable { why, grave })
    }

    fn read(&self, fields: &[Field]) -> Result<Rule, String> {
        let mut fields = fields.iter();
        let kind = kind(one(fields.next(), "a type")?)?;
        let databases = self.names(fields.next().ok_or("it names no database")?, true)?;
        let users = self.names(fields.next().ok_or("it names no user")?, false)?;
        let address = match kind {
            Kind::Local => None,
            _ => address(one(fields.next(), "an address")?, || one(fields.next(), "a mask"))?,
        };
        let method = method(one(fields.next(), "a method")?)?;
        let mut map = None;
        for option in fields {
            map = Some(self.map(one(Some(option), "an option")?)?);
        }
        Ok(Rule { line: self.line, kind, databases, users, address, method, map })
    }

    fn map(&self, option: &Word) -> Result<String, String> {
        let name = option.text.strip_prefix("map=").filter(|_| !option.quoted);
        let name = name.ok_or_else(|| format!("unknown option \"{}\": only map= is supported", option.text))?;
        let known = self.idents.has(name);
        if known { Ok(name.to_owned()) } else { Err(format!("ident map {name} is not found in ident config file")) }
    }

    fn names(&self, field: &Field, databases: bool) -> Result<Names, String> {
        let mut names = Names::default();
        self.add(&mut names, field, databases, 0)?;
        Ok(names)
    }

    fn add(&self, names: &mut Names, field: &Field, databases: bool, depth: usize) -> Result<(), String> {
        for word in field {
            match word.text.as_str() {
                name if word.quoted => names.names.push(name.to_owned()),
                "all" => names.all = true,
                "sameuser" if databases => names.same_user = true,
                "replication" if databases => names.replication = true,
                name @ ("samerole" | "samegroup") if databases => return Err(format!("{name} is not supported")),
                name if name.starts_with('+') && !databases => return Err(format!("groups are not supported: {name}")),
                name => match name.strip_prefix('@') {
                    Some(file) => self.add_file(names, file, databases, depth + 1)?,
                    None => names.names.push(name.to_owned()),
                },
            }
        }
        Ok(())
    }

    /// Names from a file, which is relative to the directory of the rules.
    fn add_file(&self, names: &mut Names, file: &str, databases: bool, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err("files name each other too deeply".to_owned());
        }
        let path = self.path.parent().map_or_else(|| PathBuf::from(file), |directory| directory.join(file));
        let text = fs::read_to_string(&path).map_err(|e| Fault::io(&path, "could not open", &e).text)?;
        for line in text.lines() {
            for field in fields(line).map_err(|why| format!("{}: {why}", path.display()))? {
                self.add(names, &field, databases, depth)?;
            }
        }
        Ok(())
    }
}

/// The only word of a field.
fn one<'a>(field: Option<&'a Field>, what: &str) -> Result<&'a Word, String> {
    match field.map(Vec::as_slice) {
        Some([word]) => Ok(word),
        Some(_) => Err(format!("a list can't be {what}")),
        None => Err(format!("it lacks {what}")),
    }
}

fn kind(word: &Word) -> Result<Kind, String> {
    match word.text.as_str() {
        "local" if !word.quoted => Ok(Kind::Local),
        "host" if !word.quoted => Ok(Kind::Host),
        "hostssl" if !word.quoted => Ok(Kind::HostSsl),
        "hostnossl" if !word.quoted => Ok(Kind::HostNoSsl),
        other => Err(format!("unknown type \"{other}\"")),
    }
}

fn method(word: &Word) -> Result<Method, String> {
    match word.text.as_str() {
        "trust" => Ok(Method::Trust),
        "reject" => Ok(Method::Reject),
        "md5" => Ok(Method::Md5),
        "scram-sha-256" => Ok(Method::Scram),
        "password" | "plain" => Ok(Method::Plain),
        "cert" => Ok(Method::Cert),
        "peer" => Ok(Method::Peer),
        other => Err(format!("unsupported method: {other}")),
    }
}

/// Addresses of a rule; `None`: all.
fn address<'a>(word: &Word, mask: impl FnOnce() -> Result<&'a Word, String>) -> Result<Option<Network>, String> {
    if word.is("all") {
        return Ok(None);
    }
    let (text, prefix) = match word.text.split_once('/') {
        Some((text, prefix)) => (text, Some(prefix)),
        None => (word.text.as_str(), None),
    };
    let address: IpAddr = text.parse().ok().filter(|_| !word.quoted).ok_or_else(|| {
        format!("failed to parse address \"{text}\": host names, samehost and samenet are not supported")
    })?;
    let mask = match prefix {
        Some(prefix) => prefix_mask(address, prefix).ok_or_else(|| format!("invalid mask \"{prefix}\""))?,
        None => {
            let text = &mask()?.text;
            let mask: Option<IpAddr> = text.parse().ok();
            mask.filter(|m| m.is_ipv4() == address.is_ipv4())
                .ok_or_else(|| format!("failed to parse mask \"{text}\""))?
        }
    };
    Ok(Some(Network { address, mask }))
}

/// The mask of that many bits.
fn prefix_mask(address: IpAddr, bits: &str) -> Option<IpAddr> {
    let bits: u32 = bits.parse().ok().filter(|_| bits.bytes().all(|b| b.is_ascii_digit()))?;
    match address {
        IpAddr::V4(_) if bits <= 32 => Some(Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(_) if bits <= 128 => {
            Some(Ipv6Addr::from_bits(u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into())
        }
        _ => None,
    }
}
