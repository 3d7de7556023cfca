//! Workers on hosts of their own, one of which is cut off. The hosts are network namespaces named by the id
//! of this process, joined by a bridge in one more; where they cannot be made, that is said in one line.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{Folder, Process, arguments, start_on};

/// Long enough that the job goes on after a silent worker was noticed, and its loss recovered from.
const JOB: &str = "--duration 6s --rate 2000 --window 200ms --checkpoint-interval 200ms";
/// What all namespaces of these tests begin with.
const PREFIX: &str = "drizzle-it-";
/// The driver's host, and those of three workers.
const HOSTS: usize = 4;
/// An Ethernet address that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// Hosts on one network, which are gone when this is.
struct Hosts {
    name: String,
}

impl Hosts {
    /// Makes them, or says why not.
    fn make(name: &str) -> Option<Hosts> {
        remove_abandoned();
        let hosts = Hosts { name: format!("{PREFIX}{}-{name}", std::process::id()) };
        match hosts.set_up() {
            Ok(()) => Some(hosts),
            Err(reason) => {
                eprintln!("SKIPPED on this machine: hosts of their own: {}", reason.trim());
                None
            }
        }
    }

    fn set_up(&self) -> Result<(), String> {
        let network = self.network();
        ip(&format!("netns add {network}"))?;
        ip(&format!("-n {network} link add name bridge type bridge"))?;
        ip(&format!("-n {network} link set bridge up"))?;
        for number in 0..HOSTS {
            let host = self.host(number);
            ip(&format!("netns add {host}"))?;
            ip(&format!(
                "-n {network} link add port{number} type veth peer name eth0 netns {host}"
            ))?;
            ip(&format!("-n {network} link set port{number} master bridge up"))?;
            ip(&format!("-n {host} address add {}/24 dev eth0", address(number)))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
        }
        Ok(())
    }

    fn network(&self) -> String {
        format!("{}-network", self.name)
    }

    fn host(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    fn start(&self, number: usize, words: &str, more: &[&str]) -> Process {
        start_on(&self.host(number), &arguments(words, more))
    }

    /// Pulls the cable of a host.
    fn cut_off(&self, number: usize) {
        let cut = ip(&format!("-n {} link set port{number} down", self.network()));
        cut.expect("its port is there");
    }

    /// From now on a host hears, and nothing that it says arrives.
    fn silence(&self, number: usize) {
        for other in (0..HOSTS).filter(|&other| other != number) {
            let (host, to) = (self.host(number), address(other));
            let words =
                format!("-n {host} neigh replace {to} lladdr {NOBODY} dev eth0 nud permanent");
            ip(&words).expect("its interface is there");
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        remove(|name| name.starts_with(&format!("{}-", self.name)));
    }
}

fn address(number: usize) -> String {
    format!("10.77.0.{}", number + 1)
}

/// Runs the command that makes networks; what it complains about.
fn ip(words: &str) -> Result<String, String> {
    let command = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output();
    let output = command.map_err(|error| format!("there is no ip command: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Removes namespaces of ours. That one is not there is as good.
fn remove(is_it: impl Fn(&str) -> bool) {
    let listed = ip("netns list").unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| is_it(name)) {
        let _ = ip(&format!("netns delete {name}"));
    }
}

/// Removes what a process left that was killed before it could.
fn remove_abandoned() {
    remove(|name| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
    });
}

/// One of three workers, each on a host of its own, is lost to the others in some way, which costs nothing.
fn loses_a_host(name: &str, lose: impl Fn(&Hosts, usize)) {
    let Some(hosts) = Hosts::make(name) else { return };
    let folder = Folder::new(&format!("hosts-{name}"));
    let (data, upsert) = (folder.at("data"), folder.at("results"));
    let listen = format!("{}:7400", address(0));
    let paths = ["--data", &data, "--upsert", &upsert];
    let words = format!("ysb driver --insecure --listen {listen} --workers 3 {JOB}");
    let words = format!("{words} --timeline /dev/stderr");
    let mut driver = hosts.start(0, &words, &paths);
    driver.wait_for("waiting on");
    let words = format!("ysb worker --insecure --driver {listen}");
    let [first, second, mut lost] = [1, 2, 3].map(|host| hosts.start(host, &words, &[]));
    driver.wait_for("\"change\":\"durable\"");
    lose(&hosts, 3);
    let line = driver.wait_for("\"change\":\"lost\"");
    driver.wait_for("\"change\":\"recovered\"");
    let ended = driver.wait().verified();
    assert!(ended.stdout.contains("0 lost, 0 duplicated"), "{line} {}", ended.said());
    assert!(
        ended.stderr.contains(&format!("({}:", address(3))),
        "it was that one: {}",
        ended.said()
    );
    let others = ended.stderr.matches("\"change\":\"lost\"").count();
    assert_eq!(others, 1, "nobody else is given up: {}", ended.said());
    for worker in [first, second] {
        worker.wait().exited(0);
    }
    // It looks for its driver, which it cannot find.
    lost.kill();
}

#[test]
fn host_that_is_cut_off_costs_no_result() {
    loses_a_host("cut", Hosts::cut_off);
}

#[test]
fn host_that_is_only_heard_no_more_costs_no_result() {
    loses_a_host("silent", Hosts::silence);
}
