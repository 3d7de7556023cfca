//! Parts that become one file, by somebody who is killed at any point of it.

use super::*;
use crate::connectors::part_files::merging::Merge;

/// An output with parts of two partitions, one of them by checkpoints.
fn in_parts(folder: &Folder) -> Output {
    let output = Output::new(folder.0.join("out.jsonl"));
    output.prepare().unwrap();
    write_numbers(&output, 1, 10..12);
    write_numbers(&output, 1, 12..13);
    show(&output, 4, "20\n");
    show(&output, 7, "21\n22\n");
    output
}

fn show(output: &Output, number: u64, lines: &str) {
    output.show_part(PartitionId(2), number, lines.as_bytes()).unwrap();
}

/// Merges for so many steps and is killed, in the middle of a file; whether there would have been more.
fn is_killed_after(output: &Output, steps: usize) -> bool {
    let mut merge = Merge::new(output);
    let is_killed = (0..steps).all(|_| merge.step().unwrap());
    let parts = output.path().with_extension("jsonl.parts");
    fs::write(parts.join("merging.tmp"), "half a li").unwrap();
    is_killed
}

/// What the one file holds when all is merged, and nothing else is there but the note.
fn merged(output: &Output) -> String {
    output.merge().unwrap();
    let parts = output.path().with_extension("jsonl.parts");
    let left = names(&parts).into_iter().filter(|name| name.starts_with("part-"));
    assert_eq!(left.count(), 0);
    fs::read_to_string(output.path()).unwrap()
}

#[test]
fn whoever_is_killed_while_merging_is_followed_by_somebody_who_completes_it() {
    let mut steps = 0;
    loop {
        let folder = Folder::new(&format!("merge-{steps}"));
        let output = in_parts(&folder);
        let is_killed = is_killed_after(&output, steps);
        assert_eq!(merged(&output), "10\n11\n12\n20\n21\n22\n", "after {steps} steps");
        output.forget_merge().unwrap();
        if !is_killed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 7, "there are four parts to remove, and more to do: {steps}");
}

#[test]
fn job_that_goes_on_after_it_was_killed_while_merging_has_each_line_once() {
    for steps in 0.. {
        let folder = Folder::new(&format!("merge-on-{steps}"));
        let output = in_parts(&folder);
        let is_killed = is_killed_after(&output, steps);
        // It shows what its last checkpoint holds, as whoever restores one does.
        show(&output, 7, "21\n22\n");
        assert_eq!(merged(&output), "10\n11\n12\n20\n21\n22\n", "after {steps} steps");
        show(&output, 7, "21\n22\n");
        assert_eq!(merged(&output), "10\n11\n12\n20\n21\n22\n", "after {steps} steps");
        if !is_killed {
            break;
        }
    }
}

#[test]
fn what_comes_after_a_merge_is_merged_behind_it_whoever_is_killed() {
    for steps in 0.. {
        let folder = Folder::new(&format!("merge-more-{steps}"));
        let output = in_parts(&folder);
        output.merge().unwrap();
        write_numbers(&output, 1, 13..14);
        show(&output, 9, "23\n");
        let is_killed = is_killed_after(&output, steps);
        let expected = "10\n11\n12\n20\n21\n22\n13\n23\n";
        assert_eq!(merged(&output), expected, "after {steps} steps");
        if !is_killed {
            break;
        }
    }
}

#[test]
fn file_that_was_changed_after_a_merge_is_not_written_over() {
    let folder = Folder::new("merge-changed");
    let output = in_parts(&folder);
    output.merge().unwrap();
    fs::write(output.path(), "10\n").unwrap();
    show(&output, 9, "23\n");
    let said = output.merge().unwrap_err().to_string();
    assert!(said.contains("holds 3 bytes of the 18 that were merged into it"), "{said}");
}
