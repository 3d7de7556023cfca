//! Jobs on generated events: each compares its windows with a sequential run, and says so.

use std::path::Path;

use serde_json::Value;

use crate::inputs::read_report;
use crate::process::{Folder, arguments, run};

/// Runs a job of the generator, and returns its report.
fn verified(name: &str, flags: &str) -> Value {
    let folder = Folder::new(&format!("generator-{name}"));
    let report = folder.at("report.json");
    let ended = run(&arguments(&format!("ysb {flags}"), &["--report", &report]));
    let ended = ended.verified();
    let report = read_report(Path::new(&report));
    for (key, value) in [("verified", true.into()), ("lost", 0.into()), ("duplicated", 0.into())] {
        assert_eq!(report[key], Value::clone(&value), "{key}: {}", ended.said());
    }
    assert_eq!(report["schedule_messages"], messages(&report), "{}", ended.said());
    report
}

/// One message per worker and group.
fn messages(report: &Value) -> Value {
    let number = |key: &str| report[key].as_u64().expect("it is a number");
    (number("groups") * number("workers")).into()
}

/// A second of events, however it is cut and scheduled.
fn second(name: &str, flags: &str) -> Value {
    let report = verified(name, &format!("--duration 1s --rate 5000 {flags}"));
    assert_eq!(report["events"], 5000, "{name}");
    report
}

#[test]
fn generated_events_on_threads_are_verified() {
    let report = second("threads", "--workers 2");
    assert_eq!(report["windows"], 1);
    assert_eq!(report["workers"], 2);
}

#[test]
fn generated_events_on_processes_are_verified() {
    let report = second("processes", "--workers 3 --processes");
    assert_eq!(report["workers"], 3);
}

#[test]
fn workers_of_several_cores_are_verified() {
    let report = second("cores", "--workers 2 --cores 2 --processes");
    assert_eq!(report["cores"], 2);
}

#[test]
fn a_central_scheduler_is_verified() {
    second("central", "--group-size 1 --no-prescheduling");
    second("central-processes", "--group-size 1 --no-prescheduling --processes");
}

#[test]
fn groups_of_one_and_seven_are_verified() {
    assert_eq!(second("one", "--group-size 1 --processes")["group_size"], 1);
    assert_eq!(second("seven", "--group-size 7")["group_size"], 7);
}

#[test]
fn short_and_odd_intervals_are_verified() {
    for (name, interval) in [("1ms", "1ms"), ("7ms", "7ms"), ("300us", "300us")] {
        second(name, &format!("--interval {interval}"));
    }
}

#[test]
fn batches_of_a_millisecond_take_every_event() {
    let report = verified("every", "--interval 1ms --duration 2s --rate 20000 --processes");
    assert_eq!(report["events"], 40_000);
    // How many batches took input depends on the machine; that all of it was taken does not.
    let printed = ["batches", "overtaken", "worst_delay_us"].map(|key| &report[key]);
    assert!(printed.iter().all(|value| value.is_number()), "{report}");
}

#[test]
fn windows_that_batches_do_not_divide_are_verified() {
    let report = second("window", "--window 300ms");
    assert_eq!(report["windows"], 4);
    second("window-processes", "--window 300ms --interval 7ms --group-size 7 --processes");
}

#[test]
fn records_that_are_not_combined_are_verified() {
    second("no-combine", "--no-combine");
    second("no-combine-processes", "--no-combine --no-prescheduling --processes --workers 4");
}

#[test]
fn as_many_events_as_possible_are_verified() {
    for (name, more) in [("max", ""), ("max-processes", "--processes")] {
        let report = verified(name, &format!("--rate max --duration 1s {more}"));
        assert!(report["events"].as_u64() > Some(0), "{report}");
        assert_eq!(report["window_latency_us"], Value::Null, "there is no clock to compare with");
    }
}

#[test]
fn windows_closed_by_the_events_alone_are_verified() {
    for more in ["", "--processes --no-combine", "--interval 1ms --window 100ms"] {
        second("derived", &format!("--watermark derived {more}"));
    }
}

#[test]
fn a_rate_below_one_event_a_batch_is_verified() {
    let report = verified("slow", "--duration 1s --rate 10 --workers 4 --window 100ms");
    assert_eq!(report["events"], 10);
}

#[test]
fn events_in_memory_are_verified_in_every_pass() {
    for format in ["json", "binary"] {
        for (name, shape) in [("threads", ""), ("processes", "--processes --no-combine")] {
            let flags =
                format!("--replay 64KiB --passes 7 --format {format} --window 40ms {shape}");
            let report = verified(&format!("replay-{format}-{name}"), &flags);
            assert_eq!(report["windows"], 70, "{flags}");
        }
    }
}
