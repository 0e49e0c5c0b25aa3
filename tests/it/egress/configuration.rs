//! `[agents.NAME.http]` and `[credentials.NAME]` as they are written.

use sandclock::config::Loaded;
use sandclock::domain::http::{HttpLimits, Source};
use sandclock::domain::time::Seconds;

use super::*;

fn loaded(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let environment = Environment::of(variables.iter().copied());
    config::parse(text, Path::new("sandclock.toml"), &environment).map_err(|faults| faults.to_string())
}

const WHOLE: &str = r#"
[agents.a.http]
allow = ["https://API.example.com/v1/", { url = "http://localhost:11434", methods = ["GET"], addresses = ["10.0.0.0/8", "fd00::1"] }]
credentials = ["one"]
max_calls = 5
max_request_bytes = 6
max_response_bytes = 7
max_seconds = 0.5
max_concurrent = 8

[credentials.one]
host = "API.Example.com"
header = "X-Api-Key"
env = "ANY_NAME"
requests_per_minute = 60
concurrent = 2
"#;

#[test]
fn what_is_written_is_what_holds_and_no_value_is_shown() {
    let loaded = loaded(WHOLE, &[("ANY_NAME", "tiger-7421-value")]).unwrap();
    let http = &loaded.settings.agents.values().find(|agent| agent.plugin == "a").unwrap().http;
    let expected = HttpLimits { calls: 5, request_bytes: 6, response_bytes: 7, time: Seconds::from_f64(0.5).unwrap(), at_once: 8 };
    assert_eq!(http.limits, expected);
    let shown: Vec<String> = http.allow.iter().map(|entry| entry.shown()).collect();
    assert_eq!(shown[0], "https://api.example.com/v1/");
    assert_eq!(shown[1], "{ url = \"http://localhost:11434\", methods = [\"GET\"], addresses = [\"10.0.0.0/8\", \"fd00::1/128\"] }");
    let credential = &http.credentials[0];
    assert_eq!(
        (credential.host.as_str(), credential.port, credential.header.as_str(), credential.prefix.as_str()),
        ("api.example.com", 443, "x-api-key", "")
    );
    assert!(matches!(&credential.source, Source::Variable { name, value: Some(_) } if name == "ANY_NAME"));
    assert!(!format!("{:?} {:?}", loaded.settings, loaded.entries).contains("tiger"));
    assert_eq!(loaded.settings.agents.values().filter(|agent| agent.http.allow.is_empty()).count(), 1, "the default agent asks nobody");
}

#[test]
fn every_fault_is_told_at_its_line_with_the_mend() {
    for (text, words) in [
        ("[agents.a.http]\nallow = \"https://x.example\"", ["sandclock.toml:2: `agents.a.http.allow`", "a list such as"]),
        ("[agents.a.http]\nallow = [\"x.example\"]", ["sandclock.toml:2: `agents.a.http.allow`", "`https://api.example.com`"]),
        ("[agents.a.http]\nallow = [\"https://u:p@x.example\"]", ["user info", "credential"]),
        ("[agents.a.http]\nallow = [{ methods = [\"GET\"] }]", ["without a `url`", "give it one"]),
        ("[agents.a.http]\nallow = [{ url = \"https://x.example\", method = [\"GET\"] }]", ["`method`", "did you mean `methods`?"]),
        ("[agents.a.http]\nallow = [{ url = \"https://x.example\", methods = [] }]", ["`methods` is empty", "leave it out"]),
        ("[agents.a.http]\nalow = []", ["`agents.a.http.alow`", "did you mean `allow`?"]),
        ("[agents.a.http]\nmax_calls = 0", ["`agents.a.http.max_calls`", "from 1 to"]),
        (
            "[agents.a.http]\ncredentials = [\"on\"]\n[credentials.one]\nhost = \"h\"\nfile = \"f\"",
            ["no `[credentials.on]`", "did you mean `one`?"],
        ),
        ("[credentials.one]\nfile = \"f\"", ["`credentials.one` has no `host`", "name the one host"]),
        ("[credentials.one]\nhost = \"h\"", ["`credentials.one` must name exactly one", "`env`, `file` and `command`"]),
        ("[credentials.one]\nhost = \"h\"\nfile = \"f\"\nenv = \"E\"", ["must name exactly one", "`env`, `file` and `command`"]),
        ("[credentials.one]\nhost = \"https://h\"\nfile = \"f\"", ["`credentials.one.host`", "one host's name"]),
        ("[credentials.one]\nhost = \"h:443\"\nfile = \"f\"", ["`credentials.one.host`", "goes into `port`"]),
        ("[credentials.one]\nhost = \"*.h.example\"\nfile = \"f\"", ["`credentials.one.host`", "one host's name"]),
        ("[credentials.one]\nhost = \"h\"\nfile = \"f\"\nheader = \"Host\"", ["`credentials.one.header`", "x-api-key"]),
        ("[credentials.one]\nhost = \"h\"\nfile = \"f\"\nprefix = \"a\\nb\"", ["`credentials.one.prefix`", "ASCII"]),
        ("[credentials.one]\nhost = \"h\"\ncommand = \"echo x\"", ["`credentials.one.command`", "a list of texts"]),
        ("[credentials.one]\nhost = \"h\"\nfile = \"f\"\nkeep_seconds = 5", ["`credentials.one.keep_seconds`", "leave it out"]),
        ("[credentials.one]\nhost = \"h\"\nvalue = \"tiger-7421\"", ["`credentials.one.value` is not a setting", "known are"]),
    ] {
        let said = loaded(text, &[]).unwrap_err();
        for word in words {
            assert!(said.contains(word), "{text}\n{said}");
        }
        assert!(!said.contains("tiger"), "{said}");
    }
}
