//! The inputs with known answers, in every way a job can be run.

use std::fs;
use std::path::Path;
use std::thread;

use crate::inputs::{Input, counters, read_output, read_report, read_whole};
use crate::pairwise::{cover, product};
use crate::process::{Folder, arguments, listed, run};

/// What can be chosen. Output is a choice too: one file, or a folder of parts.
const FACTORS: [(&str, &[&str]); 8] = [
    ("workers", &["--workers 1", "--workers 2", "--workers 4"]),
    ("nodes", &["", "--processes"]),
    ("host", &["--host glommio", "--host plain"]),
    ("io", &["--io uring", "--io epoll"]),
    ("group", &["--group-size 1", "--group-size 7", "--group-size 100"]),
    ("pre-scheduling", &["", "--no-prescheduling"]),
    ("combining", &["", "--no-combine"]),
    ("output", &["counts.jsonl", "counts"]),
];
const HOST: usize = 2;
const IO: usize = 3;

/// A row of the cover: flags, and the name of the output.
struct Way {
    flags: String,
    output: &'static str,
}

/// How a job went.
enum Outcome {
    Equal,
    /// What it was to use is not permitted on this machine.
    NotPermitted(String),
}

#[test]
fn inputs_give_their_answers_in_every_way_to_run_them() {
    let permitted = permitted_choices();
    let sizes: Vec<usize> = permitted.iter().map(Vec::len).collect();
    let rows = if all_combinations() { half_product(&sizes) } else { cover(&sizes) };
    let inputs = Input::all();
    let (mut ran, mut skipped) = (0, Vec::new());
    for (number, row) in rows.iter().enumerate() {
        let chosen: Vec<&str> =
            row.iter().zip(&permitted).map(|(&choice, values)| values[choice]).collect();
        let (output, flags) = chosen.split_last().expect("there are factors");
        let way = Way { flags: flags.join(" "), output };
        eprintln!("{:>4} of {}: {} {}", number + 1, rows.len(), way.flags, way.output);
        for outcome in run_all(&inputs, &way, number) {
            match outcome {
                Outcome::Equal => ran += 1,
                Outcome::NotPermitted(reason) => skipped.push(reason),
            }
        }
    }
    eprintln!(
        "{ran} jobs gave their answers, {} were skipped\n{}",
        skipped.len(),
        listed(&skipped)
    );
    assert!(ran > 0, "plain threads and epoll are permitted everywhere");
}

/// Whether every combination is to be run.
fn all_combinations() -> bool {
    std::env::var_os("SLOW_TESTS").is_some_and(|value| value == "1")
}

/// Every combination but for the output: it alternates, so that it meets each pair of the others.
fn half_product(sizes: &[usize]) -> Vec<Vec<usize>> {
    let (outputs, sizes) = sizes.split_last().expect("there are factors");
    let with_output = |mut row: Vec<usize>| {
        row.push(row.iter().sum::<usize>() % outputs);
        row
    };
    product(sizes).into_iter().map(with_output).collect()
}

/// The choices of each factor without those that this machine refuses, which are said aloud.
fn permitted_choices() -> Vec<Vec<&'static str>> {
    let mut choices: Vec<Vec<&str>> = FACTORS.iter().map(|(_, values)| values.to_vec()).collect();
    choices[HOST].retain(|host| is_permitted(&format!("{host} --io epoll")));
    choices[IO].retain(|io| is_permitted(&format!("--host plain {io}")));
    choices
}

fn is_permitted(flags: &str) -> bool {
    let job = "ysb --workers 4 --duration 50ms --window 10ms --rate 1000";
    let ended = run(&arguments(&format!("{job} {flags}"), &[]));
    let refused = ended.status.code() == Some(2) && ended.complaint().contains("is not possible");
    if refused {
        eprintln!("SKIPPED on this machine: {flags}: {}", ended.complaint());
    } else {
        ended.verified();
    }
    !refused
}

/// Runs the inputs one way, all at the same time: the jobs mostly wait.
fn run_all(inputs: &[Input], way: &Way, number: usize) -> Vec<Outcome> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            inputs.iter().map(|input| scope.spawn(move || check(input, way, number))).collect();
        let outcomes = threads.into_iter().map(|thread| thread.join());
        outcomes.map(|outcome| outcome.expect("the panic above says why")).collect()
    })
}

fn check(input: &Input, way: &Way, number: usize) -> Outcome {
    let folder = Folder::new(&format!("matrix-{number}-{}", input.name));
    let in_parts = !way.output.ends_with(".jsonl");
    let (out, report) = (folder.at(way.output), folder.at("report.json"));
    let dead_letter = folder.at(if in_parts { "dead" } else { "dead.jsonl" });
    let (events, ads) = (input.events(), input.ads());
    let files = ["--events", &events, "--ads", &ads, "--out", &out];
    let more = ["--dead-letter", &dead_letter, "--report", &report];
    let words = format!("ysb {} {}", input.flags, way.flags);
    let ended = run(&arguments(&words, &[&files[..], &more].concat()));
    if ended.status.code() == Some(2) && ended.complaint().contains("is not possible") {
        let basic = way.flags.contains("--host plain") && way.flags.contains("--io epoll");
        assert!(!basic, "these need no permission: {}", ended.said());
        return Outcome::NotPermitted(format!("{}: {}", way.flags, ended.complaint()));
    }
    let ended = ended.verified();
    let lines = read_output(Path::new(&out));
    assert_eq!(difference(&lines, &input.lines), "", "{}", ended.said());
    let report = read_report(Path::new(&report));
    assert_eq!(counters(&report), input.counters, "{}", ended.said());
    let dead = read_whole(Path::new(&dead_letter));
    assert!(dead == input.dead_letters, "other dead letters in {dead_letter}: {}", ended.said());
    assert_eq!(fs::metadata(&out).expect("it was read").is_dir(), in_parts);
    Outcome::Equal
}

/// The first lines that only one of two sorted outputs has; a line twice is one too many.
pub fn difference(lines: &[String], expected: &[String]) -> String {
    let only = |what: &str, these: &[String], those: &[String]| {
        let mut those = those.iter().peekable();
        let mut alone = Vec::new();
        for line in these {
            while those.next_if(|other| *other < line).is_some() {}
            if those.next_if_eq(&line).is_none() {
                alone.push(format!("{what} {}", line.trim_end()));
            }
        }
        alone.truncate(5);
        listed(alone)
    };
    only("too many", lines, expected) + &only("missing", expected, lines)
}

#[test]
fn difference_finds_what_is_missing_wrong_or_twice() {
    let lines = |text: &str| text.chars().map(String::from).collect::<Vec<String>>();
    assert_eq!(difference(&lines("abc"), &lines("abc")), "");
    assert_eq!(difference(&lines("abbd"), &lines("abcd")), "  too many b\n  missing c\n");
    assert_eq!(difference(&[], &lines("a")), "  missing a\n");
}
