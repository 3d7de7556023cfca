//! Tests of results on their way to the control loop.

#![allow(clippy::disallowed_methods)] // sinks that wait do so on threads of their own

use std::sync::mpsc;
use std::thread;

use super::*;

#[test]
fn short_pieces_leave_together_and_long_ones_alone() {
    let (outlet, rows) = Outlet::new(Waker::detached());
    outlet.send(vec![1; 3]).unwrap();
    outlet.send(vec![2; 2]).unwrap();
    outlet.send(vec![3; PIECE_BYTES]).unwrap();
    assert_eq!(rows.take().unwrap(), [1, 1, 1, 2, 2]);
    assert_eq!(rows.take().unwrap().len(), PIECE_BYTES);
    assert_eq!(rows.take(), None);
    assert!(rows.is_empty());
    assert_eq!(rows.peak_bytes(), PIECE_BYTES + 5);
}

#[test]
fn a_sink_waits_while_more_would_wait_than_may() {
    let (outlet, rows) = Outlet::new(Waker::detached());
    rows.limit(100);
    let (tell, told) = mpsc::channel();
    let sink = thread::spawn(move || {
        for number in 0..50u8 {
            outlet.send(vec![number; 40]).unwrap();
            tell.send(number).unwrap();
        }
    });
    assert_eq!((told.recv(), told.recv()), (Ok(0), Ok(1)));
    let mut taken = Vec::new();
    while taken.len() < 50 * 40 {
        match rows.take() {
            Some(piece) => taken.extend(piece),
            None => thread::yield_now(),
        }
    }
    sink.join().unwrap();
    let expected: Vec<u8> = (0..50u8).flat_map(|number| [number; 40]).collect();
    assert_eq!(taken, expected);
    assert_eq!(rows.peak_bytes(), 80);
    assert_eq!(rows.blocked_by(), None);
}

#[test]
fn a_piece_larger_than_the_limit_leaves_alone() {
    let (outlet, rows) = Outlet::new(Waker::detached());
    rows.limit(10);
    outlet.send(vec![7; 1000]).unwrap();
    assert_eq!(rows.take().unwrap().len(), 1000);
}

#[test]
fn a_sink_that_waits_is_told_that_nobody_takes_its_rows() {
    let (outlet, rows) = Outlet::new(Waker::detached());
    rows.limit(10);
    outlet.send(vec![7; 10]).unwrap();
    let sink = thread::spawn(move || outlet.send(vec![7; 10]));
    while rows.blocked_by().is_none() {
        thread::yield_now();
    }
    assert_eq!(rows.blocked_by(), Some(10));
    drop(rows);
    let error = sink.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}

#[test]
fn a_sink_that_may_not_wait_fails_where_another_would_wait() {
    let (outlet, rows) = Outlet::new(Waker::detached());
    rows.limit(100);
    rows.never_wait();
    outlet.send(vec![1; 90]).unwrap();
    let error = outlet.send(vec![2; 90]).expect_err("there is no room").to_string();
    assert!(error.contains("a light worker cannot wait"), "{error}");
    assert_eq!(rows.take().unwrap().len(), 90);
    outlet.send(vec![3; 90]).unwrap();
}
