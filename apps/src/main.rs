//! The binary that runs the jobs of this crate.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use drizzle_apps::{sum, ysb};

/// Stream jobs on Drizzle: scheduled in groups, one message per worker and group.
///
/// Try this first; it needs nothing and checks its own result:
///
///     cargo run --release -- ysb
#[derive(Debug, Parser)]
#[command(name = "drizzle-apps", version, verbatim_doc_comment)]
struct Arguments {
    #[command(subcommand)]
    app: App,
}

#[derive(Debug, Subcommand)]
enum App {
    Ysb(Box<ysb::YsbArguments>),
    Sum(Box<sum::SumArguments>),
}

fn main() -> ExitCode {
    drizzle::node::abort_on_panic_outside_tasks();
    match Arguments::try_parse() {
        Ok(Arguments { app: App::Ysb(arguments) }) => ysb::main(*arguments),
        Ok(Arguments { app: App::Sum(arguments) }) => sum::main(*arguments),
        Err(error) => refuse(&error),
    }
}

/// Prints the help that was asked for, or what is wrong in one sentence.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            eprintln!("{}", one_sentence(&error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// The complaint and the tip of a message of several paragraphs, without usage and repetition.
fn one_sentence(message: &str) -> String {
    let joined = |paragraph: &str| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    };
    let mut paragraphs = message.split("\n\n").map(joined);
    let complaint = paragraphs.next().unwrap_or_default();
    let tips = paragraphs.filter_map(|text| text.strip_prefix("tip: ").map(str::to_owned));
    tips.fold(complaint, |sentence, tip| format!("{sentence}; {tip}"))
}
