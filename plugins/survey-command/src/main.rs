//! Counts the votes in its standard input, one a line (`#` begins a comment), writes the count to a file, and prints who won.
//!
//! It is an ordinary program, and an agent when it is built for `wasm32-wasip2`: the query is its input, the workspace its directory, what
//! it prints the result, and what it prints to stderr the log. A file that it leaves is found by a later attempt.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read as _, stdin};
use std::process::ExitCode;

const COUNT: &str = "count.tsv";

fn main() -> ExitCode {
    match survey() {
        Ok(sentence) => {
            println!("{sentence}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn survey() -> Result<String, Box<dyn Error>> {
    let counts = match std::fs::read_to_string(COUNT) {
        Ok(kept) => {
            eprintln!("an earlier attempt has counted");
            parse(&kept)
        }
        Err(_) => {
            let mut votes = String::new();
            stdin().read_to_string(&mut votes)?;
            let counts = count(&votes);
            std::fs::write(COUNT, table(&counts))?;
            counts
        }
    };
    winner(&counts).ok_or_else(|| "there are no votes: give one a line as the query".into())
}

fn count(votes: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for vote in votes.lines().map(str::trim).filter(|vote| !vote.is_empty() && !vote.starts_with('#')) {
        *counts.entry(vote.to_owned()).or_insert(0) += 1;
    }
    counts
}

fn table(counts: &BTreeMap<String, usize>) -> String {
    counts.iter().map(|(vote, times)| format!("{vote}\t{times}\n")).collect()
}

fn parse(table: &str) -> BTreeMap<String, usize> {
    let row = |line: &str| {
        let (vote, times) = line.rsplit_once('\t')?;
        Some((vote.to_owned(), times.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}

/// Of equals the first by name.
fn winner(counts: &BTreeMap<String, usize>) -> Option<String> {
    let (vote, times) = counts.iter().rev().max_by_key(|(_, times)| **times)?;
    Some(format!("{vote} wins with {times} of {} votes", counts.values().sum::<usize>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_votes_win_and_the_table_keeps_them() {
        let counts = count("tea\ncoffee\n\n tea \n");
        assert_eq!(winner(&counts).as_deref(), Some("tea wins with 2 of 3 votes"));
        assert_eq!(parse(&table(&counts)), counts);
        assert_eq!(winner(&count("b\na")).as_deref(), Some("a wins with 1 of 2 votes"));
        assert_eq!(winner(&count("# none yet\n\n")), None);
    }
}
