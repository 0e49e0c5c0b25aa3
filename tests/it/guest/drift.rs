//! The committed Rust bindings belong to the WIT files as they are.

use sha2::{Digest, Sha256};

/// The first line of bindings of these files, each as its name and its bytes.
fn first_line(files: &[(&str, &[u8])]) -> String {
    let mut digest = Sha256::new();
    for (_, bytes) in files {
        digest.update(bytes);
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    format!("// {} sha256 {digest}", names.join(" "))
}

#[test]
fn the_rust_bindings_are_of_this_contract() {
    let expected = first_line(&[("wit/agent.wit", include_bytes!("../../../wit/agent.wit"))]);
    let found = include_str!("../../../wit/rust/src/bindings.rs").lines().next();
    assert_eq!(found, Some(expected.as_str()), "run `make bindings` and commit wit/rust/src/bindings.rs");
}

#[test]
fn the_rust_bindings_of_services_are_of_these_interfaces() {
    let expected = first_line(&[
        ("src/sandbox/wit/config-rc1/config.wit", include_bytes!("../../../src/sandbox/wit/config-rc1/config.wit")),
        ("src/sandbox/wit/keyvalue-draft2/keyvalue.wit", include_bytes!("../../../src/sandbox/wit/keyvalue-draft2/keyvalue.wit")),
        ("wit/rust/services.wit", include_bytes!("../../../wit/rust/services.wit")),
    ]);
    let found = include_str!("../../../wit/rust/src/services.rs").lines().next();
    assert_eq!(found, Some(expected.as_str()), "run `make bindings` and commit wit/rust/src/services.rs");
}
