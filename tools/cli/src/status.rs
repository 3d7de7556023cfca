//! What a driver says of itself, as a table.

use std::fmt::Write;

use serde_json::Value;

/// The driver's JSON, for people: a line for the job, and one for each worker.
pub(crate) fn table(status: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(fields) = status.as_object() {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_array()) {
            let _ = writeln!(out, "{:<20}{}", name.replace('_', " "), text(value));
        }
    }
    for (list, rows) in status.as_object().into_iter().flatten() {
        let Some(rows) = rows.as_array().filter(|rows| !rows.is_empty()) else { continue };
        let _ = writeln!(out, "{}:", list.replace('_', " "));
        for row in rows {
            let fields = row.as_object().into_iter().flatten();
            let fields = fields.map(|(name, value)| format!("{name} {}", text(value)));
            let _ = writeln!(out, "    {}", fields.collect::<Vec<_>>().join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::table;
    use serde_json::json;

    #[test]
    fn numbers_come_first_and_then_a_line_for_each_worker() {
        let status =
            json!({ "job": "ysb", "durable_batch": 7, "workers": [{ "worker": 1, "cores": 2 }] });
        let text = table(&status);
        assert!(text.contains("job                 ysb\n"), "{text}");
        assert!(text.ends_with("workers:\n    cores 2, worker 1\n"), "{text}");
    }
}
