//! Backups of every server under load and DDL: compared with the source inside the closed gate, started, checked.

use lab::rng::fresh_seed;
use lab::round::{Binlog, Lab, Round, Settings};
use lab::scratch::Scratch;
use std::fs;

fn settings(server: &str, binlog: Binlog) -> Settings {
    Settings { binlog, ..Settings::new(server) }
}

fn round(lab: &mut Lab, seed: u64) -> Round {
    println!("{}, seed {seed}", lab.settings.server);
    lab.round(seed, &|_| (), &|_, _| ()).unwrap()
}

fn backups_are_exact(server: &str, binlog: Binlog) {
    let seeds = [1, 2, fresh_seed()];
    let scratch = Scratch::new(server).unwrap();
    let mut lab = Lab::new(settings(server, binlog), scratch.path(), seeds[0]).unwrap();
    for seed in seeds {
        let round = round(&mut lab, seed);
        let problems = round.findings.problems.join("\n");
        assert!(problems.is_empty(), "{server}, seed {seed}, see {}:\n{problems}", round.dir.display());
        assert!(round.commits > 0 && round.ddl_beside > 0, "there was a load: {round:?}");
        fs::remove_dir_all(&round.dir).unwrap();
    }
    lab.server.stop().unwrap();
}

#[test]
fn mysql_5_6() {
    backups_are_exact("mysql-5.6.24", Binlog::Inside);
}

#[test]
fn mysql_9_7() {
    backups_are_exact("mysql-9.7", Binlog::Default);
}

#[test]
fn mariadb_10_5() {
    backups_are_exact("mariadb-10.5", Binlog::Inside);
}

#[test]
fn mariadb_10_11() {
    backups_are_exact("mariadb-10.11", Binlog::Outside);
}

#[test]
fn mariadb_11_8() {
    backups_are_exact("mariadb-11.8", Binlog::Inside);
}

/// A copy that knows nothing of the writes beside it passes by luck at most.
#[test]
fn the_checks_notice_a_copy_without_capture() {
    let scratch = Scratch::new("control").unwrap();
    let mut lab = Lab::new(settings("mariadb-10.11", Binlog::Default), scratch.path(), 1).unwrap();
    lab.copy_without_capture().unwrap();
    let noticed = (1..=5).any(|seed| !round(&mut lab, seed).findings.problems.is_empty());
    assert!(noticed, "five copies without capture passed every check");
    lab.server.stop().unwrap();
}
