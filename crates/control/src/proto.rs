//! The types generated from `proto/pgherd/control/v1/control.proto`. Nothing is written by hand here.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::large_futures, clippy::too_many_lines)]

tonic::include_proto!("pgherd.control.v1");
