//! The PostgreSQL wire protocol (PostgreSQL documentation, chapter "Frontend/Backend Protocol"): reading and building
//! messages. No I/O.
