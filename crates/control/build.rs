//! Generates the gRPC types from the proto file. Nothing else is decided here.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .compile_protos(&["../../proto/pgherd/control/v1/control.proto"], &["../../proto"])?;
    Ok(())
}
