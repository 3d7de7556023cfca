//! What is the same however a job is started: exit codes, the choice of host and IO, worker
//! processes.

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};

use drizzle::io::{Capabilities, choose};
use drizzle::node::NodeError;

use crate::flags::{HostFlag, IoFlag};

/// Exit codes: what was asked for could not begin, or could not be brought to its end.
const SETUP_FAILED: u8 = 2;
pub(crate) const JOB_FAILED: u8 = 1;

/// Why there is no result.
pub(crate) enum Failure {
    Setup(anyhow::Error),
    Job(String),
    /// Somebody else has said why.
    Said,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Setup(error)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Failure {
        match error {
            NodeError::Setup(reason) => Failure::Setup(anyhow::anyhow!(reason)),
            NodeError::Job(reason) => Failure::Job(reason),
            NodeError::Aborted(reason) => Failure::Job(reason),
        }
    }
}

/// An error and its causes. Some errors name their cause themselves; it is not said twice.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The exit code of a result, after what there is to say.
pub(crate) fn conclude(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(Failure::Said) => ExitCode::from(JOB_FAILED),
        Err(Failure::Setup(error)) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::from(SETUP_FAILED)
        }
        Err(Failure::Job(reason)) => {
            eprintln!("error: {reason}");
            ExitCode::from(JOB_FAILED)
        }
    }
}

/// Decides what runs the cores of this process and its children, in one line.
pub(crate) fn choose_runtime(
    host: &mut HostFlag,
    io: &mut IoFlag,
    cores: usize,
) -> anyhow::Result<String> {
    let capabilities = Capabilities::probe();
    let chosen = choose(host.choice(), io.choice(), &capabilities, cores);
    let chosen = chosen.map_err(anyhow::Error::msg)?;
    *host = HostFlag::exactly(chosen.host);
    *io = IoFlag::exactly(chosen.io);
    Ok(chosen.describe())
}

/// How a worker process of `app` with so many cores is started.
pub(crate) fn worker_command(app: &str, driver: SocketAddr, cores: u16) -> Command {
    // This very binary, even if its file has been replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    let (driver, cores) = (driver.to_string(), cores.to_string());
    command.args([app, "worker", "--child", "--driver", &driver, "--cores", &cores]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // Ctrl-C is for the driver, which then ends its workers at a cut.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}
