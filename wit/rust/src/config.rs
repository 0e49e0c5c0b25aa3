//! The values that the configuration gives this agent: `[agents.NAME].config`, through `wasi:config`. They are frozen when the attempt
//! begins, and nothing secret belongs there.

use crate::services::wasi::config::store;

/// The value of a name; none where it is not set. What is no text in the configuration comes as its JSON text (`0.9`, `true`, `["a"]`).
pub fn get(name: &str) -> Option<String> {
    store::get(name).ok().flatten()
}

/// Every name that is set, with its value.
pub fn all() -> Vec<(String, String)> {
    store::get_all().unwrap_or_default()
}

/// The value of a name as a type: a text, or what its JSON text says.
///
/// # Errors
/// The value is not of that type; the sentence names it.
#[cfg(feature = "json")]
pub fn json<T: serde::de::DeserializeOwned>(name: &str) -> Result<Option<T>, crate::Failure> {
    get(name).map(|text| parse(name, &text)).transpose()
}

/// The configuration gives a text as it is and all else as JSON, so a text is tried as both.
#[cfg(feature = "json")]
fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, crate::Failure> {
    serde_json::from_str(text)
        .or_else(|fault| serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|_| fault))
        .map_err(|fault| {
            crate::Failure::permanent(format!("`{name}` in this agent's `config` is not of the kind that it must be: {fault}"))
        })
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use super::*;
    use crate::Failure;

    #[test]
    fn a_text_and_json_are_both_read() {
        assert_eq!(parse::<String>("model", "small-1").ok(), Some("small-1".to_owned()));
        assert_eq!(parse::<f64>("temperature", "0.5").ok(), Some(0.5));
        assert_eq!(parse::<Vec<String>>("tools", r#"["read"]"#).ok(), Some(vec!["read".to_owned()]));
    }

    #[test]
    fn a_wrong_kind_names_the_key() {
        let Err(Failure::Permanent(why)) = parse::<u32>("max_turns", "many") else { panic!("not refused") };
        assert!(why.contains("`max_turns`"), "{why}");
    }
}
