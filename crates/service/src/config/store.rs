//! Which DCS the configuration names, and etcd's addresses in all their spellings. Connecting is not here.

use serde_json::{Value, json};

use super::model::{Dcs, Embedded, Etcd};
use super::read::{Reader, host_port};

/// Sections of the file that name a DCS; Patroni's others aren't supported.
const SECTIONS: [&str; 3] = ["etcd", "etcd3", "embedded"];

/// Reads the one DCS section there must be.
pub(super) fn dcs(r: &mut Reader<'_>) -> Dcs {
    let given: Vec<&str> = SECTIONS.into_iter().filter(|s| r.get(s).is_some()).collect();
    match given.as_slice() {
        ["embedded"] => {
            let path = r.path("embedded.path").unwrap_or_default();
            if r.get("embedded.path").is_none() {
                r.missing("embedded.path", "/var/lib/pgherd/dcs.sqlite");
            }
            Dcs::Embedded(Embedded { path })
        }
        [section] => Dcs::Etcd(etcd(r, section)),
        [] => {
            let message = "no DCS is configured: add a section \"etcd3\" with \"hosts\" (or \"embedded\" with \"path\" \
                           for a cluster on one machine)";
            r.fault("", message);
            Dcs::Etcd(Etcd::default())
        }
        several => {
            r.fault(several[1], format!("sections {} are both there: keep one", several.join(" and ")));
            Dcs::Etcd(Etcd::default())
        }
    }
}

fn etcd(r: &mut Reader<'_>, section: &str) -> Etcd {
    let at = |key: &str| format!("{section}.{key}");
    let etcd = Etcd {
        endpoints: endpoints(r, section),
        username: r.text(&at("username")),
        password: r.secret(&at("password")),
        cacert: r.path(&at("cacert")),
        cert: r.path(&at("cert")),
        key: r.path(&at("key")),
    };
    if etcd.username.is_some() != etcd.password.is_some() {
        r.fault(section, "username and password go together: one of them is missing");
    }
    if etcd.key.is_some() && etcd.cert.is_none() {
        r.fault(&at("key"), format!("has no effect without {section}.cert"));
    }
    for (key, file) in [("cacert", &etcd.cacert), ("cert", &etcd.cert), ("key", &etcd.key)] {
        if let Some(Err(e)) = file.as_ref().map(std::fs::File::open) {
            r.fault(&at(key), format!("can't open {}: {e}", file.clone().unwrap_or_default().display()));
        }
    }
    etcd
}

/// `url`, `hosts` (a list or a text with commas) or `host`, as URLs. Hosts without a port get etcd's 2379.
fn endpoints(r: &mut Reader<'_>, section: &str) -> Vec<String> {
    let at = |key: &str| format!("{section}.{key}");
    let protocol = r.word(&at("protocol"), "http", &[("http", "http"), ("https", "https")]);
    let (path, texts) = if let Some(url) = r.text(&at("url")) {
        ("url", vec![url])
    } else if let Some(hosts) = hosts(r, &at("hosts")) {
        ("hosts", hosts)
    } else if let Some(host) = r.text(&at("host")) {
        ("host", vec![host])
    } else {
        let srv = if r.get(&at("srv")).is_some() { " (srv is not supported yet)" } else { "" };
        r.fault(section, format!("names no etcd: set \"hosts\", for example \"10.0.0.1:2379,10.0.0.2:2379\"{srv}"));
        return Vec::new();
    };
    let mut urls = Vec::new();
    for text in texts {
        match endpoint(&text, protocol) {
            Ok(url) => urls.push(url),
            Err(why) => r.fault(&at(path), format!("\"{text}\" is not an address: {why}")),
        }
    }
    urls
}

fn hosts(r: &mut Reader<'_>, path: &str) -> Option<Vec<String>> {
    let list = match r.get(path)? {
        // Patroni takes a text in YAML's list form too, with or without the brackets: `'a:1', 'b:2'`.
        Value::String(text) => {
            let bare = text.trim().strip_prefix("['").and_then(|t| t.strip_suffix("']"));
            vec![bare.unwrap_or(text).to_owned()]
        }
        _ => r.list(path)?,
    };
    let split = list.iter().flat_map(|text| text.split(','));
    let clean = split.map(|text| text.trim().trim_matches(['\'', '"']).to_owned());
    Some(clean.filter(|text| !text.is_empty()).collect())
}

fn endpoint(text: &str, protocol: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or((protocol, text));
    if !matches!(scheme, "http" | "https") {
        return Err(format!("the protocol {scheme} is not http or https"));
    }
    let authority = rest.trim_end_matches('/');
    let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
    Ok(format!("{scheme}://{}", host_port(authority, Some(2379))?))
}

/// The layer that a DCS given on the command line makes: it replaces every DCS section.
pub(super) fn from_url(url: &str, merged: &mut Value) -> Result<(), String> {
    let section = match url.split_once(':') {
        Some(("embedded", path)) => json!({"embedded": {"path": path.trim_start_matches("//")}}),
        Some(("etcd" | "etcd3", rest)) => json!({"etcd3": {"hosts": rest.trim_start_matches('/')}}),
        Some(("http" | "https", _)) => json!({"etcd3": {"hosts": url}}),
        _ => {
            return Err(format!(
                "\"{url}\" is not etcd3://HOST:PORT[,HOST:PORT], http://.., https://.. or embedded:/PATH"
            ));
        }
    };
    let Some(map) = merged.as_object_mut() else { return Ok(()) };
    let old = SECTIONS.into_iter().filter_map(|s| map.remove(s)).next();
    for (name, value) in section.as_object().into_iter().flatten() {
        let mut value = value.clone();
        // User, password and certificates of the file stay in force for another address.
        if let (Some(new), Some(old), "etcd3") =
            (value.as_object_mut(), old.as_ref().and_then(Value::as_object), name.as_str())
        {
            for key in ["username", "password", "cacert", "cert", "key", "protocol"] {
                if let Some(kept) = old.get(key) {
                    new.insert(key.to_owned(), kept.clone());
                }
            }
        }
        map.insert(name.clone(), value);
    }
    Ok(())
}
