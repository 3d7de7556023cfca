//! The thread on which storage is waited for.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::Storage;

/// Something to be done with storage; it tells whoever waits itself.
type Errand = Box<dyn FnOnce(&dyn Storage) + Send>;

/// Requests that may wait. More are refused, which is as if the disk had refused them.
const CAPACITY: usize = 4096;

/// Hands requests to the thread that waits for storage, in order. The thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct Desk {
    queue: Sender<Errand>,
}

/// The desk is full, or its thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("storage is far behind")]
pub struct DeskClosed;

impl Desk {
    /// Starts the thread.
    pub fn open(storage: Arc<dyn Storage>, name: &str) -> std::io::Result<Desk> {
        let (queue, errands) = bounded::<Errand>(CAPACITY);
        let work = move || errands.into_iter().for_each(|errand| errand(&*storage));
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Desk { queue })
    }

    /// Has something done. It runs on the desk's thread, after all that was asked for before.
    pub fn ask(
        &self,
        errand: impl FnOnce(&dyn Storage) + Send + 'static,
    ) -> Result<(), DeskClosed> {
        self.queue.try_send(Box::new(errand)).map_err(|_| DeskClosed)
    }
}
