//! The task boundary: the one place where a panic of user code is caught. Anywhere else a panic is
//! our bug and ends the process, so that the driver sees a lost worker and nothing half-done.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Why user code has not done what it should, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It says so.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

impl From<Failure> for String {
    fn from(failure: Failure) -> String {
        match failure {
            Failure::Failed(reason) | Failure::Panicked(reason) => reason,
        }
    }
}

/// Runs user code (a task, or what opens and closes its stage).
pub fn run<T, E: Display>(body: impl FnOnce() -> Result<T, E>) -> Result<T, Failure> {
    match catch(body) {
        Ok(result) => result.map_err(|error| Failure::Failed(error.to_string())),
        Err(panic) => Err(Failure::Panicked(format!("an operator panicked: {panic}"))),
    }
}

/// The error is the panic's text.
fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    IN_TASK.set(true);
    // The stage does nothing more after a panic: its worker's life ends, or its job.
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    IN_TASK.set(false);
    result.map_err(|payload| text_of(payload.as_ref()))
}

/// Makes every panic outside a task end the process, after its message. For binaries, first of all.
pub fn abort_on_panic_outside_tasks() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_TASK.get() {
            report(info);
            std::process::abort();
        }
    }));
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it gave no reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Failure, catch, run};

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(catch(|| 7), Ok(7));
        let result: Result<(), String> = catch(|| panic!("record {} is odd", 3));
        assert_eq!(result, Err("record 3 is odd".to_owned()));
    }

    #[test]
    fn an_error_and_a_panic_both_become_a_sentence() {
        assert_eq!(run(|| Ok::<_, &str>(7)), Ok(7));
        let result = run(|| Err::<(), _>("no disk"));
        assert_eq!(result, Err(Failure::Failed("no disk".to_owned())));
        let result = run(|| -> Result<(), &str> { panic!("no luck") });
        assert_eq!(result, Err(Failure::Panicked("an operator panicked: no luck".to_owned())));
    }
}
