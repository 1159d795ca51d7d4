//! `pgherd-pooler`: the pooler's program. Flags, the log, signals and the pidfile; what pooling is lives in `pool`.

fn main() {
    let _ = pool::config::PROGRAM;
}
