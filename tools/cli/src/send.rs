//! `drizzle send`: a sender of lines, from files or standard input, for jobs that read over TCP.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use drizzle::connectors::{LineServer, ServerOptions, ServerStatus};
use drizzle::node::{self, Exposure, StopFlag};

/// What to send, and where.
#[derive(Debug, Args)]
pub(crate) struct SendFlags {
    /// Files of lines, sent one after the other as one stream; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where jobs connect to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7500")]
    listen: SocketAddr,
    /// Allow an address that other hosts can reach: whoever connects is not authenticated, and may also have lines
    /// forgotten.
    #[arg(long)]
    insecure: bool,
    /// Keep about so many MiB that are not acknowledged; with more, nothing is read until a checkpoint covers some.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    keep_mib: u32,
}

/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Sends until everything is acknowledged.
pub(crate) fn run(flags: &SendFlags) -> Result<()> {
    let input = Inputs::open(&flags.files)?;
    let exposure = if flags.insecure { Exposure::Insecure } else { Exposure::Loopback };
    // The rule for what may be reached from other hosts is that of nodes.
    let listener = node::listen_for_workers(flags.listen, exposure)?;
    let options = ServerOptions { kept_bytes: u64::from(flags.keep_mib) << 20 };
    let server = LineServer::start(listener, input, options).context("cannot start to send")?;
    let stop = node::stop_on_signals().context("cannot catch signals")?;
    println!("waiting on {} for a job", server.address());
    watch(&server, &stop, |line| println!("{line}"))
}

/// Waits for the end, and says what happens.
fn watch(server: &LineServer, stop: &StopFlag, mut say: impl FnMut(&str)) -> Result<()> {
    let mut is_connected = false;
    loop {
        let status = server.wait(LOOK, |status| {
            let is_news = status.calls > 0 && !is_connected;
            is_news || status.is_complete() || status.failed.is_some() || is_beyond(status)
        });
        if status.calls > 0 && !is_connected {
            is_connected = true;
            say("a job is connected");
        }
        if status.is_complete() {
            say(&format!("{} bytes were sent, and all of them acknowledged", status.length));
            return Ok(());
        }
        if let Some(reason) = &status.failed {
            bail!("cannot read what is to be sent: {reason}");
        }
        if is_beyond(&status) {
            bail!(
                "a job has acknowledged {} bytes, and these are only {}: it read something else",
                status.oldest,
                status.length
            );
        }
        if stop.is_set() {
            let ServerStatus { length, kept_bytes: left, .. } = status;
            if left == 0 {
                say(&format!("stopped: {length} bytes were sent, and all of them acknowledged"));
                return Ok(());
            }
            bail!(
                "stopped: of {length} bytes read {left} are not acknowledged, and a job that needs them \
                 needs them sent again"
            );
        }
    }
}

/// More was acknowledged than there is.
fn is_beyond(status: &ServerStatus) -> bool {
    status.ended && status.oldest > status.length
}

/// Files one after the other. A line does not go on in the next file.
struct Inputs {
    left: VecDeque<(PathBuf, Box<dyn Read + Send>)>,
    last: u8,
}

impl Inputs {
    /// Opens all of them, so that one that is missing is known at once.
    fn open(paths: &[PathBuf]) -> Result<Inputs> {
        let open = |path: &PathBuf| -> Result<(PathBuf, Box<dyn Read + Send>)> {
            if path.as_os_str() == "-" {
                return Ok((PathBuf::from("standard input"), Box::new(io::stdin())));
            }
            let file = File::open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            Ok((path.clone(), Box::new(file)))
        };
        Ok(Inputs { left: paths.iter().map(open).collect::<Result<_>>()?, last: b'\n' })
    }
}

impl Read for Inputs {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((path, input)) = self.left.front_mut() {
            let length = match input.read(buffer) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(io::Error::other(format!("{}: {error}", path.display())));
                }
                result => result?,
            };
            if length > 0 {
                self.last = buffer[length - 1];
                return Ok(length);
            }
            self.left.pop_front();
            if self.last != b'\n' && !self.left.is_empty() {
                buffer[0] = b'\n';
                self.last = b'\n';
                return Ok(1);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use drizzle::connectors::{LineServer, ServerOptions};
    use drizzle::node::StopFlag;

    use super::{Inputs, watch};

    fn serve(text: &str) -> LineServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let input = Cursor::new(text.as_bytes().to_vec());
        LineServer::start(listener, input, ServerOptions { kept_bytes: 1 << 20 }).unwrap()
    }

    /// What is said to a person while somebody says `request`, and how it ends.
    fn watched(server: &LineServer, request: &str) -> (Vec<String>, Result<(), String>) {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = Vec::new();
        let result = watch(server, &StopFlag::default(), |line| said.push(line.to_owned()));
        (said, result.map_err(|error| error.to_string()))
    }

    #[test]
    fn ends_well_when_everything_is_acknowledged_and_only_then() {
        let lines = ["a job is connected", "4 bytes were sent, and all of them acknowledged"];
        let (said, result) = watched(&serve("a\nb\n"), "from 0\ndurable 2\ndurable 4\n");
        assert_eq!((said, result), (lines.map(str::to_owned).to_vec(), Ok(())));
        let (said, result) = watched(&serve("a\nb\n"), "durable 9\n");
        assert_eq!(said, Vec::<String>::new());
        assert!(result.unwrap_err().contains("9 bytes, and these are only 4"));
    }

    #[test]
    fn stops_when_it_is_asked_to_and_says_what_is_left() {
        let server = serve("a\nb\n");
        server.wait(std::time::Duration::from_secs(60), |status| status.ended);
        let stop = StopFlag::new(Arc::new(AtomicBool::new(true)));
        let stopped = watch(&server, &stop, |line| panic!("{line}")).unwrap_err().to_string();
        assert!(stopped.contains("of 4 bytes read 4 are not acknowledged"), "{stopped}");
    }

    #[test]
    fn files_are_one_stream_in_which_no_line_goes_on_in_the_next_file() {
        let folder = std::env::temp_dir().join(format!("drizzle-send-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = [file("1", "a\nb"), file("2", ""), file("3", "c\n"), file("4", "d")];
        let mut text = String::new();
        Inputs::open(&paths).unwrap().read_to_string(&mut text).unwrap();
        let missing = Inputs::open(&[PathBuf::from("nowhere.jsonl")]).err().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(text, "a\nb\nc\nd");
        assert!(missing.to_string().contains("nowhere.jsonl"));
    }
}
