//! An event of the Yahoo Streaming Benchmark, as far as its job looks at it.

use drizzle::dataflow::Row;
use drizzle::formats::{Field, FieldKind, Fields, JsonRecord};

/// Somebody saw, clicked or bought something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdEvent<'a> {
    /// Which ad it was about.
    pub ad_id: &'a str,
    /// What happened: `view`, `click` or `purchase`.
    pub event_type: &'a str,
    /// When, in milliseconds.
    pub event_time: u64,
}

impl Row for AdEvent<'static> {
    type Of<'a> = AdEvent<'a>;
}

impl JsonRecord for AdEvent<'static> {
    const FIELDS: &'static [Field] = &[
        Field { name: "ad_id", kind: FieldKind::Text },
        Field { name: "event_type", kind: FieldKind::Text },
        Field { name: "event_time", kind: FieldKind::UnsignedText },
    ];
    const EVENT_TIME: usize = 2;

    #[inline]
    fn from_fields<'a>(fields: &Fields<'a>) -> AdEvent<'a> {
        AdEvent {
            ad_id: fields.text(0),
            event_type: fields.text(1),
            event_time: fields.unsigned(2),
        }
    }
}
