//! A worker that does useless work for each view, so that it stays far behind: partitions move away from it
//! while the job runs.

use std::fs;

use crate::process::{Ended, Folder, Process, arguments, start};

/// It lasts until it is stopped.
const JOB: &str = "--workers 3 --duration 1h --rate 10000 --window 200ms --group-size 2 \
                   --checkpoint-interval 100ms --timeline /dev/stderr";
/// Some milliseconds for each view: much more than there is time for.
const BURN: &str = "--burn 3000";

/// A driver with a folder, two workers and a slow one.
struct Cluster {
    folder: Folder,
    driver: Process,
    workers: [Process; 3],
}

impl Cluster {
    fn start(name: &str, more: &[&str]) -> Cluster {
        let folder = Folder::new(&format!("slow-{name}"));
        let (data, report) = (folder.at("data"), folder.at("report.json"));
        let paths = ["--listen", "127.0.0.1:0", "--data", &data, "--report", &report];
        let words = format!("ysb driver {JOB}");
        let mut driver = start(&arguments(&words, &[&paths[..], more].concat()));
        let address = driver.listens_on();
        let worker =
            |words: &str| start(&arguments(&format!("ysb worker {words} --driver"), &[&address]));
        let workers = [worker(""), worker(""), worker(BURN)];
        Cluster { folder, driver, workers }
    }

    /// Stops the job, whose results are right although nobody was lost. Gives its report.
    fn finish(self) -> (Ended, serde_json::Value) {
        self.driver.signal("INT");
        let ended = self.driver.wait().verified();
        let report = fs::read(self.folder.path().join("report.json")).expect("it was written");
        let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
        for field in ["lost", "duplicated", "lost_workers", "recoveries"] {
            assert_eq!(report[field], 0, "{field}: {}", ended.said());
        }
        for worker in self.workers {
            worker.wait().exited(0);
        }
        (ended, report)
    }
}

#[test]
fn partitions_move_away_from_a_slow_worker() {
    let mut cluster = Cluster::start("relieved", &[]);
    let from = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of the timeline");
        line["from"].clone()
    };
    let [first, second] =
        [(); 2].map(|()| from(&cluster.driver.wait_for("\"change\":\"relieved\"")));
    let (ended, report) = cluster.finish();
    assert_eq!(first, second, "only one worker is slow: {}", ended.said());
    let relieved = report["relieved_partitions"].as_u64().expect("a number");
    assert!(relieved >= 2, "{relieved}: {}", ended.said());
    let lines = ended.stderr.lines().filter(|line| line.contains(", which is slow, to "));
    assert_eq!(lines.count() as u64, relieved, "one line for each: {}", ended.said());
}
