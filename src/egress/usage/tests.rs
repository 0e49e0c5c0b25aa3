use proptest::prelude::*;

use super::*;

const CHAT: &str = r#"{"id":"c","object":"chat.completion","model":"made\/up-1","choices":[{"index":0,"message":{"role":"assistant",
  "content":"say \"usage\": {\"prompt_tokens\": 9999}\\"},"finish_reason":"stop"}],"usage":{"prompt_tokens":120,"completion_tokens":30,
  "total_tokens":150,"prompt_tokens_details":{"cached_tokens":100,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":5}}}"#;
const RESPONSES: &str = r#"{"id":"r","model":"made-up-2","output":[{"type":"message","usage":{"input_tokens":1}}],
  "usage":{"input_tokens":11,"input_tokens_details":{"cached_tokens":4},"output_tokens":7,"total_tokens":18}}"#;
const EMBEDDINGS: &str =
    r#"{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"vec","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
const MESSAGES: &str = r#"{"type":"message","model":"m","usage":{"input_tokens":5,"cache_read_input_tokens":20,
  "cache_creation_input_tokens":3,"output_tokens":9}}"#;

fn stream(end: &str) -> String {
    let delta = |text: &str| {
        format!("data: {{\"model\":\"made-up-1\",\"choices\":[{{\"delta\":{{\"content\":{text:?}}}}}],\"usage\":null}}{end}{end}")
    };
    let usage =
        "data:{\"model\":\"made-up-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15}}";
    format!(": hello{end}event: x{end}{}{}{usage}{end}{end}data: [DONE]{end}{end}", delta("data: [DONE]"), delta("two"))
}

const WRAPPED: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"made-up-3\",\"usage\":null}}\n\n",
    "event: response.completed\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"made-up-3\",\"usage\":{\"input_tokens\":4,\ndata: \"output_tokens\":6}}}\n\n",
);
const MESSAGE_STREAM: &str = concat!(
    "data: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n",
    "data: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":15}}\n\n",
    "data: {\"type\":\"message_stop\"}\n\n",
);

fn read(pieces: &[&[u8]]) -> Reader {
    let mut reader = Reader::default();
    pieces.iter().for_each(|piece| reader.push(piece));
    reader
}

fn counted(input: u64, cached: u64, output: u64) -> Option<Tokens> {
    Some(Tokens { input, cached, output, estimated: 0 })
}

fn all() -> Vec<(String, &'static str, Option<Tokens>)> {
    vec![
        (CHAT.to_owned(), "made/up-1", counted(120, 100, 30)),
        (RESPONSES.to_owned(), "made-up-2", counted(11, 4, 7)),
        (EMBEDDINGS.to_owned(), "vec", counted(8, 0, 0)),
        (MESSAGES.to_owned(), "m", counted(28, 20, 9)),
        (stream("\n"), "made-up-1", counted(12, 0, 3)),
        (stream("\r\n"), "made-up-1", counted(12, 0, 3)),
        (stream("\r"), "made-up-1", counted(12, 0, 3)),
        (WRAPPED.to_owned(), "made-up-3", counted(4, 0, 6)),
        (MESSAGE_STREAM.to_owned(), "m", counted(25, 0, 15)),
        (format!("\u{feff}{CHAT}"), "made/up-1", counted(120, 100, 30)),
    ]
}

#[test]
fn what_answers_say_is_read_and_known_to_be_all() {
    for (text, model, tokens) in all() {
        let reader = read(&[text.as_bytes()]);
        assert_eq!(reader.tokens(4000, false, false), tokens, "{text}");
        assert_eq!(reader.model(), Some(model), "{text}");
        assert!(reader.is_complete(), "{text}");
    }
}

#[test]
fn an_answer_is_complete_with_its_last_byte_that_matters_and_not_before() {
    for (text, ..) in all() {
        let trimmed = text.trim_end();
        let reader = read(&[&trimmed.as_bytes()[..trimmed.len() - 1]]);
        assert!(!reader.is_complete(), "{text}");
    }
}

