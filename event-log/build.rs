//! Makes the types of the EventStoreDB protocol from its definitions, where they are asked for.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=protos");
    #[cfg(feature = "wire")]
    generate()?;
    Ok(())
}

#[cfg(feature = "wire")]
fn generate() -> Result<(), Box<dyn std::error::Error>> {
    let definitions = protox::compile(
        ["streams.proto", "persistent.proto", "gossip.proto", "serverfeatures.proto", "status.proto"],
        ["protos"],
    )?;
    tonic_prost_build::configure()
        .build_client(false)
        // Payloads stay slices of the buffer that they arrived in.
        .bytes(".")
        .compile_fds(definitions)?;
    Ok(())
}
