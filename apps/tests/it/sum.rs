//! The micro-benchmark: every run compares its sums with a plain loop, and says so.

use std::path::Path;

use serde_json::Value;

use crate::inputs::read_report;
use crate::process::{Folder, arguments, run};

/// Runs the micro-benchmark, and returns the report of a run that was right.
fn verified(name: &str, flags: &str) -> Value {
    let folder = Folder::new(&format!("sum-{name}"));
    let report = folder.at("report.json");
    let ended = run(&arguments(&format!("sum {flags}"), &["--report", &report])).verified();
    let report = read_report(Path::new(&report));
    assert_eq!(report["verified"], true, "{}", ended.said());
    let number = |key: &str| report[key].as_u64().expect("it is a number");
    assert_eq!(number("schedule_messages"), number("groups") * number("workers"));
    report
}

#[test]
fn one_and_two_stages_are_verified_however_they_are_scheduled() {
    for (index, flags) in [
        "--stages 1 --workers 1",
        "--stages 1 --workers 3 --tasks 7 --group-size 1",
        "--stages 2 --workers 2 --tasks 9 --group-size 10",
        "--stages 2 --workers 2 --group-size 1 --no-prescheduling",
        "--stages 2 --workers 2 --cores 2 --processes --numbers 100",
        "--stages 2 --workers 3 --reducers 5 --numbers 999 --io epoll",
    ]
    .into_iter()
    .enumerate()
    {
        let report = verified(&format!("stages-{index}"), flags);
        assert_eq!(report["batches"], 100, "{flags}");
    }
}

#[test]
fn sums_depend_on_nothing_but_the_numbers() {
    let digest = |name: &str, flags: &str| {
        let flags = format!("--stages 2 --tasks 6 --batches 30 {flags}");
        verified(name, &flags)["digest"].clone()
    };
    let one = digest("digest-one", "--workers 1");
    assert_eq!(digest("digest-four", "--workers 4 --group-size 7"), one);
    assert_eq!(digest("digest-paced", "--workers 2 --interval 1ms"), one);
}

#[test]
fn a_hundred_and_twenty_eight_light_workers_are_verified() {
    let job = "--workers 128 --light 2 --tasks 512 --batches 20 --numbers 50";
    for stages in [1, 2] {
        let report = verified(&format!("light-{stages}"), &format!("{job} --stages {stages}"));
        assert_eq!((&report["workers"], &report["cores"]), (&128.into(), &128.into()));
    }
}

#[test]
fn light_workers_have_the_sums_of_others() {
    let digest = |name: &str, flags: &str| {
        let flags = format!("--stages 2 --tasks 20 --batches 30 --numbers 100 {flags}");
        verified(name, &flags)["digest"].clone()
    };
    let others = digest("light-none", "--workers 2");
    assert_eq!(digest("light-one", "--workers 7 --light 1 --group-size 7"), others);
    assert_eq!(digest("light-paced", "--workers 9 --light 2 --interval 1ms"), others);
    let central = "--workers 9 --light 2 --group-size 1 --no-prescheduling --io epoll";
    assert_eq!(digest("light-central", central), others);
}
