//! What the binary says about itself, about wrong flags, and about a job that is done.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::inputs::{INPUTS, Input, read_report};
use crate::process::{Folder, arguments, run, start_in};

#[test]
fn help_teaches_at_every_level() {
    let levels: [(&str, &[&str]); 4] = [
        ("--help", &["cargo run --release -- ysb", "Yahoo Streaming Benchmark", "ysb"]),
        (
            "ysb --help",
            &[
                "driver",
                "worker",
                "--rate",
                "--duration",
                "--window",
                "--interval",
                "--group-size",
                "--workers",
                "--cores",
                "--processes",
                "--no-prescheduling",
                "--no-combine",
                "--host",
                "--io",
                "--poll",
                "--memory",
                "--watermark",
                "--report",
                "--events",
                "--tcp",
                "--ads",
                "--out",
                "--out-of-orderness",
                "--dead-letter",
                "glommio",
                "epoll",
                "seconds",
                "ysb --events events.jsonl --ads ads.json --out counts.jsonl",
                "ysb worker --driver 127.0.0.1:7400",
            ],
        ),
        ("ysb driver --help", &["--listen", "--insecure", "--workers", "127.0.0.1:7400"]),
        ("ysb worker --help", &["--driver", "--cores", "--insecure"]),
    ];
    for (words, wanted) in levels {
        let ended = run(&arguments(words, &[])).exited(0);
        let missing = wanted.iter().find(|word| !ended.stdout.contains(**word));
        assert_eq!(missing, None, "{}", ended.said());
        assert_eq!(ended.stderr, "");
    }
}

/// Each of these is refused with exit code 2 and one sentence that has the words in it.
fn is_refused(folder: &Folder, words: &str, named: &[&str]) {
    let ended = start_in(folder.path(), &arguments(words, &[])).wait();
    ended.exited(2).says_only(named);
}

#[test]
fn wrong_flags_are_refused_in_one_sentence() {
    let folder = Folder::new("flags");
    let wrong: [(&str, &[&str]); 28] = [
        ("yzb", &["yzb"]),
        ("ysb --windw 1s", &["--windw", "--window"]),
        ("ysb --window", &["--window"]),
        ("ysb --window 0", &["--window"]),
        ("ysb --window 1x", &["--window", "1x", "20s"]),
        ("ysb --window -1s", &["-1"]),
        ("ysb --window 9999999h", &["--window"]),
        ("ysb --duration 0", &["--duration"]),
        ("ysb --duration nan", &["--duration", "nan"]),
        ("ysb --interval 0", &["--interval"]),
        ("ysb --interval 2h", &["--interval"]),
        ("ysb --rate 0", &["--rate"]),
        ("ysb --rate fast", &["--rate", "fast", "max"]),
        ("ysb --workers 0", &["--workers"]),
        ("ysb --cores 0", &["--cores"]),
        ("ysb --group-size 0", &["--group-size"]),
        ("ysb --partitions 0", &["--partitions"]),
        ("ysb --host forest", &["--host", "forest", "glommio", "plain"]),
        ("ysb --io fast", &["--io", "uring", "epoll"]),
        ("ysb --poll never", &["--poll", "spin", "adaptive", "block"]),
        ("ysb --memory much", &["--memory", "64MiB"]),
        ("ysb --memory 1MiB", &["--memory", "the least that works is 4MiB"]),
        ("ysb --events e.jsonl", &["--ads", "--out"]),
        ("ysb --out counts.jsonl", &["--events"]),
        ("ysb --dead-letter dead", &["--events"]),
        ("ysb driver --listen here", &["--listen", "here"]),
        ("ysb worker", &["--driver"]),
        ("ysb worker --driver 127.0.0.1:1 --cores 0", &["--cores"]),
    ];
    for (words, named) in wrong {
        is_refused(&folder, words, named);
    }
}

