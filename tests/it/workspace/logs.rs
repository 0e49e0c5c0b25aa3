//! The logs of attempts: what guests print, however much and whatever it is.

use std::fs;

use sandclock::domain::id::RunId;
use sandclock::workspace::{LogLevel, LogLine, LogStream};

use super::{paths, place};

fn run_id() -> RunId {
    RunId::parse("run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d").unwrap()
}

fn texts(lines: &[LogLine]) -> Vec<(LogStream, &str)> {
    lines
        .iter()
        .map(|line| match line {
            LogLine::Text { stream, text, .. } => (*stream, text.as_str()),
            LogLine::Entry { .. } => panic!("nothing had a level"),
            LogLine::Truncated { .. } => panic!("nothing was dropped"),
        })
        .collect()
}

#[test]
fn a_log_has_the_lines_of_both_streams_and_is_out_of_the_guests_view() {
    let place = place();
    let logs = place.all.logs();
    let writer = logs.writer(&run_id(), 2, 1 << 20);
    assert!(!place.all.root().join(".logs").exists(), "nothing written, no file");
    writer.write(LogStream::Stdout, b"hel");
    writer.write(LogStream::Stderr, b"oops \xff\x1b[2J\nand");
    writer.write(LogStream::Stdout, b"lo\n\nworld\nlast");
    let page = logs.read(&run_id(), 2, 0, 3).unwrap();
    let expected = [(LogStream::Stderr, "oops \u{fffd}\u{1b}[2J"), (LogStream::Stdout, "hello"), (LogStream::Stdout, "")];
    assert_eq!(texts(&page.lines), expected);
    assert!(!page.at_end);
    let rest = logs.read(&run_id(), 2, page.next_offset, 100).unwrap();
    assert_eq!(texts(&rest.lines), [(LogStream::Stdout, "world")]);
    assert!(rest.at_end);

    writer.finish();
    writer.write(LogStream::Stdout, b"too late\n");
    drop(writer);
    let end = logs.read(&run_id(), 2, rest.next_offset, 100).unwrap();
    assert_eq!(texts(&end.lines), [(LogStream::Stdout, "last"), (LogStream::Stderr, "and")]);
    assert!(logs.read(&run_id(), 2, end.next_offset, 100).unwrap().lines.is_empty());
    assert!(logs.read(&run_id(), 1, 0, 100).unwrap().at_end, "another attempt has none");
    assert!(paths(&place.all, 100).is_empty(), "the guest sees none of it");
    let file = fs::read_to_string(place.all.root().join(".logs").join(run_id().as_str()).join("2.jsonl")).unwrap();
    assert!(!file.contains('\u{1b}') && file.lines().all(|line| line.starts_with("{\"at\":\"2")), "{file}");

    logs.remove(&run_id()).unwrap();
    logs.remove(&run_id()).unwrap();
    assert!(logs.read(&run_id(), 2, 0, 100).unwrap().lines.is_empty());
}

