//! The committed Rust bindings belong to the contract as it is.

use sha2::{Digest, Sha256};

#[test]
fn the_rust_bindings_are_of_this_contract() {
    let digest: String = Sha256::digest(include_bytes!("../../../wit/agent.wit")).iter().map(|byte| format!("{byte:02x}")).collect();
    let first_line = include_str!("../../../wit/rust/src/bindings.rs").lines().next();
    assert_eq!(
        first_line,
        Some(format!("// wit/agent.wit sha256 {digest}").as_str()),
        "run `make bindings` and commit wit/rust/src/bindings.rs"
    );
}