#[test]
fn files_that_cannot_be_used_are_named_in_one_sentence() {
    let folder = Folder::new("files");
    let input = Input::load(INPUTS[0]);
    fs::copy(input.ads(), folder.at("ads.json")).expect("the folder is ours");
    fs::copy(input.events(), folder.at("events.jsonl")).expect("the folder is ours");
    fs::create_dir(folder.at("folder")).expect("the folder is ours");
    fs::create_dir(folder.at("folder.jsonl")).expect("the folder is ours");
    fs::copy(input.events(), folder.at("folder/part-00003.jsonl")).expect("the folder is ours");
    let ok = "ysb --events events.jsonl --ads ads.json";
    let wrong: [(&str, &[&str]); 13] = [
        ("ysb --ads none.json", &["none.json"]),
        ("ysb --ads events.jsonl", &["events.jsonl", "JSON object"]),
        ("ysb --events none.jsonl --ads ads.json --out o.jsonl", &["none.jsonl"]),
        ("ysb --events events.jsonl --ads none.json --out o.jsonl", &["none.json"]),
        ("ysb --events folder --ads ads.json --out o.jsonl", &["folder"]),
        (&format!("{ok} --out events.jsonl"), &["events.jsonl", "overwrite"]),
        (&format!("{ok} --out folder/../events.jsonl"), &["events.jsonl", "overwrite"]),
        (&format!("{ok} --out o.jsonl --dead-letter events.jsonl"), &["overwrite"]),
        (&format!("{ok} --out o --dead-letter o"), &["--out", "--dead-letter"]),
        (
            "ysb --events folder/part-00003.jsonl --ads ads.json --out folder",
            &["part-00003.jsonl", "overwrite"],
        ),
        (&format!("{ok} --out ads.json/o.jsonl"), &["ads.json/o.jsonl"]),
        (&format!("{ok} --out folder.jsonl"), &["folder.jsonl"]),
        ("ysb --duration 100ms --rate 100 --report none/report.json", &["none/report.json"]),
    ];
    for (words, named) in wrong {
        is_refused(&folder, words, named);
    }
    let same = |name: &str, original: &str| {
        let bytes = |path: &str| fs::read(path).expect("it is still there");
        assert!(bytes(&folder.at(name)) == bytes(original), "{name} was changed");
    };
    same("ads.json", &input.ads());
    same("events.jsonl", &input.events());
    same("folder/part-00003.jsonl", &input.events());
}

#[test]
fn report_that_would_overwrite_an_input_is_refused() {
    let folder = Folder::new("report-over");
    let input = Input::load(INPUTS[0]);
    let (ads, events) = (folder.at("ads.json"), folder.at("events.jsonl"));
    fs::copy(input.ads(), &ads).expect("the folder is ours");
    fs::copy(input.events(), &events).expect("the folder is ours");
    let job = "ysb --events events.jsonl --ads ads.json --out o.jsonl --report";
    is_refused(&folder, &format!("{job} ads.json"), &["ads.json", "overwrite"]);
    is_refused(&folder, &format!("{job} events.jsonl"), &["events.jsonl", "overwrite"]);
    is_refused(&folder, &format!("{job} o.jsonl"), &["--report", "o.jsonl"]);
    assert!(fs::read(&ads).expect("it is there") == fs::read(input.ads()).expect("it is there"));
}

#[test]
fn addresses_that_cannot_be_used_are_named_in_one_sentence() {
    let folder = Folder::new("addresses");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = taken.local_addr().map(|address| (address.to_string(), taken));
    let (address, listener) = taken.expect("it has an address");
    is_refused(&folder, &format!("ysb driver --listen {address}"), &[&address, "in use"]);
    drop(listener);
    is_refused(&folder, &format!("ysb worker --driver {address}"), &[&address, "driver"]);
    let open = "ysb driver --listen 0.0.0.0:0 --workers 1";
    is_refused(&folder, open, &["0.0.0.0", "--insecure"]);
    is_refused(&folder, "ysb worker --driver 192.0.2.1:7400", &["192.0.2.1", "--insecure"]);
}

