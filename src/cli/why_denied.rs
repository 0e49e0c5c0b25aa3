//! `sandclock why-denied`: which rule stopped the calls of a run, and the lines that would allow them.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use super::{Context, human, view};
use crate::domain::id::RunId;

/// Say which rules stopped the calls of a run, and which lines of the configuration would allow them
#[derive(Args, Clone, Debug)]
pub struct WhyDeniedArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or has no such run.
pub async fn execute(args: WhyDeniedArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    let answer = caller.remote.get(&["runs", args.run.as_str(), "why-denied"], &[]).await?;
    caller.show(&answer, |told| shown(&args.run, told))
}

fn shown(run: &RunId, told: &Value) -> String {
    let denied = view::list(told, "denied");
    let total = view::count(told, "total").unwrap_or(denied.len() as u64);
    if total == 0 {
        return format!("{run} was refused nothing in its attempts that have ended\n");
    }
    // What was refused again and again is told once.
    let mut kinds: Vec<(String, u64)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for call in denied {
        let asked = human::one_line(&format!("{} {}", view::shown(call, "method"), view::shown(call, "url")));
        let mut text = format!("  {}\n", human::one_line(&view::shown(call, "sentence")));
        if let Some(toml) = view::text(call, "toml") {
            toml.lines().for_each(|line| text.push_str(&format!("      {}\n", human::one_line(line))));
        }
        let kind = format!("attempt {}: {asked}\n{text}", view::shown(call, "attempt"));
        match places.get(&kind).and_then(|place| kinds.get_mut(*place)) {
            Some((_, times)) => *times += 1,
            None => {
                places.insert(kind.clone(), kinds.len());
                kinds.push((kind, 1));
            }
        }
    }
    let mut out = String::new();
    for (kind, times) in kinds {
        let (first, rest) = kind.split_once('\n').unwrap_or((&kind, ""));
        let again = if times > 1 { format!(" ({times} times)") } else { String::new() };
        out.push_str(&format!("{first}{again}\n{rest}"));
    }
    let kept = denied.len() as u64;
    if total > kept {
        out.push_str(&format!("and {} more\n", total - kept));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_refused_is_told_once_with_the_lines_to_paste() {
        let run = RunId::parse("run_x").unwrap();
        let call = json!({"attempt": 1, "method": "GET", "url": "https://h/\u{1b}x", "rule": "host", "sentence": "no",
            "toml": "[agents.a.http]\nallow = [\"https://h\"]"});
        let told = shown(&run, &json!({"total": 5, "denied": [call, call]}));
        assert_eq!(
            told,
            "attempt 1: GET https://h/\\u{1b}x (2 times)\n  no\n      [agents.a.http]\n      allow = [\"https://h\"]\nand 3 more\n"
        );
        assert!(shown(&run, &json!({"total": 0, "denied": []})).contains("refused nothing"));
    }
}
