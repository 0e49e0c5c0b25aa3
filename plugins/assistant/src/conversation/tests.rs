//! The loop against a scripted model, killed wherever it can be.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// A world in memory that dies when its steps are used up.
#[derive(Default)]
struct Scripted {
    answers: Vec<Answer>,
    kept: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, String>,
    /// The bodies that were sent, each under its key.
    sent: Vec<(String, Value)>,
    called: Vec<String>,
    events: Vec<String>,
    steps: Option<u32>,
    cancelled: bool,
}

impl Scripted {
    fn new(answers: Vec<Answer>) -> Self {
        Scripted { answers, ..Scripted::default() }
    }

    fn step(&mut self) -> Result<(), Failure> {
        if let Some(steps) = &mut self.steps {
            *steps = steps.checked_sub(1).ok_or_else(|| Failure::retryable("killed"))?;
        }
        Ok(())
    }

    fn paid(&self) -> BTreeSet<&str> {
        self.sent.iter().map(|(key, _)| key.as_str()).collect()
    }
}

impl World for Scripted {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        self.kept.get(name).cloned()
    }

    fn save(&mut self, name: &str, value: &[u8]) -> Result<(), Failure> {
        self.step()?;
        assert!(self.kept.insert(name.to_owned(), value.to_vec()).is_none(), "{name} was kept before");
        self.step()
    }

    fn ask_model(&mut self, turn: u32, key: &str, body: &Value) -> Result<Answer, Failure> {
        self.step()?;
        self.sent.push((key.to_owned(), body.clone()));
        self.step()?;
        Ok(self.answers[turn as usize - 1].clone())
    }

    fn call(&mut self, key: &str, call: &Call) -> Result<Done, Failure> {
        self.step()?;
        self.called.push(key.to_owned());
        let done = match call {
            Call::Write { path, content } => {
                self.files.insert(path.clone(), content.clone());
                Ok("wrote".to_owned())
            }
            // A file of what takes six bytes each in JSON.
            Call::Read { path, .. } if path == "bytes" => Ok("\u{1}".repeat(256 * 1024)),
            Call::Read { path, .. } => self.files.get(path).cloned().ok_or_else(|| "there is no such file".to_owned()),
            _ => Ok("x".repeat(2_000)),
        };
        self.step()?;
        Ok(done)
    }

    fn report(&mut self, _: &str) {}

    fn emit(&mut self, name: &str, _: &Value) {
        self.events.push(name.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.cancelled
    }

    fn run_id(&self) -> String {
        "run_1".to_owned()
    }
}