#[test]
fn driver_may_listen_for_other_hosts_when_told_so() {
    let folder = Folder::new("insecure");
    let words = "ysb driver --listen 0.0.0.0:0 --insecure --workers 1";
    let mut driver = start_in(folder.path(), &arguments(words, &[]));
    driver.wait_for("waiting on 0.0.0.0:");
    driver.signal("INT");
    driver.wait().exited(1);
}

#[test]
fn durations_have_a_unit_or_mean_seconds() {
    let spans = [
        ("1", "1000ms", 1000),
        ("0.5", "500ms", 500),
        ("500ms", "0.5s", 500),
        ("500000us", "500ms", 500),
        ("0.005m", "300ms", 300),
    ];
    for (duration, window, milliseconds) in spans {
        let folder = Folder::new(&format!("span-{duration}"));
        let report = folder.at("report.json");
        let words = format!("ysb --rate 1000 --duration {duration} --window {window}");
        run(&arguments(&words, &["--report", &report])).verified();
        let report = read_report(Path::new(&report));
        assert_eq!(report["events"], milliseconds, "{words}");
        assert_eq!(report["windows"], 1, "{words}");
    }
}

/// The type of a value of a report.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "count",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[track_caller]
fn has(report: &Value, key: &str, wanted: &str) {
    let is = kind(&report[key]);
    // A number may happen to be whole.
    let fits = is == wanted || (wanted == "number" && is == "count");
    assert!(fits, "{key} should be a {wanted}: {report}");
}

const REPORT: [(&str, &str); 18] = [
    ("events", "count"),
    ("events_per_second", "number"),
    ("events_per_second_per_core", "number"),
    ("windows", "count"),
    ("window_latency_us", "object"),
    ("window_last_latency_us", "object"),
    ("scheduling_ns_per_task", "number"),
    ("lost", "count"),
    ("duplicated", "count"),
    ("verified", "boolean"),
    ("counters", "object"),
    ("per_window", "list"),
    ("host", "text"),
    ("io", "text"),
    ("poll", "text"),
    ("group_size", "count"),
    ("workers", "count"),
    ("cores", "count"),
];

#[test]
fn report_of_generated_events_has_everything() {
    let folder = Folder::new("report");
    let path = folder.at("report.json");
    let words = "ysb --duration 2s --rate 20000 --window 1s --report";
    let ended = run(&arguments(words, &[&path])).verified();
    let report = read_report(Path::new(&path));
    for (key, wanted) in REPORT {
        has(&report, key, wanted);
    }
    for key in ["window_latency_us", "window_last_latency_us"] {
        let quantiles = ["p50", "p95", "p99", "max"].map(|name| {
            has(&report[key], name, "number");
            report[key][name].as_f64()
        });
        assert!(quantiles.is_sorted(), "{report}");
    }
    let wanted = [
        ("events", 40_000.into()),
        ("windows", 2.into()),
        ("lost", 0.into()),
        ("duplicated", 0.into()),
        ("verified", true.into()),
        ("group_size", 100.into()),
        ("workers", 2.into()),
        ("cores", 1.into()),
        ("poll", "adaptive".into()),
    ];
    for (key, value) in wanted {
        assert_eq!(report[key], Value::clone(&value), "{key}");
    }
    windows_add_up(&report);
    for row in ["events", "windows", "window latency", "scheduling", "runtime", "verified"] {
        assert!(ended.stdout.lines().any(|line| line.starts_with(row)), "{}", ended.said());
    }
    assert!(ended.stdout.contains("40,000") && ended.stdout.contains("0 lost, 0 duplicated"));
    assert!(ended.stderr.starts_with("runtime: "), "the choice is said: {}", ended.said());
}

