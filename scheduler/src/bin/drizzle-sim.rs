//! Runs seeds of the simulator, in one process and one thread: `cargo xtask sim` starts one for each
//! core of the machine. Every line is written at once, so that several can share a pipe.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use drizzle_scheduler::bugs::Bug;
use drizzle_scheduler::sim::coverage::{Fault, IMPOSSIBLE, Matrix, Phase};
use drizzle_scheduler::sim::{LEGEND, Lines, SimOptions, run};

const HELP: &str = "\
drizzle-sim [--seed N] [--seeds N] [--trace] [--bug NAME] [--shard I/N] [--first-failure]
drizzle-sim --names

Runs `--seeds` seeds beginning with `--seed`; of these only every N-th with --shard. Lines:
  progress SEEDS STEPS          so many more seeds are done, with so many events
  failed SEED TEXT              a rule was broken
  matrix FAULT COUNT...         faults by phases, at the end
  fault NUMBER NAME             what its rows are, with --names; phase, bug, impossible likewise
Exit code 1 if a seed failed. `cargo xtask sim --help` says more.
";

struct Arguments {
    first: u64,
    count: u64,
    lines: Lines,
    bug: Option<Bug>,
    shard: (u64, u64),
    stop: Stop,
}

#[derive(PartialEq)]
enum Stop {
    AtTheEnd,
    AtTheFirstFailure,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--names") {
        names();
        return ExitCode::SUCCESS;
    }
    match parse(&arguments) {
        Ok(arguments) => run_all(&arguments),
        Err(what) => {
            eprintln!("drizzle-sim: {what}; see --help");
            ExitCode::from(2)
        }
    }
}

/// What the rows and columns of the matrix are, and which bugs there are.
fn names() {
    for fault in Fault::ALL {
        println!("fault {} {}", fault as usize, fault.name());
    }
    for phase in Phase::ALL {
        println!("phase {} {}", phase as usize, phase.name());
    }
    for (fault, phase, why) in IMPOSSIBLE {
        println!("impossible {} {} {why}", *fault as usize, *phase as usize);
    }
    for bug in Bug::ALL {
        println!("bug {}", bug.name());
    }
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        first: 0,
        count: 1,
        lines: Lines::Hashed,
        bug: None,
        shard: (0, 1),
        stop: Stop::AtTheEnd,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--trace" => parsed.lines = Lines::Kept,
            "--first-failure" => parsed.stop = Stop::AtTheFirstFailure,
            "--seed" | "--seeds" | "--bug" | "--shard" => {
                let value = arguments.next().ok_or(format!("{name} needs a value"))?;
                take(&mut parsed, name, value)?;
            }
            other => return Err(format!("no such argument: {other}")),
        }
    }
    Ok(parsed)
}

fn take(parsed: &mut Arguments, name: &str, value: &str) -> Result<(), String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{name}: not a number: {text}"));
    match name {
        "--seed" => parsed.first = number(value)?,
        "--seeds" => parsed.count = number(value)?,
        "--bug" => {
            let bug = Bug::ALL.into_iter().find(|bug| bug.name() == value);
            parsed.bug = Some(bug.ok_or(format!("no such bug: {value}"))?);
        }
        _ => {
            let (index, of) = value.split_once('/').ok_or("--shard is I/N".to_owned())?;
            parsed.shard = (number(index)?, number(of)?);
            if parsed.shard.0 >= parsed.shard.1 {
                return Err("--shard I/N: I is below N".to_owned());
            }
        }
    }
    Ok(())
}

fn run_all(arguments: &Arguments) -> ExitCode {
    // A panic is a failure of its seed, and told as such, with its place.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            println!("panicked at {}:{}", place.file(), place.line());
        }
    }));
    let options = SimOptions { bug: arguments.bug, trace: arguments.lines };
    let (mut matrix, mut steps, mut done, mut failed) = (Matrix::default(), 0, 0_u64, 0_u64);
    let (index, of) = arguments.shard;
    for seed in (arguments.first..arguments.first + arguments.count).filter(|s| s % of == index) {
        let outcome = run(seed, options);
        if arguments.lines == Lines::Kept {
            println!("{LEGEND}");
            outcome.lines.iter().for_each(|line| println!("{line}"));
            println!("hash {:016x}, {} steps", outcome.hash, outcome.steps);
        }
        done += 1;
        steps += outcome.steps;
        matrix.merge(&outcome.matrix);
        if let Some(failure) = outcome.failure {
            failed += 1;
            println!("failed {seed} {}", failure.replace('\n', " "));
            if arguments.stop == Stop::AtTheFirstFailure {
                break;
            }
        }
        if done == 20 {
            println!("progress {done} {steps}");
            (done, steps) = (0, 0);
        }
    }
    matrix.to_lines().iter().for_each(|line| println!("{line}"));
    println!("progress {done} {steps}");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