#[test]
fn numbers_that_are_none_are_not_counted_and_large_ones_are_bounded() {
    let of = |number: &str| {
        let text = format!(r#"{{"usage":{{"prompt_tokens":{number},"completion_tokens":2}}}}"#);
        read(&[text.as_bytes()]).tokens(40, true, true).unwrap()
    };
    for good in ["5", "5.0", "5e0", "50e-1"] {
        assert_eq!(of(good).input, 5, "{good}");
    }
    for none in ["-5", "5.5", "null", "\"5\"", "[5]", "{\"a\":5}", "true", "--5", "5e", "NaN", &"9".repeat(200)] {
        assert_eq!((of(none).input, of(none).output), (0, 2), "{none}");
    }
    for large in ["1e18", "1e400", "18446744073709551616", "1099511627777"] {
        assert_eq!(of(large).input, 1 << 40, "{large}");
    }
}

#[test]
fn what_stands_elsewhere_is_not_taken_for_usage() {
    for text in [
        r#"{"a":{"usage":{"prompt_tokens":1}}}"#,
        r#"{"choices":[{"usage":{"prompt_tokens":1}}]}"#,
        r#"[{"usage":{"prompt_tokens":1}}]"#,
        r#"{"usage":[{"prompt_tokens":1}]}"#,
        r#"{"usage":{"details":{"prompt_tokens":1}}}"#,
        r#"{"x":"\"usage\":{\"prompt_tokens\":1}"}"#,
        r#"{"usage":1,"prompt_tokens":1}"#,
        r#"{"metadata":["usage",{"prompt_tokens":1}]}"#,
        "event: usage\ndata: {\"x\":1}\n\nusage: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        "",
    ] {
        assert_eq!(read(&[text.as_bytes()]).tokens(40, true, false), None, "{text}");
    }
}

#[test]
fn what_is_large_deep_or_broken_costs_no_memory_and_hides_nothing_that_follows() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let objects = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let long = "x\\\"".repeat(100_000);
    for before in [format!("\"a\":{deep}"), format!("\"a\":{objects}"), format!("\"a\":\"{long}\""), format!("\"{long}\":1")] {
        let text = format!("{{{before},\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":1}}}}");
        assert_eq!(read(&[text.as_bytes()]).tokens(40, true, true), counted(7, 0, 1), "{}", &text[..40]);
    }
    let long = format!("{{\"model\":\"{}\",\"usage\":{{\"prompt_tokens\":7}}}}", "m".repeat(1000));
    assert_eq!((read(&[long.as_bytes()]).model(), read(&[long.as_bytes()]).tokens(4, true, true)), (None, counted(7, 0, 0)));
    // A broken event does not swallow the next one.
    let broken = format!("data: {{\"a\":\"never ends\n\n{}", stream("\n"));
    assert_eq!(read(&[broken.as_bytes()]).tokens(4, true, true), counted(12, 0, 3));
    assert!(size_of::<Reader>() < 512, "{}", size_of::<Reader>());
}

#[test]
fn what_is_not_said_is_estimated_where_a_model_answers() {
    let silent = read(&[b"{\"choices\":[{\"message\":{\"content\":\"hello\"}}]}"]);
    assert_eq!(silent.tokens(401, true, true), Some(Tokens { input: 101, cached: 0, output: 12, estimated: 113 }));
    assert_eq!(silent.tokens(401, true, false), None);
    assert_eq!(Reader::default().tokens(401, false, true), Some(Tokens { input: 101, cached: 0, output: 0, estimated: 101 }));
    // A stream without usage: an event is a token, and what it has more than the shortest one is text.
    let event = |text: &str| format!("data: {{\"model\":\"made-up-1\",\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let text = event("").repeat(9) + &event(&"x".repeat(400));
    assert_eq!(read(&[text.as_bytes()]).tokens(4, true, true), Some(Tokens { input: 1, cached: 0, output: 110, estimated: 111 }));
    // One event that holds all is no envelope.
    let whole = event(&"x".repeat(4000));
    assert!(read(&[whole.as_bytes()]).tokens(4, true, true).unwrap().output > 800);
}

#[test]
fn a_stream_that_is_given_up_is_estimated_beyond_what_it_said() {
    let start = MESSAGE_STREAM.split_inclusive("\n\n").next().unwrap();
    let delta = "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"one two three\"}}\n\n".repeat(50);
    let reader = read(&[start.as_bytes(), delta.as_bytes()]);
    assert_eq!(reader.tokens(400, true, true), counted(25, 0, 1));
    let tokens = reader.tokens(400, false, true).unwrap();
    assert!(tokens.input == 25 && tokens.output >= 50 && tokens.estimated == tokens.output, "{tokens:?}");
}

#[test]
fn paths_of_models_are_known_by_their_ends() {
    for path in ["/v1/chat/completions", "/openai/deployments/x/completions/", "/v1/responses", "/v1/embeddings", "/v1/messages"] {
        assert!(is_of_model(path), "{path}");
    }
    for path in ["/", "/v1/models", "/v1/chat/completions/abc", "/mycompletions"] {
        assert!(!is_of_model(path), "{path}");
    }
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(which in 0..10usize, cuts in proptest::collection::vec(0..2000usize, 0..40)) {
        let (text, model, tokens) = all().swap_remove(which);
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let reader = read(&pieces);
        prop_assert_eq!(reader.tokens(4000, false, true), tokens);
        prop_assert_eq!((reader.model(), reader.is_complete()), (Some(model), true));
    }

    #[test]
    fn any_bytes_are_survived_and_their_cut_does_not_matter(
        parts in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..20),
            "[\\[\\]{}\",:\\\\ \r\n0-9.e-]{0,20}".prop_map(String::into_bytes),
            Just(b"\"usage\":{\"total_tokens\":".to_vec()),
            Just(b"data: [DONE]\n\n".to_vec()),
            Just(b"{\"model\":\"a\",".to_vec()),
        ], 0..30),
    ) {
        let pieces: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (cut, whole) = (read(&pieces), read(&[&parts.concat()]));
        prop_assert_eq!(cut.tokens(40, true, true), whole.tokens(40, true, true));
        prop_assert_eq!((cut.model(), cut.is_complete(), cut.written()), (whole.model(), whole.is_complete(), whole.written()));
        let bytes: Vec<&[u8]> = whole_bytes(&parts);
        prop_assert_eq!(read(&bytes).tokens(40, true, true), whole.tokens(40, true, true));
    }
}

fn whole_bytes(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().flat_map(|part| part.chunks(1)).collect()
}
