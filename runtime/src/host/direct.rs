//! Files that glommio writes by direct IO, past the page cache: snapshots are written once and mostly never
//! read, and should not push out what a job needs.
//!
//! One thread with a `LocalExecutor` of its own writes them, one after the other; who wants a file written
//! waits for it. Where a file cannot be opened so (a file system in memory), it is written as any other.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;

use ::glommio::io::{DmaFile, OpenOptions};
use ::glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Bytes that go to the disk at once.
const PART_BYTES: usize = 512 << 10;
/// Memory of the executor for what it writes: twice that, and its least.
const MEMORY: usize = 2 << 20;

/// The way to the thread that writes. It ends with the last clone.
#[derive(Clone, Debug)]
pub struct DirectFiles {
    jobs: Sender<Job>,
}

/// A file to be written, which is there and empty.
struct Job {
    path: PathBuf,
    bytes: Vec<u8>,
    answer: Sender<io::Result<()>>,
}

impl DirectFiles {
    /// Starts the thread.
    pub fn start() -> io::Result<DirectFiles> {
        let (jobs, waiting) = bounded::<Job>(1);
        let (started, start) = bounded(1);
        let work = move || match executor() {
            Ok(executor) => {
                let _ = started.send(Ok(()));
                write_all(&executor, &waiting);
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        };
        thread::Builder::new().name("snapshots".to_owned()).spawn(work)?;
        start.recv().map_err(|_| gone())??;
        Ok(DirectFiles { jobs })
    }

    /// Writes the file at `path`, which is there and empty, and makes it durable.
    pub fn write(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let (answer, written) = bounded(1);
        let job = Job { path: path.to_owned(), bytes, answer };
        self.jobs.send(job).map_err(|_| gone())?;
        written.recv().map_err(|_| gone())?
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that writes snapshots is gone")
}

fn executor() -> io::Result<LocalExecutor> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(MEMORY)
        .make()
        .map_err(|error| io::Error::other(format!("cannot start a glommio executor: {error}")))
}

fn write_all(executor: &LocalExecutor, jobs: &Receiver<Job>) {
    for Job { path, bytes, answer } in jobs {
        let result = executor.run(write(&path, &bytes));
        // Nobody waits any more if the worker has ended.
        let _ = answer.send(result);
    }
}

async fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Ok(file) = OpenOptions::new().write(true).dma_open(path).await else {
        return write_plain(path, bytes);
    };
    let written = write_parts(&file, bytes).await;
    let closed = file.close().await.map_err(|error| of_glommio(&error));
    written.and(closed)
}

async fn write_parts(file: &DmaFile, bytes: &[u8]) -> io::Result<()> {
    let align = file.alignment() as usize;
    let mut offset = 0;
    for part in bytes.chunks(PART_BYTES) {
        let mut buffer = file.alloc_dma_buffer(part.len().next_multiple_of(align));
        let target = buffer.as_bytes_mut();
        target[..part.len()].copy_from_slice(part);
        target[part.len()..].fill(0);
        let length = target.len();
        let count = file.write_at(buffer, offset).await.map_err(|error| of_glommio(&error))?;
        if count != length {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "not all of it was written"));
        }
        offset += length as u64;
    }
    // What filled the last block is not part of the file.
    file.truncate(bytes.len() as u64).await.map_err(|error| of_glommio(&error))?;
    file.fdatasync().await.map_err(|error| of_glommio(&error))
}

fn of_glommio(error: &GlommioError<()>) -> io::Error {
    io::Error::other(error.to_string())
}

fn write_plain(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::DirectFiles;
    use std::fs;

    #[test]
    fn files_of_all_lengths_hold_what_was_written() {
        let folder = std::env::temp_dir().join(format!("drizzle-direct-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        // Where io_uring is forbidden there is nothing to test: plain files are used there.
        let Ok(files) = DirectFiles::start() else { return };
        for length in [0, 1, 511, 512, 513, 4096, 1 << 20, (1 << 20) + 7] {
            let path = folder.join(length.to_string());
            fs::write(&path, []).unwrap();
            let bytes: Vec<u8> = (0..length).map(|byte: usize| byte as u8).collect();
            files.write(&path, bytes.clone()).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{length} bytes");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
