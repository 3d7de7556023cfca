//! One folder in which files are created whole or not at all.
//!
//! A file is written under a temporary name, made durable, and then linked to its own name, which
//! fails if that name is taken. So whatever has a name of its own is complete, and nothing is ever
//! overwritten. Several processes use the folder at the same time: a temporary file is locked while
//! its writer lives, so that leftovers of dead ones can be told from files in the making.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::StorageError;
use crate::host::DirectFiles;

/// What the name of a file in the making ends with.
const TEMPORARY: &str = ".tmp";
/// Digits of the word of a writer.
pub(super) const WRITER_LEN: usize = 32;
/// So often a temporary file is begun anew that somebody took for a leftover.
const ATTEMPTS: u64 = 16;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    /// Open, because what is in a folder becomes durable through it.
    folder: File,
    /// No other writer has this word in the names of its temporary files.
    writer: String,
    drafts: AtomicU64,
}

/// A complete and durable file that has no name of its own yet. Its temporary name goes with it.
pub(super) struct Draft<'a> {
    shelf: &'a Shelf,
    path: PathBuf,
    /// Holds the lock.
    file: File,
}

/// How the bytes of a file come to the disk.
#[derive(Clone, Debug)]
pub(super) enum Pen {
    /// By way of the page cache.
    Plain,
    /// By direct IO.
    Direct(DirectFiles),
}

/// What became of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linked {
    /// It is the draft's.
    Created,
    /// Another file has it.
    Taken,
}

impl Shelf {
    /// Opens the folder, creates it where there is none, and removes what dead writers left.
    pub(super) fn open(path: PathBuf, writer: &str) -> Result<Shelf, StorageError> {
        create_folder(&path).map_err(|error| cannot("create the folder", &path, &error))?;
        let folder = File::open(&path).map_err(|error| cannot("open", &path, &error))?;
        let shelf = Shelf { path, folder, writer: writer.to_owned(), drafts: AtomicU64::new(0) };
        shelf.sweep()?;
        Ok(shelf)
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file of that name is.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of all files. Those that were there before the call and stay are among them; of those
    /// that come or go meanwhile nothing is said.
    pub(super) fn names(&self) -> Result<Vec<String>, StorageError> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                // What is no text is no name of ours.
                names.extend(entry?.file_name().into_string().ok());
            }
            Ok(names)
        };
        list().map_err(|error| cannot("list", &self.path, &error))
    }

    /// Writes a draft and makes it durable.
    pub(super) fn draft(&self, parts: &[&[u8]]) -> Result<Draft<'_>, StorageError> {
        self.draft_by(parts, &Pen::Plain)
    }

    /// The same with a certain way to write.
    pub(super) fn draft_by(&self, parts: &[&[u8]], pen: &Pen) -> Result<Draft<'_>, StorageError> {
        for _ in 0..ATTEMPTS {
            let number = self.drafts.fetch_add(1, Ordering::Relaxed);
            let path = self.path_of(&format!("{}-{number}{TEMPORARY}", self.writer));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(|error| cannot("create", &path, &error))?;
            // Where files cannot be locked, nobody removes leftovers either.
            drop(file.lock());
            let mut draft = Draft { shelf: self, path, file };
            // Somebody who opened the folder may have been faster with the lock.
            let links = draft.file.metadata().map_err(|error| draft.cannot_write(&error))?.nlink();
            if links > 0 {
                draft.write(parts, pen).map_err(|error| draft.cannot_write(&error))?;
                return Ok(draft);
            }
        }
        let path = self.path.display();
        Err(StorageError(format!("others keep removing the new files of {path}")))
    }

    /// A file that has no name any more.
    pub(super) fn scratch(&self) -> Result<File, StorageError> {
        let draft = self.draft(&[])?;
        let file = draft.file.try_clone();
        file.map_err(|error| draft.cannot_write(&error))
    }

    /// Makes all changes of names durable.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.folder
            .sync_all()
            .map_err(|error| cannot("make durable what is in", &self.path, &error))
    }

    /// Gives a file a second name; that the second name is taken already is no failure.
    pub(super) fn also_name(&self, name: &str, second: &str) -> Result<(), StorageError> {
        match fs::hard_link(self.path_of(name), self.path_of(second)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(cannot("create", &self.path_of(second), &error)),
        }
    }

    /// Has the file of that name lie on another shelf too, where it may be already; nothing if it is not
    /// on this one. It becomes durable with the other's next [`Shelf::sync`].
    pub(super) fn share(&self, name: &str, other: &Shelf) -> Result<Option<()>, StorageError> {
        let (from, to) = (self.path_of(name), other.path_of(name));
        match fs::hard_link(&from, &to) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Some(())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let bytes = match fs::read(&from) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(cannot("read", &from, &error)),
                };
                other.draft(&[&bytes])?.link(name).map(|_| Some(()))
            }
            Err(error) => Err(cannot("create", &to, &error)),
        }
    }

    /// Takes a file away; it need not be there.
    pub(super) fn remove(&self, name: &str) -> Result<(), StorageError> {
        match fs::remove_file(self.path_of(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(cannot("remove", &self.path_of(name), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Creates a file, or finds one of that name. It is durable when this returns.
    pub(super) fn create(&self, name: &str, parts: &[&[u8]]) -> Result<Linked, StorageError> {
        let draft = self.draft(parts)?;
        let linked = draft.link(name)?;
        self.sync()?;
        Ok(linked)
    }

    /// Removes temporary files whose writers are gone.
    fn sweep(&self) -> Result<(), StorageError> {
        for name in self.names()?.iter().filter(|name| is_temporary(name)) {
            let Ok(file) = File::open(self.path_of(name)) else { continue };
            if file.try_lock().is_ok() {
                self.remove(name)?;
            }
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// Gives the file its name, which becomes durable with the next [`Shelf::sync`].
    pub(super) fn link(&self, name: &str) -> Result<Linked, StorageError> {
        let path = self.shelf.path_of(name);
        match fs::hard_link(&self.path, &path) {
            Ok(()) => Ok(Linked::Created),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Linked::Taken),
            Err(error) => Err(cannot("create", &path, &error)),
        }
    }

    fn write(&mut self, parts: &[&[u8]], pen: &Pen) -> io::Result<()> {
        match pen {
            Pen::Plain => {
                parts.iter().try_for_each(|part| self.file.write_all(part))?;
                self.file.sync_data()
            }
            Pen::Direct(files) => files.write(&self.path, parts.concat()),
        }
    }

    fn cannot_write(&self, error: &io::Error) -> StorageError {
        cannot("write", &self.path, error)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // If it stays, whoever opens the folder next removes it.
        drop(fs::remove_file(&self.path));
    }
}

/// Whether a name is one of a file in the making, and not one that a user has chosen.
fn is_temporary(name: &str) -> bool {
    let parts = name.strip_suffix(TEMPORARY).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(writer, number)| {
        writer.len() == WRITER_LEN
            && writer.bytes().all(|byte| byte.is_ascii_hexdigit())
            && number.parse::<u64>().is_ok()
    })
}

/// Creates a folder and those that it lies in, durably.
fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_folder(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    File::open(parent)?.sync_all()
}

/// One sentence.
pub(super) fn cannot(what: &str, path: &Path, error: &io::Error) -> StorageError {
    StorageError(format!("cannot {what} {}: {error}", path.display()))
}
