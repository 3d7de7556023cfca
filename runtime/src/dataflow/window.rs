//! Windows over event time.

use std::time::Duration;

/// Windows of one length that follow each other without a gap, aligned to time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    length_ms: u64,
}

impl Tumbling {
    /// Windows of this length, rounded up to whole milliseconds, at least one.
    pub fn of(length: Duration) -> Tumbling {
        let length_ms = length.as_nanos().div_ceil(1_000_000);
        Tumbling {
            length_ms: u64::try_from(length_ms).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4),
        }
    }

    /// Length in milliseconds.
    pub fn length_ms(self) -> u64 {
        self.length_ms
    }

    /// Start of the window that holds `event_time`.
    pub fn start_of(self, event_time: u64) -> u64 {
        event_time - event_time % self.length_ms
    }

    /// First event time after the window that starts at `start`.
    pub fn end_of(self, start: u64) -> u64 {
        start.saturating_add(self.length_ms)
    }
}

/// The result of one key and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowResult<K, V> {
    /// The key.
    pub key: K,
    /// First event time of the window, in milliseconds.
    pub window_start: u64,
    /// First event time after it.
    pub window_end: u64,
    /// What the aggregate yielded.
    pub value: V,
}
