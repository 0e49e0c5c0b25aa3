//! Writes the Rust bindings of a world: `rust-bindings WORLD OUT.rs WIT_FILE...`, where the last file has the world and the others
//! are the packages that it imports. `make bindings` calls it.

use sha2::{Digest, Sha256};
use std::error::Error;
use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [world, out, wit_files @ ..] = args.as_slice() else {
        return Err("usage: rust-bindings WORLD OUT.rs WIT_FILE...".into());
    };
    let mut digest = Sha256::new();
    let mut resolve = Resolve::default();
    let mut last = None;
    for wit_file in wit_files {
        let wit = std::fs::read_to_string(wit_file)?;
        digest.update(wit.as_bytes());
        last = Some(resolve.push_str(wit_file, &wit)?);
    }
    let package = last.ok_or("name at least one WIT file")?;
    let world_id = resolve.select_world(&[package], Some(world))?;
    let options = wit_bindgen_rust::Opts {
        format: true,
        pub_export_macro: true,
        generate_all: true,
        default_bindings_module: Some("sandclock_agent::bindings".into()),
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world_id, &mut files)?;
    let (_, code) = files.iter().next().ok_or("the generator wrote no file")?;
    // The host's tests compare this line with the WIT files, so bindings cannot fall behind them unseen.
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("// {} sha256 {digest}\n", wit_files.join(" ")).into_bytes();
    text.extend_from_slice(code);
    std::fs::write(out, text)?;
    Ok(())
}
