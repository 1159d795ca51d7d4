//! The pooler before a cluster: real PostgreSQL servers and real clients; the cluster's topology is the test's own say. What
//! the program makes of a DCS is tested in tests/e2e.

mod commit;
mod cut;
mod hold;
mod readers;
mod site;
