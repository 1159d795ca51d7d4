//! The pooler between real clients and a real PostgreSQL. Every test here also passes on pgbouncer 1.24 (the program is
//! chosen by `$PGHERD_TEST_POOLER`), so each is a statement of what pgbouncer's users rely on; where pgherd is meant to
//! differ, the test says so.

mod modes;
