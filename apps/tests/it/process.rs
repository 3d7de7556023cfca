//! A child process whose output is read as it comes and which is killed when it takes too long.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// Long enough for any job of these tests on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);

/// What a child does.
enum Event {
    Out(Vec<u8>),
    Error(String),
    /// One of its two outputs is closed, by itself and by whatever it had started.
    Closed,
    TookTooLong,
}

/// A child that runs.
pub struct Process {
    command: String,
    child: Child,
    events: Receiver<Event>,
    open_outputs: usize,
    stdout: Vec<u8>,
    stderr: String,
    /// Ends the watch when it is dropped.
    _watch: Sender<()>,
}

/// A child that has ended.
pub struct Ended {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Starts the binary with these arguments.
pub fn start<S: AsRef<str>>(arguments: &[S]) -> Process {
    start_in(Path::new(env!("CARGO_TARGET_TMPDIR")), arguments)
}

/// Starts the binary in a folder of its own.
pub fn start_in<S: AsRef<str>>(folder: &Path, arguments: &[S]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drizzle-apps"));
    command.current_dir(folder);
    begin(command, arguments)
}

/// Starts the binary in a network namespace.
pub fn start_on<S: AsRef<str>>(namespace: &str, arguments: &[S]) -> Process {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_drizzle-apps")]);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    begin(command, arguments)
}

fn begin<S: AsRef<str>>(mut command: Command, arguments: &[S]) -> Process {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let mut child = command
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built with this test");
    let (tell, events) = channel();
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let as_text = |line: Vec<u8>| Event::Error(String::from_utf8_lossy(&line).into_owned());
    read_lines(stdout, tell.clone(), Event::Out);
    read_lines(stderr, tell.clone(), as_text);
    let watch = watch(child.id(), tell);
    Process {
        command: format!("drizzle-apps {}", arguments.join(" ")),
        child,
        events,
        open_outputs: 2,
        stdout: Vec::new(),
        stderr: String::new(),
        _watch: watch,
    }
}

/// Runs the binary to its end.
pub fn run<S: AsRef<str>>(arguments: &[S]) -> Ended {
    start(arguments).wait()
}

fn read_lines(
    output: impl Read + Send + 'static,
    tell: Sender<Event>,
    event: impl Fn(Vec<u8>) -> Event + Send + 'static,
) {
    spawn("reader", move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
            // Who has given up on the child does not listen.
            let _ = tell.send(event(std::mem::take(&mut line)));
        }
        let _ = tell.send(Event::Closed);
    });
}

/// Kills the child when its time is over, unless the sender is dropped before.
fn watch(process: u32, tell: Sender<Event>) -> Sender<()> {
    let (keep, end) = channel();
    spawn("watch", move || {
        if end.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            // A worker that hangs would survive its driver.
            for id in children_of(process).into_iter().chain([process]) {
                signal("KILL", id);
            }
            let _ = tell.send(Event::TookTooLong);
        }
    });
    keep
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    // Nobody joins it: it ends with the child.
    thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread can be started");
}

/// Kills a process that a process of ours has started.
pub fn kill(process: u32) {
    signal("KILL", process);
}

