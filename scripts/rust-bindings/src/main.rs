//! Writes the Rust bindings of the world `agent`: `rust-bindings WIT_FILE OUT.rs`. `make bindings` calls it.

use sha2::{Digest, Sha256};
use std::error::Error;
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, wit_file, out] = args.as_slice() else {
        return Err("usage: rust-bindings WIT_FILE OUT.rs".into());
    };
    let wit = std::fs::read_to_string(wit_file)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str(wit_file, &wit)?;
    let world = resolve.select_world(&[package], Some("agent"))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        pub_export_macro: true,
        default_bindings_module: Some("sandclock_agent::bindings".into()),
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let (_, code) = files.iter().next().ok_or("the generator wrote no file")?;
    // The host's tests compare this line with the contract, so bindings cannot fall behind it unseen.
    let digest: String = Sha256::digest(wit.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("// wit/agent.wit sha256 {digest}\n").into_bytes();
    text.extend_from_slice(code);
    std::fs::write(out, text)?;
    Ok(())
}
