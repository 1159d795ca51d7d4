//! Settings that pgbouncer has and that do nothing here, or not everything, and settings that contradict each other.
//! What would be dangerous to pass over is refused, the rest is warned of.

use super::Fault;
use super::load::{Findings, Places};
use super::settings::{AuthType, Settings, SslMode};

/// Why a setting can't have a value that pgbouncer takes.
pub(super) fn refusal(name: &str, value: &str) -> Option<String> {
    let lower = value.to_ascii_lowercase();
    let is_known = name == "auth_type" && matches!(lower.as_str(), "pam" | "ldap");
    is_known.then(|| format!("auth_type {lower} is not supported"))
}

/// Looks for what isn't supported and for contradictions.
pub(super) fn check(settings: &Settings, places: &Places) -> Findings {
    let about = |name: &str, text: String, hint: &str| {
        let fault = match places.get(name) {
            Some(place) => place.fault(text),
            None => Fault::of(&settings.conffile, text),
        };
        fault.hint(hint)
    };
    let refused = refused(settings).into_iter().filter(|(_, applies, ..)| *applies);
    let ignored = ignored(settings).into_iter().filter(|(_, applies, _)| *applies);
    let mut findings = Findings {
        faults: refused.map(|(name, _, text, hint)| about(name, text.to_owned(), hint)).collect(),
        warnings: ignored.map(|(name, _, hint)| about(name, format!("{name} has no effect"), hint)).collect(),
    };
    if settings.unix_socket_mode.0 > 0o777 {
        let text = format!("unix_socket_mode {0} is {0:04o} in octal", settings.unix_socket_mode.0);
        findings.warnings.push(about("unix_socket_mode", text, "octal numbers begin with a zero"));
    }
    findings
}

type Refusal = (&'static str, bool, &'static str, &'static str);

fn refused(settings: &Settings) -> [Refusal; 6] {
    let cert = settings.auth_type == AuthType::Cert && settings.client_tls_sslmode != SslMode::VerifyFull;
    [
        ("syslog", settings.syslog, "syslog is not supported", "log to a file or to standard error"),
        ("peer_id", settings.peer_id != 0, "peer_id is not supported", "one process uses all cores"),
        ("auth_type", cert, "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL", ""),
        (
            "disable_pqexec",
            settings.disable_pqexec,
            "disable_pqexec is not supported",
            "simple queries are let through",
        ),
        (
            "auth_dbname",
            settings.auth_dbname.as_deref() == Some("pgbouncer"),
            "cannot use the reserved \"pgbouncer\" database as an auth_dbname",
            "",
        ),
        (
            "metrics_listen",
            !is_address(&settings.metrics_listen),
            "invalid value for parameter metrics_listen in configuration",
            "it takes an address and a port such as 127.0.0.1:9127, or nothing",
        ),
    ]
}

fn ignored(settings: &Settings) -> [(&'static str, bool, &'static str); 12] {
    let params = settings.client_tls_dheparams.as_str();
    let dheparams = !["auto", "none", ""].contains(&params);
    let (zones, resolv) = (!settings.dns_zone_check_period.is_zero(), settings.resolv_conf.is_some());
    [
        ("auth_ldap_options", settings.auth_ldap_options.is_some(), "LDAP is not supported"),
        ("client_tls_dheparams", dheparams, "keys are exchanged over elliptic curves only"),
        ("dns_zone_check_period", zones, NO_CACHE),
        ("resolv_conf", resolv, "names are looked up as the system is set up to"),
        ("pkt_buf", settings.pkt_buf != Settings::default().pkt_buf, "buffers have a fixed size"),
        (
            "autodb_idle_timeout",
            settings.autodb_idle_timeout != Settings::default().autodb_idle_timeout,
            "unused pools keep no servers and are kept themselves",
        ),
        (
            "pool_idle_timeout",
            !settings.pool_idle_timeout.is_zero(),
            "unused pools keep no servers and are kept themselves",
        ),
        ("dns_max_ttl", settings.dns_max_ttl != Settings::default().dns_max_ttl, NO_CACHE),
        ("dns_nxdomain_ttl", settings.dns_nxdomain_ttl != Settings::default().dns_nxdomain_ttl, NO_CACHE),
        ("server_fast_close", settings.server_fast_close, "a server is closed when its session gives it back"),
        (
            "suspend_timeout",
            settings.suspend_timeout != Settings::default().suspend_timeout,
            "SUSPEND waits for no client",
        ),
        (
            "sbuf_loopcnt",
            settings.sbuf_loopcnt != Settings::default().sbuf_loopcnt,
            "connections take turns by themselves",
        ),
    ]
}

/// About the settings of a cache of names.
const NO_CACHE: &str = "names are looked up for each connection";

/// Whether a text is empty or an address with a port.
fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    text.is_empty() || parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