/// The processes that a process of ours has started, as far as Linux tells.
pub fn children_of(process: u32) -> Vec<u32> {
    let list = format!("/proc/{process}/task/{process}/children");
    let list = fs::read_to_string(list).unwrap_or_default();
    list.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    // It may have ended by itself meanwhile; what is wrong then, its exit status tells.
    assert!(status.is_ok(), "there is a kill command: {status:?}");
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        signal(name, self.id());
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let gone = self.child.wait();
        assert!(gone.is_ok(), "it is our child: {gone:?}");
    }

    /// Waits until it listens for workers on loopback; where.
    pub fn listens_on(&mut self) -> String {
        let line = self.wait_for("waiting on 127.0.0.1:");
        let from = line.find("127.0.0.1:").expect("it is in the line");
        let address = line[from..].split(|c: char| !(c.is_ascii_digit() || ".:".contains(c)));
        address.into_iter().next().expect("there is a first part").to_owned()
    }

    /// Whether it has ended, although nobody has waited for it yet.
    pub fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }

    /// Waits for a line on standard error that contains `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            assert!(self.open_outputs > 0, "no line has {text:?}: {}", self.said());
            if let Some(line) = self.next_event()
                && line.contains(text)
            {
                return line;
            }
        }
    }

    /// Waits until it has ended, and everything that it had started and that shares its output.
    pub fn wait(mut self) -> Ended {
        while self.open_outputs > 0 {
            self.next_event();
        }
        let status = self.child.wait().expect("it is our child and nobody has waited for it");
        Ended {
            command: std::mem::take(&mut self.command),
            status,
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: std::mem::take(&mut self.stderr),
        }
    }

    /// Takes what the child does next; returns it if it is a line on standard error.
    fn next_event(&mut self) -> Option<String> {
        match self.events.recv().expect("readers end with an event") {
            Event::Out(line) => {
                self.stdout.extend_from_slice(&line);
                None
            }
            Event::Error(line) => {
                self.stderr.push_str(&line);
                Some(line)
            }
            Event::Closed => {
                self.open_outputs -= 1;
                None
            }
            Event::TookTooLong => panic!("killed after {LIMIT:?}: {}", self.said()),
        }
    }

    fn said(&self) -> String {
        show(&self.command, &String::from_utf8_lossy(&self.stdout), &self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already waited for in most cases; a test that fails leaves nothing behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts how it ended.
    #[track_caller]
    pub fn exited(self, code: i32) -> Ended {
        assert_eq!(self.status.code(), Some(code), "{} {}", self.status, self.said());
        self
    }

    /// The one complaint on standard error, without its `error: `. Progress does not count.
    #[track_caller]
    pub fn complaint(&self) -> &str {
        let mut complaints = self.stderr.lines().filter_map(|line| line.strip_prefix("error: "));
        let first = complaints.next();
        let first = first.unwrap_or_else(|| panic!("it does not complain: {}", self.said()));
        assert_eq!(complaints.next(), None, "it complains twice: {}", self.said());
        first
    }

    /// Asserts that it says nothing but one sentence, beside the choice of the runtime, and that
    /// the sentence has all of `words` in it.
    #[track_caller]
    pub fn says_only(&self, words: &[&str]) {
        let complaint = self.complaint();
        let unsaid = words.iter().find(|word| !complaint.contains(**word));
        assert_eq!(unsaid, None, "it should be named: {}", self.said());
        let is_choice = |line: &str| line.starts_with("runtime: ") || line.contains(": host ");
        let mut other = self.stderr.lines().filter(|line| !line.starts_with("error: "));
        let other = other.find(|line| !is_choice(line));
        assert_eq!(other, None, "one sentence is enough: {}", self.said());
        assert_eq!(self.stdout, "", "nothing is to be printed: {}", self.said());
    }

    /// Asserts that it ended well, with a table that says so.
    #[track_caller]
    pub fn verified(self) -> Ended {
        let ended = self.ended_well();
        let verified = ended.stdout.lines().last().is_some_and(|line| line.starts_with("verified"));
        assert!(verified, "the last line of the table: {}", ended.said());
        ended
    }

    /// Asserts that it ended without a complaint, its own or one of a worker that it started.
    #[track_caller]
    pub fn ended_well(self) -> Ended {
        let ended = self.exited(0);
        let complains = ended.stderr.lines().any(|line| line.starts_with("error: "));
        assert!(!complains, "all is well, yet it complains: {}", ended.said());
        ended
    }

    /// Command and output, for messages of failed tests.
    pub fn said(&self) -> String {
        show(&self.command, &self.stdout, &self.stderr)
    }
}

fn show(command: &str, stdout: &str, stderr: &str) -> String {
    format!("{command}\n-- stdout\n{stdout}\n-- stderr\n{stderr}\n--")
}

/// A folder that is removed at the end, unless the test fails.
pub struct Folder(PathBuf);

impl Folder {
    /// Creates it, empty. The name is used once among all tests.
    pub fn new(name: &str) -> Folder {
        let name = format!("it-{}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the target folder is ours");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it, as an argument.
    pub fn at(&self, name: &str) -> String {
        let path = self.0.join(name);
        path.to_str().expect("the path of the clone is text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Arguments from words with spaces between them, and paths that may have spaces in them.
pub fn arguments(words: &str, more: &[&str]) -> Vec<String> {
    words.split_whitespace().chain(more.iter().copied()).map(str::to_owned).collect()
}

/// A list for messages: each item on a line of its own.
pub fn listed<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        writeln!(text, "  {item}").expect("a string takes every text");
        text
    })
}