fn settings(more: &[(&str, &str)]) -> Settings {
    let all = [("endpoint", "https://x.test/v1"), ("model", "m"), ("tools", r#"["read","write","fetch","ask"]"#)];
    Settings::read(all.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).unwrap()
}

fn says(text: &str) -> Answer {
    Answer { content: text.to_owned(), finish: "stop".to_owned(), ..Answer::default() }
}

fn calls(calls: &[(&str, &str)]) -> Answer {
    let tool_calls = calls.iter().map(|(name, arguments)| ToolCall {
        name: (*name).to_owned(),
        arguments: (*arguments).to_owned(),
        ..ToolCall::default()
    });
    Answer { tool_calls: tool_calls.collect(), finish: "tool_calls".to_owned(), ..Answer::default() }
}

fn script() -> Vec<Answer> {
    vec![
        calls(&[("write", r#"{"path":"a.md","content":"one"}"#), ("read", r#"{"path":"a.md"}"#)]),
        calls(&[("shell", "{}"), ("read", r#"{"path":"b.md"}"#), ("write", r#"{"path":"a.md","content":"two"}"#)]),
        calls(&[("ask", r#"{"question":"Good?"}"#)]),
        says("Done."),
    ]
}

fn contents(body: &Value, role: &str) -> Vec<String> {
    let messages = body["messages"].as_array().unwrap();
    messages
        .iter()
        .filter(|message| message["role"] == role)
        .map(|message| message["content"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn tools_are_called_until_the_model_is_done() {
    let mut world = Scripted::new(script());
    let finished = run(&settings(&[]), "Do it.", &mut world).unwrap();
    assert_eq!(finished, Finished { text: "Done.".to_owned(), wrote_output: false });
    let (_, last) = world.sent.last().unwrap();
    let results = contents(last, "tool");
    assert_eq!(
        results[..4],
        ["wrote", "one", "error: there is no tool \"shell\": the tools are read, write, fetch, ask", "error: there is no such file"]
    );
    assert_eq!((contents(last, "user"), world.sent.len()), (vec!["Do it.".to_owned()], 4));
    assert_eq!(world.kept.keys().filter(|name| !name.contains("call")).count(), 4);
}

#[test]
fn whoever_is_killed_anywhere_ends_alike_and_pays_and_calls_once() {
    let mut whole = Scripted::new(script());
    let expected = run(&settings(&[]), "Do it.", &mut whole).unwrap();
    for steps in 0.. {
        let mut world = Scripted { steps: Some(steps), ..Scripted::new(script()) };
        let first = run(&settings(&[]), "Do it.", &mut world);
        let survived = first.is_ok();
        let (kept, files) = (world.kept.clone(), std::mem::take(&mut world.files));
        let done: Vec<&String> = kept.keys().filter(|name| name.contains("call")).collect();
        world.steps = None;
        world.called.clear();
        assert_eq!(run(&settings(&[]), "Do it.", &mut world).unwrap(), expected, "killed after {steps} steps");
        assert_eq!((&world.kept, world.paid()), (&whole.kept, whole.paid()), "killed after {steps} steps");
        assert_eq!(world.files, whole.files, "a workspace that was lost is written anew");
        // Writes are done again, for the workspace may be gone; nothing else that was kept is.
        let repeated: Vec<&String> = done.iter().filter(|name| world.called.contains(name)).copied().collect();
        assert!(repeated.iter().all(|name| ["turn-0001-call-01", "turn-0002-call-03"].contains(&name.as_str())), "{repeated:?}");
        if survived {
            assert_eq!(files, whole.files);
            break;
        }
    }
}

#[test]
fn another_request_has_another_key() {
    let (mut first, mut second) = (Scripted::new(vec![says("a")]), Scripted::new(vec![says("a")]));
    run(&settings(&[]), "Do it.", &mut first).unwrap();
    run(&settings(&[("temperature", "0.1")]), "Do it.", &mut second).unwrap();
    assert!(first.sent[0].0.starts_with("run_1-0001-"));
    assert_ne!(first.sent[0].0, second.sent[0].0);
}

#[test]
fn the_last_turn_asks_for_the_answer_and_then_it_is_over() {
    let fetch = || calls(&[("fetch", r#"{"url":"https://x.test"}"#)]);
    let mut world = Scripted::new(vec![fetch(), says("So far.")]);
    assert_eq!(run(&settings(&[("max_turns", "2")]), "Do it.", &mut world).unwrap().text, "So far.");
    let (_, last) = world.sent.last().unwrap();
    assert_eq!((&last["tool_choice"], contents(last, "user").last().map(String::as_str)), (&json!("none"), Some(LAST_TURN)));
    let mut world = Scripted::new(vec![fetch(), fetch()]);
    let Err(Failure::Permanent(why)) = run(&settings(&[("max_turns", "2")]), "Do it.", &mut world) else { panic!("it goes on") };
    assert!(why.contains("`max_turns`"), "{why}");
}

#[test]
fn mistakes_in_a_row_are_bounded_and_a_good_call_forgives_them() {
    let bad = || calls(&[("read", "{")]);
    let good = || calls(&[("fetch", r#"{"url":"https://x.test"}"#)]);
    let three = settings(&[("max_mistakes", "3")]);
    let mut world = Scripted::new(vec![bad(), bad(), good(), bad(), bad(), says("ok")]);
    assert_eq!(run(&three, "Do it.", &mut world).unwrap().text, "ok");
    let mut world = Scripted::new(vec![bad(), says(" "), bad(), says("ok")]);
    let Err(Failure::Permanent(why)) = run(&three, "Do it.", &mut world) else { panic!("it goes on") };
    assert!(why.contains("3 mistakes in a row") && why.contains("not a JSON object"), "{why}");
}

#[test]
fn too_many_calls_in_one_turn_are_told_and_not_done() {
    let fetch = ("fetch", r#"{"url":"https://x.test"}"#);
    let mut world = Scripted::new(vec![calls(&[fetch; 40]), says("ok")]);
    run(&settings(&[("max_tool_calls", "2")]), "Do it.", &mut world).unwrap();
    assert_eq!(world.called.len(), 2);
    assert!(contents(&world.sent[1].1, "tool")[39].contains("at most 2 calls"));
}

#[test]
fn the_calls_of_one_turn_are_at_most_one_mistake() {
    let (bad, good) = (("read", "{"), ("fetch", r#"{"url":"https://x.test"}"#));
    let two = settings(&[("max_mistakes", "2")]);
    let mut world = Scripted::new(vec![calls(&[bad; 8]), says("ok")]);
    assert_eq!(run(&two, "Do it.", &mut world).unwrap().text, "ok");
    let mut world = Scripted::new(vec![calls(&[bad; 8]), calls(&[good, bad]), calls(&[bad]), says("ok")]);
    assert_eq!(run(&two, "Do it.", &mut world).unwrap().text, "ok");
    let mut world = Scripted::new(vec![calls(&[bad; 8]), calls(&[bad]), says("ok")]);
    assert!(matches!(run(&two, "Do it.", &mut world), Err(Failure::Permanent(_))));
}

#[test]
fn the_last_answer_counts_even_beside_calls() {
    let both = Answer { content: "All there is.".to_owned(), ..calls(&[("fetch", r#"{"url":"https://x.test"}"#)]) };
    let mut world = Scripted::new(vec![both.clone(), both]);
    assert_eq!(run(&settings(&[("max_turns", "2")]), "Do it.", &mut world).unwrap().text, "All there is.");
    assert_eq!((world.called.len(), world.sent.len()), (1, 2), "before the last turn the calls are done");
}

#[test]
fn the_oldest_results_give_way_and_say_so_in_every_attempt_alike() {
    let fetch = || calls(&[("fetch", r#"{"url":"https://x.test"}"#)]);
    let small = settings(&[("max_context_bytes", "8192")]);
    let script: Vec<Answer> = (0..4).map(|_| fetch()).chain([says("ok")]).collect();
    let mut world = Scripted::new(script.clone());
    run(&small, "Do it.", &mut world).unwrap();
    let results = contents(&world.sent[4].1, "tool");
    assert!(results[0].starts_with("[left out: 2000 bytes") && results[3].starts_with("xxx"), "{results:?}");
    assert!(world.sent.iter().all(|(_, body)| body.to_string().len() <= 8_192) && world.events.contains(&"left_out".to_owned()));
    let mut again = Scripted { kept: world.kept.clone(), ..Scripted::new(script) };
    again.kept.remove("turn-0005");
    run(&small, "Do it.", &mut again).unwrap();
    assert_eq!(again.sent, world.sent[4..]);
    let long = "x".repeat(9_000);
    let Err(Failure::Permanent(why)) = run(&small, &long, &mut Scripted::new(vec![says("ok")])) else { panic!("sent") };
    assert!(why.contains("`max_context_bytes`"), "{why}");
}

#[test]
fn what_is_kept_stays_within_a_checkpoint_however_it_is_written() {
    let long = Answer { content: "\u{1}".repeat(384 * 1024), ..says("") };
    let mut world = Scripted::new(vec![calls(&[("read", r#"{"path":"bytes"}"#)]), long]);
    let wide = settings(&[("max_context_bytes", "8388608")]);
    let finished = run(&wide, "Do it.", &mut world).unwrap();
    assert!(world.kept.values().all(|value| value.len() <= KEPT_BYTES), "{:?}", world.kept.values().map(Vec::len).collect::<Vec<_>>());
    assert!(contents(&world.sent[1].1, "tool")[0].ends_with("of 262144 bytes]") && finished.text.contains("cut off here"));
    assert_eq!(run(&wide, "Do it.", &mut world).unwrap(), finished, "what is kept is what was gone on with");
    assert_eq!(world.sent.len(), 2);
}

#[test]
fn what_ends_early_says_so() {
    let cut = Answer { finish: "length".to_owned(), ..says("Half of") };
    assert!(run(&settings(&[]), "Do it.", &mut Scripted::new(vec![cut])).unwrap().text.starts_with("Half of\n\n[The answer was cut off"));
    let withheld = Answer { finish: "content_filter".to_owned(), ..says("") };
    let Err(Failure::Permanent(why)) = run(&settings(&[]), "Do it.", &mut Scripted::new(vec![withheld])) else { panic!("taken") };
    assert!(why.contains("content_filter"), "{why}");
    let mut stopped = Scripted { cancelled: true, ..Scripted::new(script()) };
    assert!(matches!(run(&settings(&[]), "Do it.", &mut stopped), Err(Failure::Cancelled(_))));
    assert!(stopped.sent.is_empty());
}

#[test]
fn an_output_that_the_model_wrote_is_its_own() {
    let mut world = Scripted::new(vec![calls(&[("write", r#"{"path":"./output.md","content":"All of it."}"#)]), says("See output.md.")]);
    assert!(run(&settings(&[]), "Do it.", &mut world).unwrap().wrote_output);
    assert!(run(&settings(&[]), "Do it.", &mut world).unwrap().wrote_output, "also when it is replayed");
}

#[test]
fn a_checkpoint_of_something_else_is_said() {
    let mut world = Scripted::new(script());
    world.kept.insert("turn-0001".to_owned(), b"[]".to_vec());
    let Err(Failure::Permanent(why)) = run(&settings(&[]), "Do it.", &mut world) else { panic!("taken") };
    assert!(why.contains("turn-0001"), "{why}");
}
