//! A cover of all pairs: few rows such that any two choices of any two factors meet in one of them.

use std::collections::BTreeSet;

/// Two factors and a choice of each, in the order of factors.
type Pair = [(usize, usize); 2];

/// Rows that cover all pairs, given how many choices each factor has. Each row has a choice of each
/// factor. Greedy and deterministic: a row begins with a pair that is not covered yet, and takes of
/// each further factor what covers the most new pairs.
pub fn cover(choices: &[usize]) -> Vec<Vec<usize>> {
    let mut missing = all_pairs(choices);
    let mut rows = Vec::new();
    while let Some(&first) = missing.first() {
        let mut row = vec![None; choices.len()];
        for (factor, choice) in first {
            row[factor] = Some(choice);
        }
        for factor in 0..choices.len() {
            if row[factor].is_none() {
                let gain = |&choice: &usize| news(&row, factor, choice, &missing);
                // The first of the best.
                row[factor] = (0..choices[factor]).rev().max_by_key(gain);
            }
        }
        let row: Vec<usize> = row.into_iter().map(|choice| choice.expect("it was set")).collect();
        for pair in pairs_of(&row) {
            missing.remove(&pair);
        }
        rows.push(row);
    }
    rows
}

/// All rows there are.
pub fn product(choices: &[usize]) -> Vec<Vec<usize>> {
    choices.iter().fold(vec![Vec::new()], |rows, &count| {
        let longer = |row: &Vec<usize>| {
            let row = row.clone();
            (0..count).map(move |choice| row.iter().copied().chain([choice]).collect())
        };
        rows.iter().flat_map(longer).collect()
    })
}

fn news(row: &[Option<usize>], factor: usize, choice: usize, missing: &BTreeSet<Pair>) -> usize {
    let others = row.iter().enumerate();
    let others = others.filter_map(|(other, chosen)| Some((other, (*chosen)?)));
    others.filter(|&other| missing.contains(&ordered(other, (factor, choice)))).count()
}

fn ordered(one: (usize, usize), other: (usize, usize)) -> Pair {
    if one < other { [one, other] } else { [other, one] }
}

fn all_pairs(choices: &[usize]) -> BTreeSet<Pair> {
    product(choices).iter().flat_map(|row| pairs_of(row)).collect()
}

fn pairs_of(row: &[usize]) -> Vec<Pair> {
    let chosen: Vec<(usize, usize)> = row.iter().copied().enumerate().collect();
    let others = |at: usize| chosen[at + 1..].iter().map(move |&other| (at, other));
    let pairs = (0..chosen.len()).flat_map(others);
    pairs.map(|(at, other)| [chosen[at], other]).collect()
}

#[test]
fn cover_has_every_pair_in_few_rows() {
    for choices in [&[2, 2][..], &[3, 2, 2, 2, 3, 2, 2, 2], &[1, 3, 1, 2], &[4, 4, 4], &[5]] {
        let rows = cover(choices);
        let mut sorted = choices.to_vec();
        sorted.sort_unstable();
        let least: usize = sorted.iter().rev().take(2).product();
        assert!(rows.len() <= 2 * least, "{choices:?} need {least}, not {}", rows.len());
        // By definition, and not by the helpers above.
        for one in 0..choices.len() {
            for other in 0..one {
                for pair in 0..choices[one] * choices[other] {
                    let (a, b) = (pair / choices[other], pair % choices[other]);
                    let meets = |row: &Vec<usize>| row[one] == a && row[other] == b;
                    assert!(rows.iter().any(meets), "{choices:?}: {one}={a} and {other}={b}");
                }
            }
        }
    }
}

#[test]
fn product_has_every_row_once() {
    let rows = product(&[3, 2, 2, 2, 3, 2, 2]);
    assert_eq!(rows.len(), 3 * 2 * 2 * 2 * 3 * 2 * 2);
    assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
}
