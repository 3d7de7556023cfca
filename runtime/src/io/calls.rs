//! System calls that drivers of IO make, counted by themselves.

/// How many of each kind. What a host does to sleep is not among them where it sleeps in its own way (glommio
/// makes a few calls for each park), nor what sets a driver up and takes it down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemCalls {
    /// `io_uring_enter`, with or without waiting.
    pub enters: u64,
    /// `epoll_wait`, without waiting.
    pub polls: u64,
    /// `ppoll`, to sleep.
    pub sleeps: u64,
    /// `accept4` and `recvfrom`.
    pub receives: u64,
    /// `sendmsg`.
    pub sends: u64,
    /// `epoll_ctl`.
    pub registrations: u64,
    /// `write` to the eventfd by which others woke this thread.
    pub wakes: u64,
    /// `read` of that eventfd.
    pub drains: u64,
}

impl SystemCalls {
    /// How many kinds there are.
    pub const KINDS: usize = 8;

    /// The kinds in the order of the fields, and what the kernel calls them.
    pub fn by_kind(&self) -> [(&'static str, u64); SystemCalls::KINDS] {
        let SystemCalls { enters, polls, sleeps, receives, sends, registrations, wakes, drains } =
            *self;
        [
            ("io_uring_enter", enters),
            ("epoll_wait", polls),
            ("ppoll", sleeps),
            ("recvfrom", receives),
            ("sendmsg", sends),
            ("epoll_ctl", registrations),
            ("write", wakes),
            ("read", drains),
        ]
    }

    /// The inverse of [`by_kind`](Self::by_kind).
    pub fn from_counts(counts: [u64; SystemCalls::KINDS]) -> SystemCalls {
        let [enters, polls, sleeps, receives, sends, registrations, wakes, drains] = counts;
        SystemCalls { enters, polls, sleeps, receives, sends, registrations, wakes, drains }
    }

    /// Adds those of another driver.
    pub fn add(&mut self, other: &SystemCalls) {
        let (own, other) = (self.by_kind(), other.by_kind());
        *self = SystemCalls::from_counts(std::array::from_fn(|kind| own[kind].1 + other[kind].1));
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }
}
