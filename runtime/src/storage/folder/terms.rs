//! Whose term it is: one file for each term, created once, with a word that only its writer knows.
//!
//! Two drivers that choose the same term write the same first entry, byte by byte, and each would take
//! the other's for its own. The word tells them apart. These files stay for ever: a listing says
//! which terms there are only if no name goes while others come.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use drizzle_scheduler::Term;

use super::super::{AppendError, StorageError};
use super::names::{read_term, term_name};
use super::shelf::{Linked, Shelf, cannot};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Terms {
    shelf: Shelf,
    word: String,
    ours: Mutex<BTreeSet<Term>>,
}

impl Terms {
    pub(super) fn open(path: PathBuf, word: &str) -> Result<Terms, StorageError> {
        let shelf = Shelf::open(path, word)?;
        Ok(Terms { shelf, word: word.to_owned(), ours: Mutex::new(BTreeSet::new()) })
    }

    /// The largest term of all drivers, and of those that are others.
    pub(super) fn largest(&self) -> Result<(Term, Term), StorageError> {
        let terms: BTreeSet<Term> =
            self.shelf.names()?.iter().filter_map(|name| read_term(name)).collect();
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        let of_others = terms.difference(&ours).max().copied().unwrap_or_default();
        Ok((terms.last().copied().unwrap_or_default(), of_others))
    }

    /// Makes a term this writer's for ever, unless it is another's.
    pub(super) fn claim(&self, term: Term) -> Result<(), AppendError> {
        let mut ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if ours.contains(&term) {
            return Ok(());
        }
        let name = term_name(term);
        // Where the answer to an earlier attempt was lost, the file is there and holds our word.
        if self.shelf.create(&name, &[self.word.as_bytes()])? == Linked::Taken {
            let path = self.shelf.path_of(&name);
            let word = fs::read(&path).map_err(|error| cannot("read", &path, &error))?;
            if word != self.word.as_bytes() {
                return Err(AppendError::Deposed(Some(term)));
            }
        }
        ours.insert(term);
        Ok(())
    }

    /// Makes the first term that is nobody's this writer's.
    pub(super) fn take(&self) -> Result<Term, StorageError> {
        loop {
            let term = self.largest()?.0.next();
            match self.claim(term) {
                Ok(()) => return Ok(term),
                // Somebody was faster, so the largest is a larger one now.
                Err(AppendError::Deposed(_)) => {}
                Err(AppendError::Unavailable(error)) => return Err(error),
            }
        }
    }
}
