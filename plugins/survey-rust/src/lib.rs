//! Asks a question of a service, keeps the answer, and hands in the report.
//!
//! The configuration names the service: `config = { endpoint = "http://…" }`. The answer is paid for once: a later attempt finds it saved.

use sandclock_agent::http::Request;
use sandclock_agent::{Agent, Failure, config, progress, steps};
use serde::{Deserialize, Serialize};
use serde_json::json;

struct Survey;

#[derive(Serialize, Deserialize)]
struct Answer {
    summary: String,
    voices: Vec<String>,
}

impl Agent for Survey {
    fn run(query: String) -> Result<String, Failure> {
        let endpoint = config::get("endpoint").unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        let question = json!({ "question": query });
        progress::report("asking", Some(0.2));
        let answer: Answer =
            steps::step("answer", || Ok(Request::post(format!("{endpoint}/ask")).json(&question).send()?.ok()?.json()?))?;
        progress::report("writing", Some(0.6));
        std::fs::write("survey.md", report(&query, &answer)).map_err(Failure::permanent)?;
        progress::report("handing in", Some(0.8));
        Request::post(format!("{endpoint}/reports")).json(&question).send()?.ok()?;
        Ok(format!("{} voices: {}", answer.voices.len(), answer.summary))
    }
}

sandclock_agent::export!(Survey);

/// The report's text.
fn report(question: &str, answer: &Answer) -> String {
    let voices: String = answer.voices.iter().map(|voice| format!("- {voice}\n")).collect();
    format!("# {question}\n\n{}\n\n{voices}", answer.summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_question_the_summary_and_each_voice() {
        let answer = Answer { summary: "Tea.".to_owned(), voices: vec!["tea".to_owned(), "tea, hot".to_owned()] };
        assert_eq!(report("Tea or coffee?", &answer), "# Tea or coffee?\n\nTea.\n\n- tea\n- tea, hot\n");
    }
}