/// The rows of the windows are all results, each window is there once, and the counters add up.
fn windows_add_up(report: &Value) {
    let windows = report["per_window"].as_array().expect("it is a list");
    let number = |value: &Value| value.as_u64().expect("it is a count");
    let starts: Vec<u64> = windows.iter().map(|row| number(&row["window_start"])).collect();
    assert!(starts.is_sorted_by(|one, other| one + 1000 == *other), "{report}");
    assert_eq!(windows.len() as u64, number(&report["windows"]));
    let rows: u64 = windows.iter().map(|row| number(&row["rows"])).sum();
    assert_eq!(rows, number(&report["results"]), "{report}");
    // A window that ends with the job may be flushed a little before its end.
    let timed = |row: &Value| row["latency_us"].is_number() || row["latency_us"].is_null();
    assert!(windows.iter().all(timed) && windows[0]["latency_us"].is_number(), "{report}");
    let counter = |name: &str| number(&report["counters"][name]);
    assert_eq!(counter("lines"), counter("blank") + counter("malformed") + counter("ok"));
    let kept = ["filtered", "unmatched", "late", "counted"].map(counter);
    assert_eq!(counter("ok"), kept.iter().sum::<u64>());
    assert_eq!(counter("lines"), number(&report["events"]));
}

#[test]
fn report_of_a_file_has_no_latencies() {
    let folder = Folder::new("report-file");
    let input = Input::load(INPUTS[0]);
    let (events, ads) = (input.events(), input.ads());
    let (path, out) = (folder.at("report.json"), folder.at("counts.jsonl"));
    let files = ["--events", &events, "--ads", &ads, "--out", &out, "--report", &path];
    let ended = run(&arguments("ysb", &files)).verified();
    let report = read_report(Path::new(&path));
    for (key, wanted) in REPORT {
        match key {
            "window_latency_us" | "window_last_latency_us" | "per_window" => {
                has(&report, key, "null");
            }
            // Nobody knows how many windows a file should have.
            "windows" => {}
            _ => has(&report, key, wanted),
        }
    }
    assert_eq!(report["events"], 2000);
    assert_eq!(report["verified"], true);
    for word in ["lines 2,000", "filtered", "unmatched", "late", "counted"] {
        assert!(ended.stdout.contains(word), "the counters are printed: {}", ended.said());
    }
}

#[test]
fn flags_of_the_generator_do_not_matter_to_a_file() {
    let folder = Folder::new("all-flags");
    let input = Input::load(INPUTS[0]);
    let (events, ads, out) = (input.events(), input.ads(), folder.at("counts.jsonl"));
    let files = ["--events", &events, "--ads", &ads, "--out", &out];
    let words = "ysb --rate 5 --duration 1s --window 10s --interval 1ms --poll block --cores 2";
    run(&arguments(words, &files)).verified();
    assert!(crate::inputs::read_output(Path::new(&out)) == input.lines);
}

#[test]
fn an_empty_file_has_no_windows() {
    let folder = Folder::new("empty");
    let ads = Input::load(INPUTS[0]).ads();
    let (events, out) = (folder.at("events.jsonl"), folder.at("counts.jsonl"));
    for content in ["", "\n \r\n\t\n"] {
        fs::write(&events, content).expect("the folder is ours");
        let files = ["--events", &events, "--ads", &ads, "--out", &out];
        run(&arguments("ysb", &files)).verified();
        assert_eq!(fs::read_to_string(&out).expect("it is written, empty"), "");
    }
}

#[test]
fn output_of_an_earlier_run_is_replaced() {
    let folder = Folder::new("again");
    let input = Input::load(INPUTS[0]);
    let (events, ads, out) = (input.events(), input.ads(), folder.at("counts"));
    let files = ["--events", &events, "--ads", &ads, "--out", &out];
    for partitions in ["40", "3"] {
        run(&arguments(&format!("ysb --partitions {partitions}"), &files)).verified();
        assert!(crate::inputs::read_output(Path::new(&out)) == input.lines);
    }
}
