//! Who may ask, as the file says it: tokens with names, and the files of a listener with TLS.

use std::path::PathBuf;

use sandclock::config::{Secret, TokenHash};
use sandclock::domain::role::{Role, Roles};

use super::{bad, good, one_fault};

#[test]
fn named_tokens_are_hashes_with_roles_and_a_token_in_the_place_of_its_hash_is_not_repeated() {
    let hash = |text: &str| TokenHash::of(text.as_bytes());
    let (ann, bob) = (hash("ann"), hash("bob"));
    let text = format!(
        "[server]\nlisten = [\"0.0.0.0:1\"]\n[tokens.ann]\nhash = \"{ann}\"\nroles = [\"operate\", \"approve\"]\n\
         [tokens.\"bob@ci\"]\nhash = \"{bob}\"\nroles = [\"read\"]"
    );
    let tokens = good(&text, &[]).settings.server.tokens;
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    let of = |name: &str| tokens.iter().find(|token| token.name == name).unwrap();
    assert_eq!((of("ann").hash, of("ann").roles), (ann, Roles::of([Role::Operate, Role::Approve])));
    assert_eq!((of("bob@ci").hash, of("bob@ci").roles), (bob, Roles::of([])));
    for (text, pieces) in [
        ("tokens = 1".to_owned(), ["`tokens` must hold tables", "[tokens.ci]"]),
        ("[tokens]\na = 1".to_owned(), ["`tokens.a` must be a table", "not 1"]),
        (format!("[tokens.a]\nhash = \"{ann}\""), ["`tokens.a.roles` must be there", "operate"]),
        ("[tokens.a]\nroles = [\"read\"]".to_owned(), ["`tokens.a.hash` must be there", "token new"]),
        (format!("[tokens.a]\nhash = \"{ann}\"\nroles = []"), ["`tokens.a.roles` must name", "read, operate, approve, deploy"]),
        (format!("[tokens.a]\nhash = \"{ann}\"\nroles = [\"admin\"]"), ["`admin`", "read, operate, approve, deploy"]),
        (format!("[tokens.a]\nhash = \"{ann}\"\nroles = \"read\""), ["must be a list", "read"]),
        (format!("[tokens.\"a b\"]\nhash = \"{ann}\"\nroles = [\"read\"]"), ["`tokens.a b` has a bad name", "letters"]),
        (format!("[tokens.a]\nhash = \"{ann}\"\nroles = [\"read\"]\nrole = 1"), ["`tokens.a.role` is not a setting", "roles"]),
    ] {
        one_fault(&text, &[], &pieces);
    }
    let twice = format!("[tokens.a]\nhash = \"{ann}\"\nroles = [\"read\"]\n[tokens.b]\nhash = \"{ann}\"\nroles = [\"read\"]");
    one_fault(&twice, &[], &["`tokens.b` has the hash of `tokens.a`"]);
    let pasted = bad("[tokens.a]\nhash = \"tiger-7421\"\nroles = [\"read\"]", &[]);
    assert!(pasted.contains("never the token itself") && !pasted.contains("tiger"), "{pasted}");
}

#[test]
fn a_listener_with_tls_needs_both_files() {
    let both = good("[server]\ntls_cert_file = \"c.pem\"\ntls_key_file = \"k.pem\"", &[]).settings.server.tls.unwrap();
    assert_eq!((both.certificates, both.key), (PathBuf::from("c.pem"), PathBuf::from("k.pem")));
    assert_eq!(good("[server]\ntls_cert_file = \"\"", &[]).settings.server.tls, None);
    one_fault("[server]\ntls_cert_file = \"c.pem\"", &[], &["`server.tls_cert_file` needs `server.tls_key_file`"]);
    one_fault("[server]\ntls_key_file = \"k.pem\"", &[], &["`server.tls_key_file` needs `server.tls_cert_file`"]);
    one_fault("", &[("SANDCLOCK_TLS_KEY_FILE", "k.pem")], &["SANDCLOCK_TLS_KEY_FILE: "]);
}

#[test]
fn w_32_a_public_address_needs_a_token() {
    for address in ["0.0.0.0:8000", "[::]:8000", "192.168.1.5:80", "[::ffff:10.0.0.1]:80"] {
        let text = format!("[server]\nlisten = [\"127.0.0.1:1\", \"{address}\"]");
        one_fault(&text, &[], &["x.toml:2: `server.listen` has the public address", "set `server.token_file`", "127.0.0.1"]);
        good(&text, &[("SANDCLOCK_TOKEN", "t0ken")]);
    }
    for address in ["127.8.8.8:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
        good(&format!("[server]\nlisten = [\"{address}\"]"), &[]);
    }
    one_fault("", &[("SANDCLOCK_LISTEN", "0.0.0.0:1, 127.0.0.1:1")], &["SANDCLOCK_LISTEN: `server.listen` has the public address"]);
    one_fault("", &[("OMNICOREAGENT_SERVE_HOST", "0.0.0.0")], &["OMNICOREAGENT_SERVE_HOST: "]);
}

#[test]
fn the_token_comes_from_the_higher_of_its_two_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let path = file.to_str().unwrap();
    let token = |text: &str, env: &[(&str, &str)]| good(text, env).settings.server.token.unwrap().expose().to_owned();
    assert_eq!(token(&format!("[server]\ntoken_file = \"{path}\""), &[]), "from-file");
    assert_eq!(token("[server]\ntoken = \"direct\"", &[("SANDCLOCK_TOKEN_FILE", path)]), "from-file");
    assert_eq!(token(&format!("[server]\ntoken_file = \"{path}\""), &[("SANDCLOCK_TOKEN", "direct")]), "direct");
    one_fault(&format!("[server]\ntoken = \"tiger\"\ntoken_file = \"{path}\""), &[], &["x.toml:3: ", "both given"]);
    one_fault("[server]\nlisten = [\"0.0.0.0:1\"]\ntoken_file = \"/nowhere/token\"", &[], &["x.toml:3: ", "cannot be read"]);
    std::fs::write(&file, " \n").unwrap();
    one_fault("", &[("SANDCLOCK_TOKEN_FILE", path)], &["which is empty"]);
    std::fs::write(&file, "tiger 7421").unwrap();
    assert!(!bad("", &[("SANDCLOCK_TOKEN_FILE", path)]).contains("tiger"));
}

#[test]
fn w_32_no_form_of_what_is_loaded_shows_a_token() {
    let loaded = good("[server]\ntoken = \"tiger-7421\"", &[]);
    assert_eq!(loaded.settings.server.token, Some(Secret::new("tiger-7421")));
    assert!(!format!("{loaded:?} {loaded:#?}").contains("tiger"));
    for text in ["[server]\ntoken = [\"tiger\"]", "[server]\ntoken = \"tiger tiger\"", "[store]\nurl = \"redis://u:ti/tiger@h\""] {
        assert!(!bad(text, &[]).contains("tiger"));
    }
}
