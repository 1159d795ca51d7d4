//! The configuration: pgbouncer.ini, the user list, host-based rules. Parsed and checked here, used elsewhere.

/// Name of the program.
pub const PROGRAM: &str = "pgherd-pooler";
