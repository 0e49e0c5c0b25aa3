//! The tokens that have a name, a hash and roles.

use super::document::{Node, Value};
use super::fault::shown;
use super::section::{Reading, file_key, text_of};
use super::settings::NamedToken;
use crate::domain::role::{Role, Roles};
use crate::domain::secret::TokenHash;

/// The most tokens that a file may name: each request is compared with all of them.
const MOST: usize = 1000;
const LONGEST_NAME: usize = 64;

/// Reads `[tokens]`.
pub(super) fn read<'a>(reading: &mut Reading<'a>, root: Option<&'a Node>) -> Vec<NamedToken> {
    let table = match root.map(|node| (&node.value, &node.origin)) {
        None => return Vec::new(),
        Some((Value::Table(table), _)) if table.len() <= MOST => table,
        Some((Value::Table(table), origin)) => {
            reading.fault(origin.clone(), "tokens", format!("has {} tokens; name at most {MOST}", table.len()));
            return Vec::new();
        }
        Some((other, origin)) => {
            reading.fault(origin.clone(), "tokens", format!("must hold tables such as `[tokens.ci]`, not {}", other.describe()));
            return Vec::new();
        }
    };
    let mut tokens: Vec<NamedToken> = Vec::new();
    for (name, node) in table {
        let path = format!("tokens.{}", shown(name));
        if !is_token_name(name) {
            let message = format!("has a bad name: use 1 to {LONGEST_NAME} letters, digits, `_`, `.`, `-` and `@`");
            reading.fault(node.origin.clone(), &path, message);
            continue;
        }
        let Some(token) = token(reading, name, node) else { continue };
        match tokens.iter().find(|other| other.hash == token.hash) {
            Some(other) => {
                let message =
                    format!("has the hash of `tokens.{}`: give each caller a token of its own with `sandclock token new`", other.name);
                reading.fault(node.origin.clone(), &path, message);
            }
            None => tokens.push(token),
        }
    }
    tokens
}

/// Whether a caller may be called so.
pub fn is_token_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-@".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_fit)
}

fn token<'a>(reading: &mut Reading<'a>, name: &str, node: &'a Node) -> Option<NamedToken> {
    let path = format!("tokens.{name}");
    let mut section = reading.open(Some(node), path.clone()).file_only();
    let hash = section.given(file_key("hash"), hash_of);
    let roles = section.given(file_key("roles"), roles_of);
    let has_hash = section.node("hash").is_some();
    let has_roles = section.node("roles").is_some();
    if let Some((hash, origin)) = &hash {
        section.tell("hash", hash.to_string().into(), origin.clone());
    }
    if let Some((roles, origin)) = &roles {
        section.tell("roles", roles.iter().map(Role::as_str).collect::<Vec<_>>().into(), origin.clone());
    }
    section.finish();
    // A table that is none has a fault already.
    let is_table = matches!(node.value, Value::Table(_));
    for (key, is_there, mend) in [
        ("hash", has_hash, "must be there: `sandclock token new` makes a token and its hash"),
        ("roles", has_roles, "must be there, as in roles = [\"read\"]: read, operate, approve or deploy"),
    ] {
        if is_table && !is_there {
            reading.fault(node.origin.clone(), &format!("{path}.{key}"), mend);
        }
    }
    Some(NamedToken { name: name.to_owned(), hash: hash?.0, roles: roles?.0 })
}

/// Whoever pastes a token in place of its hash must not find it in a message.
fn hash_of(node: &Node) -> Result<TokenHash, String> {
    let read = text_of(node).ok().and_then(TokenHash::parse);
    read.ok_or_else(|| "must be `sha256:` and 64 hexadecimal digits, as `sandclock token new` prints it; never the token itself".to_owned())
}

fn roles_of(node: &Node) -> Result<Roles, String> {
    let Value::List(nodes) = &node.value else {
        return Err(format!("must be a list such as [\"operate\"], not {}", node.value.describe()));
    };
    let role = |node: &Node| {
        let text = text_of(node).map_err(|fault| format!("holds a role that {fault}"))?;
        Role::parse(text).ok_or_else(|| format!("has `{}`, which is no role: use {}", shown(text), Roles::ALL))
    };
    let roles = nodes.iter().map(role).collect::<Result<Vec<_>, _>>()?;
    if roles.is_empty() { Err(format!("must name at least one role of {}", Roles::ALL)) } else { Ok(Roles::of(roles)) }
}