#[test]
fn lines_with_a_level_keep_it_and_come_in_order() {
    let place = place();
    let logs = place.all.logs();
    let writer = logs.writer(&run_id(), 1, 1 << 20);
    writer.write(LogStream::Stdout, b"before\nbegun");
    writer.write_entry(LogLevel::Warn, "db/pool", "two\nlines\u{1b}");
    writer.write_entry(LogLevel::Trace, "", "");
    writer.write_entry(LogLevel::Critical, "main", &"é".repeat(10_000));
    writer.finish();
    writer.write_entry(LogLevel::Info, "", "too late");
    let page = logs.read(&run_id(), 1, 0, 100).unwrap();
    let entry = |line: &LogLine| match line {
        LogLine::Entry { level, context, text, .. } => Some((*level, context.clone(), text.clone())),
        _ => None,
    };
    let entries: Vec<_> = page.lines.iter().filter_map(entry).collect();
    assert_eq!(entries[0], (LogLevel::Warn, "db/pool".to_owned(), "two\nlines\u{1b}".to_owned()));
    assert_eq!(entries[1], (LogLevel::Trace, String::new(), String::new()));
    let long: String = entries[2..].iter().map(|(_, _, text)| text.as_str()).collect();
    assert_eq!((entries.len(), long), (4, "é".repeat(10_000)));
    assert!(entries[2..].iter().all(|(level, context, _)| (*level, &**context) == (LogLevel::Critical, "main")));
    assert!(matches!(&page.lines[0], LogLine::Text { text, .. } if text == "before"));
    assert!(matches!(page.lines.last().unwrap(), LogLine::Text { text, .. } if text == "begun"));
    let file = fs::read_to_string(place.all.root().join(".logs").join(run_id().as_str()).join("1.jsonl")).unwrap();
    assert_eq!(file.lines().count(), 6);
    assert!(file.contains(r#""level":"warn","context":"db/pool","text":"two\nlines"#), "{file}");
}

#[test]
fn a_flood_of_lines_with_a_level_is_cut_at_the_limit() {
    let place = place();
    let logs = place.all.logs();
    let writer = logs.writer(&run_id(), 1, 1000);
    for _ in 0..100 {
        writer.write_entry(LogLevel::Info, "", "0123456789");
    }
    writer.finish();
    let page = logs.read(&run_id(), 1, 0, 1000).unwrap();
    let kept = page.lines.iter().filter(|line| matches!(line, LogLine::Entry { .. })).count();
    assert!((5..15).contains(&kept), "{kept}");
    assert_eq!(page.lines.last(), Some(&LogLine::Truncated { truncated: (100 - kept as u64) * 10 }));
}

#[test]
fn a_flood_is_cut_at_the_limit_and_what_was_dropped_is_said() {
    let place = place();
    let writer = place.all.logs().writer(&run_id(), 1, 10_000);
    for _ in 0..1000 {
        // Escaped in JSON each of these is six bytes.
        writer.write(LogStream::Stdout, &[1; 99]);
        writer.write(LogStream::Stdout, b"\n");
    }
    writer.write(LogStream::Stderr, b"begun");
    writer.finish();
    let length = fs::metadata(place.all.root().join(".logs").join(run_id().as_str()).join("1.jsonl")).unwrap().len();
    assert!(length <= 10_064, "{length}");
    let page = place.all.logs().read(&run_id(), 1, 0, 10_000).unwrap();
    let (last, kept) = page.lines.split_last().unwrap();
    assert!(!kept.is_empty());
    let kept: usize = texts(kept).iter().map(|(_, text)| text.len() + 1).sum();
    assert_eq!(last, &LogLine::Truncated { truncated: 100_005 - kept as u64 });
}

#[test]
fn a_line_without_end_comes_in_pieces_that_cut_no_character() {
    let place = place();
    let writer = place.all.logs().writer(&run_id(), 1, 1 << 20);
    let long = format!("x{}", "€".repeat(30_000));
    for chunk in long.as_bytes().chunks(1000) {
        writer.write(LogStream::Stdout, chunk);
    }
    drop(writer);
    let (mut joined, mut after) = (String::new(), 0);
    loop {
        let page = place.all.logs().read(&run_id(), 1, after, 2).unwrap();
        for (_, text) in texts(&page.lines) {
            assert!(text.len() <= 16 * 1024);
            joined.push_str(text);
        }
        after = page.next_offset;
        if page.at_end {
            break;
        }
    }
    assert_eq!(joined, long);
}

#[test]
fn a_log_that_cannot_be_written_harms_nobody_and_a_torn_one_is_still_read() {
    let place = place();
    fs::write(place.all.root().join(".logs"), "in the way").unwrap();
    let writer = place.all.logs().writer(&run_id(), 1, 1 << 20);
    writer.write(LogStream::Stdout, b"lost\n");
    writer.write(LogStream::Stdout, b"lost too\n");
    assert_eq!(writer.dropped_bytes(), 14);
    drop(writer);
    fs::remove_file(place.all.root().join(".logs")).unwrap();

    let folder = place.all.root().join(".logs").join(run_id().as_str());
    fs::create_dir_all(&folder).unwrap();
    let line = "{\"at\":\"2026-11-22T05:00:00.000000Z\",\"stream\":\"stdout\",\"text\":\"whole\"}\n";
    fs::write(folder.join("1.jsonl"), format!("garbage\n{line}{}", &line[..20])).unwrap();
    let page = place.all.logs().read(&run_id(), 1, 0, 100).unwrap();
    assert_eq!(texts(&page.lines), [(LogStream::Stdout, "whole")]);
    assert!(page.at_end);
    let from_within = place.all.logs().read(&run_id(), 1, 3, 100).unwrap();
    assert_eq!(from_within.lines, page.lines);
    assert!(place.all.logs().read(&run_id(), 1, u64::MAX, 100).unwrap().at_end);
}
