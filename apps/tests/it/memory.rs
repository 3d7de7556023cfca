//! Jobs whose memory is little: it is kept, and their results are what they are with much.

use std::fmt::Write;
use std::fs;

use serde_json::Value;

use crate::inputs::{INPUTS, Input, counters, read_output, read_report};
use crate::process::{Folder, arguments, run, start};

const MIB: u64 = 1 << 20;

/// All that a report says was taken at most.
fn peak_bytes(report: &Value) -> u64 {
    let peaks = &report["memory_peak_bytes"];
    ["blocks", "state", "results"].map(|kind| peaks[kind].as_u64().expect("a number")).iter().sum()
}

#[test]
fn generated_events_are_verified_with_the_least_memory() {
    let folder = Folder::new("least-memory");
    let report = folder.at("report.json");
    for more in ["--processes", "--processes --workers 4", "--cores 2", "--workers 1"] {
        let words = format!("ysb --rate max --duration 1s --no-combine {more}");
        let refused = run(&arguments(&format!("{words} --memory 1kB"), &[])).exited(2);
        refused.says_only(&["--memory", "the least that works is "]);
        let least = refused.stderr.trim().rsplit(' ').next().expect("a last word").to_owned();
        let more = ["--memory", &least, "--report", &report];
        run(&arguments(&words, &more)).verified();
        let report = read_report(report.as_ref());
        let memory = least.strip_suffix("MiB").expect("a few MiB").parse::<u64>();
        let given = memory.expect("a number") * MIB * report["workers"].as_u64().expect("a number");
        assert!(peak_bytes(&report) > 0 && peak_bytes(&report) <= given, "{report}");
    }
}

#[test]
fn lines_of_70_kb_are_read_with_little_memory() {
    let folder = Folder::new("long-lines");
    let input = Input::load(INPUTS[0]);
    // A field that nobody asks for: the events are the same.
    let padding = "x".repeat(70_000);
    let mut lines = String::new();
    for line in fs::read_to_string(input.events()).expect("text").lines() {
        match line.strip_prefix('{') {
            Some(rest) => writeln!(lines, "{{\"padding\": \"{padding}\", {rest}"),
            None => writeln!(lines, "{line}"),
        }
        .expect("a string takes every text");
    }
    fs::write(folder.at("events.jsonl"), lines).expect("the folder is ours");
    for more in ["", "--processes --no-combine"] {
        let (out, report) = (folder.at("out.jsonl"), folder.at("report.json"));
        let words = format!("ysb {} --memory 4MiB {more}", input.flags);
        let (ads, events) = (input.ads(), folder.at("events.jsonl"));
        let files = ["--events", &events, "--ads", &ads, "--out", &out, "--report", &report];
        run(&arguments(&words, &files)).verified();
        assert_eq!(read_output(out.as_ref()), input.lines, "{more}");
        let report = read_report(report.as_ref());
        assert_eq!(counters(&report), input.counters, "{more}");
        assert!(peak_bytes(&report) <= 2 * 4 * MIB, "{report}");
    }
}

/// What a worker process takes beside the memory that it was given: the program and its libraries, stacks,
/// rings, the table of ads, buffers of its connections.
const OVERHEAD_KIB: u64 = 24 * 1024;

#[test]
fn a_worker_process_stays_within_its_memory_and_a_stated_overhead() {
    let words = "ysb driver --listen 127.0.0.1:0 --rate max --duration 3s --no-combine";
    let mut driver = start(&arguments(words, &["--memory", "16MiB"]));
    let line = driver.wait_for("waiting on 127.0.0.1:");
    let address = line.split_whitespace().find(|word| word.starts_with("127.0.0.1:"));
    let address = address.expect("it is in the line");
    let workers = [(); 2].map(|()| start(&arguments("ysb worker --driver", &[address])));
    // The first line of progress, whenever it comes.
    driver.wait_for(" results");
    for worker in &workers {
        let status = fs::read_to_string(format!("/proc/{}/status", worker.id()));
        let status = status.expect("it is at work");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")).expect("Linux says so");
        let peak_kib: u64 = peak.parse().expect("a number");
        assert!(peak_kib <= 16 * 1024 + OVERHEAD_KIB, "{status}");
        eprintln!("{peak_kib} KiB");
    }
    driver.wait().verified();
    for worker in workers {
        worker.wait().ended_well();
    }
}
